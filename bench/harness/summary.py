"""Percentiles of latencies, and medians with their spread over repeats."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

import msgspec

__all__ = ["Latency", "Spread", "latency_of", "quotients", "spread_of", "spread_or_none"]


class Latency(msgspec.Struct, frozen=True):
    """How long operations took, in seconds; all None if not one was measured."""

    count: int
    p50: float | None
    p99: float | None
    p999: float | None
    worst: float | None


class Spread(msgspec.Struct, frozen=True):
    """One figure over the repeats of a run."""

    median: float
    low: float
    high: float
    values: list[float]
    """Of each repeat, in their order."""

    @property
    def relative(self) -> float:
        """Half the range, as a fraction of the median: 0.1 means ±10 %."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """The smallest of the ordered values that at least this fraction of them do not exceed.

    (The nearest rank: always a value that was measured.)
    """
    # Rounded first: 0.999 * 1000 is 999.0000000000001 on some machines, which is rank 999.
    rank = math.ceil(round(fraction * len(ordered), 9))
    return ordered[max(rank, 1) - 1]


def latency_of(seconds: Sequence[float]) -> Latency:
    """Sum up latencies given in any order."""
    if not seconds:
        return Latency(0, None, None, None, None)
    ordered = sorted(seconds)
    p50, p99, p999 = (percentile(ordered, fraction) for fraction in (0.5, 0.99, 0.999))
    return Latency(len(ordered), p50, p99, p999, ordered[-1])


def spread_of(values: Sequence[float]) -> Spread:
    """Median and range of repeats. Raises ValueError for none."""
    if not values:
        raise ValueError("there is no spread of nothing")
    return Spread(statistics.median(values), min(values), max(values), list(values))


def spread_or_none(values: Iterable[float | None]) -> Spread | None:
    """The spread of those repeats that have the figure."""
    known = [value for value in values if value is not None]
    return spread_of(known) if known else None


def quotients(pairs: Iterable[tuple[float | None, float | None]]) -> Spread | None:
    """Of the pairs that have both figures; by one that did nothing nothing can be divided."""
    return spread_or_none(
        first / second if first is not None and second else None for first, second in pairs
    )
