"""What a system under measurement is, and Paxon as one of them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Protocol

from paxon.bench.harness.load_process import LoadProcesses
from paxon.bench.harness.measure import ClusterWatch, Measurement, jobs_for, measure
from paxon.bench.harness.workloads import Workload
from paxon.kvstore.local_cluster import LocalCluster
from paxon.kvstore.options import Durability

__all__ = ["System", "Paxon"]


class System(Protocol):
    """Servers that are up, and a way to put load on them."""

    @property
    def name(self) -> str:
        """As it stands in the table."""

    def measure(self, load: Workload, *, seconds: float, warmup: float, seed: int) -> Measurement:
        """Put on a load: for so long to warm up, then to be measured. Raises `PaxonError`."""

    def cpu(self) -> float:
        """CPU seconds that all its servers have used so far. Raises `PaxonError`."""

    def close(self) -> None:
        """End all its processes."""


class Paxon:
    """A local cluster and its own client; see `System`."""

    def __init__(
        self, servers: int, durability: Durability, options: dict[str, Any] | None = None
    ) -> None:
        """Start all. Raises `PaxonError`."""
        self.name = "Paxon" if durability == "disk" else "Paxon in memory"
        with ExitStack() as stack:
            self._processes = stack.enter_context(LoadProcesses())
            self._cluster = stack.enter_context(
                LocalCluster(servers, durability=durability, log_level="WARNING", **(options or {}))
            )
            self._cluster.leader()
            self._watch = stack.enter_context(ClusterWatch(self._cluster))
            self._stack = stack.pop_all()

    def measure(self, load: Workload, *, seconds: float, warmup: float, seed: int) -> Measurement:
        """See `System`."""
        jobs = jobs_for(load, self._cluster.addresses, warmup=warmup, seed=seed)
        return measure(self._watch, self._processes.take(load.clients), jobs, seconds)

    def cpu(self) -> float:
        """See `System`."""
        return sum(self._watch.counts().cpu.values())

    def close(self) -> None:
        """See `System`."""
        self._stack.close()
