"""Paxon behind its own etcd gateway, called by the client that calls etcd (docs/etcd.md)."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from paxon.bench.coordination.etcd import open_etcd
from paxon.bench.harness.child import Child
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.load import Loop
from paxon.bench.harness.load_process import CLIENT, Job
from paxon.bench.harness.measure import Measurement, ServerCounts, counts_of, jobs_for, measure
from paxon.bench.harness.workloads import Workload
from paxon.bench.peers import etcd_load as api
from paxon.bench.peers.etcd_load import call, open_etcd_load
from paxon.bench.peers.programs import Program, Programs
from paxon.kvstore.client.addresses import free_ports
from paxon.kvstore.cluster.local_cluster import LocalCluster
from paxon.kvstore.etcd.messages import message

__all__ = ["Gateway", "open_etcds_calls"]

_START_SECONDS = 30.0
_CALL_SECONDS = 5.0


def open_etcds_calls(job: Job) -> tuple[Loop, Callable[[], None]]:
    """Calls from a connection each, and watches in one stream; see `OpenLoad`."""
    return open_etcd(job) if job.workload.kind == "watch" else open_etcd_load("each", job)


class Gateway:
    """A local cluster, the process of its gateway, and a client process; see `System`."""

    name = "Paxon's gateway"

    def __init__(self, programs: Programs, servers: int, options: dict[str, Any]) -> None:
        """Start all. Raises `PaxonError`."""
        with ExitStack() as stack:
            self._process = Child(CLIENT)
            stack.callback(self._process.close)
            self._cluster = cluster = stack.enter_context(
                LocalCluster(servers, log_level="WARNING", **options)
            )
            cluster.leader()
            [port] = free_ports(1)
            self._address = f"127.0.0.1:{port}"
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="paxon-gateway-"))
            self._gateway = Program(
                [
                    sys.executable, "-m", "paxon.kvstore.cli", "etcd", "--cluster",
                    ",".join(cluster.addresses), "--listen", self._address,
                ],
                programs=programs, log=Path(place) / "log",
            )  # fmt: skip
            stack.callback(self._gateway.kill)
            self._gateway.wait_until(self._serves, _START_SECONDS)
            self.close = stack.pop_all().close

    def _serves(self) -> bool:
        try:
            call(self._address, api.STATUS, message("StatusRequest")(), _CALL_SECONDS)
        except BenchError:
            return False
        return True

    def counts(self) -> ServerCounts:
        """Of the servers and the gateway."""
        counts = counts_of(self._cluster)
        return ServerCounts(counts.replies, {**counts.cpu, 0: self._gateway.cpu()})

    def measure(self, load: Workload, *, seconds: float, warmup: float, seed: int) -> Measurement:
        jobs = jobs_for(load, [self._address], warmup=warmup, seed=seed, open_load=open_etcds_calls)
        return measure(self.counts, [self._process], jobs, seconds)
