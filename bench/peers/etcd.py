"""etcd: three members on loopback with default settings, and a client that knows the leader."""

from __future__ import annotations

import functools
import shutil
import tempfile
import time
from pathlib import Path

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.load_process import LoadProcess
from paxon.bench.harness.measure import Measurement, ServerCounts, jobs_for, measure
from paxon.bench.harness.workloads import Workload
from paxon.bench.peers.etcd_load import Connections, call, open_etcd_load
from paxon.bench.peers.programs import Program, Programs
from paxon.bench.peers.protobuf import (
    RANGE,
    STATUS,
    Status,
    range_request,
    read_header_revision,
    read_status,
)
from paxon.kvstore.addresses import free_ports

__all__ = ["Etcd", "EtcdCluster"]

_HOST = "127.0.0.1"
_START_SECONDS = 30.0
_CALL_SECONDS = 5.0
_LOOKING_SECONDS = 0.02
_QUOTA_BYTES = 8 << 30
"""So that a long run does not end at the default of 2 GiB."""


class EtcdCluster:
    """Members in a temporary directory. Use `close`."""

    def __init__(self, programs: Programs, members: int) -> None:
        """Start them and wait until one leads. Raises `BenchError`."""
        path = programs.find("etcd")
        if path is None:
            raise BenchError("etcd is not installed")
        self._path = path
        self._programs = programs
        ports = free_ports(2 * members)
        self.addresses = [f"{_HOST}:{port}" for port in ports[:members]]
        self._peers = [f"http://{_HOST}:{port}" for port in ports[members:]]
        self._directory = Path(tempfile.mkdtemp(prefix="paxon-etcd-"))
        self._members: list[Program] = []
        try:
            for number in range(members):
                self._members.append(self._start(number))
            self.leader()
        except BaseException:
            self.close()
            raise

    def _start(self, number: int) -> Program:
        client = f"http://{self.addresses[number]}"
        cluster = ",".join(f"m{n}={peer}" for n, peer in enumerate(self._peers))
        return Program(
            [
                self._path, "--name", f"m{number}",
                "--data-dir", self._directory / f"m{number}",
                "--listen-client-urls", client, "--advertise-client-urls", client,
                "--listen-peer-urls", self._peers[number],
                "--initial-advertise-peer-urls", self._peers[number],
                "--initial-cluster", cluster, "--initial-cluster-token", self._directory.name,
                "--quota-backend-bytes", str(_QUOTA_BYTES),
                "--logger", "zap", "--log-level", "error",
            ],
            programs=self._programs,
            log=self._directory / f"m{number}.log",
        )  # fmt: skip

    def status(self, number: int) -> Status | None:
        """What a member says; None if it does not answer."""
        try:
            return read_status(call(self.addresses[number], STATUS, b"", _CALL_SECONDS))
        except BenchError:
            return None

    def leader(self, seconds: float = _START_SECONDS) -> int:
        """The member, from 0, that says it leads. Raises `BenchError` if none does in time."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            for number, member in enumerate(self._members):
                status = self.status(number) if member.alive() else None
                if status is not None and status.leader == status.member:
                    return number
            time.sleep(_LOOKING_SECONDS)
        dead = [member.obituary() for member in self._members if not member.alive()]
        raise BenchError(f"no member of etcd leads after {seconds:g} s {' '.join(dead)}".strip())

    def revision(self, number: int) -> int:
        """The store's revision, by a linearizable read. Raises `BenchError`."""
        answer = call(self.addresses[number], RANGE, range_request(b"revision"), _CALL_SECONDS)
        return read_header_revision(answer)

    def kill(self, number: int) -> None:
        """kill -9."""
        self._members[number].kill()

    def restart(self, number: int) -> None:
        """Start a killed member again and wait until it has caught up. Raises `BenchError`."""
        self._members[number] = self._start(number)
        # A linearizable read through a member waits until it has applied what was committed.
        self._members[number].wait_until(lambda: self._reads(number), _START_SECONDS)

    def _reads(self, number: int) -> bool:
        try:
            self.revision(number)
        except BenchError:
            return False
        return True

    def counts(self) -> ServerCounts:
        """CPU of all members; see `Watch`."""
        return ServerCounts({}, {n: member.cpu() for n, member in enumerate(self._members)})

    def close(self) -> None:
        """End all members and remove their data."""
        for member in self._members:
            member.kill()
        shutil.rmtree(self._directory, ignore_errors=True)


class Etcd:
    """A cluster and a client process; see `System`."""

    def __init__(self, programs: Programs, servers: int, connections: Connections) -> None:
        """Start all. Raises `BenchError`."""
        self.name = f"etcd, {'one connection' if connections == 'one' else 'a connection each'}"
        self._cluster = EtcdCluster(programs, servers)
        self._process = LoadProcess(functools.partial(open_etcd_load, connections))

    def measure(self, load: Workload, *, seconds: float, warmup: float, seed: int) -> Measurement:
        """See `System`. Raises `BenchError` also if etcd has not done what its client counted."""
        leader = self._cluster.leader()
        before = self._cluster.revision(leader)
        jobs = jobs_for(load, [self._cluster.addresses[leader]], warmup=warmup, seed=seed)
        measured = measure(self._cluster, [self._process], jobs, seconds)
        done = self._cluster.revision(leader) - before
        if load.kind == "put" and done < measured.operations:
            raise BenchError(f"etcd did {done} writes, its client counted {measured.operations}")
        return measured

    def cpu(self) -> float:
        """See `System`."""
        return sum(self._cluster.counts().cpu.values())

    def close(self) -> None:
        """See `System`."""
        self._process.close()
        self._cluster.close()
