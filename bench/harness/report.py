"""Reports: JSON files, tables for a terminal and for a page, and what a bench is."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    "CLIENT_CPU", "FAILED", "LONGEST_WAIT", "P50", "P99", "P999", "RATE", "SERVER_CPU", "Bench",
    "Column", "Progress", "Report", "Section", "check_writable", "count", "fill_page", "markdown",
    "milliseconds", "now_in_utc", "per_operation", "per_second", "per_slot", "ratio", "ratios",
    "read_json", "rich_table", "shown", "small", "table_of", "told", "write_json",
]  # fmt: skip

SettingsT = TypeVar("SettingsT")
RowT = TypeVar("RowT")

SCHEMA = 3
"""Raised when the form of the files changes."""

Progress: TypeAlias = Callable[[str], None]
"""Called before each step of a run, with what it is."""


def now_in_utc() -> str:
    """In the form of a report."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class Report(msgspec.Struct, Generic[SettingsT, RowT], frozen=True, kw_only=True):
    """A whole run: all that is needed to read it in a year's time."""

    schema: int = SCHEMA
    bench: str
    started: str = msgspec.field(default_factory=now_in_utc)
    """ISO 8601."""
    machine: Machine = msgspec.field(default_factory=describe_machine)
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
    run: Callable[[Any, Progress], Any]
    """Measures. Raises `PaxonError` if a cluster cannot be started or loaded."""
    sections: Callable[[Any], Sequence[Section]]
    plots: Callable[[Any], dict[str, Figure]] | None = None
    """Pictures by file name."""
    instead: Callable[[Any], bool] = lambda _settings: False
    """Does something else that was asked for; whether that was all."""
    notes: Callable[[Any], Sequence[str]] = lambda _report: ()
    """Sentences below the tables."""


# --- files ---------------------------------------------------------------------------------------


@contextmanager
def told(path: Path, what: str) -> Iterator[None]:
    """Raise `BenchError`, which says what cannot be done with a path, for an `OSError` inside."""
    try:
        yield
    except OSError as error:
        raise BenchError(f"{path} cannot be {what}: {error.strerror}") from None


def check_writable(path: Path) -> None:
    """Raise `BenchError` now rather than after minutes of measuring."""
    if path.is_dir():
        raise BenchError(f"{path} is a directory: name a file")
    existed = path.exists()
    with told(path, "written"):
        path.open("ab").close()
        if not existed:
            path.unlink()


def write_json(report: Report[Any, Any], path: Path) -> None:
    """Write a report, on one line. Raises `BenchError`."""
    with told(path, "written"):
        path.write_bytes(msgspec.json.encode(report) + b"\n")


def read_json(path: Path, kind: type[ReportT]) -> ReportT:
    """Read a report again. Raises `BenchError` if the file is none of that kind."""
    with told(path, "read"):
        data = path.read_bytes()
    try:
        report: ReportT = msgspec.json.decode(data, type=kind)
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
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, marks, *section.rows))


def markdown(report: Report[Any, Any], sections: Sequence[Section], notes: Sequence[str]) -> str:
    """A whole report for a page: what it was measured on, tables, sentences."""
    parts = [f"Measured {report.started[:10]} on {report.machine.sentence()}."]
    for section in sections:
        head, _, title = section.title.rpartition("\n\n")
        if head:
            parts[0] += f" {head}."
        table = markdown_table(section)
        folded = [f"<details><summary>{title}</summary>", table, "</details>"]
        parts += folded if section.folded else [f"**{title}**", table]
    parts += ["\n".join(f"- {note}" for note in notes)] if notes else []
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


def fill_page(path: Path, name: str, figures: str, *, write: bool = True) -> None:
    """Put figures into a page, or only see whether that could be done. Raises `BenchError`."""
    with told(path, "read"):
        text = path.read_text(encoding="utf-8")
    text = splice(text, name, figures)
    if write:
        with told(path, "written"):
            path.write_text(text, encoding="utf-8")


def count(figure: Spread | None) -> str:
    """A large number with its spread: 12,345 ±3 %."""
    text = shown(figure, "{:,.0f}")
    if figure is None or figure.median == 0 or len(figure.values) == 1:
        return text
    return f"{text} ±{figure.relative * 100:.0f} %"


def shown(figure: Spread | None, form: str, scale: float = 1.0) -> str:
    """The median in a form such as "{:.2f}"."""
    return "-" if figure is None else form.format(figure.median * scale)


def milliseconds(figure: Spread | None) -> str:
    """Seconds, shown as milliseconds."""
    return shown(figure, "{:.2f}", 1e3)


def ratio(figure: float | None) -> str:
    """How many times."""
    return "-" if figure is None else f"{figure:.2f}x"


def ratios(figure: Spread | None) -> str:
    """Of pairs: the median, and the least and most."""
    text = shown(figure, "{:.2f}")
    if figure is None or len(figure.values) == 1:
        return text
    return f"{text} ({figure.low:.2f} … {figure.high:.2f})"


def small(figure: Spread | None) -> str:
    """A small number with about three digits that count."""
    return shown(figure, "{:.3g}")


# --- columns that tables of several benches have -------------------------------------------------

RATE = Column("op/s", lambda row: count(row.rate))
P50 = Column("p50\nms", lambda row: milliseconds(row.p50))
P99 = Column("p99\nms", lambda row: milliseconds(row.p99))
P999 = Column("p99.9\nms", lambda row: milliseconds(row.p999))
LONGEST_WAIT = Column("longest\nwait ms", lambda row: f"{row.longest_wait * 1e3:,.0f}")
SERVER_CPU = Column("servers\nµs/op", lambda row: shown(row.server_cpu, "{:.1f}", 1e6))
CLIENT_CPU = Column("clients\nµs/op", lambda row: shown(row.client_cpu, "{:.1f}", 1e6))
FAILED = Column("failed", lambda row: str(row.failed))


def per_operation(counter: str, head: str) -> Column:
    """A counter of the servers, for each operation."""
    return Column(f"{head}\n/op", lambda row: small(row.over(lambda m: m.each(m.count(counter)))))


def per_slot(counter: str, head: str) -> Column:
    """The same, for each chosen slot."""
    return Column(
        f"{head}\n/slot", lambda row: small(row.over(lambda m: m.by_slots(m.count(counter))))
    )


def per_second(counter: str, head: str) -> Column:
    """The same, for each second."""
    return Column(f"{head}\n/s", lambda row: count(row.per_second(counter)))


def table_of(title: str, columns: Sequence[Column], rows: Sequence[Any], **more: Any) -> Section:
    """A line for each row."""
    cells = [[column.cell(row) for column in columns] for row in rows]
    return Section(title, [column.head for column in columns], cells, **more)
