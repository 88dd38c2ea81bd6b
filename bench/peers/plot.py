"""The ratios as a picture. matplotlib is imported only when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paxon.bench.peers.figures import PairRow, PeersReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_peers"]

_COLOURS = {"etcd": "#0969da", "Redis": "#cf222e", "PySyncObj": "#1a7f37"}
_GREY = "#57606a"


def plot_peers(report: PeersReport) -> Figure:
    """A bar for each pair: how many times the other's operations a second Paxon does."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (see the module's docstring)

    rows = [row for row in report.rows if isinstance(row, PairRow)]
    figure = Figure(figsize=(9, 0.34 * len(rows) + 1.6), layout="constrained", facecolor="white")
    figure.supxlabel(report.machine.sentence(), fontsize=7, color=_GREY)
    axes = figure.subplots()
    places = list(range(len(rows)))
    medians = [row.rate_ratio.median for row in rows]
    low = [row.rate_ratio.median - row.rate_ratio.low for row in rows]
    high = [row.rate_ratio.high - row.rate_ratio.median for row in rows]
    colours = [_COLOURS.get(row.other.name.partition(",")[0], _GREY) for row in rows]
    axes.barh(places, medians, xerr=[low, high], color=colours, ecolor=_GREY, capsize=2)
    axes.set_yticks(places, [_label(row) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1.0, color=_GREY, linewidth=1)
    axes.set_xlabel("Paxon's operations a second by the other's (median, least and most pair)")
    axes.set_title("Paxon beside others, same machine, same run", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    for place, median in zip(places, medians, strict=True):
        axes.annotate(
            f" {median:.2g}", (median, place), va="center", fontsize=7,
            xytext=(4, 0), textcoords="offset points",
        )  # fmt: skip
    return figure


def _label(row: PairRow) -> str:
    memory = "" if row.paxon.name == "Paxon" else ", Paxon in memory"
    return f"{row.load.name}{memory} / {row.other.name}"
