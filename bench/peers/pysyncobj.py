"""PySyncObj: three server processes with a journal, and the load inside the leader's.

PySyncObj is a library: its operations are methods of an object in the server's process, and take an
answer through a callback in the server's own thread. So that is where its load is made: there is no
client process, no socket and no serialisation of requests in between.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from paxon.bench.harness.child import Children
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.load import Job, Loop, Outcome
from paxon.bench.harness.machine import cpu_seconds
from paxon.bench.harness.measure import Measurement, ServerCounts, jobs_for, measure, prepare
from paxon.bench.harness.repeater import wait_until
from paxon.bench.harness.workloads import Workload, WorkloadData
from paxon.bench.peers.programs import Programs
from paxon.kvstore.client.addresses import free_ports

__all__ = ["PySyncObj"]

clock = time.perf_counter

_START_SECONDS = 30.0
_DRAIN_SECONDS = 5.0
_NEVER = 10**9


class PySyncObj:
    """A cluster; see `System`."""

    def __init__(self, programs: Programs, servers: int, *, batching: bool) -> None:
        """Start the servers and wait until one leads. Raises `BenchError`."""
        self.name = f"PySyncObj, batching {'on' if batching else 'off'}"
        if programs.python_version("pysyncobj") is None:
            raise BenchError("PySyncObj is not installed")
        addresses = [f"127.0.0.1:{port}" for port in free_ports(servers)]
        with ExitStack() as stack:
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="paxon-pysyncobj-"))
            self._plans = [
                NodePlan(
                    address, tuple(other for other in addresses if other != address),
                    f"{place}/journal-{number}", batching, str(programs.python_directory),
                )
                for number, address in enumerate(addresses)
            ]  # fmt: skip
            self._processes = stack.enter_context(Children("a server of PySyncObj")).take(servers)
            # A server starts with its process' first job, and is ready once one leads.
            prepare(self._processes, self._jobs(Workload(name="none"), 0.0, 0))
            self.close = stack.pop_all().close

    def _jobs(self, load: Workload, warmup: float, seed: int) -> list[Job]:
        (job,) = jobs_for(load, [], warmup=warmup, seed=seed)
        opens = [functools.partial(open_node_load, plan) for plan in self._plans]
        return [job._replace(open_load=open_load) for open_load in opens]

    def measure(self, load: Workload, *, seconds: float, warmup: float, seed: int) -> Measurement:
        """See `System`. All CPU counts as the servers': client and leader are one process."""
        measured = measure(self.counts, self._processes, self._jobs(load, warmup, seed), seconds)
        if measured.operations == 0:
            raise BenchError(f"{self.name} has done nothing: {measured.first_error or 'no leader'}")
        return msgspec.structs.replace(measured, client_cpu=0.0)

    def counts(self) -> ServerCounts:
        """CPU of all servers. Raises `BenchError`."""
        try:
            cpu = {n: cpu_seconds(process.pid) for n, process in enumerate(self._processes)}
        except ProcessLookupError:
            raise BenchError("a server of PySyncObj has ended") from None
        return ServerCounts({}, cpu)


# --- inside a server process ---------------------------------------------------------------------


class NodePlan(NamedTuple):
    """One server of a cluster."""

    address: str
    others: tuple[str, ...]
    journal: str
    """Path of its journal."""
    batching: bool
    """PySyncObj's `appendEntriesUseBatch`."""
    library: str
    """Where the package is, if it was not installed for this Python."""


@functools.cache
def node_of(plan: NodePlan) -> tuple[Any, Any]:
    """The server of this process, which lives on from job to job, and its replicated dictionary.

    Raises `BenchError` if the package is not there.
    """
    sys.path.append(plan.library)
    try:
        pysyncobj: Any = importlib.import_module("pysyncobj")
        batteries: Any = importlib.import_module("pysyncobj.batteries")
    except ImportError as error:
        raise BenchError(f"PySyncObj cannot be imported: {error}") from None
    # Its many warnings go to a file instead of the terminal.
    logger = logging.getLogger("pysyncobj")
    logger.addHandler(logging.FileHandler(Path(plan.journal).with_suffix(".log")))
    logger.propagate = False
    configuration = pysyncobj.SyncObjConf(
        journalFile=plan.journal, appendEntriesUseBatch=plan.batching,
        # With its default of 5,000 entries it rewrites its journal many times a second under
        # load, and sends whole dumps to followers that are a little late: docs/peers.md.
        logCompactionMinEntries=_NEVER, logCompactionMinTime=_NEVER,
    )  # fmt: skip
    store = batteries.ReplDict()
    others = list(plan.others)
    return pysyncobj.SyncObj(plan.address, others, configuration, consumers=[store]), store


def open_node_load(plan: NodePlan, job: Job) -> tuple[Loop, Callable[[], None]]:
    """The load if this server leads, else one that does nothing; see `OpenLoad`."""
    server, store = node_of(plan)

    def leader() -> Any:
        return server.getStatus()["leader"]

    wait_until(lambda: leader() is not None, "no server of PySyncObj leads", _START_SECONDS)
    leads = str(leader()) == plan.address
    return NodeLoop(store, job, job.workload.outstanding if leads else 0), lambda: None


class NodeLoop:
    """A fixed number of single operations under way: each callback makes the next one.

    All but the first of them are made in the server's own thread, as a program would that is
    written for this library. See `Loop`.
    """

    def __init__(self, store: Any, job: Job, outstanding: int) -> None:
        data = WorkloadData(job.workload, job.seed)
        self._set: Callable[..., None] = store.set
        self._keys, self._value = itertools.cycle(data.keys), data.value
        self._outstanding = outstanding

    def run(self, seconds: float) -> Outcome:
        """Put load on for so long, then wait for what is under way.

        What gets no answer even then counts as failed: PySyncObj loses callbacks if it changes its
        leader.
        """
        outcome, over = Outcome(), threading.Event()
        begin = clock()
        under_way = self._outstanding

        def done(started: float, _result: object, failure: int) -> None:
            nonlocal under_way
            now = clock()
            if now >= begin + seconds:
                under_way -= 1
                if under_way == 0:
                    over.set()
                return
            if failure == 0:
                outcome.latencies.append(now - started)
            else:
                outcome.note(BenchError(f"PySyncObj failed with its reason {failure}"))
            submit(now)

        def submit(now: float) -> None:
            self._set(next(self._keys), self._value, callback=functools.partial(done, now))

        for _ in range(self._outstanding):
            submit(begin)
        over.wait(seconds + _DRAIN_SECONDS if self._outstanding else seconds)
        lost, under_way = max(0, under_way), 0  # callbacks that come later find nothing to do
        outcome.seconds = seconds
        outcome.operations = len(outcome.latencies)
        outcome.unfinished = self._outstanding
        if lost:
            late = f"PySyncObj has left operations without an answer for {_DRAIN_SECONDS:g} s"
            outcome.note(BenchError(late))
            outcome.failed += lost - 1
        return outcome
