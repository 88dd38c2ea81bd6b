"""The figures of `paxon bench compare` as tables, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from paxon.bench.contention.compare import CompareSettings, Sweep
from paxon.bench.contention.compare_run import CompareReport, PointRow
from paxon.bench.harness.report import count, milliseconds, plain_table, ratio, small

__all__ = ["compare_tables", "compare_markdown", "markdown_table", "x_text"]

_COLUMNS = (
    "op/s", "of\nstable", "p50\nms", "p99\nms", "p99.9\nms",
    "longest\nwait ms", "no leader\n%", "phase 1\n/s",
    "ops\n/slot", "phase 1\n/slot", "preempted\n/slot", "wasted\nP2A/slot", "syncs\n/slot",
    "msgs\n/slot", "failed",
)  # fmt: skip


def x_text(sweep: Sweep, value: float) -> str:
    """A value of a sweep's x axis, for people."""
    return f"{value * sweep.scale:,.12g}"


def _cells(row: PointRow) -> list[str]:
    return [
        count(row.rate), ratio(row.of_stable), milliseconds(row.p50), milliseconds(row.p99),
        milliseconds(row.p999), f"{row.longest_wait * 1e3:,.0f}",
        f"{row.leaderless.median * 100:.0f}",
        count(row.phase1_per_second), small(row.operations_per_slot), small(row.phase1_rounds),
        small(row.preemptions), small(row.wasted_p2a), small(row.syncs), small(row.messages),
        str(row.failed),
    ]  # fmt: skip


def _lines(report: CompareReport, sweep: Sweep) -> Iterator[list[list[str]]]:
    """The cells of each line's points: label, x, figures."""
    rows = report.by_point
    for line in sweep.lines:
        yield [
            [line.label, x_text(sweep, value), *_cells(rows[point])] for value, point in line.points
        ]


def _conditions(settings: CompareSettings) -> str:
    return (
        f"{settings.servers} servers, durability {settings.durability}, {settings.proposers} "
        f"proposers with {settings.outstanding} operations under way each, values of "
        f"{settings.value_bytes} bytes, where not swept over; median of {settings.repeat} x "
        f"{settings.seconds:g} s"
    )


def compare_tables(report: CompareReport) -> list[Table]:
    """A table for each sweep."""
    tables = []
    for number, sweep in enumerate(report.sweeps):
        title = sweep.title if number else f"{_conditions(report.settings)}\n\n{sweep.title}"
        x_label = sweep.x_label.replace(", ", ",\n").replace(" (", "\n(")
        table = plain_table(title, ["", x_label, *_COLUMNS])
        for cells in _lines(report, sweep):
            for row in cells:
                table.add_row(*row)
            table.add_section()
        tables.append(table)
    return tables


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a page: the first column to the left, figures to the right."""
    lines = [
        "| " + " | ".join(column.replace("\n", " ") for column in columns) + " |",
        "|---|" + "---:|" * (len(columns) - 1),
    ]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def compare_markdown(report: CompareReport) -> str:
    """All sweeps for a page, the first one open and the others folded up."""
    parts = [
        f"Measured {report.started[:10]} on {report.machine.sentence()}: "
        f"{_conditions(report.settings)} (± half the range)."
    ]
    for number, sweep in enumerate(report.sweeps):
        rows = [row for cells in _lines(report, sweep) for row in cells]
        table = markdown_table(["who leads", sweep.x_label, *_COLUMNS], rows)
        if number == 0:
            parts += [f"**{sweep.title}**", table]
        else:
            summary = f"<details><summary>{sweep.title}</summary>"
            parts += [summary, table, "</details>"]
    return "\n\n".join(parts)
