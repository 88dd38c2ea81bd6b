"""PySyncObj: three server processes with a journal, and the load inside the leader's.

PySyncObj is a library: its operations are methods of an object in the server's process, and take an
answer through a callback in the server's own thread. So that is where its load is made: there is no
client process, no socket and no serialisation of requests in between.
"""

from __future__ import annotations

import functools
import importlib
import logging
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.load import Loop, Outcome
from paxon.bench.harness.load_process import Job, LoadProcess
from paxon.bench.harness.machine import cpu_seconds
from paxon.bench.harness.measure import Measurement, ServerCounts, jobs_for, measure
from paxon.bench.harness.workloads import Workload, WorkloadData
from paxon.bench.peers.programs import Programs
from paxon.kvstore.addresses import free_ports

__all__ = ["PySyncObj"]

clock = time.perf_counter

_START_SECONDS = 30.0
_DRAIN_SECONDS = 5.0
_LOOKING_SECONDS = 0.02
_NEVER = 10**9


class PySyncObj:
    """A cluster; see `System`."""

    def __init__(self, programs: Programs, servers: int, *, batching: bool) -> None:
        """Start the servers and wait until one leads. Raises `BenchError`."""
        self.name = f"PySyncObj, batching {'on' if batching else 'off'}"
        if programs.python_version("pysyncobj") is None:
            raise BenchError("PySyncObj is not installed")
        self._directory = Path(tempfile.mkdtemp(prefix="paxon-pysyncobj-"))
        addresses = [f"127.0.0.1:{port}" for port in free_ports(servers)]
        self._processes = []
        for number, address in enumerate(addresses):
            plan = NodePlan(
                address=address,
                others=[other for other in addresses if other != address],
                journal=str(self._directory / f"journal-{number}"),
                batching=batching,
                library=str(programs.python_directory),
            )
            self._processes.append(LoadProcess(functools.partial(open_node_load, plan)))
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        # A server starts with its process' first job, and is ready for a load once one leads.
        job = jobs_for(Workload(name="none"), [], warmup=0.0, seed=0)[0]
        for process in self._processes:
            process.prepare(job)
        for process in self._processes:
            process.wait_ready(0.0)

    def measure(self, load: Workload, *, seconds: float, warmup: float, seed: int) -> Measurement:
        """See `System`. All CPU counts as the servers': client and leader are one process."""
        job = jobs_for(load, [], warmup=warmup, seed=seed)[0]
        measured = measure(self, self._processes, [job] * len(self._processes), seconds)
        if measured.operations == 0:
            raise BenchError(f"{self.name} has done nothing: {measured.first_error or 'no leader'}")
        return msgspec.structs.replace(measured, client_cpu=0.0)

    def counts(self) -> ServerCounts:
        """CPU of all servers; see `Watch`. Raises `BenchError`."""
        try:
            cpu = {n: cpu_seconds(process.pid) for n, process in enumerate(self._processes)}
        except ProcessLookupError:
            raise BenchError("a server of PySyncObj has ended") from None
        return ServerCounts({}, cpu)

    def cpu(self) -> float:
        """See `System`."""
        return sum(self.counts().cpu.values())

    def close(self) -> None:
        """See `System`."""
        for process in self._processes:
            process.close()
        shutil.rmtree(self._directory, ignore_errors=True)


# --- inside a server process ---------------------------------------------------------------------


class NodePlan(msgspec.Struct, frozen=True):
    """One server of a cluster."""

    address: str
    others: list[str]
    journal: str
    """Path of its journal."""
    batching: bool
    """PySyncObj's `appendEntriesUseBatch`."""
    library: str
    """Where the package is, if it was not installed for this Python."""


