"""What clients do in a benchmark: workloads by name, and the data that they write."""

from __future__ import annotations

import random
from typing import Literal

import msgspec

from paxon.actors.messages import ReadMode

__all__ = ["Workload", "WorkloadData", "stable_workloads"]


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of load. Every client is a process of its own."""

    name: str
    kind: Literal["put", "get", "txn", "lock", "watch", "renew"] = "put"
    """The last four are those of `paxon bench coordination`."""
    clients: int = 1
    outstanding: int = 1
    """Operations that each client has under way at any time (closed loop); contenders of a lock;
    leases that are kept alive."""
    pipelined: bool = False
    """Through `Client.pipeline`, which sends many operations in one message; else each operation is
    submitted by itself, and the client packs them as it does for any caller."""
    packing: int = 0
    """Operations in each of the client's requests; 0: as many as the client finds right."""
    mode: ReadMode = "linearizable"
    value_bytes: int = 64
    keys: int = 10_000
    stride: int = 1
    """Of a larger store only every so-many-th key is used: 1 means all."""
    watches: int = 0
    """Of `watch`: of the key that is written; of writes: of other keys."""
    seconds: float = 0.0
    """For so long it is measured, and its leases live; 0: as long as all loads."""
    fill: bool = True
    """Whether a client of reads first writes what it will read."""

    @property
    def in_flight(self) -> int:
        """Operations under way in all clients together."""
        return self.clients * self.outstanding


class WorkloadData:
    """Keys in a shuffled order and a value; the same for the same seed."""

    def __init__(self, workload: Workload, seed: int) -> None:
        chance = random.Random(seed)
        self.keys = [f"key-{number * workload.stride:07}" for number in range(workload.keys)]
        chance.shuffle(self.keys)
        self.value = chance.randbytes(workload.value_bytes)


def stable_workloads(*, value_bytes: int, quick: bool = False) -> list[Workload]:
    """The loads of `paxon bench stable`; fewer with `quick`."""
    loads = [
        Workload(name="writes, 1 outstanding"),
        Workload(name="writes, 64 outstanding", outstanding=64),
        Workload(name="writes, 256 outstanding", outstanding=256),
        Workload(name="writes, pipelined", outstanding=4096, pipelined=True),
        Workload(name="writes, pipelined, 2 clients", outstanding=4096, pipelined=True, clients=2),
        Workload(name="reads, 1 outstanding", kind="get"),
        Workload(name="reads, 64 outstanding", kind="get", outstanding=64),
        Workload(name="lease reads, 64 outstanding", kind="get", outstanding=64, mode="lease"),
        Workload(name="reads, pipelined", kind="get", outstanding=4096, pipelined=True),
    ]
    if quick:
        wanted = ("writes, 1 out", "writes, 64", "writes, 256", "writes, pipelined", "reads, 64")
        loads = [load for load in loads if load.name.startswith(wanted) and load.clients == 1]
    return [msgspec.structs.replace(load, value_bytes=value_bytes) for load in loads]
