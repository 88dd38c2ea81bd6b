"""What comes out of measuring Paxon beside others: rows, ratios of pairs, tables, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, get_args

import msgspec
import typer

from paxon.bench.harness import flags
from paxon.bench.harness.flags import Names
from paxon.bench.harness.measure import Figures, Measurement, Ratios, figures_of, ratios_of
from paxon.bench.harness.plot_style import GREY, SERVER_COLOURS, new_figure, plain_numbers
from paxon.bench.harness.report import Report, Section, count, milliseconds, ratios
from paxon.bench.harness.summary import Spread, spread_of
from paxon.bench.harness.workloads import Workload

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "GapRow", "Peer", "PeerNote", "PeerRow", "PeersReport", "PeersSettings", "SystemFigures",
    "Taken", "Turns", "peer_row", "peers_notes", "peers_sections", "plot_peers",
]  # fmt: skip

Peer: TypeAlias = Literal["etcd", "redis", "pysyncobj"]
PEERS: tuple[Peer, ...] = get_args(Peer)


class PeersSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured. Times are seconds."""

    QUICK: ClassVar[dict[str, float]] = {"seconds": 1.0, "warmup": 0.3, "repeat": 2, "kills": 1}

    only: Annotated[
        tuple[Peer, ...], Names(PEERS), typer.Option(help="Leave out all peers but these.")
    ] = PEERS
    install: Annotated[
        bool,
        typer.Option(
            "--install",
            help="Fetch the peers from Debian and PyPI into $PAXON_PEERS or ~/.cache/paxon/peers, "
            "then end.",
        ),
    ] = False
    servers: flags.Several = 3
    """Of Paxon, of etcd and of PySyncObj."""
    value_bytes: flags.ValueSize = 64
    seconds: flags.Seconds = 3.0
    """Of each measurement."""
    warmup: flags.Warmup = 1.0
    repeat: flags.Repeat = 5
    kills: Annotated[
        int, typer.Option(min=0, help="How often leaders are killed in each repeat.")
    ] = 4
    seed: flags.Seed = 1
    quick: flags.Quick = False
    """Fewer loads."""
    options: flags.Options = {}
    """Of Paxon's servers, beside their defaults."""


class PeerNote(msgspec.Struct, frozen=True, kw_only=True, tag="note"):
    """A peer and how it was treated."""

    peer: str
    version: str = ""
    """Empty if it is not installed."""
    skipped: str = ""
    """Why it was not measured, as a sentence."""
    driven: str = ""
    """Where its load comes from."""
    durability: str = ""
    """What it has on disk when it answers."""
    problems: list[str] = []
    """Measurements that failed; their pairs are left out."""


class Taken(msgspec.Struct, frozen=True):
    """One system under one load, once."""

    measured: Measurement
    idle_cores: float
    """CPU seconds a second that the servers of the *other* systems used meanwhile."""


class SystemFigures(Figures, frozen=True, kw_only=True):
    """One system under one load. Its clients' CPU is 0 where the load is made inside a server."""

    name: str
    disturbance: Spread
    """Cores that the servers of the others, idle at that time, took."""


class PeerRow(msgspec.Struct, frozen=True, kw_only=True, tag="pair"):
    """Paxon and another under the same load."""

    load: Workload
    paxon: SystemFigures
    other: SystemFigures | None
    """None if it is not there, or failed each time."""
    ratios: Ratios
    """Paxon's figures by the other's, of neighbours in time."""


class GapRow(msgspec.Struct, frozen=True, kw_only=True, tag="gap"):
    """From kill -9 of the leader to the next acknowledged write, seconds; each value is a kill."""

    other_name: str
    paxon: Spread
    other: Spread

    @property
    def ratio(self) -> float:
        """Paxon's median by the other's."""
        return self.paxon.median / self.other.median


PeersReport: TypeAlias = Report[PeersSettings, PeerNote | PeerRow | GapRow]
Turns: TypeAlias = dict[int, Taken]
"""What was measured, by the number of the repeat; one that failed is not there."""


def peer_row(load: Workload, names: Sequence[str], ours: Turns, theirs: Turns) -> PeerRow:
    """Sum up what was measured of Paxon and of another. Raises ValueError for nothing of Paxon."""
    pairs = [(ours[n].measured, theirs[n].measured) for n in ours if n in theirs]
    return PeerRow(
        load=load,
        paxon=_system(names[0], list(ours.values())),
        other=_system(names[1], list(theirs.values())) if theirs else None,
        ratios=ratios_of(pairs),
    )


def _system(name: str, taken: Sequence[Taken]) -> SystemFigures:
    return SystemFigures(
        name=name,
        disturbance=spread_of([one.idle_cores for one in taken]),
        **figures_of([one.measured for one in taken]),
    )


# --- for people ----------------------------------------------------------------------------------


def _pairs(report: Report[Any, Any]) -> list[tuple[PeerRow, SystemFigures]]:
    return [(r, r.other) for r in report.rows if isinstance(r, PeerRow) and r.other is not None]


