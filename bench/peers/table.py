"""The report for people: tables for a terminal, and the same as Markdown for a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.report import count, milliseconds, plain_table, ratios
from paxon.bench.harness.summary import Spread
from paxon.bench.peers.figures import GapRow, PairRow, PeerNote, PeersReport, SystemFigures

__all__ = ["peers_table", "gap_table", "sentences", "print_rest", "markdown", "write_markdown"]

_COLUMNS = [
    "load", "beside", "Paxon\nop/s", "other\nop/s", "op/s\nratio", "Paxon\np50 ms", "other\np50 ms",
    "p50\nratio", "p99\nratio", "Paxon µs/op\nservers + clients", "other µs/op\nservers + clients",
]  # fmt: skip
_GAP_COLUMNS = ["beside", "kills\neach", "Paxon\nms", "other\nms", "ratio"]


def peers_table(report: PeersReport) -> Table:
    """All pairs."""
    table = plain_table(_title(report), _COLUMNS)
    before = ""
    for row in _pairs(report):
        if before and row.other.name.partition(",")[0] != before:
            table.add_section()
        before = row.other.name.partition(",")[0]
        table.add_row(*_cells(row))
    return table


def gap_table(report: PeersReport) -> Table | None:
    """Failovers; None if there were none."""
    rows = _gaps(report)
    if not rows:
        return None
    table = plain_table("kill -9 of the leader to the next acknowledged write", _GAP_COLUMNS)
    for row in rows:
        table.add_row(*_gap_cells(row))
    return table


def sentences(report: PeersReport) -> list[str]:
    """What a reader has to know about each peer, and what went wrong."""
    lines = []
    for note in (row for row in report.rows if isinstance(row, PeerNote)):
        if note.skipped:
            lines.append(note.skipped)
            continue
        lines.append(f"{note.peer} {note.version}: {note.driven}. Durability: {note.durability}.")
        lines += [f"Left out, because it failed: {problem}" for problem in note.problems]
    for row in _pairs(report):
        lines += [
            f"{system.name}, {row.load.name}: {system.failed} operations failed "
            f"({system.first_error})"
            for system in (row.paxon, row.other)
            if system.failed
        ]
    idle = [s.disturbance.high for row in _pairs(report) for s in (row.paxon, row.other)]
    if idle:
        lines.append(
            "The servers whose turn it was not took at most "
            f"{max(idle) * 100:.1f} % of a core meanwhile."
        )
    return lines


def print_rest(report: PeersReport, console: Console) -> None:
    """Print what comes after the table of pairs."""
    gaps = gap_table(report)
    if gaps is not None:
        console.print(gaps)
    for line in sentences(report):
        console.print(line, style="dim", highlight=False)


def markdown(report: PeersReport) -> str:
    """Everything, to be pasted into a document."""
    settings = report.settings
    parts = [
        f"{report.machine.sentence()}; {report.started}; Paxon "
        f"{report.machine.versions.get('paxon', '')}. {_title(report)}; ratios are medians of "
        f"{settings.repeat} interleaved pairs, with the least and the most of them.",
        _markdown_table(_COLUMNS, [_cells(row) for row in _pairs(report)], left=2),
    ]
    gaps = _gaps(report)
    if gaps:
        parts.append("From `kill -9` of the leader to the next acknowledged write:")
        parts.append(_markdown_table(_GAP_COLUMNS, [_gap_cells(row) for row in gaps], left=1))
    parts.append("\n".join(f"- {line}" for line in sentences(report)))
    return "\n\n".join(parts) + "\n"


def write_markdown(report: PeersReport, path: Path) -> None:
    """Write `markdown` to a file. Raises `BenchError`."""
    try:
        path.write_text(markdown(report), encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}") from None


def _title(report: PeersReport) -> str:
    settings = report.settings
    return (
        f"{settings.servers} servers, values of {settings.value_bytes} bytes, median of "
        f"{settings.repeat} x {settings.seconds:g} s"
    )


def _pairs(report: PeersReport) -> list[PairRow]:
    return [row for row in report.rows if isinstance(row, PairRow)]


def _gaps(report: PeersReport) -> list[GapRow]:
    return [row for row in report.rows if isinstance(row, GapRow)]


def _cells(row: PairRow) -> list[str]:
    memory = "" if row.paxon.name == "Paxon" else " (Paxon in memory)"
    return [
        row.load.name + memory, row.other.name, count(row.paxon.rate), count(row.other.rate),
        ratios(row.rate_ratio), milliseconds(row.paxon.p50), milliseconds(row.other.p50),
        _median(row.p50_ratio), _median(row.p99_ratio), _cpu(row.paxon), _cpu(row.other),
    ]  # fmt: skip


def _gap_cells(row: GapRow) -> list[str]:
    return [
        row.other_name, str(len(row.paxon.values)), _gap(row.paxon), _gap(row.other),
        f"{row.ratio:.2f}",
    ]  # fmt: skip


def _gap(seconds: Spread) -> str:
    """Median, and the least and most, in milliseconds."""
    return f"{seconds.median * 1e3:.0f} ({seconds.low * 1e3:.0f} … {seconds.high * 1e3:.0f})"


def _median(ratio: Spread | None) -> str:
    return "-" if ratio is None else f"{ratio.median:.2f}"


def _cpu(system: SystemFigures) -> str:
    """Microseconds for each operation."""
    if system.server_cpu is None or system.client_cpu is None:
        return "-"
    servers, clients = system.server_cpu.median * 1e6, system.client_cpu.median * 1e6
    return f"{servers:.1f} + {clients:.1f}" if clients else f"{servers:.1f} in all"


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    marks = ["---"] * left + ["---:"] * (len(columns) - left)
    lines = [[column.replace("\n", " ") for column in columns], marks, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
