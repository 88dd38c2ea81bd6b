"""One client that floods the leader, as a process of its own, and what the others still get."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from paxon.kvstore.cluster.local_cluster import LocalCluster
from tests.faults.flooding.flooder import FLOODS, FULL, LARGE, MIB
from tests.faults.networks.network import ROOT, RelayedCluster
from tests.faults.trial import Outcome, Trial

__all__ = ["FLOODS", "FULL", "LARGE", "MEMORY", "MIB", "Flood", "floods", "memory_watched"]

MEMORY = 700 << 20
"""No server may take more than this while it is flooded, bytes."""


SHORT = ("20,000 puts a command", "puts of 8 MiB", "unacknowledged replies")
"""In the suite; tests/cluster/test_floods.py has all of them."""


class Flood:
    """A flooder at work while the block runs."""

    def __init__(self, cluster: LocalCluster, kind: str) -> None:
        self.frames = 0
        """Sent, once it has ended."""
        for _ in range(10):  # (on a busy machine another may come to lead, and it gets no session)
            address = cluster.addresses[cluster.servers.index(cluster.leader(60.0))]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.flooding.flooder", address, kind],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert self._process.stdout is not None
            if self._process.stdout.readline() == "ready\n":
                return
            self._process.communicate()
        raise AssertionError("the flooder got no session")

    def __enter__(self) -> Self:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "floods\n", "the flooder sent nothing"
        return self

    def __exit__(self, *_exception: object) -> None:
        try:
            said = self._process.communicate(timeout=30)[0]
            self.frames = int(said.split()[0])
        finally:
            self._process.kill()
            self._process.communicate()


def resident_bytes(pid: int) -> int:
    """What a process holds in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@contextmanager
def memory_watched(pids: list[int]) -> Iterator[dict[int, int]]:
    """The most that each process held while the block ran."""
    most = dict.fromkeys(pids, 0)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            for pid in pids:
                most[pid] = max(most[pid], resident_bytes(pid))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


SHARES = f"  {'beside a flood of':<32}{'alone':>8}{'beside':>8}{'share':>7}{'MiB':>6}"


def share_line(kind: str, operations: int, alone: float, beside: float, most: int) -> str:
    """What the others got, in operations a second, and of the half that was theirs.

    Their share of the leader's time is what is bounded (docs/design/overload.md). Here the
    flooder's own process and its frames take cores of the same machine, so a share below 100 %
    breaks nothing.
    """
    return (
        f"  {kind:<32}{operations / alone:>8.0f}{operations / beside:>8.0f}"
        f"{2 * alone / beside:>7.0%}{most >> 20:>6}"
    )


def seconds_for(trial: Trial[RelayedCluster], operations: int) -> float:
    """How long the others take for so many more."""
    began = time.monotonic()
    trial.load.wait_for_more(operations)
    return time.monotonic() - began


def floods(cluster: RelayedCluster, directory: Path, long: bool) -> Outcome:
    """One client after the other floods the leader; the long form prints the others' shares."""
    with Trial("floods", cluster, directory, long=long) as trial:
        with cluster.client(timeout=60) as client:
            client.put(LARGE, bytes(MIB))
            client.put(FULL, bytes(8 * MIB))
        if long:
            print(SHARES)
        operations = trial.sized(40, 400)
        for kind in FLOODS if long else SHORT:
            pids = [row.pid for row in cluster.status() if row.pid]
            alone = seconds_for(trial, operations) if long else 0.0
            with memory_watched(pids) as most, Flood(cluster, kind):
                trial.fault()
                beside = seconds_for(trial, operations)
            largest = max(most.values())
            assert largest < MEMORY, (kind, most)
            if long:
                print(share_line(kind, operations, alone, beside, largest), flush=True)
    return trial.verify()
