"""Which loads are measured on which systems, and which of these are there at all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import get_args

import msgspec

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.workloads import Workload
from paxon.bench.peers.etcd import Etcd
from paxon.bench.peers.figures import Peer, PeerNote, PeersSettings
from paxon.bench.peers.programs import Programs
from paxon.bench.peers.pysyncobj import PySyncObj
from paxon.bench.peers.redis import PIPELINE, Redis
from paxon.bench.peers.systems import System
from paxon.kvstore.options import Durability

__all__ = ["Block", "parse_peers", "blocks_of", "look_around", "start_peers"]

_START_ATTEMPTS = 3
_REDIS_DEFAULT = 50 * PIPELINE
"""In flight with redis-benchmark's own default of 50 connections. More is better for Redis too."""
_SYNCED = "synced to disk before it answers, as Paxon"


class Block(msgspec.Struct, frozen=True):
    """Systems that are up at the same time and take turns."""

    peer: Peer
    durability: Durability
    """Paxon's."""
    loads: list[Workload]


def parse_peers(text: str) -> tuple[Peer, ...]:
    """Names with commas between them. Raises ValueError, for people, for an unknown one."""
    known: tuple[Peer, ...] = get_args(Peer)
    found: list[Peer] = []
    for name in (part.strip() for part in text.split(",")):
        peer = next((one for one in known if one == name), None)
        if peer is None:
            raise ValueError(f"{name!r} is none of {', '.join(known)}")
        if peer not in found:
            found.append(peer)
    return tuple(found)


def blocks_of(settings: PeersSettings, peers: Sequence[Peer]) -> list[Block]:
    """All that is measured beside these peers."""
    few = settings.quick
    blocks: list[Block] = []

    def add(peer: Peer, loads: list[Workload], durability: Durability = "disk") -> None:
        if peer in peers:
            sized = [
                msgspec.structs.replace(load, value_bytes=settings.value_bytes) for load in loads
            ]
            blocks.append(Block(peer, durability, sized))

    reads = [_load("get", n) for n in ((64,) if few else (1, 16, 64, 256))]
    lease = Workload(name="lease reads, 64 outstanding", kind="get", outstanding=64, mode="lease")
    add("etcd", [*(_load("put", n) for n in ((1, 64) if few else (1, 64, 256))), *reads, lease])
    pipelined = [_pipelined(n) for n in ((4096,) if few else (_REDIS_DEFAULT, 4096))]
    add("redis", [*(_load("put", n) for n in ((64,) if few else (1, 64, 256))), *pipelined])
    add("pysyncobj", [_load("put", n) for n in ((64, 1024) if few else (1, 64, 256, 1024, 8192))])
    add("pysyncobj", [_load("put", 1)], "memory")
    return blocks


def _load(kind: str, outstanding: int) -> Workload:
    if kind == "get":
        return Workload(
            name=f"reads, {outstanding:,} outstanding", kind="get", outstanding=outstanding
        )
    return Workload(name=f"writes, {outstanding:,} outstanding", outstanding=outstanding)


def _pipelined(in_flight: int) -> Workload:
    name = f"writes, pipelined, {in_flight:,} in flight"
    return Workload(name=name, outstanding=in_flight, pipelined=True)


def start_peers(peer: Peer, programs: Programs, settings: PeersSettings) -> list[System]:
    """The systems that a peer stands for. Raises `BenchError`."""
    starts: list[Callable[[], System]]
    if peer == "redis":
        starts = [functools.partial(Redis, programs)]
    elif peer == "etcd":
        starts = [
            functools.partial(Etcd, programs, settings.servers, "one"),
            functools.partial(Etcd, programs, settings.servers, "each"),
        ]
    else:
        starts = [
            functools.partial(PySyncObj, programs, settings.servers, batching=True),
            functools.partial(PySyncObj, programs, settings.servers, batching=False),
        ]
    with ExitStack() as stack:
        systems = []
        for start in starts:
            systems.append(_started(start))
            stack.callback(systems[-1].close)
        stack.pop_all()
    return systems


def _started(start: Callable[[], System]) -> System:
    """Start a system. Raises `BenchError` if that fails again and again."""
    for _ in range(_START_ATTEMPTS - 1):
        try:
            return start()
        except BenchError:
            # Ports are drawn before the servers bind them: somebody else may have been quicker.
            continue
    return start()


def look_around(settings: PeersSettings, programs: Programs) -> list[tuple[Peer, PeerNote]]:
    """Each peer that is asked for, with its version, or a sentence on why it is skipped."""
    return [(peer, _note(peer, programs, settings.servers)) for peer in settings.only]


def _note(peer: Peer, programs: Programs, servers: int) -> PeerNote:
    if peer == "etcd":
        return _etcd_note(programs, servers)
    if peer == "redis":
        return _redis_note(programs)
    version = programs.python_version("pysyncobj")
    if version is None:
        return _missing("PySyncObj")
    return PeerNote(
        peer="PySyncObj",
        version=version,
        driven=f"{servers} processes; the load is made inside the leader's by callbacks, so that "
        "its cost is among the servers'; log compaction off, which is faster",
        durability="journal in a memory-mapped file that is never synced: less than Paxon's",
    )


def _etcd_note(programs: Programs, servers: int) -> PeerNote:
    path = programs.find("etcd")
    if path is None:
        return _missing("etcd")
    first = next(iter(programs.output([path, "--version"]).splitlines()), "")
    return PeerNote(
        peer="etcd",
        version=first.rpartition(" ")[2],
        driven=f"{servers} members; gRPC straight to the leader from one client process, on one "
        "connection or on one for each outstanding operation",
        durability=_SYNCED,
    )


def _redis_note(programs: Programs) -> PeerNote:
    path = programs.find("redis-server")
    if path is None or programs.find("redis-benchmark") is None:
        return _missing("Redis")
    words = programs.output([path, "--version"]).split()
    version = next((word.removeprefix("v=") for word in words if word.startswith("v=")), "unknown")
    return PeerNote(
        peer="Redis",
        version=version,
        driven="one node that replicates nothing; redis-benchmark with a connection for each "
        f"outstanding operation, pipelined with -P {PIPELINE}",
        durability="appendfsync always: synced to disk before it answers, on one disk instead of "
        "a majority's",
    )


def _missing(name: str) -> PeerNote:
    return PeerNote(
        peer=name,
        version="",
        skipped=f"{name} is not installed and was left out; `paxon bench peers --install` gets it.",
    )
