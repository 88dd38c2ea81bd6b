"""`python -m paxon.kvstore.testing`: how long a cluster in memory takes to be there."""

from __future__ import annotations

import statistics
import sys
import time

from paxon.kvstore.testing.cluster import MemoryCluster

__all__ = ["main"]

_ROUNDS = 20


def main() -> None:
    """Make clusters one after the other; print when each had executed its first write."""
    took = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        with MemoryCluster() as cluster, cluster.client() as kv:
            kv.put("first", b"write")
            took.append((time.perf_counter() - started) * 1000)
    sys.stdout.write(
        f"a cluster in memory, from nothing to its first write acknowledged: median "
        f"{statistics.median(took):.1f} ms, slowest of {_ROUNDS} {max(took):.1f} ms\n"
    )


if __name__ == "__main__":
    main()
