"""`paxon bench peers`: Paxon beside etcd, Redis and PySyncObj, taking turns on one machine.

For each peer a Paxon cluster and the peer's servers are up together. Each load is put on one and
then on the other, A B A B, while the one whose turn it is not idles; a ratio is that of two
neighbouring measurements, so a machine that slows down meanwhile hits both sides of it.
"""

from __future__ import annotations

import datetime
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TypeAlias

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.report import new_report
from paxon.bench.harness.workloads import Workload
from paxon.bench.peers.etcd_failover import etcd_kills
from paxon.bench.peers.figures import (
    GapRow,
    PairRow,
    PeerNote,
    PeersReport,
    PeersSettings,
    Taken,
    gap_row,
    pair_row,
)
from paxon.bench.peers.plan import Block, blocks_of, look_around, start_peers
from paxon.bench.peers.programs import Programs
from paxon.bench.peers.systems import Paxon, System
from paxon.bench.stable.failover import FailoverSettings, Kill, run_failover
from paxon.kvstore.errors import PaxonError

__all__ = ["run_peers", "steps_of"]

Progress: TypeAlias = Callable[[str], None]

_SYSTEMS = {"etcd": 3, "redis": 2, "pysyncobj": 3}
"""In a block beside a peer, Paxon included."""


def steps_of(settings: PeersSettings, programs: Programs) -> int:
    """How many times `run_peers` reports progress."""
    there = [peer for peer, note in look_around(settings, programs) if not note.skipped]
    measurements = sum(
        len(block.loads) * _SYSTEMS[block.peer] * settings.repeat
        for block in blocks_of(settings, there)
    )
    return measurements + (2 * settings.kills * settings.repeat if "etcd" in there else 0)


def run_peers(settings: PeersSettings, programs: Programs, progress: Progress) -> PeersReport:
    """Measure all peers that are installed. Raises `PaxonError` if none is, or Paxon fails."""
    started = datetime.datetime.now(datetime.UTC)
    notes = dict(look_around(settings, programs))
    there = [peer for peer, note in notes.items() if not note.skipped]
    if not there:
        raise BenchError(
            f"nothing to compare with: {' '.join(note.skipped for note in notes.values())}"
        )
    rows: list[PeerNote | PairRow | GapRow] = list(notes.values())
    for block in blocks_of(settings, there):
        rows += _run_block(block, programs, settings, notes[block.peer].problems, progress)
    if "etcd" in there and settings.kills:
        rows.append(_run_gaps(programs, settings, progress))
    return new_report("peers", settings, rows, started)


def _run_block(
    block: Block,
    programs: Programs,
    settings: PeersSettings,
    problems: list[str],
    progress: Progress,
) -> list[PairRow]:
    """Measure all loads of a block; what fails is added to `problems`."""
    with ExitStack() as stack:
        paxon = Paxon(settings.servers, block.durability, settings.options)
        stack.callback(paxon.close)
        others = start_peers(block.peer, programs, settings)
        for other in others:
            stack.callback(other.close)
        taken: dict[tuple[str, str], dict[int, Taken]] = {}
        for repeat in range(settings.repeat):
            for load in block.loads:
                for system in (paxon, *others):
                    progress(f"{system.name}: {load.name}")
                    idle = [other for other in (paxon, *others) if other is not system]
                    series = taken.setdefault((load.name, system.name), {})
                    try:
                        series[repeat] = _take(system, idle, load, settings, repeat)
                    except PaxonError as error:
                        problems.append(f"{system.name}, {load.name}, repeat {repeat + 1}: {error}")
    rows = []
    for load in block.loads:
        for other in others:
            ours, theirs = taken[load.name, paxon.name], taken[load.name, other.name]
            pairs = [(ours[repeat], theirs[repeat]) for repeat in ours if repeat in theirs]
            if pairs:
                rows.append(pair_row(load, (paxon.name, other.name), pairs))
    return rows


def _take(
    system: System, idle: Sequence[System], load: Workload, settings: PeersSettings, repeat: int
) -> Taken:
    """Measure one system while the others idle. Raises `PaxonError`."""
    before, begin = sum(other.cpu() for other in idle), time.monotonic()
    measured = system.measure(
        load, seconds=settings.seconds, warmup=settings.warmup, seed=settings.seed + repeat
    )
    used, elapsed = sum(other.cpu() for other in idle) - before, time.monotonic() - begin
    return Taken(measured, used / elapsed)


def _run_gaps(programs: Programs, settings: PeersSettings, progress: Progress) -> GapRow:
    """Kill leaders of Paxon and of etcd in turn, each time on fresh clusters."""
    ours: list[Kill] = []
    theirs: list[Kill] = []
    for repeat in range(settings.repeat):
        chance = random.Random(settings.seed + repeat)
        report = run_failover(
            FailoverSettings(
                servers=settings.servers, runs=settings.kills, value_bytes=settings.value_bytes,
                seed=settings.seed + repeat, options=settings.options,
            ),
            lambda what: progress(f"Paxon: {what}"),
        )  # fmt: skip
        for row in report.rows:
            ours += [
                Kill(*one) for one in zip(row.gap.values, row.killed, row.leaders, strict=True)
            ]
        theirs += etcd_kills(
            programs, settings.servers, kills=settings.kills,
            value=chance.randbytes(settings.value_bytes), chance=chance,
            progress=lambda what: progress(f"etcd: {what}"),
        )  # fmt: skip
    return gap_row("etcd", ours, theirs)
