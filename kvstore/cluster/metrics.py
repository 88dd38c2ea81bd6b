"""What a server shows of itself to Prometheus: names, help, and where each number comes from.

What `paxon status --json` calls `counters` is exported by the same names, the rest by those below.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from paxon.actors.ballot import Ballot
from paxon.actors.embedding import Figures
from paxon.actors.messages import StatusReply
from paxon.actors.records.latencies import BOUNDS, Histogram
from paxon.kvstore.cluster.meanings import COUNTED, GAUGES, meaning_of

__all__ = ["CONTENT_TYPE", "LATENCIES", "STATUS", "exposition", "readiness"]

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

STATUS = {
    "leader": "1 if this server leads.",
    "knows_leader": "1 if this server leads or follows a leader.",
    "epoch": "How often the members have changed, as far as this server knows.",
    "members": "How many servers the cluster has, as far as this server knows.",
    "voter": "1 if this server has a vote as the members are now.",
    "learner": "1 if it takes what is chosen and has no vote.",
    "ballot_round": "Round of the ballot promised, in its epoch; rises with each election.",
    "ballot_leader": "Whose ballot that is.",
    "accepted_slot": "The highest slot with anything accepted.",
    "chosen_slot": "All slots up to here are chosen, as far as this server knows.",
    "executed_slot": "All slots up to here are executed.",
    "discarded_slot": "Slots up to here are gone.",
    "snapshot_slot": "Slot of the last durable snapshot.",
    "disk_bytes": "What the data directory takes.",
    "disk_free_bytes": "Free on its disk for this server's user; absent if nothing is on disk.",
    "sessions": "Sessions of clients.",
    "uptime_seconds": "Since the server started.",
    "voting": "1 if this server has a vote, or its cluster is not in force yet.",
    "waiting": "1 while this server waits to take part: for its cluster or for confirmation.",
    "alarm": "1 while servers are known to have executed different things.",
}
"""Gauges made of the other fields of `StatusReply`, and of what the door itself sees."""

LATENCIES = {
    "commit": "Seconds from proposing a flush's first slot until it is chosen, at the leader.",
    "sync": "Seconds of a synced transaction on the disk.",
    "queue": "Seconds from a command's burst until those that waited are proposed.",
    "burst": "Seconds of one step: handling what was received, storing, sending.",
}
"""Histograms, `paxon_<name>_seconds`."""


def readiness(status: StatusReply) -> str:
    """Why a server does not serve clients, in a sentence; "" if it does."""
    if status.waits_for:
        return status.waits_for
    if status.role != "leader" and not status.leader:
        return "it knows of no leader"
    return ""


def exposition(figures: Figures, disk_free_bytes: int | None = None) -> bytes:
    """All of it in the text format that Prometheus scrapes."""
    return generate_latest(_Once(_families(figures, disk_free_bytes)))


class _Once(Collector):
    """Looks like a registry to prometheus-client, and holds what was collected already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(figures: Figures, disk_free_bytes: int | None) -> Iterator[Metric]:
    status = figures.status
    labels, of = ("cluster", "server"), (status.cluster, str(status.server))
    info = InfoMetricFamily("paxon", "What runs here.", labels=labels)
    info.add_metric(
        of,
        {
            "version": status.version,
            "policy": status.policy,
            "identity": f"{status.identity:016x}",
        },
    )
    yield info
    gauges = dict(_status(status))
    if disk_free_bytes is not None:
        gauges["disk_free_bytes"] = disk_free_bytes
    for name, value in gauges.items():
        gauge = GaugeMetricFamily(f"paxon_{name}", STATUS[name], labels=labels)
        gauge.add_metric(of, value)
        yield gauge
    for name, count in status.counters.items():
        family: CounterMetricFamily | GaugeMetricFamily
        if name in COUNTED:
            family = CounterMetricFamily(f"paxon_{name}", COUNTED[name], labels=labels)
        else:
            whose = "paxon" if name in GAUGES else "paxon_machine"
            family = GaugeMetricFamily(f"{whose}_{name}", meaning_of(name), labels=labels)
        family.add_metric(of, count)
        yield family
    for name, held in figures.latencies.items():
        histogram = HistogramMetricFamily(f"paxon_{name}_seconds", LATENCIES[name], labels=labels)
        histogram.add_metric(of, _buckets(held), held.total)
        yield histogram


def _status(status: StatusReply) -> Mapping[str, float]:
    return {
        "leader": status.role == "leader",
        "knows_leader": status.role == "leader" or status.leader > 0,
        "epoch": status.epoch,
        "members": len(status.members),
        "voter": status.part == "voter",
        "learner": status.part == "learner",
        "ballot_round": status.ballot.round - Ballot.first_of(status.ballot.epoch).round,
        "ballot_leader": status.ballot.leader,
        "accepted_slot": status.accepted,
        "chosen_slot": status.chosen,
        "executed_slot": status.executed,
        "discarded_slot": status.discarded,
        "snapshot_slot": status.snapshot,
        "disk_bytes": status.disk_bytes,
        "sessions": status.sessions,
        "uptime_seconds": status.uptime,
        "voting": status.part in ("voter", ""),
        "waiting": bool(status.waits_for),
        "alarm": bool(status.alarm),
    }


def _buckets(held: Histogram) -> list[tuple[str, float]]:
    """Cumulative, as the format wants them."""
    ends = [*(f"{bound:.6g}" for bound in BOUNDS), "+Inf"]
    total = 0
    buckets = []
    for end, count in zip(ends, list(held.counts), strict=True):
        total += count
        buckets.append((end, float(total)))
    return buckets
