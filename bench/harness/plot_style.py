"""How all pictures look, and saving them.

matplotlib is imported by the plotting modules alone, and only when a picture is asked for: inside
their functions.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from paxon.bench.harness.errors import BenchError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "POLICY_COLOURS",
    "SERVER_COLOURS",
    "GREY",
    "check_plot",
    "save_plot",
    "new_figure",
    "tidy",
    "log_axis",
]

_FORMATS = (".png", ".svg", ".pdf")
POLICY_COLOURS = {
    "stable": "#0969da",
    "backoff": "#1a7f37",
    "random": "#9a6700",
    "immediate": "#cf222e",
}
SERVER_COLOURS = (
    "#0969da",
    "#cf222e",
    "#1a7f37",
    "#9a6700",
    "#8250df",
    "#bf3989",
    "#57606a",
)
GREY = "#8c959f"


def check_plot(path: Path) -> None:
    """Raise `BenchError` before anything is measured if the picture could not be made."""
    if path.suffix.lower() not in _FORMATS:
        raise BenchError(f"{path}: a plot's name ends in one of {', '.join(_FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise BenchError("plots need matplotlib: pip install 'paxon[bench]'")


def save_plot(figure: Figure, path: Path) -> None:
    """Write a picture in the format that its name says. Raises `BenchError`."""
    from matplotlib import rc_context  # noqa: PLC0415 (see the module's docstring)

    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    try:
        # Text stays text, and the same figures give the same file.
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "paxon"}):
            figure.savefig(path, dpi=150, metadata=undated.get(path.suffix.lower()))
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}") from None


def new_figure(width: float, height: float, caption: str) -> Figure:
    """An empty picture that says what it was measured on; readable on any background."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (see the module's docstring)

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.supxlabel(caption, fontsize=7, color=GREY)
    return figure


def tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="both", color="#d0d7de", linewidth=0.5)
    axes.set_axisbelow(True)


def log_axis(axes: Axes, label: str) -> None:
    """A logarithmic x axis with plain numbers at powers of ten."""
    from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: PLC0415 (the same)

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)
