"""Figures of a run in a page: tables between two marks, pictures beside it.

A mark is an HTML comment, so that a page shows nothing of it:

    <!-- figures: compare -->
    … replaced at each run …
    <!-- end of figures -->
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.plot_style import save_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["splice", "check_page", "fill_page", "make_directory", "save_plots"]

_END = "<!-- end of figures -->"
PLOT_FORMATS = (".svg", ".png")


def _mark(name: str) -> str:
    return f"<!-- figures: {name} -->"


def splice(text: str, name: str, figures: str) -> str:
    """The page with other figures under a name. Raises `BenchError` if it has no such place."""
    mark = _mark(name)
    before, found, rest = text.partition(mark)
    old, end, after = rest.partition(_END)
    if not found or not end or "<!-- figures: " in old:
        raise BenchError(f"the page has no place for figures: write {mark} and {_END} into it")
    return f"{before}{mark}\n\n{figures.strip()}\n\n{end}{after}"


def check_page(path: Path, name: str) -> None:
    """Raise `BenchError` before anything is measured if the page could not be filled."""
    splice(_read(path), name, "")


def fill_page(path: Path, name: str, figures: str) -> None:
    """Put figures into a page. Raises `BenchError`."""
    text = splice(_read(path), name, figures)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}") from None


def make_directory(path: Path) -> None:
    """Make a directory if it is not there. Raises `BenchError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"{path} cannot be made: {error.strerror}") from None


def save_plots(plots: dict[str, Figure], directory: Path) -> None:
    """Write each picture as SVG and as PNG under its name. Raises `BenchError`."""
    make_directory(directory)
    for name, figure in plots.items():
        for form in PLOT_FORMATS:
            save_plot(figure, directory / f"{name}{form}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from None
