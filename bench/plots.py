"""Pictures of reports. matplotlib is imported here alone, and only when a picture is asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paxon.bench.contention import BallotPoint, ContentionReport, ContentionRow
from paxon.bench.errors import BenchError
from paxon.bench.failover import FailoverReport
from paxon.bench.stable import StableReport
from paxon.bench.summary import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "check_plot",
    "save_plot",
    "plot_stable",
    "plot_contention",
    "plot_failover",
]

_FORMATS = (".png", ".svg", ".pdf")
_COLOURS = {
    "stable": "#0969da",
    "backoff": "#1a7f37",
    "random": "#9a6700",
    "immediate": "#cf222e",
}
_SERVER_COLOURS = ("#0969da", "#cf222e", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#57606a")
_GREY = "#8c959f"


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


def _figure(width: float, height: float, caption: str) -> Figure:
    """An empty picture that says what it was measured on; readable on any background."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (see the module's docstring)

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.supxlabel(caption, fontsize=7, color=_GREY)
    return figure


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="both", color="#d0d7de", linewidth=0.5)
    axes.set_axisbelow(True)


def _log_axis(axes: Axes, label: str) -> None:
    """A logarithmic x axis with plain numbers at powers of ten."""
    from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: PLC0415 (the same)

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)


def plot_stable(report: StableReport) -> Figure:
    """Throughput of each load beside its floor, and latencies."""
    rows = report.rows
    figure = _figure(11, 0.55 * len(rows) + 1.8, report.machine.sentence())
    rates, latencies = figure.subplots(1, 2, sharey=True)
    places = list(range(0, -len(rows), -1))
    for place, row in zip(places, rows, strict=True):
        if row.floor is not None:
            both = [row.rate.median, row.floor.rate.median]
            rates.plot(both, [place, place], color=_GREY, linewidth=1, zorder=1)
    _dots(rates, places, [row.rate for row in rows], _COLOURS["stable"], "Paxon")
    floors = [row.floor.rate if row.floor else None for row in rows]
    _dots(rates, places, floors, _COLOURS["immediate"], "floor: same bytes, no protocol")
    rates.set_ylim(min(places) - 0.6, 0.6)
    rates.set_yticks(places, [row.workload.name for row in rows])
    _log_axis(rates, "operations a second")
    for name, colour, spreads in (
        ("p50", _COLOURS["stable"], [row.p50 for row in rows]),
        ("p99", _COLOURS["random"], [row.p99 for row in rows]),
        ("p99.9", _COLOURS["immediate"], [row.p999 for row in rows]),
    ):
        _dots(latencies, places, spreads, colour, name, scale=1e3)
    _log_axis(latencies, "milliseconds")
    for axes in (rates, latencies):
        axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        _tidy(axes)
    figure.suptitle(f"Stable leader, {report.settings.servers} servers")
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
    if not known:
        return
    axes.errorbar(
        [spread.median * scale for _, spread in known],
        [place for place, _ in known],
        xerr=[
            [(spread.median - spread.low) * scale for _, spread in known],
            [(spread.high - spread.median) * scale for _, spread in known],
        ],
        color=colour, linestyle="none", marker="o", capsize=2, label=name,
    )  # fmt: skip


def plot_contention(report: ContentionReport) -> Figure:
    """Throughput against proposers for each policy, what it costs, and the ballots of a duel."""
    duels = [row for row in report.rows if row.timeline]
    height = 3.6 + 1.5 * len(duels)
    figure = _figure(10, height, report.machine.sentence())
    ratios = [3.6] + [1.5] * len(duels)
    grid = figure.add_gridspec(len(ratios), 2, height_ratios=ratios)
    throughput = figure.add_subplot(grid[0, 0])
    rounds = figure.add_subplot(grid[0, 1])
    for policy, colour in _COLOURS.items():
        rows = [row for row in report.rows if row.variant.policy == policy]
        _lines(throughput, policy, colour, rows, [row.rate for row in rows])
        _lines(rounds, policy, colour, rows, [row.phase1_per_second for row in rows])
    throughput.set_yscale("symlog", linthresh=10)  # a livelock's 0 has to be seen
    throughput.set_ylim(bottom=0)
    throughput.set_ylabel("operations a second")
    rounds.set_yscale("symlog", linthresh=1)
    rounds.set_ylim(bottom=0)
    rounds.set_ylabel("phase-1 rounds a second")
    for axes in (throughput, rounds):
        axes.set_xlabel("servers that try to lead (stable: clients)")
        axes.set_xticks(sorted({row.variant.proposers for row in report.rows}))
        _tidy(axes)
    if report.rows:
        throughput.legend(fontsize=8, loc="lower left")
    for number, row in enumerate(duels, start=1):
        _ballots(figure.add_subplot(grid[number, :]), row.variant.name, row.timeline)
    figure.suptitle(f"A stable leader against contention, {report.settings.servers} servers")
    return figure


def _lines(
    axes: Axes,
    name: str,
    colour: str,
    rows: list[ContentionRow],
    spreads: Sequence[Spread],
) -> None:
    """A line of medians over the number of proposers, with the range of the repeats."""
    if not rows:
        return
    known = [(row.variant.proposers, s) for row, s in zip(rows, spreads, strict=True)]
    axes.errorbar(
        [proposers for proposers, _ in known],
        [spread.median for _, spread in known],
        yerr=[
            [spread.median - spread.low for _, spread in known],
            [spread.high - spread.median for _, spread in known],
        ],
        color=colour, marker="o", capsize=3, label=name,
    )  # fmt: skip


def _ballots(axes: Axes, name: str, points: list[BallotPoint]) -> None:
    """The rounds that servers have promised over time, coloured by whose ballot it is."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 (the same)

    for owner in sorted({point.owner for point in points}):
        mine = [point for point in points if point.owner == owner]
        axes.plot(
            [point.seconds for point in mine], [point.round for point in mine],
            linestyle="none", marker=".", markersize=3,
            color=_SERVER_COLOURS[(owner - 1) % len(_SERVER_COLOURS)],
            label=f"server {owner}'s" if owner else "none yet",
        )  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    axes.set_title(f"ballots: {name}", fontsize=9, loc="left")
    axes.set_ylabel("round", fontsize=8)
    axes.set_xlabel("seconds", fontsize=8)
    axes.legend(fontsize=7, loc="upper left")
    _tidy(axes)


def plot_failover(report: FailoverReport) -> Figure:
    """Each kill's gap, in order, and their median."""
    figure = _figure(7, 3.2, report.machine.sentence())
    axes = figure.subplots()
    for row in report.rows:
        values = [value * 1e3 for value in row.gap.values]
        axes.bar(range(1, len(values) + 1), values, color=_COLOURS["stable"])
        axes.axhline(row.gap.median * 1e3, color=_COLOURS["immediate"], linewidth=1)
    axes.set_xlabel("kill")
    axes.set_ylabel("milliseconds")
    axes.set_title("kill -9 of the leader → next acknowledged write", fontsize=10)
    _tidy(axes)
    return figure
