"""Pictures of `paxon bench compare` (see plot_style.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from paxon.bench.harness import plot_style as style
from paxon.bench.harness.summary import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from paxon.bench.contention.compare import CompareReport, Duel, Line, PointRow, Sweep

__all__ = ["compare_plots"]

_SHADES = (1.0, 0.6, 0.35)
"""How strong the lines of one policy in a sweep are, from the first on."""
_ONE_MAGNITUDE = 8
_MESSAGES = {"P1A": "^", "P1B": ".", "P2A": "s", "rejected": "x", "leads": "*"}
_MESSAGE_NAMES = {
    "P1A": "P1A: candidate",
    "P1B": "P1B: promise",
    "leads": "leads: heartbeat",
    "P2A": "P2A: proposal",
    "rejected": "P2B: rejection",
}


def compare_plots(report: CompareReport) -> dict[str, Figure]:
    """All pictures by name, of what was measured."""
    plots: dict[str, Figure] = {}
    sweeps = {sweep.name: sweep for sweep in report.sweeps}
    if "contention" in sweeps:
        plots["contention"] = plot_contention(report, sweeps.pop("contention"))
    if "proposers" in sweeps:
        plots["compare-proposers"] = plot_proposers(report, sweeps.pop("proposers"))
    if "load" in sweeps:
        plots["compare-latency"] = plot_load(report, sweeps.pop("load"))
    if sweeps:
        plots["compare-sweeps"] = plot_sweeps(report, list(sweeps.values()))
    if report.duels:
        plots["compare-ballots"] = plot_duels(report)
    return plots


def _draw(
    axes: Axes,
    report: CompareReport,
    sweep: Sweep,
    figure_of: Callable[[PointRow], Spread | None],
    scale: float = 1.0,
) -> list[float]:
    """The sweep's lines, and ticks where it was measured. Returns the medians."""
    rows = report.by_point
    drawn: dict[str, int] = {}
    medians: list[float] = []
    for line in sweep.lines:
        shade = _SHADES[drawn.get(line.policy, 0) % len(_SHADES)]
        drawn[line.policy] = drawn.get(line.policy, 0) + 1
        medians += style.spread_line(
            axes, [value * sweep.plan.scale for value, _ in line.points],
            [figure_of(rows[point]) for _, point in line.points],
            label=line.label, colour=style.POLICY_COLOURS[line.policy], scale=scale, alpha=shade,
        )  # fmt: skip
    values = sorted({value * sweep.plan.scale for line in sweep.lines for value, _ in line.points})
    style.ticks_at(axes, values, logarithmic=sweep.plan.logarithmic, label=sweep.plan.x_label)
    return medians


def _y_axis(axes: Axes, title: str, values: Sequence[float]) -> None:
    """From 0 where the values are of one magnitude or a livelock's 0 is among them; else by powers.

    A logarithmic axis starts at a power of ten, so that steepness can be compared by eye.
    """
    low, high = min(values, default=0.0), max(values, default=0.0)
    if low > 0 and high > _ONE_MAGNITUDE * low:
        axes.set_yscale("log")
        axes.set_ylim(10 ** math.floor(math.log10(low)), None)
    else:
        axes.set_ylim(0, 1.08 * high if high > 0 else 1.0)
    style.plain_numbers(axes.yaxis)
    axes.set_title(title, fontsize=10, loc="left")
    style.tidy(axes)


