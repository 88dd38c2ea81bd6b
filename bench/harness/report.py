"""Results as JSON files and as lines for people; what all benches share."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
from rich.table import Table

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.machine import Machine, describe_machine
from paxon.bench.harness.summary import Spread, spread_of

__all__ = [
    "Report",
    "SCHEMA",
    "new_report",
    "check_writable",
    "write_json",
    "read_json",
    "spread_or_none",
    "plain_table",
    "count",
    "milliseconds",
    "microseconds",
    "ratio",
    "ratios",
    "small",
]

SettingsT = TypeVar("SettingsT")
RowT = TypeVar("RowT")

SCHEMA = 1
"""Raised when the form of the files changes."""


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


def new_report(
    bench: str, settings: SettingsT, rows: list[RowT], started: datetime.datetime
) -> Report[SettingsT, RowT]:
    """The report of a run on this machine."""
    return Report(
        bench=bench,
        started=started.isoformat(timespec="seconds"),
        machine=describe_machine(),
        settings=settings,
        rows=rows,
    )


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


def write_json(report: Report[Any, Any], path: Path, *, indent: int | None = 2) -> None:
    """Write a report, on one line without `indent`. Raises `BenchError`."""
    text = json.dumps(msgspec.to_builtins(report), indent=indent, ensure_ascii=False)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}") from None


def read_json(path: Path, kind: type[ReportT]) -> ReportT:
    """Read a report again. Raises `BenchError` if the file is none of that kind."""
    try:
        report: ReportT = msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise BenchError(f"{path} is not such a report: {error}") from None
    return report


def spread_or_none(values: list[float | None]) -> Spread | None:
    """The spread of those repeats that have the figure."""
    known = [value for value in values if value is not None]
    return spread_of(known) if known else None


# --- for people ----------------------------------------------------------------------------------


def plain_table(title: str, columns: list[str]) -> Table:
    """A table with its first column to the left and figures to the right."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


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
