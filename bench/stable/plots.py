"""The picture of the stable leader's figures (see plot_style.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from paxon.bench.harness.plot_style import (
    GREY,
    POLICY_COLOURS,
    new_figure,
    plain_numbers,
    tidy,
    whiskers,
)
from paxon.bench.harness.summary import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from paxon.bench.stable.stable import StableRow

__all__ = ["plot_stable"]


def plot_stable(rows: Sequence[StableRow], caption: str) -> Figure:
    """Throughput of each load beside its floor, and latencies."""
    figure = new_figure(11, 0.55 * len(rows) + 1.8, caption)
    rates, latencies = figure.subplots(1, 2, sharey=True)
    places = list(range(0, -len(rows), -1))
    for place, row in zip(places, rows, strict=True):
        if row.floor is not None:
            both = [row.rate.median, row.floor.rate.median]
            rates.plot(both, [place, place], color=GREY, linewidth=1, zorder=1)
    _dots(rates, places, [row.rate for row in rows], POLICY_COLOURS["stable"], "Paxon")
    floors = [row.floor.rate if row.floor else None for row in rows]
    _dots(rates, places, floors, POLICY_COLOURS["immediate"], "floor: same bytes, no protocol")
    rates.set_ylim(min(places) - 0.6, 0.6)
    rates.set_yticks(places, [row.workload.name for row in rows])
    for name, colour, spreads in (
        ("p50", POLICY_COLOURS["stable"], [row.p50 for row in rows]),
        ("p99", POLICY_COLOURS["random"], [row.p99 for row in rows]),
        ("p99.9", POLICY_COLOURS["immediate"], [row.p999 for row in rows]),
    ):
        _dots(latencies, places, spreads, colour, name, scale=1e3)
    for axes, label in ((rates, "operations a second"), (latencies, "milliseconds")):
        axes.set_xscale("log")
        plain_numbers(axes.xaxis)
        axes.set_xlabel(label)
        axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        tidy(axes)
    return figure


def _dots(
    axes: Axes,
    places: Sequence[float],
    spreads: Sequence[Spread | None],
    colour: str,
    name: str,
    *,
    scale: float = 1.0,
) -> None:
    """A dot in each row, with whiskers from the least to the most of the repeats."""
    known = [(place, s) for place, s in zip(places, spreads, strict=True) if s is not None]
    if known:
        axes.errorbar(
            [spread.median * scale for _, spread in known], [place for place, _ in known],
            xerr=whiskers([spread for _, spread in known], scale),
            color=colour, linestyle="none", marker="o", markersize=5, capsize=3, label=name,
        )  # fmt: skip
