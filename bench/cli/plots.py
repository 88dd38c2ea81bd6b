"""Pictures of the stable, contention and failover benches' reports (the rest: plot_style.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from paxon.bench.contention.contention import BallotPoint, ContentionReport, ContentionRow
from paxon.bench.harness.plot_style import (
    GREY,
    POLICY_COLOURS,
    SERVER_COLOURS,
    check_plot,
    log_axis,
    new_figure,
    save_plot,
    tidy,
)
from paxon.bench.harness.summary import Spread
from paxon.bench.stable.failover import FailoverReport
from paxon.bench.stable.stable import StableReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_plot", "save_plot", "plot_stable", "plot_contention", "plot_failover"]


def plot_stable(report: StableReport) -> Figure:
    """Throughput of each load beside its floor, and latencies."""
    rows = report.rows
    figure = new_figure(11, 0.55 * len(rows) + 1.8, report.machine.sentence())
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
    log_axis(rates, "operations a second")
    for name, colour, spreads in (
        ("p50", POLICY_COLOURS["stable"], [row.p50 for row in rows]),
        ("p99", POLICY_COLOURS["random"], [row.p99 for row in rows]),
        ("p99.9", POLICY_COLOURS["immediate"], [row.p999 for row in rows]),
    ):
        _dots(latencies, places, spreads, colour, name, scale=1e3)
    log_axis(latencies, "milliseconds")
    for axes in (rates, latencies):
        axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        tidy(axes)
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
    figure = new_figure(10, height, report.machine.sentence())
    ratios = [3.6] + [1.5] * len(duels)
    grid = figure.add_gridspec(len(ratios), 2, height_ratios=ratios)
    throughput = figure.add_subplot(grid[0, 0])
    rounds = figure.add_subplot(grid[0, 1])
    for policy, colour in POLICY_COLOURS.items():
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
        tidy(axes)
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
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 (see plot_style.py)

    for owner in sorted({point.owner for point in points}):
        mine = [point for point in points if point.owner == owner]
        axes.plot(
            [point.seconds for point in mine], [point.round for point in mine],
            linestyle="none", marker=".", markersize=3,
            color=SERVER_COLOURS[(owner - 1) % len(SERVER_COLOURS)],
            label=f"server {owner}'s" if owner else "none yet",
        )  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    axes.set_title(f"ballots: {name}", fontsize=9, loc="left")
    axes.set_ylabel("round", fontsize=8)
    axes.set_xlabel("seconds", fontsize=8)
    axes.legend(fontsize=7, loc="upper left")
    tidy(axes)


def plot_failover(report: FailoverReport) -> Figure:
    """Each kill's gap, in order, and their median."""
    figure = new_figure(7, 3.2, report.machine.sentence())
    axes = figure.subplots()
    for row in report.rows:
        values = [value * 1e3 for value in row.gap.values]
        axes.bar(range(1, len(values) + 1), values, color=POLICY_COLOURS["stable"])
        axes.axhline(row.gap.median * 1e3, color=POLICY_COLOURS["immediate"], linewidth=1)
    axes.set_xlabel("kill")
    axes.set_ylabel("milliseconds")
    axes.set_title("kill -9 of the leader → next acknowledged write", fontsize=10)
    tidy(axes)
    return figure
