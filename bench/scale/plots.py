"""The picture of `paxon bench scale` (see plot_style.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from paxon.bench.harness import plot_style as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from paxon.bench.scale.scale import CostRow, MemoryRow, PartName, ReplayRow, ScaleReport

__all__ = ["plot_scale"]


def plot_scale(report: ScaleReport, titles: Mapping[PartName, tuple[str, str]]) -> Figure:
    """A panel for each part: what an operation costs the servers, memory, start-up, reads."""
    drawn: list[Callable[[Axes], None]] = []
    for part in report.settings.parts:
        rows = [row for row in report.rows if row.part == part]
        if rows:
            drawn.append(partial(_lines_panel, rows, *titles[part]))
    if report.memory:
        drawn.append(partial(_memory_panel, report.memory))
    if report.replay:
        drawn.append(partial(_replay_panel, report.replay))
    figure, grid = style.panels(max(1, len(drawn)), report.machine.sentence())
    for axes, draw in zip(grid, drawn, strict=False):
        draw(axes)
    return figure


def _lines_panel(rows: list[CostRow], title: str, x_label: str, axes: Axes) -> None:
    """The cost of an operation; for reads their rate."""
    part = rows[0].part
    reads = part == "reads"
    for number, name in enumerate(dict.fromkeys(row.line for row in rows)):
        line = [row for row in rows if row.line == name]
        style.spread_line(
            axes, [row.x for row in line], [row.rate if reads else row.server_cpu for row in line],
            label=name, colour=style.SERVER_COLOURS[number], scale=1.0 if reads else 1e6,
        )  # fmt: skip
    axes.legend(fontsize=8)
    style.ticks_at(axes, sorted({row.x for row in rows}), logarithmic=not reads, label=x_label)
    axes.set_ylabel("operations a second" if reads else "CPU of all servers, µs/op", fontsize=8)
    if part == "value":  # grows with the bytes, so by powers on both axes
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    style.plain_numbers(axes.yaxis)
    style.tidy(axes, title)


def _memory_panel(rows: list[MemoryRow], axes: Axes) -> None:
    keys = [row.keys for row in rows]
    for name, colour, values in (
        ("a server", style.SERVER_COLOURS[0], [row.server for row in rows]),
        ("a server at its most", style.SERVER_COLOURS[1], [row.server_peak for row in rows]),
        ("a bare dict", style.GREY, [row.bare for row in rows]),
    ):
        mib = [value / 2**20 for value in values]
        axes.plot(keys, mib, marker="o", markersize=4, color=colour, label=name)
    axes.set_yscale("log")
    style.ticks_at(axes, keys, logarithmic=True, label="keys")
    style.plain_numbers(axes.yaxis)
    axes.set_ylabel("MiB", fontsize=8)
    axes.legend(fontsize=8)
    style.tidy(axes, f"Memory, values of {rows[0].value_bytes} bytes")


def _replay_panel(rows: list[ReplayRow], axes: Axes) -> None:
    names = [f"{row.kind}\n{row.disk_bytes / 2**20:,.0f} MiB" for row in rows]
    title, colours = "Starting a server from its directory", [style.SERVER_COLOURS[0]] * len(rows)
    style.bars(axes, names, [row.seconds for row in rows], colours, title, show="{:.3g} s")
