"""Reports: JSON files, tables for a terminal and for a page, and what a bench is."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

import msgspec
from rich.table import Table

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.machine import Machine, describe_machine
from paxon.bench.harness.summary import Spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Progress",
    "Report",
    "Column",
    "Section",
    "Bench",
    "new_report",
    "check_writable",
    "write_json",
    "read_json",
    "rich_table",
    "markdown",
    "fill_page",
    "splice",
    "check_page",
    "count",
    "milliseconds",
    "microseconds",
    "ratio",
    "ratios",
    "small",
]

SettingsT = TypeVar("SettingsT")
RowT = TypeVar("RowT")

SCHEMA = 2
"""Raised when the form of the files changes."""

Progress: TypeAlias = Callable[[str], None]
"""Called before each step of a run, with what it is."""


class Report(msgspec.Struct, Generic[SettingsT, RowT], frozen=True, kw_only=True):
    """A whole run: all that is needed to read it in a year's time."""

    schema: int = SCHEMA
    bench: str
    started: str
    """UTC, ISO 8601."""
    machine: Machine
    settings: SettingsT
    """As given, the seed among them."""
    rows: list[RowT]


ReportT = TypeVar("ReportT", bound=Report[Any, Any])


class Column(NamedTuple):
    """Its head, and how it shows a row."""

    head: str
    cell: Callable[[Any], str]


class Section(NamedTuple):
    """A table, for a terminal or a page."""

    title: str
    """With the conditions of the whole run and an empty line before it in the first table."""
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    """So many columns are words, the others figures."""
    folded: bool = False
    """On a page: shown on demand."""
    blocks: Sequence[int] = ()
    """Rows after which a terminal gets a line."""


class Bench(NamedTuple):
    """One command of `paxon bench`. Its settings are its flags (flags.py)."""

    name: str
    help: str
    settings: type[Any]
    report: type[Any]
    steps: Callable[[Any], int]
    """How many times `run` reports progress."""
    run: Callable[[Any, Progress], Any]
    """Measures. Raises `PaxonError` if a cluster cannot be started or loaded."""
    sections: Callable[[Any], Sequence[Section]]
    plots: Callable[[Any], dict[str, Figure]] | None = None
    """Pictures by file name; the first one is what --plot draws."""
    instead: Callable[[Any], bool] = lambda _settings: False
    """Does something else that was asked for; whether that was all."""
    notes: Callable[[Any], Sequence[str]] = lambda _report: ()
    """Sentences below the tables."""


def new_report(
    kind: type[ReportT],
    bench: str,
    settings: Any,
    rows: Sequence[Any],
    started: datetime.datetime,
    **more: Any,
) -> ReportT:
    """The report of a run on this machine."""
    return kind(
        bench=bench,
        started=started.isoformat(timespec="seconds"),
        machine=describe_machine(),
        settings=settings,
        rows=list(rows),
        **more,
    )


# --- files ---------------------------------------------------------------------------------------


def check_writable(path: Path) -> None:
    """Raise `BenchError` now rather than after minutes of measuring."""
    if path.is_dir():
        raise BenchError(f"{path} is a directory: name a file")
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}") from None


def write_text(path: Path, text: str) -> None:
    """Write a file. Raises `BenchError`."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}") from None


def write_json(report: Report[Any, Any], path: Path) -> None:
    """Write a report, on one line. Raises `BenchError`."""
    write_text(path, json.dumps(msgspec.to_builtins(report), ensure_ascii=False) + "\n")


def read_json(path: Path, kind: type[ReportT]) -> ReportT:
    """Read a report again. Raises `BenchError` if the file is none of that kind."""
    try:
        report: ReportT = msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise BenchError(f"{path} is not such a report: {error}") from None
    return report


# --- tables --------------------------------------------------------------------------------------


def rich_table(section: Section) -> Table:
    """For a terminal."""
    table = Table(title=section.title, title_justify="left", header_style="bold")
    for number, column in enumerate(section.columns):
        table.add_column(column, justify="left" if number < section.left else "right")
    for number, row in enumerate(section.rows):
        table.add_row(*row, end_section=number + 1 in section.blocks)
    return table


def markdown_table(section: Section) -> str:
    """For a page, without its title."""
    marks = ["---"] * section.left + ["---:"] * (len(section.columns) - section.left)
    heads = [column.replace("\n", " ") for column in section.columns]
    lines = [heads, marks, *section.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(report: Report[Any, Any], sections: Sequence[Section], notes: Sequence[str]) -> str:
    """A whole report for a page: what it was measured on, tables, sentences."""
    parts = [f"Measured {report.started[:10]} on {report.machine.sentence()}."]
    for section in sections:
        head, _, title = section.title.rpartition("\n\n")
        if head:
            parts[0] += f" {head}."
        table = markdown_table(section)
        if section.folded:
            parts += [f"<details><summary>{title}</summary>", table, "</details>"]
        else:
            parts += [f"**{title}**", table]
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts)


# --- a page with a place for figures -------------------------------------------------------------

_END = "<!-- end of figures -->"


def splice(text: str, name: str, figures: str) -> str:
    """The page with other figures between the marks of a name.

    A mark is an HTML comment, so that a page shows nothing of it: `<!-- figures: compare -->`, then
    what is replaced at each run, then `<!-- end of figures -->`. Raises `BenchError` if the page
    has no such place.
    """
    mark = f"<!-- figures: {name} -->"
    before, found, rest = text.partition(mark)
    old, end, after = rest.partition(_END)
    if not found or not end or "<!-- figures: " in old:
        raise BenchError(f"the page has no place for figures: write {mark} and {_END} into it")
    return f"{before}{mark}\n\n{figures.strip()}\n\n{end}{after}"


def check_page(path: Path, name: str) -> None:
    """Raise `BenchError` before anything is measured if the page could not be filled."""
    splice(_read(path), name, "")


def fill_page(path: Path, name: str, figures: str) -> None:
    """Put figures into a page. Raises `BenchError`."""
    write_text(path, splice(_read(path), name, figures))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from None


# --- figures for people --------------------------------------------------------------------------


def count(figure: Spread | None) -> str:
    """A large number with its spread: 12,345 ±3 %."""
    if figure is None:
        return "-"
    text = f"{figure.median:,.0f}"
    if figure.median == 0:
        return text
    return f"{text} ±{figure.relative * 100:.0f} %" if len(figure.values) > 1 else text


def milliseconds(figure: Spread | None) -> str:
    """Seconds, shown as milliseconds."""
    return "-" if figure is None else f"{figure.median * 1e3:.2f}"


def microseconds(figure: Spread | None) -> str:
    """Seconds, shown as microseconds."""
    return "-" if figure is None else f"{figure.median * 1e6:.1f}"


def ratio(figure: float | None) -> str:
    """How many times."""
    return "-" if figure is None else f"{figure:.2f}x"


def ratios(figure: Spread | None) -> str:
    """Of pairs: the median, and the least and most."""
    if figure is None:
        return "-"
    if len(figure.values) == 1:
        return f"{figure.median:.2f}"
    return f"{figure.median:.2f} ({figure.low:.2f} … {figure.high:.2f})"


def small(figure: Spread | None) -> str:
    """A small number with about three digits that count."""
    return "-" if figure is None else f"{figure.median:.3g}"
