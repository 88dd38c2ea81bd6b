"""The figures of `paxon bench compare`: a row for each point, and what happened in duels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from paxon.actors import ServerId
from paxon.actors.settings import PolicyName
from paxon.bench.contention.compare import CompareSettings, Point, Sweep, sweeps_of
from paxon.bench.harness.lab_network import Event
from paxon.bench.harness.measure import Figures, Measurement, figures_of
from paxon.bench.harness.report import Report
from paxon.bench.harness.summary import Spread, spread_of

__all__ = ["Reign", "Duel", "reigns_of", "duel_of", "PointRow", "CompareReport", "rows_of"]

_CLOSE_UP_SECONDS = 0.025


class Reign(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One ballot of one server, from its first P1A. Times are seconds since the duel began."""

    server: ServerId
    round: int
    asked: float
    """When phase 1 began."""
    led: float | None
    """When a majority had promised; None if it never did."""
    ended: float
    """When the last message in this ballot was sent by its owner."""
    slots: int
    """Proposed in this ballot."""


class Duel(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of a duel: its ballots, and all its messages in a close-up."""

    policy: PolicyName
    proposers: int
    servers: int
    seconds: float
    reigns: list[Reign]
    close_up_from: float
    close_up_seconds: float
    close_up: list[Event]
    """Messages in the close-up; times are since the duel began."""


def reigns_of(events: Sequence[Event]) -> list[Reign]:
    """A reign for each ballot that its own server spoke in, in the order of their beginnings.

    One whose P1A lies before the first event counts from the first message that is there.
    """
    said: dict[tuple[ServerId, int], list[Event]] = {}
    for event in events:
        if event.owner == event.server and event.kind in ("P1A", "P2A", "leads"):
            said.setdefault((event.server, event.round), []).append(event)
    return [
        Reign(
            server=server,
            round=number,
            asked=spoken[0].seconds,
            led=next((event.seconds for event in spoken if event.kind != "P1A"), None),
            ended=spoken[-1].seconds,
            slots=len({event.slot for event in spoken if event.kind == "P2A"}),
        )
        for (server, number), spoken in said.items()
    ]


def duel_of(
    events: Sequence[Event], *, policy: PolicyName, proposers: int, servers: int, begin: float,
    seconds: float,
) -> Duel:  # fmt: skip
    """What is worth keeping of the `seconds` from `begin` on (of the events' clock)."""
    moved = [
        msgspec.structs.replace(event, seconds=event.seconds - begin)
        for event in events
        if begin <= event.seconds < begin + seconds
    ]
    start = _close_up_start(moved, seconds)
    length = min(_CLOSE_UP_SECONDS, seconds)
    return Duel(
        policy=policy,
        proposers=proposers,
        servers=servers,
        seconds=seconds,
        reigns=reigns_of(moved),
        close_up_from=start,
        close_up_seconds=length,
        close_up=[event for event in moved if start <= event.seconds < start + length],
    )


def _close_up_start(events: Sequence[Event], seconds: float) -> float:
    """Shortly before a candidacy about the middle, where there is one; else the middle."""
    middle = (seconds - _CLOSE_UP_SECONDS) / 2
    candidacies = [event.seconds for event in events if event.kind == "P1A"]
    nearest = min(candidacies, key=lambda moment: abs(moment - middle), default=middle)
    start = nearest - _CLOSE_UP_SECONDS / 4
    return max(0.0, min(start, seconds - _CLOSE_UP_SECONDS))


# --- points --------------------------------------------------------------------------------------


class PointRow(Figures, frozen=True, kw_only=True):
    """One point over all repeats."""

    point: Point
    of_stable: float | None
    """The rate as a fraction of the stable leader's under the same load; None if not measured."""

    @property
    def leaderless(self) -> Spread:
        """The share of time in which no server led, from 0 to 1."""
        return spread_of([m.leaderless() for m in self.repeats])

    @property
    def wasted_p2a(self) -> Spread | None:
        """P2As for each chosen slot beyond one for each other server; None if none was chosen."""

        def wasted(measured: Measurement) -> float | None:
            sent = measured.per_slot("p2a_sent")
            return None if sent is None else max(0.0, sent - (self.point.servers - 1))

        return self.over(wasted)


class CompareReport(Report[CompareSettings, PointRow], frozen=True, kw_only=True):
    """A whole run."""

    duels: list[Duel]

    @property
    def sweeps(self) -> list[Sweep]:
        """Which rows belong together."""
        return sweeps_of(self.settings)

    @property
    def by_point(self) -> dict[Point, PointRow]:
        """The rows by what they are of."""
        return {row.point: row for row in self.rows}


def rows_of(measured: Mapping[Point, list[Measurement]]) -> list[PointRow]:
    """A row for each point, beside its stable leader if that was measured too."""
    figures = {point: figures_of(repeats) for point, repeats in measured.items()}

    def of_stable(point: Point) -> float | None:
        stable = figures.get(point.with_stable_leader())
        if stable is None or not stable["rate"].median:
            return None
        return float(figures[point]["rate"].median / stable["rate"].median)

    return [PointRow(point=p, of_stable=of_stable(p), **figures[p]) for p in measured]
