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
    from matplotlib.ticker import FuncFormatter  # noqa: PLC0415 (the same)

    rows = [row for row in report.rows if isinstance(row, PairRow)]
    figure = Figure(figsize=(9, 0.34 * len(rows) + 1.6), layout="constrained", facecolor="white")
    figure.supxlabel(report.machine.sentence(), fontsize=7, color=_GREY)
    axes = figure.subplots()
    axes.set_xscale("log")
    for place, row in enumerate(rows):
        ratio = row.rate_ratio
        colour = _COLOURS.get(row.other.name.partition(",")[0], _GREY)
        # From 1, the line of equals: to the right Paxon does more, to the left the other.
        axes.barh(place, ratio.median - 1.0, left=1.0, color=colour)
        axes.plot([ratio.low, ratio.high], [place, place], color=_GREY, linewidth=1.5)
        axes.annotate(
            f"{ratio.median:.3g}", (max(1.0, ratio.high), place), va="center", fontsize=7,
            xytext=(4, 0), textcoords="offset points",
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axes.axvline(1.0, color=_GREY, linewidth=1)
    axes.margins(x=0.12)
    axes.set_xlabel("Paxon's operations a second by the other's (median, least and most pair)")
    axes.set_title("Paxon beside others, same machine, same run", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _label(row: PairRow) -> str:
    memory = "" if row.paxon.name == "Paxon" else ", Paxon in memory"
    return f"{row.load.name}{memory} / {row.other.name}"