def peers_sections(report: PeersReport) -> list[Section]:
    """All pairs, and failovers if there were any."""
    settings = report.settings
    pairs = _pairs(report)
    others = [other.name.partition(",")[0] for _, other in pairs]
    title = (
        f"{settings.servers} servers, values of {settings.value_bytes} bytes, median of "
        f"{settings.repeat} x {settings.seconds:g} s; ratios are medians of neighbouring pairs, "
        "with the least and the most"
    )
    columns = [
        "load", "beside", "Paxon\nop/s", "other\nop/s", "op/s\nratio", "Paxon\np50 ms",
        "other\np50 ms", "p50\nratio", "p99\nratio", "Paxon µs/op\nservers + clients",
        "other µs/op\nservers + clients",
    ]  # fmt: skip
    blocks = [n for n in range(1, len(others)) if others[n] != others[n - 1]]
    sections = [Section(title, columns, [_cells(*pair) for pair in pairs], left=2, blocks=blocks)]
    gaps = [row for row in report.rows if isinstance(row, GapRow)]
    if gaps:
        title = "kill -9 of the leader to the next acknowledged write"
        columns = ["beside", "kills\neach", "Paxon\nms", "other\nms", "ratio"]
        cells = [
            [
                row.other_name, str(len(row.paxon.values)), _gap(row.paxon), _gap(row.other),
                f"{row.ratio:.2f}",
            ]
            for row in gaps
        ]  # fmt: skip
        sections.append(Section(title, columns, cells))
    return sections


def _cells(row: PeerRow, other: SystemFigures) -> list[str]:
    return [
        row.load.name + _memory(row), other.name, count(row.paxon.rate), count(other.rate),
        ratios(row.ratios.rate), milliseconds(row.paxon.p50), milliseconds(other.p50),
        _median(row.ratios.p50), _median(row.ratios.p99), _cpu(row.paxon), _cpu(other),
    ]  # fmt: skip


def _memory(row: PeerRow) -> str:
    return "" if row.paxon.name == "Paxon" else f" ({row.paxon.name})"


def _gap(seconds: Spread) -> str:
    """Median, and the least and most, in milliseconds."""
    return f"{seconds.median * 1e3:.0f} ({seconds.low * 1e3:.0f} … {seconds.high * 1e3:.0f})"


def _median(ratio: Spread | None) -> str:
    return "-" if ratio is None else f"{ratio.median:.2f}"


def _cpu(system: SystemFigures) -> str:
    """Microseconds for each operation."""
    if system.server_cpu is None or system.client_cpu is None:
        return "-"
    servers, clients = system.server_cpu.median * 1e6, system.client_cpu.median * 1e6
    return f"{servers:.1f} + {clients:.1f}" if clients else f"{servers:.1f} in all"


def peers_notes(report: Report[Any, Any]) -> list[str]:
    """What a reader has to know about each peer, and what went wrong."""
    lines = []
    for note in (row for row in report.rows if isinstance(row, PeerNote)):
        if note.skipped:
            lines.append(note.skipped)
            continue
        lines.append(f"{note.peer} {note.version}: {note.driven}. Durability: {note.durability}.")
        lines += [f"Left out, because it failed: {problem}" for problem in note.problems]
    systems = [(row, system) for row, other in _pairs(report) for system in (row.paxon, other)]
    lines += [
        f"{system.name}, {row.load.name}: {system.failed} operations failed ({system.first_error})"
        for row, system in systems
        if system.failed
    ]
    if systems:
        most = max(system.disturbance.high for _, system in systems)
        lines.append(
            f"Servers whose turn it was not took at most {most * 100:.1f} % of a core meanwhile."
        )
    return lines


def plot_peers(report: PeersReport) -> Figure:
    """A bar for each pair: how many times the other's operations a second Paxon does."""
    rows = [
        (f"{row.load.name}{_memory(row)} / {other.name}", other.name.partition(",")[0], ratio)
        for row, other in _pairs(report)
        if (ratio := row.ratios.rate) is not None
    ]
    figure = new_figure(9, 0.34 * len(rows) + 1.6, report.machine.sentence())
    axes = figure.subplots()
    axes.set_xscale("log")
    colours = dict(zip(("etcd", "Redis", "PySyncObj"), SERVER_COLOURS, strict=False))
    for place, (_, other, ratio) in enumerate(rows):
        colour = colours.get(other, GREY)
        # From 1, the line of equals: to the right Paxon does more, to the left the other.
        axes.barh(place, ratio.median - 1.0, left=1.0, color=colour)
        axes.plot([ratio.low, ratio.high], [place, place], color=GREY, linewidth=1.5)
        axes.annotate(
            f"{ratio.median:.3g}", (max(1.0, ratio.high), place), va="center", fontsize=7,
            xytext=(4, 0), textcoords="offset points",
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=8)
    axes.invert_yaxis()
    plain_numbers(axes.xaxis)
    axes.axvline(1.0, color=GREY, linewidth=1)
    axes.margins(x=0.12)
    axes.set_xlabel("Paxon's operations a second by the other's (median, least and most pair)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