def plot_contention(report: CompareReport, sweep: Sweep) -> Figure:
    """The policies side by side: what gets through, and what phase 1 it takes."""
    figure = style.new_figure(9, 0.9 + 0.3 * sum(len(line.points) for line in sweep.lines), "")
    figure.supxlabel(report.machine.sentence(), fontsize=7, color=style.GREY)
    bars = [(line, point) for line in sweep.lines for _, point in line.points]
    rows = [report.by_point[point] for _, point in bars]
    colours = [style.POLICY_COLOURS[line.policy] for line, _ in bars]
    grid = figure.subplots(1, 3, sharey=True)
    for axes, (title, spreads) in zip(
        grid,
        (
            ("operations a second", [row.rate for row in rows]),
            ("phase-1 rounds a second", [row.per_second("phase1_rounds") for row in rows]),
            ("preemptions a second", [row.per_second("preemptions") for row in rows]),
        ),
        strict=True,
    ):
        medians = [spread.median for spread in spreads]
        places = range(len(rows))
        axes.barh(
            places, medians, color=colours, xerr=style.whiskers(spreads),
            error_kw={"ecolor": style.GREY, "capsize": 2},
        )  # fmt: skip
        most = max(spread.high for spread in spreads) or 1.0
        for place, spread in zip(places, spreads, strict=True):
            axes.annotate(
                f"{spread.median:,.0f}", (spread.high, place), va="center", fontsize=8,
                textcoords="offset points", xytext=(4, 0),
            )  # fmt: skip
        axes.set_xlim(0, 1.3 * most)
        axes.set_title(title, fontsize=10, loc="left")
        style.plain_numbers(axes.xaxis)
        axes.tick_params(labelsize=8)
        style.tidy(axes)
    grid[0].set_yticks(range(len(rows)), [point.name for _, point in bars])
    grid[0].invert_yaxis()
    return figure


def plot_proposers(report: CompareReport, sweep: Sweep) -> Figure:
    """What more proposers do under each policy: throughput, and what it costs."""
    figure, grid = style.panels(4, report.machine.sentence())
    kinds: list[tuple[str, Callable[[PointRow], Spread | None], float]] = [
        ("operations a second", lambda row: row.rate, 1.0),
        ("share of time without a leader, %", lambda row: row.leaderless, 100.0),
        ("preemptions a second", lambda row: row.per_second("preemptions"), 1.0),
        ("99 % of what was answered took up to … ms", lambda row: row.p99, 1e3),
    ]
    for axes, (title, figure_of, scale) in zip(grid, kinds, strict=True):
        _y_axis(axes, title, _draw(axes, report, sweep, figure_of, scale))
    # A livelock's thousands beside a handful: what is 0 cannot be on a scale of powers.
    grid[2].set_yscale("symlog", linthresh=1)
    style.plain_numbers(grid[2].yaxis)
    grid[0].legend(fontsize=8)
    figure.suptitle(f"A stable leader against contention: {sweep.plan.title.lower()}")
    return figure


def plot_load(report: CompareReport, sweep: Sweep) -> Figure:
    """Latency against throughput: as more operations are under way, one moves to the right."""
    figure = style.new_figure(9, 5, report.machine.sentence())
    axes = figure.subplots()
    rows = report.by_point
    for line in sweep.lines:
        _load_line(axes, line, [(value, rows[point]) for value, point in line.points])
    axes.set_xscale("log")
    axes.set_yscale("log")
    style.plain_numbers(axes.xaxis)
    style.plain_numbers(axes.yaxis)
    axes.set_xlabel("operations a second")
    axes.set_ylabel("milliseconds")
    axes.legend(fontsize=8)
    style.tidy(axes)
    figure.suptitle(
        f"Latency against throughput, {report.settings.proposers} proposers (stable: clients); "
        "numbers: operations under way for each",
        fontsize=10,
    )
    return figure


def _load_line(axes: Axes, line: Line, rows: Sequence[tuple[float, PointRow]]) -> None:
    colour = style.POLICY_COLOURS[line.policy]
    kinds: list[tuple[str, str, Callable[[PointRow], Spread | None]]] = [
        ("p50", "-", lambda row: row.p50),
        ("p99", ":", lambda row: row.p99),
    ]
    for name, dashes, figure_of in kinds:
        known = [
            (value, row.rate.median, spread.median * 1e3)
            for value, row in rows
            if (spread := figure_of(row)) is not None and row.rate.median > 0
        ]
        if not known:
            continue
        axes.plot(
            [rate for _, rate, _ in known], [latency for _, _, latency in known],
            color=colour, linestyle=dashes, marker="o", markersize=4, label=f"{line.label}, {name}",
        )  # fmt: skip
        if name == "p50":
            for value, rate, latency in known:
                axes.annotate(
                    f"{value:g}", (rate, latency), textcoords="offset points", xytext=(4, -9),
                    fontsize=7, color=colour,
                )  # fmt: skip


