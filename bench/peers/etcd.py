"""etcd: three members on loopback with default settings, and a client that knows the leader.

Beside it `Gateway`: Paxon behind its own etcd gateway, called by the same client (docs/etcd.md).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from paxon.actors import ServerId
from paxon.bench.coordination.etcd import open_etcd
from paxon.bench.harness.child import Child
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.load import CLIENT, Job, Loop, OpenLoad
from paxon.bench.harness.measure import Measurement, ServerCounts, counts_of, jobs_for, measure
from paxon.bench.harness.repeater import wait_until
from paxon.bench.harness.report import Progress
from paxon.bench.harness.workloads import Workload
from paxon.bench.peers import etcd_load as api
from paxon.bench.peers.etcd_load import GrpcSocket, call, open_etcd_load, put_payload
from paxon.bench.peers.programs import Program, Programs
from paxon.bench.stable.failover import FailoverSettings, kill_leaders
from paxon.kvstore.client.addresses import free_ports
from paxon.kvstore.cluster.local_cluster import LocalCluster

__all__ = ["Etcd", "Gateway", "PersistentWriter", "etcd_kills", "open_etcds_calls"]

_HOST = "127.0.0.1"
_START_SECONDS = 30.0
_ATTEMPT_SECONDS = 0.05
"""After so long a client tries another member. etcd itself would keep a request for seconds that a
member has passed on to a leader that is gone."""
_PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.002
"""Between two attempts, so that the client does not eat the election's CPU."""
_QUOTA_BYTES = 8 << 30
"""So that a long run does not end at the default of 2 GiB."""


def _asked(address: str, method: str = api.STATUS, **fields: Any) -> Any:
    """A server's answer; None if it does not answer, or refuses."""
    try:
        return call(address, method, **fields)
    except BenchError:
        return None


class EtcdCluster:
    """Members in a temporary directory, with ids from 1. Use `close`."""

    def __init__(self, programs: Programs, members: int) -> None:
        """Start them and wait until one leads. Raises `BenchError`."""
        path = programs.find("etcd")
        if path is None:
            raise BenchError("etcd is not installed")
        self._path, self._programs = path, programs
        ports = free_ports(2 * members)
        self.addresses = [f"{_HOST}:{port}" for port in ports[:members]]
        self._peers = [f"http://{_HOST}:{port}" for port in ports[members:]]
        self._members: list[Program] = []
        with ExitStack() as stack:
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="paxon-etcd-"))
            self._directory = Path(place)
            for number in range(1, members + 1):
                self._members.append(self._start(number))
                stack.callback(self.kill, number)
            self.leader()
            self.close = stack.pop_all().close

    def _start(self, number: int) -> Program:
        client, peer = f"http://{self.addresses[number - 1]}", self._peers[number - 1]
        cluster = ",".join(f"m{n}={peer}" for n, peer in enumerate(self._peers, 1))
        command: list[str | Path] = [
            self._path, "--name", f"m{number}", "--data-dir", self._directory / f"m{number}",
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", cluster, "--initial-cluster-token", self._directory.name,
            "--quota-backend-bytes", str(_QUOTA_BYTES), "--logger", "zap", "--log-level", "error",
        ]  # fmt: skip
        return Program(command, programs=self._programs, log=self._directory / f"m{number}.log")

    def _leads(self, number: int) -> bool:
        """Whether a member says that it leads."""
        status = _asked(self.addresses[number - 1])
        return bool(status and status.leader and status.leader == status.header.member_id)

    def leader(self) -> ServerId:
        """The member that says it leads. Raises `BenchError` if none does in time."""

        def leads() -> ServerId | None:
            alive = (n for n, member in enumerate(self._members, 1) if member.alive())
            return next(filter(self._leads, alive), None)

        try:
            return wait_until(leads, "no member of etcd leads", _START_SECONDS)
        except BenchError as error:
            dead = [member.obituary() for member in self._members if not member.alive()]
            raise BenchError(" ".join([str(error), *dead])) from None

    def revision(self, number: int) -> int:
        """The store's revision, by a linearizable read. Raises `BenchError`."""
        return int(call(self.addresses[number - 1], api.RANGE, key=b"revision").header.revision)

    def kill(self, server: ServerId) -> None:
        self._members[server - 1].kill()

    def bring_back(self, server: ServerId) -> None:
        # A linearizable read through a member waits until it has applied what was committed.
        member = self._members[server - 1] = self._start(server)
        address = self.addresses[server - 1]
        member.wait_until(
            lambda: _asked(address, api.RANGE, key=b"revision") is not None, _START_SECONDS
        )

    def counts(self) -> ServerCounts:
        """CPU of all members; see `Watch`."""
        return ServerCounts({}, {n: member.cpu() for n, member in enumerate(self._members)})


