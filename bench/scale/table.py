"""The figures of `paxon bench scale` as tables, for a terminal and for a page."""

from __future__ import annotations

from rich.table import Table

from paxon.bench.contention.compare_table import markdown_table
from paxon.bench.harness.report import count, microseconds, milliseconds, plain_table
from paxon.bench.scale.scale import CostRow, PartName, ScaleReport

__all__ = ["Section", "sections", "scale_tables", "scale_markdown"]

TITLES: dict[PartName, tuple[str, str]] = {
    "sessions": ("Sessions", "sessions"),
    "keys": ("Keys in the store", "keys"),
    "log": ("Length of the log, one server being down", "slots kept"),
    "value": ("Size of values, 16 operations under way", "bytes"),
    "reads": ("Reads by client processes", "clients"),
}
"""Of each part that measures what an operation costs: its title, and what its x is."""

Section = tuple[str, list[str], list[list[str]]]
"""Title, columns, rows."""


def _mib(number: int) -> str:
    return f"{number / 2**20:,.1f}"


def _costs(report: ScaleReport, part: PartName) -> Section:
    title, x_label = TITLES[part]
    columns = [
        "", x_label, "op/s", "MB/s", "p50\nms", "p99\nms", "p99.9\nms", "servers\nµs/op",
        "clients\nµs/op", "snapshots", "failed",
    ]  # fmt: skip
    rows = [
        [
            row.line, f"{row.x:,}", count(row.rate), f"{_megabytes(report, row):,.1f}",
            milliseconds(row.p50), milliseconds(row.p99), milliseconds(row.p999),
            microseconds(row.server_cpu), microseconds(row.client_cpu), str(row.snapshots),
            str(row.failed),
        ]
        for row in report.rows
        if row.part == part
    ]  # fmt: skip
    return title, columns, rows


def _megabytes(report: ScaleReport, row: CostRow) -> float:
    """Values moved in a second, in megabytes."""
    size = row.x if row.part == "value" else report.settings.value_bytes
    return row.rate.median * size / 1e6


def _memory(report: ScaleReport) -> Section:
    columns = [
        "keys", "value bytes", "server\nMiB", "most\nMiB", "bare dict\nMiB",
        "server\nbytes/key", "dict\nbytes/key", "ratio",
    ]  # fmt: skip
    rows = [
        [
            f"{row.keys:,}", str(row.value_bytes), _mib(row.server), _mib(row.server_peak),
            _mib(row.bare), f"{row.server / row.keys:,.0f}", f"{row.bare / row.keys:,.0f}",
            f"{row.server / row.bare:.2f}x" if row.bare else "-",
        ]
        for row in report.memory
    ]  # fmt: skip
    return "Memory of a server for its keys, beyond that of an empty one", columns, rows


def _replay(report: ScaleReport) -> Section:
    columns = ["directory holds", "MiB on disk", "keys of 1 KiB", "slots", "start ms", "MiB/s"]
    words = {
        "empty": "nothing", "log": "a log, no snapshot", "snapshot": "a snapshot and a short log",
    }  # fmt: skip
    rows = []
    for row in report.replay:
        seconds = row.seconds.median
        speed = f"{row.disk_bytes / 2**20 / seconds:,.0f}" if row.keys and seconds else "-"
        rows.append(
            [
                words[row.kind], _mib(row.disk_bytes), f"{row.keys:,}", f"{row.slots:,}",
                f"{seconds * 1e3:,.1f}", speed,
            ]
        )  # fmt: skip
    return "Starting a server from its directory (without starting Python)", columns, rows


def sections(report: ScaleReport) -> list[Section]:
    """A table for each part that was measured."""
    found = [_costs(report, part) for part in report.settings.parts if part in TITLES]
    if report.memory:
        found.append(_memory(report))
    if report.replay:
        found.append(_replay(report))
    return found


def _conditions(report: ScaleReport) -> str:
    settings = report.settings
    return (
        f"{settings.servers} servers, durability {settings.durability}, {settings.outstanding} "
        f"operations under way for each client, values of {settings.value_bytes} bytes, unless "
        f"said otherwise; median of {settings.repeat} x {settings.seconds:g} s"
    )


def scale_tables(report: ScaleReport) -> list[Table]:
    """All sections for people."""
    tables = []
    for number, (title, columns, rows) in enumerate(sections(report)):
        head = title if number else f"{_conditions(report)}\n\n{title}"
        table = plain_table(head, columns)
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return tables


def scale_markdown(report: ScaleReport) -> str:
    """All sections for a page."""
    parts = [
        f"Measured {report.started[:10]} on {report.machine.sentence()}: {_conditions(report)}."
    ]
    for title, columns, rows in sections(report):
        parts += [f"**{title}**", markdown_table(columns, rows)]
    return "\n\n".join(parts)
