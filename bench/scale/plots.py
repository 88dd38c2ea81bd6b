"""The picture of `paxon bench scale` (see plot_style.py)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from paxon.bench.harness.plot_style import GREY, SERVER_COLOURS, new_figure, tidy
from paxon.bench.scale.scale import CostRow, ScaleReport
from paxon.bench.scale.table import TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_scale"]

_COLUMNS = 2


def plot_scale(report: ScaleReport) -> Figure:
    """A panel for each part: what an operation costs the servers, memory, start-up, reads."""
    panels: list[Callable[[Axes], None]] = []
    for part in report.settings.parts:
        rows = [row for row in report.rows if row.part == part]
        if rows:
            panels.append(_reads_panel(rows) if part == "reads" else _cost_panel(rows))
    if report.memory:
        panels.append(_memory_panel(report))
    if report.replay:
        panels.append(_replay_panel(report))
    height = math.ceil(len(panels) / _COLUMNS)
    figure = new_figure(5.2 * _COLUMNS, 3.2 * height + 0.4, report.machine.sentence())
    grid = list(figure.subplots(height, _COLUMNS, squeeze=False).flat)
    for axes, draw in zip(grid, panels, strict=False):
        draw(axes)
        tidy(axes)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


def _lines(rows: list[CostRow]) -> dict[str, list[CostRow]]:
    """Rows by what was done, in the order of x."""
    found: dict[str, list[CostRow]] = {}
    for row in rows:
        found.setdefault(row.line, []).append(row)
    return found


def _ticks(axes: Axes, values: list[int], *, logarithmic: bool) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator  # noqa: PLC0415 (see plot_style.py)

    if logarithmic:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{value:,}" for value in values], fontsize=8)


def _plot_lines(
    axes: Axes, rows: list[CostRow], figure_of: Callable[[CostRow], tuple[float, float, float]]
) -> None:
    """Medians with the range of the repeats: `figure_of` gives median, least and most."""
    for number, (name, line) in enumerate(_lines(rows).items()):
        figures = [figure_of(row) for row in line]
        axes.errorbar(
            [row.x for row in line], [median for median, _, _ in figures],
            yerr=[[m - low for m, low, _ in figures], [high - m for m, _, high in figures]],
            marker="o", markersize=4, capsize=2, label=name, color=SERVER_COLOURS[number],
        )  # fmt: skip
    axes.legend(fontsize=8)


def _cost_panel(rows: list[CostRow]) -> Callable[[Axes], None]:
    def cost(row: CostRow) -> tuple[float, float, float]:
        spread = row.server_cpu
        if spread is None:
            return 0.0, 0.0, 0.0
        return spread.median * 1e6, spread.low * 1e6, spread.high * 1e6

    def draw(axes: Axes) -> None:
        title, x_label = TITLES[rows[0].part]
        _plot_lines(axes, rows, cost)
        _ticks(axes, sorted({row.x for row in rows}), logarithmic=True)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel(x_label, fontsize=9)
        axes.set_ylabel("CPU of all servers, µs/op", fontsize=8)
        if rows[0].part == "value":  # grows with the bytes, so by powers on both axes
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.12g}")
        else:
            axes.set_ylim(bottom=0)

    return draw


def _reads_panel(rows: list[CostRow]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        title, x_label = TITLES["reads"]
        _plot_lines(axes, rows, lambda row: (row.rate.median, row.rate.low, row.rate.high))
        axes.set_ylim(bottom=0)
        _ticks(axes, sorted({row.x for row in rows}), logarithmic=False)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.12g}")
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel(x_label, fontsize=9)
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
        _ticks(axes, keys, logarithmic=True)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.12g}")
        axes.set_title(f"Memory, values of {rows[0].value_bytes} bytes", fontsize=10, loc="left")
        axes.set_xlabel("keys", fontsize=9)
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
            yerr=[
                [row.seconds.median - row.seconds.low for row in rows],
                [row.seconds.high - row.seconds.median for row in rows],
            ],
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