class Etcd:
    """A cluster and a client process; see `System`."""

    def __init__(
        self, programs: Programs, servers: int, open_load: OpenLoad, way: str = ""
    ) -> None:
        """Start all; the name says which `way` its clients go. Raises `BenchError`."""
        self.name, self._open = f"etcd{way}", open_load
        self._cluster = EtcdCluster(programs, servers)
        self._process = Child(CLIENT)
        self.counts = self._cluster.counts

    def measure(self, load: Workload, *, seconds: float, warmup: float, seed: int) -> Measurement:
        """See `System`. Raises `BenchError` also if etcd has not done what its client counted."""
        leader = self._cluster.leader()
        before = self._cluster.revision(leader)
        addresses = [self._cluster.addresses[leader - 1]]
        jobs = jobs_for(load, addresses, warmup=warmup, seed=seed, open_load=self._open)
        measured = measure(self.counts, [self._process], jobs, seconds)
        done = self._cluster.revision(leader) - before
        if load.kind == "put" and done < measured.operations:
            raise BenchError(f"etcd did {done} writes, its client counted {measured.operations}")
        return measured

    def close(self) -> None:
        self._process.close()
        self._cluster.close()


def etcd_kills(programs: Programs, settings: FailoverSettings, progress: Progress) -> list[float]:
    """Kill the leader as often as said, each time with all members up. Raises `BenchError`."""
    chance = random.Random(settings.seed)
    payload = put_payload("failover", chance.randbytes(settings.value_bytes))
    with (
        closing(EtcdCluster(programs, settings.servers)) as cluster,
        closing(PersistentWriter(cluster.addresses)) as client,
    ):
        write = functools.partial(client.put, payload)
        return kill_leaders(
            cluster.leader, cluster.kill, cluster.bring_back, write, kills=settings.runs,
            chance=chance, progress=progress,
        )  # fmt: skip


class PersistentWriter:
    """Writes one value at a time, to the next member whenever one fails or takes long."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """The first of them is asked first."""
        self._addresses = itertools.cycle(addresses)
        self._link: GrpcSocket | None = None

    def put(self, payload: bytes) -> None:
        """Over and over if need be. Raises `BenchError` after a long time without any success."""
        give_up = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < give_up:
            # Failures are expected while there is no leader: the next member may know better.
            with contextlib.suppress(BenchError, TimeoutError):
                self._link = self._link or GrpcSocket(next(self._addresses), api.PUT)
                if self._link.ask(payload, _ATTEMPT_SECONDS) is not None:
                    return
            self.close()
            time.sleep(_PAUSE_SECONDS)
        raise BenchError(f"etcd has acknowledged nothing for {_PATIENCE_SECONDS:g} s")

    def close(self) -> None:
        """Give up the connection at hand; may be called twice."""
        if self._link is not None:
            self._link.close()
            self._link = None


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
            self._address = f"{_HOST}:{free_ports(1)[0]}"
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="paxon-gateway-"))
            command = [
                sys.executable, "-m", "paxon.kvstore.cli", "etcd", "--cluster",
                ",".join(cluster.addresses), "--listen", self._address,
            ]  # fmt: skip
            self._gateway = Program(command, programs=programs, log=Path(place) / "log")
            stack.callback(self._gateway.kill)
            self._gateway.wait_until(lambda: _asked(self._address) is not None, _START_SECONDS)
            self.close = stack.pop_all().close

    def counts(self) -> ServerCounts:
        """Of the servers and the gateway."""
        counts = counts_of(self._cluster)
        return ServerCounts(counts.replies, {**counts.cpu, 0: self._gateway.cpu()})

    def measure(self, load: Workload, *, seconds: float, warmup: float, seed: int) -> Measurement:
        jobs = jobs_for(load, [self._address], warmup=warmup, seed=seed, open_load=open_etcds_calls)
        return measure(self.counts, [self._process], jobs, seconds)
