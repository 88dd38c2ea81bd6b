"""What a contended cluster pays for what it does: the figures that all duels are compared by."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from paxon.bench.harness.measure import Measurement
from paxon.bench.harness.report import spread_or_none
from paxon.bench.harness.summary import Spread, spread_of

__all__ = ["Costs", "costs_of", "leaderless_share"]


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of run over all repeats. Latencies are seconds."""

    rate: Spread
    """Operations a second, of all clients together; 0 if a livelock lets nothing through."""
    p50: Spread | None
    """This and the next two are None if no operation ever got its answer."""
    p99: Spread | None
    p999: Spread | None
    failed: int
    """Operations that got no answer in time."""
    first_error: str
    longest_wait: float
    """Of any operation in any repeat, whether or not it ever got its answer."""
    leaderless: Spread
    """The share of time in which no server led, from 0 to 1."""
    phase1_per_second: Spread
    preemptions_per_second: Spread
    operations_per_slot: Spread | None
    """This and what follows is for each chosen slot; None if there was none."""
    phase1_rounds: Spread | None
    preemptions: Spread | None
    p2a_sent: Spread | None
    wasted_p2a: Spread | None
    """P2As beyond one for each other server."""
    syncs: Spread | None
    messages: Spread | None
    """Between servers."""
    server_cpu: Spread | None
    """CPU seconds of all servers together for each operation."""


def leaderless_share(measured: Measurement) -> float:
    """How much of the time nobody led.

    Servers count the time for which they lead. A deposed leader that has not heard of it yet counts
    on for a message's length, so this is a lower bound, never below 0.
    """
    led = measured.counters.get("leading_us", 0) / 1e6
    return min(1.0, max(0.0, 1.0 - led / measured.seconds))


def costs_of(measured: Sequence[Measurement], servers: int) -> Costs:
    """Medians over the repeats, on a cluster of so many servers."""

    def each(counter: str) -> Spread | None:
        return spread_or_none([m.per_slot(counter) for m in measured])

    def wasted(figures: Measurement) -> float | None:
        sent = figures.per_slot("p2a_sent")
        return None if sent is None else max(0.0, sent - (servers - 1))

    def packed(figures: Measurement) -> float | None:
        slots = figures.counters.get("slots_chosen", 0)
        return figures.operations / slots if slots else None

    return Costs(
        rate=spread_of([m.rate for m in measured]),
        p50=spread_or_none([m.latency.p50 for m in measured]),
        p99=spread_or_none([m.latency.p99 for m in measured]),
        p999=spread_or_none([m.latency.p999 for m in measured]),
        failed=sum(m.failed for m in measured),
        first_error=next((m.first_error for m in measured if m.first_error), ""),
        longest_wait=max(m.longest_wait for m in measured),
        leaderless=spread_of([leaderless_share(m) for m in measured]),
        phase1_per_second=spread_of([m.per_second("phase1_rounds") for m in measured]),
        preemptions_per_second=spread_of([m.per_second("preemptions") for m in measured]),
        operations_per_slot=spread_or_none([packed(m) for m in measured]),
        phase1_rounds=each("phase1_rounds"),
        preemptions=each("preemptions"),
        p2a_sent=each("p2a_sent"),
        wasted_p2a=spread_or_none([wasted(m) for m in measured]),
        syncs=each("syncs"),
        messages=each("peer_messages_received"),
        server_cpu=spread_or_none(
            [m.server_cpu / m.operations if m.operations else None for m in measured]
        ),
    )
