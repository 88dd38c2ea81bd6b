"""How all pictures look, and saving them.

matplotlib is imported by the plotting modules alone, and only when a picture is asked for: inside
their functions.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.report import told
from paxon.bench.harness.summary import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "GREY", "POLICY_COLOURS", "SERVER_COLOURS", "bars", "check_plots",
    "new_figure", "note", "panels", "plain_numbers", "save_plot", "spread_line", "ticks_at", "tidy",
]  # fmt: skip

POLICY_COLOURS = {
    "stable": "#0969da", "backoff": "#1a7f37", "random": "#9a6700", "immediate": "#cf222e",
}  # fmt: skip
SERVER_COLOURS = ("#0969da", "#cf222e", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#57606a")
GREY = "#8c959f"


def check_plots() -> None:
    """Raise `BenchError` before anything is measured if pictures could not be made."""
    if importlib.util.find_spec("matplotlib") is None:
        raise BenchError("plots need matplotlib: pip install 'paxon[bench]'")


def save_plot(figure: Figure, path: Path) -> None:
    """Write a picture as .svg and as .png. Raises `BenchError`."""
    from matplotlib import rc_context  # noqa: PLC0415 (see the module's docstring)

    # Text stays text, and the same figures give the same files.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "paxon"}):
        for file, undated in ((f"{path}.svg", {"Date": None}), (f"{path}.png", None)):
            with told(Path(file), "written"):
                figure.savefig(file, dpi=150, metadata=undated)


def new_figure(width: float, height: float, caption: str) -> Figure:
    """An empty picture that says what it was measured on; readable on any background."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (see the module's docstring)

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.supxlabel(caption, fontsize=7, color=GREY)
    return figure


def panels(count: int, caption: str) -> tuple[Figure, list[Axes]]:
    """A picture of so many panels, two in a row."""
    columns = min(2, count)
    rows = math.ceil(count / columns)
    figure = new_figure(5.2 * columns, 3.4 * rows + 0.4, caption)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, grid[:count]


def spread_line(
    axes: Axes, xs: Sequence[float], spreads: Sequence[Spread | None], *, label: str, colour: str,
    scale: float = 1.0, alpha: float = 1.0,
) -> list[float]:  # fmt: skip
    """Medians, which it returns, and the range of the repeats; what has no figure is left out."""
    known = [(x, spread) for x, spread in zip(xs, spreads, strict=True) if spread is not None]
    medians = [spread.median * scale for _, spread in known]
    if known:
        axes.errorbar(
            [x for x, _ in known], medians, yerr=whiskers([s for _, s in known], scale),
            color=colour, alpha=alpha, marker="o", markersize=4, capsize=2, label=label,
        )  # fmt: skip
    return medians


def whiskers(spreads: Sequence[Spread], scale: float = 1.0) -> list[list[float]]:
    """How far the repeats go below and above their medians."""
    return [
        [(spread.median - spread.low) * scale for spread in spreads],
        [(spread.high - spread.median) * scale for spread in spreads],
    ]


def bars(
    axes: Axes, names: Sequence[str], spreads: Sequence[Spread], colours: Sequence[str],
    title: str, *, show: str = "{:,.0f}", start: float = 0.0,
) -> None:  # fmt: skip
    """A bar for each median, from `start` to the right, with its range and its figure."""
    places = range(len(spreads))
    axes.barh(
        places, [spread.median - start for spread in spreads], left=start, color=list(colours),
        xerr=whiskers(spreads), error_kw={"ecolor": GREY, "capsize": 2},
    )  # fmt: skip
    for place, spread in enumerate(spreads):
        note(axes, show.format(spread.median), (max(start, spread.high), place), va="center")
    axes.set_yticks(places, names, fontsize=8)
    axes.set_ylim(len(spreads) - 0.5, -0.5)  # the first one on top
    axes.margins(x=0.15)
    plain_numbers(axes.xaxis)
    tidy(axes, title)


def note(
    axes: Axes, text: str, place: tuple[float, float], offset: tuple[float, float] = (4, 0),
    **more: Any,
) -> None:  # fmt: skip
    """A few words beside a place; `offset` is in points."""
    axes.annotate(text, place, offset, textcoords="offset points", fontsize=7, **more)


def ticks_at(axes: Axes, values: Sequence[float], *, logarithmic: bool, label: str = "") -> None:
    """Ticks of the x axis at the values that were measured, in plain numbers."""
    from matplotlib.ticker import FixedLocator, NullLocator  # noqa: PLC0415 (the same)

    if logarithmic:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(values)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{value:,.12g}" for value in values], fontsize=8)
    axes.set_xlabel(label, fontsize=9)


def plain_numbers(*those: Axis) -> None:
    """1,000 instead of 10³."""
    from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: PLC0415 (the same)

    for axis in those:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
        axis.set_minor_formatter(NullFormatter())


def tidy(axes: Axes, title: str = "") -> None:
    """A small title, a light grid, and no frame."""
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="both", color="#d0d7de", linewidth=0.5)
    axes.set_axisbelow(True)
