"""How long a server stands still while it takes a snapshot of a big store.

One server, so that the disk is its own. A reader asks it something each millisecond, and a writer
writes; first some seconds of nothing special, then until a snapshot was written and two seconds
more, in which the log that it covers is discarded.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Literal

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.measure import counts_of
from paxon.bench.harness.repeater import PATIENCE_SECONDS, Repeater, wait_until
from paxon.bench.harness.summary import latency_of
from paxon.bench.scale.scale import CostRow, Lab, PauseRow
from paxon.kvstore.client.client import Client

__all__ = ["watch_pauses"]

_VALUE_BYTES = 4096
_PING_SECONDS = 0.001
"""Between two pings."""
_WRITE_SECONDS = 0.002
"""Between two writes."""
_BEFORE_SECONDS = 5.0
_QUICK_SECONDS = 0.5
_AFTER_SECONDS = 2.0
"""The server is watched for so long after its snapshot counts."""
_SLOTS = 6000
"""A snapshot is due after so many slots. Filling takes fewer, for its slots are large, and so do
the writes of the time before."""
_QUICK_SLOTS = 400
_UNLIMITED = 1 << 40


def watch_pauses(lab: Lab) -> list[CostRow]:
    """Fill a store, then watch it before and during a snapshot. Raises `PaxonError`."""
    quick = lab.settings.quick
    slots = _QUICK_SLOTS if quick else _SLOTS
    with (
        lab.cluster(servers=1, snapshot_bytes=_UNLIMITED, snapshot_slots=slots) as cluster,
        Client(cluster.addresses, timeout=PATIENCE_SECONDS) as client,
        Client(cluster.addresses, timeout=PATIENCE_SECONDS) as other,
    ):
        lab.progress("filling the store")
        _fill(client, lab)
        pinger = Repeater(lambda: other.get("fill-0", mode="stale"), _PING_SECONDS)
        writer = Repeater(lambda: client.put("write", bytes(64)), _WRITE_SECONDS)

        def snapshots() -> int:
            return min(r.counters["snapshots_taken"] for r in counts_of(cluster).replies.values())

        def until_after_it() -> None:
            wait_until(lambda: snapshots() > 0, "no snapshot was taken")
            time.sleep(_QUICK_SECONDS if quick else _AFTER_SECONDS)

        phases: list[tuple[Literal["before", "snapshot"], Callable[[], None]]] = [
            ("before", lambda: time.sleep(_QUICK_SECONDS if quick else _BEFORE_SECONDS)),
            ("snapshot", until_after_it),
        ]
        pinger.start()
        writer.start()
        try:
            for phase, wait in phases:
                lab.progress(f"watching ({phase})")
                if snapshots():
                    raise BenchError("a snapshot came too early, while the store was filled")
                begun = time.perf_counter()
                wait()
                seconds = time.perf_counter() - begun
                pings, writes = latency_of(pinger.take()), latency_of(writer.take())
                lab.pause.append(PauseRow(phase, lab.sizes.pause_bytes, seconds, pings, writes))
        finally:
            pinger.end()
            writer.end()
    return []


def _fill(client: Client, lab: Lab) -> None:
    """Different bytes in each value, as a real store has."""
    noise = random.Random(lab.settings.seed).randbytes(_VALUE_BYTES + 65536)
    with client.pipeline(max_in_flight=4096) as pipeline:
        for number in range(max(1, lab.sizes.pause_bytes // _VALUE_BYTES)):
            start = number % 65536
            pipeline.put(f"fill-{number}", noise[start : start + _VALUE_BYTES])
