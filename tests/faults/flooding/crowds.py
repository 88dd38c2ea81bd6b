"""More connections than a server may have descriptors: it serves on, and does not spin."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import zmq

from paxon.actors import ServerId
from paxon.kvstore import Client
from paxon.kvstore.cluster.status import ServerStatus, agreed_leader, look_around
from tests.cluster.helpers import PAXON, environment, wait_until, write_cluster_file
from tests.faults.networks.network import MAIN
from tests.faults.pauses import WholeNetwork
from tests.faults.trial import Outcome, Trial

__all__ = ["CROWDS", "LimitedCluster", "crowds", "crowd_of_strangers", "crowd_of_clients"]

WATCHED_SECONDS = 2.0


class LimitedCluster:
    """Three servers, each a `paxon server` that may open `limit` descriptors and no more."""

    network = WholeNetwork()

    def __init__(self, directory: Path, limit: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        file = write_cluster_file(directory / "cluster.toml", extra="snapshot_slots = 50")
        self._file = file
        self._limit = limit
        described = tomllib.loads(file.read_text())["server"]
        self.ports: list[int] = [server["client_port"] for server in described]
        self.servers: list[ServerId] = [1, 2, 3]
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        for server in self.servers:
            limited = ["sh", "-c", f'ulimit -n {self._limit}; exec "$@"', "sh"]
            command = [
                *limited,
                *PAXON,
                "server",
                "--cluster",
                str(self._file),
                "--id",
                str(server),
            ]
            with (self._directory / f"server-{server}.out").open("ab") as output:
                self.processes.append(
                    subprocess.Popen(
                        command, stdout=output, stderr=output, env=environment(),
                        cwd=self._directory,
                    )
                )  # fmt: skip
        return self

    def __exit__(self, *_exception: object) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()

    @property
    def addresses(self) -> list[str]:
        return [f"tcp://127.0.0.1:{port}" for port in self.ports]

    def log(self, server: ServerId) -> str:
        return (self._directory / f"server-{server}" / "server.log").read_text()

    def status(self, timeout: float = 5.0) -> list[ServerStatus]:
        return look_around(dict(zip(self.servers, self.addresses, strict=True)), timeout)

    def leader(self, timeout: float = 30.0) -> ServerId:
        end = time.monotonic() + timeout
        while True:
            leader = agreed_leader({r.server: r.reply for r in self.status(1.0) if r.reply})
            if leader is not None:
                return leader
            assert time.monotonic() < end, f"no server leads after {timeout:g} s"

    def client(self, group: str = MAIN, **options: object) -> Client:
        assert group == MAIN
        return Client(self.addresses, **options)  # type: ignore[arg-type]  # of `Client`

    def busy_share(self) -> float:
        """The largest part of a core that one of the servers takes over the next seconds."""
        before = [_ticks(process.pid) for process in self.processes]
        begun = time.monotonic()
        time.sleep(WATCHED_SECONDS)
        seconds = time.monotonic() - begun
        ticks = [_ticks(p.pid) - b for p, b in zip(self.processes, before, strict=True)]
        return max(ticks) / os.sysconf("SC_CLK_TCK") / seconds

    def all_alive(self) -> bool:
        return all(process.poll() is None for process in self.processes)


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@contextmanager
def crowd_of_strangers(ports: list[int], size: int) -> Iterator[None]:
    """So many connections to each port on which nothing is ever said."""
    with _many_descriptors():
        sockets = []
        for port in ports:
            for _ in range(size):
                stranger = socket.socket()
                stranger.setblocking(False)
                stranger.connect_ex(("127.0.0.1", port))
                sockets.append(stranger)
        try:
            yield
        finally:
            for stranger in sockets:
                stranger.close()


@contextmanager
def crowd_of_clients(ports: list[int], size: int) -> Iterator[None]:
    """So many clients of each port that connect properly, and again if refused, and are idle."""
    with _many_descriptors():
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        crowd = context.socket(zmq.ROUTER)  # it alone may connect to one address many times
        crowd.setsockopt(zmq.LINGER, 0)
        crowd.setsockopt(zmq.CONNECT_TIMEOUT, 500)
        try:
            for port in ports:
                for _ in range(size):
                    crowd.connect(f"tcp://127.0.0.1:{port}")
            yield
        finally:
            context.destroy(linger=0)


@contextmanager
def _many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


CROWDS: dict[str, tuple[int, int, bool]] = {
    "64 descriptors": (64, 300, False),
    "64 descriptors, clients": (64, 300, True),
    "1,024 descriptors": (1024, 1000, False),
    "1,024 descriptors, clients": (1024, 1000, True),
}
"""Descriptors that a server has, connections to each, and whether they are clients' that idle."""


def crowds(name: str, directory: Path, long: bool) -> Outcome:
    """Load, then a crowd beside it, then load again: nobody dies, nobody spins."""
    limit, size, clients = CROWDS[name]
    crowd = crowd_of_clients if clients else crowd_of_strangers
    with (
        LimitedCluster(directory / name.replace(" ", "-"), limit) as cluster,
        Trial("crowd", cluster, directory, long=long, pause=0.05) as trial,
    ):
        trial.load.wait_for_more(100, seconds=60)
        calm = cluster.busy_share()
        with crowd(cluster.ports, size):
            trial.fault(size)
            wait_until(lambda: "Refused a connection" in cluster.log(1), "the crowd is felt", 60)
            for _ in range(trial.sized(1, 10)):
                share = cluster.busy_share()
                # The load is the same; whoever spins takes all of a core that others leave.
                assert share < 2 * calm + 0.05, f"{share:.0%} of a core, and {calm:.0%} before"
            trial.load.wait_for_more(200, seconds=60)
        trial.load.wait_for_more(100, seconds=60)
        assert cluster.all_alive()
        return trial.verify()