def plot_sweeps(report: CompareReport, sweeps: Sequence[Sweep]) -> Figure:
    """Throughput over what else was swept, a panel each."""
    figure, grid = style.panels(len(sweeps), report.machine.sentence())
    for axes, sweep in zip(grid, sweeps, strict=True):
        _y_axis(axes, sweep.plan.title, _draw(axes, report, sweep, lambda row: row.rate))
        axes.set_ylabel("operations a second", fontsize=8)
        axes.legend(fontsize=7)
    return figure


# --- the timeline of a duel ----------------------------------------------------------------------


def plot_duels(report: CompareReport) -> Figure:
    """Ballots over a second of each policy's duel, and the messages of a few milliseconds."""
    duels = report.duels
    figure = style.new_figure(12, 2.5 * len(duels) + 0.8, report.machine.sentence())
    grid = figure.subplots(len(duels), 2, squeeze=False)
    for (ballots, messages), duel in zip(grid, duels, strict=True):
        _draw_ballots(ballots, duel)
        _draw_messages(messages, duel)
    grid[-1, 0].set_xlabel("seconds")
    grid[-1, 1].set_xlabel("milliseconds")
    servers = max(duel.servers for duel in duels)
    figure.legend(handles=_legend(servers), loc="outside upper center", ncols=5, fontsize=8)
    return figure


def _legend(servers: int) -> list[object]:
    from matplotlib.lines import Line2D  # noqa: PLC0415 (see plot_style.py)

    handles: list[object] = [
        Line2D([], [], color=_colour(server), linewidth=4, label=f"server {server}'s ballot")
        for server in range(1, servers + 1)
    ]
    handles += [
        Line2D([], [], color=style.GREY, linewidth=5, label="left: a reign"),
        Line2D(
            [], [], color=style.GREY, marker=".", linestyle="none", label="left: a ballot in vain"
        ),
    ]
    handles += [
        Line2D([], [], color=style.GREY, marker=_MESSAGES[kind], linestyle="none", label=name)
        for kind, name in _MESSAGE_NAMES.items()
    ]
    return handles


def _some(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


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
    axes.axvspan(
        duel.close_up_from, duel.close_up_from + duel.close_up_seconds, color=style.GREY, alpha=0.3
    )
    axes.set_xlim(0, duel.seconds)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    slots = sum(reign.slots for reign in duel.reigns)
    axes.set_title(
        f"{duel.policy}: {_some(len(duel.reigns), 'ballot')}, {len(won):,} of which led; "
        f"{_some(slots, 'slot')} proposed",
        fontsize=9, loc="left",
    )  # fmt: skip
    axes.set_ylabel("round", fontsize=8)
    style.tidy(axes)


def _draw_messages(axes: Axes, duel: Duel) -> None:
    """A lane for each server: what it sent, in the colour of the ballot's owner."""
    for kind, marker in _MESSAGES.items():
        shown = [event for event in duel.close_up if event.kind == kind]
        axes.scatter(
            [(event.seconds - duel.close_up_from) * 1e3 for event in shown],
            [event.server for event in shown],
            c=[_colour(event.owner) for event in shown], marker=marker, s=26, linewidths=1.0,
        )  # fmt: skip
    axes.set_xlim(0, duel.close_up_seconds * 1e3)
    axes.set_ylim(duel.servers + 0.5, 0.5)
    axes.set_yticks(range(1, duel.servers + 1), [f"server {s}" for s in range(1, duel.servers + 1)])
    style.tidy(axes)
