"""Pictures of `paxon bench compare` (see plot_style.py)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from paxon.bench.harness import plot_style as style
from paxon.bench.harness.summary import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from paxon.bench.contention.compare import CompareReport, Duel, PointRow, Sweep

__all__ = ["compare_plots"]

_SHADES = (1.0, 0.6, 0.35)
"""How strong the lines of one policy in a sweep are, from the first on."""
_ONE_MAGNITUDE = 8
_MESSAGES = {
    "P1A": ("^", "P1A: candidate"), "P1B": (".", "P1B: promise"),
    "leads": ("*", "leads: heartbeat"), "P2A": ("s", "P2A: proposal"),
    "rejected": ("x", "P2B: rejection"),
}  # fmt: skip
"""How each is drawn, and what it is called."""


def compare_plots(report: CompareReport) -> dict[str, Figure]:
    """All pictures by name, of what was measured."""
    plots: dict[str, Figure] = {}
    sweeps = {sweep.name: sweep for sweep in report.sweeps}
    if "contention" in sweeps:
        name = "contention" if report.bench == "contention" else "compare-contention"
        plots[name] = _contention(report, sweeps.pop("contention"))
    if "proposers" in sweeps:
        plots["compare-proposers"] = _proposers(report, sweeps.pop("proposers"))
    if "load" in sweeps:
        plots["compare-latency"] = _load(report, sweeps.pop("load"))
    if sweeps:
        plots["compare-sweeps"] = _sweeps(report, list(sweeps.values()))
    if report.duels:
        plots["compare-ballots"] = _duels(report)
    return plots


def _panel(
    axes: Axes, report: CompareReport, sweep: Sweep, title: str,
    figure_of: Callable[[PointRow], Spread | None], *, scale: float = 1.0,
) -> None:  # fmt: skip
    """The sweep's lines, with ticks where it was measured.

    The y axis begins at 0 where the values are of one magnitude or a livelock's 0 is among them;
    else at a power of ten, so that steepness can be compared by eye.
    """
    rows, plan = report.by_point, sweep.plan
    drawn: Counter[str] = Counter()
    medians: list[float] = []
    for line in sweep.lines:
        medians += style.spread_line(
            axes, [value * plan.scale for value, _ in line.points],
            [figure_of(rows[point]) for _, point in line.points],
            label=line.label, colour=style.POLICY_COLOURS[line.policy], scale=scale,
            alpha=_SHADES[drawn[line.policy] % len(_SHADES)],
        )  # fmt: skip
        drawn[line.policy] += 1
    values = sorted({value * plan.scale for line in sweep.lines for value, _ in line.points})
    style.ticks_at(axes, values, logarithmic=plan.logarithmic, label=plan.x_label)
    low, high = min(medians, default=0.0), max(medians, default=0.0)
    if low > 0 and high > _ONE_MAGNITUDE * low:
        axes.set_yscale("log")
        axes.set_ylim(10 ** math.floor(math.log10(low)), None)
    else:
        axes.set_ylim(0, None if high else 1.0)
    style.plain_numbers(axes.yaxis)
    style.tidy(axes, title)


def _contention(report: CompareReport, sweep: Sweep) -> Figure:
    """The policies side by side: what gets through, and what phase 1 it takes."""
    rows = [report.by_point[point] for line in sweep.lines for _, point in line.points]
    names = [row.point.name for row in rows]
    colours = [style.POLICY_COLOURS[row.point.policy] for row in rows]
    figure = style.new_figure(9, 0.9 + 0.3 * len(rows), report.machine.sentence())
    panels: list[tuple[str, list[Spread]]] = [
        ("operations a second", [row.rate for row in rows]),
        ("phase-1 rounds a second", [row.per_second("phase1_rounds") for row in rows]),
        ("preemptions a second", [row.per_second("preemptions") for row in rows]),
    ]
    for axes, (title, spreads) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        style.bars(axes, names, spreads, colours, title)
    return figure


def _proposers(report: CompareReport, sweep: Sweep) -> Figure:
    """The effect of more proposers under each policy: throughput, and its cost."""
    figure, grid = style.panels(4, report.machine.sentence())
    _panel(grid[0], report, sweep, "operations a second", lambda row: row.rate)
    without = "share of time without a leader, %"
    _panel(grid[1], report, sweep, without, lambda row: row.leaderless, scale=100)
    preempted = "preemptions a second"
    _panel(grid[2], report, sweep, preempted, lambda row: row.per_second("preemptions"))
    slow = "99 % of what was answered took up to … ms"
    _panel(grid[3], report, sweep, slow, lambda row: row.p99, scale=1e3)
    # A livelock's thousands beside a handful: what is 0 cannot be on a scale of powers.
    grid[2].set_yscale("symlog", linthresh=1)
    style.plain_numbers(grid[2].yaxis)
    grid[0].legend(fontsize=8)
    figure.suptitle(f"A stable leader against contention: {sweep.plan.title.lower()}")
    return figure


def _load(report: CompareReport, sweep: Sweep) -> Figure:
    """Latency against throughput: as more operations are under way, one moves to the right."""
    figure = style.new_figure(9, 5, report.machine.sentence())
    axes = figure.subplots()
    kinds: list[tuple[str, str, Callable[[PointRow], Spread | None]]] = [
        ("p50", "-", lambda row: row.p50), ("p99", ":", lambda row: row.p99),
    ]  # fmt: skip
    for line in sweep.lines:
        rows = [(value, report.by_point[point]) for value, point in line.points]
        colour = style.POLICY_COLOURS[line.policy]
        for name, dashes, figure_of in kinds:
            known = [
                (value, (row.rate.median, spread.median * 1e3))
                for value, row in rows
                if (spread := figure_of(row)) is not None and row.rate.median > 0
            ]
            axes.plot(
                [rate for _, (rate, _) in known], [latency for _, (_, latency) in known],
                color=colour, linestyle=dashes, marker="o", markersize=4,
                label=f"{line.label}, {name}",
            )  # fmt: skip
            for value, place in known if name == "p50" else ():
                style.note(axes, f"{value:g}", place, (4, -9), color=colour)
    axes.set(xscale="log", yscale="log", xlabel="operations a second", ylabel="milliseconds")
    style.plain_numbers(axes.xaxis, axes.yaxis)
    axes.legend(fontsize=8)
    style.tidy(
        axes,
        f"Latency against throughput, {report.settings.proposers} proposers (stable: clients); "
        "numbers: operations under way for each",
    )
    return figure


def _sweeps(report: CompareReport, sweeps: Sequence[Sweep]) -> Figure:
    """Throughput over what else was swept, a panel each."""
    figure, grid = style.panels(len(sweeps), report.machine.sentence())
    for axes, sweep in zip(grid, sweeps, strict=True):
        _panel(axes, report, sweep, sweep.plan.title, lambda row: row.rate)
        axes.set_ylabel("operations a second", fontsize=8)
        axes.legend(fontsize=7)
    return figure


# --- the timeline of a duel ----------------------------------------------------------------------


def _duels(report: CompareReport) -> Figure:
    """Ballots over a second of each policy's duel, and the messages of a few milliseconds."""
    from matplotlib.lines import Line2D  # noqa: PLC0415 (see plot_style.py)

    duels = report.duels
    figure = style.new_figure(12, 2.5 * len(duels) + 0.8, report.machine.sentence())
    grid = figure.subplots(len(duels), 2, squeeze=False)
    for (ballots, messages), duel in zip(grid, duels, strict=True):
        _draw_ballots(ballots, duel)
        _draw_messages(messages, duel)
    grid[-1, 0].set_xlabel("seconds")
    grid[-1, 1].set_xlabel("milliseconds")
    handles: list[object] = [
        Line2D([], [], color=_colour(server), linewidth=4, label=f"server {server}'s ballot")
        for server in range(1, max(duel.point.servers for duel in duels) + 1)
    ]
    handles.append(Line2D([], [], color=style.GREY, linewidth=5, label="left: a reign"))
    handles += [
        Line2D([], [], color=style.GREY, marker=marker, linestyle="none", label=name)
        for marker, name in ((".", "left: a ballot in vain"), *_MESSAGES.values())
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=5, fontsize=8)
    return figure


