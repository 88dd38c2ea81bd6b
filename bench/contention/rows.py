"""The figures of `paxon bench compare`: a row for each point, all in one report."""

from __future__ import annotations

from collections.abc import Mapping

from paxon.bench.contention.compare import CompareSettings, Point, Sweep
from paxon.bench.contention.duels import Duel
from paxon.bench.harness.measure import Figures, Measurement, figures_of
from paxon.bench.harness.report import Report
from paxon.bench.harness.summary import Spread, spread_of

__all__ = ["PointRow", "CompareReport", "rows_of"]


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
    def operations_per_slot(self) -> Spread | None:
        """None if no slot was chosen, as for all figures by the slot."""

        def packed(measured: Measurement) -> float | None:
            slots = measured.counters.get("slots_chosen", 0)
            return measured.operations / slots if slots else None

        return self.over(packed)

    @property
    def wasted_p2a(self) -> Spread | None:
        """P2As for each chosen slot beyond one for each other server."""

        def wasted(measured: Measurement) -> float | None:
            sent = measured.per_slot("p2a_sent")
            return None if sent is None else max(0.0, sent - (self.point.servers - 1))

        return self.over(wasted)


class CompareReport(Report[CompareSettings, PointRow], frozen=True, kw_only=True):
    """A whole run."""

    sweeps: list[Sweep]
    """Which rows belong together."""
    duels: list[Duel]

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
