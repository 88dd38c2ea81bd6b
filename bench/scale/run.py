"""The parts of `paxon bench scale`, one after the other (what they measure: scale.py)."""

from __future__ import annotations

import datetime
import functools
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paxon.actors.messages import ReadMode
from paxon.bench.harness.child import Children
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.lab import SERVER, LabCluster
from paxon.bench.harness.load_process import CLIENT
from paxon.bench.harness.machine import children_of, memory_bytes, peak_memory_bytes
from paxon.bench.harness.measure import Measurement, counts_of
from paxon.bench.harness.repeater import wait_until
from paxon.bench.harness.report import Bench, Progress, new_report
from paxon.bench.harness.summary import spread_of
from paxon.bench.harness.workloads import Workload
from paxon.bench.scale.load import open_sessions
from paxon.bench.scale.pause import watch_pauses
from paxon.bench.scale.plots import plot_scale
from paxon.bench.scale.scale import (
    KIB,
    READ_MODES,
    CostRow,
    Lab,
    MemoryRow,
    PartName,
    ReplayKind,
    ReplayRow,
    ScaleReport,
    ScaleSettings,
    cost_row,
    scale_sections,
)

__all__ = ["SCALE"]

_MOST_KEYS_USED = 100_000
"""A client goes round so many keys, spread over all that there are."""
_DICT_SECONDS = 120.0
_SNAPSHOT_SECONDS = 300.0
_GROW_SECONDS = 1.0
_GROW_STRETCHES = 120
"""A log that has not grown to its length after so many stretches never will."""
_UNLIMITED = 1 << 40


def run_scale(settings: ScaleSettings, progress: Progress) -> ScaleReport:
    """Run it all. Raises `PaxonError` if a cluster cannot be started or loaded."""
    started = datetime.datetime.now(datetime.UTC)
    parts: dict[PartName, Callable[[Lab], list[CostRow]]] = {
        "sessions": _sessions, "keys": _keys, "log": _log, "value": _value, "reads": _reads,
        "replay": _replay, "pause": watch_pauses,
    }  # fmt: skip
    with Children(CLIENT) as processes, Children(SERVER) as hosts:
        lab = Lab(settings, hosts, processes, progress)
        rows = [row for part in settings.parts for row in parts[part](lab)]
    return new_report(
        ScaleReport, "scale", settings, rows, started,
        memory=lab.memory, replay=lab.replay, pause=lab.pause,
    )  # fmt: skip


# --- sessions ------------------------------------------------------------------------------------


def _sessions(lab: Lab) -> list[CostRow]:
    """The same load from ever more sessions."""

    def one(sessions: int, repeat: int) -> Measurement:
        opened = functools.partial(open_sessions, sessions=sessions)
        with lab.cluster() as cluster:
            cluster.leader()
            return lab.measure(cluster, lab.load("sessions"), repeat, open_load=opened)

    measured = lab.interleaved(lab.sizes.sessions, "sessions", one)
    return [cost_row("sessions", "writes", count, taken) for count, taken in measured.items()]


# --- keys ----------------------------------------------------------------------------------------


def _keys(lab: Lab) -> list[CostRow]:
    """A store that grows: writes and reads of keys all over it, and what it takes in memory."""
    rows: list[CostRow] = []
    settings = lab.settings
    held = 0
    # Fresh processes: what earlier clusters left in their memory is not the keys'.
    with Children(SERVER) as hosts, lab.cluster(hosts=hosts) as cluster:
        cluster.leader()
        before = {pid: memory_bytes(pid) for pid in cluster.pids.values()}
        for keys in lab.sizes.keys:
            lab.progress(f"filling in {keys:,} keys")
            lab.fill(cluster.addresses, held, keys, settings.value_bytes)
            held = keys
            lab.progress(f"{keys:,} keys")
            # Snapshots that the filling asked for are not the load's.
            pids = cluster.pids.values()
            wait_until(
                lambda: not any(map(children_of, pids)),  # noqa: B023 (called at once)
                "a snapshot was not written", _SNAPSHOT_SECONDS,
            )  # fmt: skip
            rows += _with_keys(lab, cluster, keys)
            lab.memory.append(
                MemoryRow(
                    keys=keys,
                    value_bytes=settings.value_bytes,
                    server=max(memory_bytes(pid) - start for pid, start in before.items()),
                    server_peak=max(peak_memory_bytes(p) - start for p, start in before.items()),
                    bare=bare_dict_bytes(keys, settings.value_bytes),
                )
            )
    return rows


