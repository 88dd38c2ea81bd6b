"""A process that works on a queue, to be killed: `python -m tests.faults.consumer …`."""

from __future__ import annotations

import contextlib
import sys
import time

from paxon import Client, LockLost, NotAcquired, PaxonError, Put, RequestTimeout

__all__ = ["main"]


def main(addresses: str, name: str, done: str, ttl: float) -> None:
    """Do one item after the other, for ever; what is done of it is noted below `done`."""
    with Client(addresses, timeout=20.0) as kv:
        queue = kv.queue(name, ttl=ttl)
        while True:
            with contextlib.suppress(NotAcquired, LockLost, RequestTimeout):
                item = queue.get(timeout=1.0)
                time.sleep(0.05)  # most often it is killed at work
                item.done(then=[Put(done + item.value.decode(), "by a process")])


if __name__ == "__main__":
    with contextlib.suppress(PaxonError):
        main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
