"""PySyncObj: three server processes with a journal, and the load inside the leader's."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

import msgspec

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.load_process import LoadProcess
from paxon.bench.harness.machine import cpu_seconds
from paxon.bench.harness.measure import Measurement, ServerCounts, jobs_for, measure
from paxon.bench.harness.workloads import Workload
from paxon.bench.peers.programs import Programs
from paxon.bench.peers.pysyncobj_load import NodePlan, open_node_load
from paxon.kvstore.addresses import free_ports

__all__ = ["PySyncObj"]


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