def _with_keys(lab: Lab, cluster: LabCluster, keys: int) -> list[CostRow]:
    used = min(keys, _MOST_KEYS_USED)
    places = {"fill": False, "keys": used, "stride": keys // used}
    loads = [
        lab.load("writes", **places), lab.load("linearizable reads", kind="get", **places),
    ]  # fmt: skip
    measured: dict[str, list[Measurement]] = {load.name: [] for load in loads}
    for repeat in range(lab.settings.repeat):
        for load in loads:
            measured[load.name].append(lab.measure(cluster, load, repeat))
    return [cost_row("keys", name, keys, figures) for name, figures in measured.items()]


def bare_dict_bytes(keys: int, value_bytes: int) -> int:
    """What a dict with so many keys takes in a process that has nothing else, resident.

    Raises `BenchError` if that process ends early.
    """
    with Children("the process that fills a dict") as children:
        (child,) = children.take(1)
        child.tell(dict_bytes, keys, value_bytes)
        size: int = child.answer(_DICT_SECONDS)
        return size


def dict_bytes(keys: int, value_bytes: int) -> int:
    """In the process with the dict."""
    chance = random.Random(1)
    before = memory_bytes()
    held = {f"key-{number:07}": chance.randbytes(value_bytes) for number in range(keys)}
    taken = memory_bytes() - before
    assert len(held) == keys  # and so it is still there
    return taken


# --- the log -------------------------------------------------------------------------------------


def _log(lab: Lab) -> list[CostRow]:
    """A log that cannot be discarded, because one server is down: a slot for each write."""
    rows = []
    load = lab.load("log", packing=1)
    with lab.cluster(batch_bytes=1, retain_slots=_UNLIMITED, retain_bytes=_UNLIMITED) as cluster:
        leader = cluster.leader()
        cluster.stop_server(next(server for server in cluster.servers if server != leader))
        for length in lab.sizes.log:
            lab.progress(f"a log of {length:,} slots")
            _grow(lab, cluster, load, length)
            measured = [lab.measure(cluster, load, n) for n in range(lab.settings.repeat)]
            rows.append(cost_row("log", "writes, a slot each", length, measured))
    return rows


def _grow(lab: Lab, cluster: LabCluster, workload: Workload, slots: int) -> None:
    """Write until the log holds so many slots. Raises `BenchError` if it does not come so far."""
    for stretch in range(_GROW_STRETCHES):
        replies = counts_of(cluster).replies.values()
        if min(reply.counters["log_slots"] for reply in replies) >= slots:
            return
        lab.measure(cluster, workload, stretch, _GROW_SECONDS)
    raise BenchError(f"the log has not grown to {slots:,} slots")


# --- values and reads ----------------------------------------------------------------------------


def _value(lab: Lab) -> list[CostRow]:
    def one(size: int, repeat: int) -> Measurement:
        # As many keys as make 16 MiB at most: what is measured is the way, not the store.
        keys = max(16, min(10_000, (16 << 20) // size))
        with lab.cluster() as cluster:
            cluster.leader()
            load = lab.load("value", outstanding=16, value_bytes=size, keys=keys)
            return lab.measure(cluster, load, repeat)

    measured = lab.interleaved(lab.sizes.value, "bytes of each value", one)
    return [cost_row("value", "writes", size, taken) for size, taken in measured.items()]


def _reads(lab: Lab) -> list[CostRow]:
    """Reads of each mode from ever more client processes."""
    kinds = [(mode, clients) for mode in READ_MODES for clients in lab.sizes.readers]
    with lab.cluster() as cluster:
        cluster.leader()

        def one(kind: tuple[ReadMode, int], repeat: int) -> Measurement:
            load = lab.load(kind[0], kind="get", mode=kind[0], clients=kind[1])
            return lab.measure(cluster, load, repeat)

        measured = lab.interleaved(kinds, "reads", one)
    return [
        cost_row("reads", f"{mode} reads", clients, taken)
        for (mode, clients), taken in measured.items()
    ]


# --- starting from a directory -------------------------------------------------------------------


def _replay(lab: Lab) -> list[CostRow]:
    """Servers that start with nothing, with a long log, and with a snapshot."""
    long_log = {"snapshot_bytes": _UNLIMITED, "snapshot_slots": _UNLIMITED}
    size = lab.sizes.replay_bytes
    kinds: list[tuple[ReplayKind, int, dict[str, Any]]] = [
        ("empty", 0, {}),
        ("log", size, long_log),
        ("snapshot", size, {"snapshot_bytes": max(KIB, size // 8)}),
    ]
    for kind, wanted, options in kinds:
        lab.progress(f"starting with {kind}, {wanted >> 20} MiB")
        with tempfile.TemporaryDirectory(prefix="paxon-scale-") as directory:
            lab.replay.append(_restart(lab, kind, wanted, Path(directory), options))
    return []


def _restart(
    lab: Lab, kind: ReplayKind, size: int, directory: Path, options: dict[str, Any]
) -> ReplayRow:
    """Fill a cluster's directories, stop it, and start one server after the other alone."""
    cluster = lab.cluster(directory=directory, **options)
    try:
        cluster.start().leader()
        lab.fill(cluster.addresses, 0, size // KIB, KIB)
        cluster.stop()
        held = [_tree_bytes(directory / f"server-{server}") for server in cluster.servers]
        seconds = []
        slots = 0
        for server in cluster.servers:
            seconds.append(cluster.start_server(server))
            slots = max(slots, counts_of(cluster).replies[server].executed)
            cluster.stop_server(server)
    finally:
        cluster.stop()
    return ReplayRow(
        kind=kind, disk_bytes=max(held), keys=size // KIB, slots=slots, seconds=spread_of(seconds)
    )


def _tree_bytes(directory: Path) -> int:
    """What a directory's files take."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


SCALE = Bench(
    name="scale",
    help="Cost of an operation as sessions, keys, log and values grow; memory, start-up, pauses.",
    settings=ScaleSettings,
    report=ScaleReport,
    run=run_scale,
    sections=scale_sections,
    plots=lambda report: {"scale": plot_scale(report)},
)