class Node:
    """A running server with a replicated dictionary."""

    def __init__(self, plan: NodePlan) -> None:
        """Start it. Raises `BenchError` if the package is not there."""
        sys.path.append(plan.library)
        try:
            pysyncobj: Any = importlib.import_module("pysyncobj")
            batteries: Any = importlib.import_module("pysyncobj.batteries")
        except ImportError as error:
            raise BenchError(f"PySyncObj cannot be imported: {error}") from None
        _keep_its_log(Path(plan.journal).with_suffix(".log"))
        self._plan = plan
        self.store: Any = batteries.ReplDict()
        configuration = pysyncobj.SyncObjConf(
            journalFile=plan.journal,
            appendEntriesUseBatch=plan.batching,
            # With its default of 5,000 entries it rewrites its journal many times a second under
            # load, and sends whole dumps to followers that are a little late: docs/peers.md.
            logCompactionMinEntries=_NEVER,
            logCompactionMinTime=_NEVER,
        )
        self._object: Any = pysyncobj.SyncObj(
            plan.address, plan.others, configuration, consumers=[self.store]
        )

    def leads(self) -> bool:
        """Whether this server leads, waiting until one does. Raises `BenchError`."""
        give_up = time.monotonic() + _START_SECONDS
        while time.monotonic() < give_up:
            status = self._object.getStatus()
            if status["leader"] is not None:
                return str(status["leader"]) == self._plan.address
            time.sleep(_LOOKING_SECONDS)
        raise BenchError(f"no server of PySyncObj leads after {_START_SECONDS:g} s")


def _keep_its_log(path: Path) -> None:
    """Its many warnings go to a file instead of the terminal."""
    logger = logging.getLogger("pysyncobj")
    logger.addHandler(logging.FileHandler(path))
    logger.propagate = False


_node: Node | None = None
"""Of this process: it lives on from job to job."""


def open_node_load(plan: NodePlan, job: Job) -> tuple[Loop, Callable[[], None]]:
    """The load if this server leads, else one that does nothing; see `OpenLoad`."""
    global _node  # noqa: PLW0603 (a process has one server, which outlives the jobs)
    if _node is None:
        _node = Node(plan)
    if not _node.leads():
        return _Idle(), _nothing
    return NodeLoop(_node.store, job), _nothing


def _nothing() -> None:
    return


class _Idle:
    """What a follower does: see `Loop`."""

    def run(self, seconds: float) -> Outcome:
        time.sleep(seconds)
        outcome = Outcome()
        outcome.seconds = seconds
        return outcome


class NodeLoop:
    """A fixed number of single operations under way: each callback makes the next one.

    All but the first of them are made in the server's own thread, as a program would that is
    written for this library. See `Loop`.
    """

    def __init__(self, store: Any, job: Job) -> None:
        data = WorkloadData(job.workload, job.seed)
        self._set: Callable[..., None] = store.set
        self._keys, self._value = data.keys, data.value
        self._outstanding = job.workload.outstanding
        self._place = 0

    def run(self, seconds: float) -> Outcome:
        """Put load on for so long, then wait for what is under way.

        What gets no answer even then counts as failed: PySyncObj loses callbacks if it changes its
        leader.
        """
        begin = clock()
        stretch = _Stretch(begin + seconds, self._outstanding)
        for _ in range(self._outstanding):
            self._submit(stretch, begin)
        stretch.over.wait(seconds + _DRAIN_SECONDS)
        lost = stretch.under_way
        stretch.under_way = 0  # callbacks that come later find nothing to do
        outcome = stretch.outcome
        outcome.seconds = seconds
        outcome.operations = len(outcome.latencies)
        outcome.unfinished = self._outstanding
        if lost > 0:
            outcome.failed += lost
            outcome.first_error = outcome.first_error or (
                f"PySyncObj has left operations without an answer for {_DRAIN_SECONDS:g} s"
            )
        return outcome

    def _submit(self, stretch: _Stretch, started: float) -> None:
        place = self._place = (self._place + 1) % len(self._keys)

        def done(_result: object, failure: int) -> None:
            now = clock()
            if now >= stretch.end:
                stretch.under_way -= 1
                if stretch.under_way == 0:
                    stretch.over.set()
                return
            if failure == 0:
                stretch.outcome.latencies.append(now - started)
            else:
                stretch.outcome.note(BenchError(f"PySyncObj failed with its reason {failure}"))
            self._submit(stretch, now)

        self._set(self._keys[place], self._value, callback=done)


class _Stretch:
    """One run of load."""

    def __init__(self, end: float, under_way: int) -> None:
        self.outcome = Outcome()
        self.end = end
        self.under_way = under_way
        self.over = threading.Event()
        """Set when everything has been answered after the end."""
