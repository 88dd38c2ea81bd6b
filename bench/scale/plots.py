"""The picture of `paxon bench scale` (see plot_style.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from paxon.bench.harness.plot_style import (
    GREY,
    SERVER_COLOURS,
    panels,
    plain_numbers,
    spread_line,
    ticks_at,
    tidy,
    whiskers,
)
from paxon.bench.harness.summary import Spread
from paxon.bench.scale.scale import TITLES, CostRow, ScaleReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_scale"]


def plot_scale(report: ScaleReport) -> Figure:
    """A panel for each part: what an operation costs the servers, memory, start-up, reads."""
    drawn: list[Callable[[Axes], None]] = []
    for part in report.settings.parts:
        rows = [row for row in report.rows if row.part == part]
        if rows:
            drawn.append(_reads_panel(rows) if part == "reads" else _cost_panel(rows))
    if report.memory:
        drawn.append(_memory_panel(report))
    if report.replay:
        drawn.append(_replay_panel(report))
    figure, grid = panels(max(1, len(drawn)), report.machine.sentence())
    for axes, draw in zip(grid, drawn, strict=False):
        draw(axes)
        tidy(axes)
    return figure


def _lines(rows: list[CostRow]) -> dict[str, list[CostRow]]:
    """Rows by what was done, in the order of x."""
    found: dict[str, list[CostRow]] = {}
    for row in rows:
        found.setdefault(row.line, []).append(row)
    return found


def _plot_lines(
    axes: Axes, rows: list[CostRow], figure_of: Callable[[CostRow], Spread | None], scale: float
) -> None:
    for number, (name, line) in enumerate(_lines(rows).items()):
        spread_line(
            axes, [row.x for row in line], [figure_of(row) for row in line],
            label=name, colour=SERVER_COLOURS[number], scale=scale,
        )  # fmt: skip
    axes.legend(fontsize=8)


def _cost_panel(rows: list[CostRow]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        title, x_label = TITLES[rows[0].part]
        _plot_lines(axes, rows, lambda row: row.server_cpu, 1e6)
        ticks_at(axes, sorted({row.x for row in rows}), logarithmic=True, label=x_label)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_ylabel("CPU of all servers, µs/op", fontsize=8)
        if rows[0].part == "value":  # grows with the bytes, so by powers on both axes
            axes.set_yscale("log")
            plain_numbers(axes.yaxis)
        else:
            axes.set_ylim(bottom=0)

    return draw


def _reads_panel(rows: list[CostRow]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        title, x_label = TITLES["reads"]
        _plot_lines(axes, rows, lambda row: row.rate, 1.0)
        axes.set_ylim(bottom=0)
        ticks_at(axes, sorted({row.x for row in rows}), logarithmic=False, label=x_label)
        plain_numbers(axes.yaxis)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_ylabel("operations a second", fontsize=8)

    return draw


def _memory_panel(report: ScaleReport) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        rows = report.memory
        keys = [row.keys for row in rows]
        for name, colour, values in (
            ("a server", SERVER_COLOURS[0], [row.server for row in rows]),
            ("a server at its most", SERVER_COLOURS[1], [row.server_peak for row in rows]),
            ("a bare dict", GREY, [row.bare for row in rows]),
        ):
            axes.plot(
                keys, [value / 2**20 for value in values],
                marker="o", markersize=4, color=colour, label=name,
            )  # fmt: skip
        axes.set_yscale("log")
        ticks_at(axes, keys, logarithmic=True, label="keys")
        plain_numbers(axes.yaxis)
        axes.set_title(f"Memory, values of {rows[0].value_bytes} bytes", fontsize=10, loc="left")
        axes.set_ylabel("MiB", fontsize=8)
        axes.legend(fontsize=8)

    return draw


def _replay_panel(report: ScaleReport) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        rows = report.replay
        names = [f"{row.kind}\n{row.disk_bytes / 2**20:,.0f} MiB" for row in rows]
        medians = [row.seconds.median for row in rows]
        axes.bar(
            names, medians, width=0.6, color=SERVER_COLOURS[0],
            yerr=whiskers([row.seconds for row in rows]),
            capsize=3,
        )  # fmt: skip
        for place, median in enumerate(medians):
            axes.annotate(
                f"{median:.3g} s", (place, median), textcoords="offset points", xytext=(6, 3),
                fontsize=8,
            )  # fmt: skip
        axes.set_title("Starting a server from its directory", fontsize=10, loc="left")
        axes.set_ylabel("seconds", fontsize=8)

    return draw
