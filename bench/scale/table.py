"""The figures of `paxon bench scale` as tables."""

from __future__ import annotations

from paxon.bench.harness.report import Section, count, microseconds, milliseconds
from paxon.bench.scale.scale import CostRow, PartName, ScaleReport

__all__ = ["TITLES", "scale_sections"]

TITLES: dict[PartName, tuple[str, str]] = {
    "sessions": ("Sessions", "sessions"),
    "keys": ("Keys in the store", "keys"),
    "log": ("Length of the log, one server being down", "slots kept"),
    "value": ("Size of values, 16 operations under way", "bytes"),
    "reads": ("Reads by client processes", "clients"),
}
"""Of each part that measures what an operation costs: its title, and what its x is."""


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
            microseconds(row.server_cpu), microseconds(row.client_cpu),
            str(row.total("snapshots_taken")), str(row.failed),
        ]
        for row in report.rows
        if row.part == part
    ]  # fmt: skip
    return Section(title, columns, rows)


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
    return Section("Memory of a server for its keys, beyond that of an empty one", columns, rows)


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
    return Section("Starting a server from its directory (without starting Python)", columns, rows)


def _pause(report: ScaleReport) -> Section:
    columns = [
        "phase", "store MiB", "seconds", "pings", "p99 ms", "p99.9 ms", "longest ms", "writes",
        "p99 ms", "longest ms",
    ]  # fmt: skip
    rows = [
        [
            row.phase, _mib(row.store_bytes), f"{row.seconds:.1f}", f"{row.pings.count:,}",
            _ms(row.pings.p99), _ms(row.pings.p999), _ms(row.pings.worst),
            f"{row.writes.count:,}", _ms(row.writes.p99), _ms(row.writes.worst),
        ]
        for row in report.pause
    ]  # fmt: skip
    title = "How long one server stands still for a snapshot; a ping is a stale read"
    return Section(title, columns, rows)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.1f}"


def scale_sections(report: ScaleReport) -> list[Section]:
    """A table for each part that was measured."""
    found = [_costs(report, part) for part in report.settings.parts if part in TITLES]
    if report.memory:
        found.append(_memory(report))
    if report.replay:
        found.append(_replay(report))
    if report.pause:
        found.append(_pause(report))
    if found:
        settings = report.settings
        conditions = (
            f"{settings.servers} servers, durability {settings.durability}, "
            f"{settings.outstanding} operations under way for each client, values of "
            f"{settings.value_bytes} bytes, unless said otherwise; median of {settings.repeat} x "
            f"{settings.seconds:g} s"
        )
        found[0] = found[0]._replace(title=f"{conditions}\n\n{found[0].title}")
    return found