def _colour(server: int) -> str:
    return style.SERVER_COLOURS[(server - 1) % len(style.SERVER_COLOURS)]


def _draw_ballots(axes: Axes, duel: Duel) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 (see plot_style.py)

    vain = [reign for reign in duel.reigns if reign.led is None]
    axes.scatter(
        [reign.asked for reign in vain], [reign.round for reign in vain],
        c=[_colour(reign.server) for reign in vain], marker=".", s=10,
        rasterized=True,  # thousands of them: as vectors they would make most of the file
    )  # fmt: skip
    won = [(reign, reign.led) for reign in duel.reigns if reign.led is not None]
    shortest = duel.seconds / 400  # else it could not be seen
    axes.hlines(
        [reign.round for reign, _ in won], [led for _, led in won],
        [max(reign.ended, led + shortest) for reign, led in won],
        colors=[_colour(reign.server) for reign, _ in won], linewidth=5,
    )  # fmt: skip
    close_up_end = duel.close_up_from + duel.close_up_seconds
    axes.axvspan(duel.close_up_from, close_up_end, color=style.GREY, alpha=0.3)
    axes.set_xlim(0, duel.seconds)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    axes.set_ylabel("round", fontsize=8)
    style.tidy(
        axes,
        f"{duel.point.policy}; ballots: {len(duel.reigns):,}, {len(won):,} of which led; "
        f"slots proposed: {sum(reign.slots for reign in duel.reigns):,}",
    )


def _draw_messages(axes: Axes, duel: Duel) -> None:
    """A lane for each server: what it sent, in the colour of the ballot's owner."""
    for kind, (marker, _) in _MESSAGES.items():
        shown = [event for event in duel.close_up if event.kind == kind]
        axes.scatter(
            [(event.seconds - duel.close_up_from) * 1e3 for event in shown],
            [event.server for event in shown],
            c=[_colour(event.owner) for event in shown], marker=marker, s=26, linewidths=1.0,
        )  # fmt: skip
    axes.set_xlim(0, duel.close_up_seconds * 1e3)
    servers = range(1, duel.point.servers + 1)
    axes.set_ylim(len(servers) + 0.5, 0.5)
    axes.set_yticks(servers, [f"server {server}" for server in servers])
    style.tidy(axes)
