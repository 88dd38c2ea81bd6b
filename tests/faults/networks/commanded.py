"""Three servers that are run by the command `paxon server`, in whatever surroundings."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Self

from paxon.actors import ServerId
from paxon.kvstore import Client
from paxon.kvstore.cluster.status import ServerStatus, agreed_leader, look_around
from tests.cluster.helpers import PAXON, environment, wait_until
from tests.faults.networks.network import MAIN

__all__ = ["Commanded", "Process"]

Process = subprocess.Popen[bytes]


class Commanded:
    """As a `Trial` wants a cluster, but for its network."""

    reader = Client
    """What clients are made of."""

    def __init__(self, directory: Path, name: str = "commanded") -> None:
        self.servers: list[ServerId] = [1, 2, 3]
        self._name = name
        self._directory = directory
        self._processes: dict[ServerId, Process] = {}

    def entry(self, server: ServerId) -> str:
        """What the cluster file says of a server, whenever one is started."""
        raise NotImplementedError

    def run(self, server: ServerId, command: Sequence[str], output: IO[bytes]) -> Process:
        """Start a server by its command."""
        return subprocess.Popen(
            command, stdout=output, stderr=output, env=environment(), cwd=self._directory
        )

    def reached(self, server: ServerId) -> str:
        """Where clients reach it."""
        raise NotImplementedError

    def watched(self, server: ServerId) -> str:
        """Where the watcher reaches it."""
        return self.reached(server)

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            for server in self.servers:
                self._start(server)
            self._wait_until_served(self.servers)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all servers."""
        for server in self._processes:
            self.kill(server)

    def kill(self, server: ServerId) -> None:
        """SIGKILL; returns when it is gone."""
        self.signal(server, signal.SIGKILL)
        self._processes[server].wait()

    def signal(self, server: ServerId, number: int) -> None:
        """Send a signal to a server, if it still runs."""
        if self._processes[server].poll() is None:
            os.kill(self.pid(server), number)

    def pid(self, server: ServerId) -> int:
        """The server's process."""
        return self._processes[server].pid

    def restart(self, server: ServerId) -> None:
        """Start a killed server again, and wait until it serves."""
        self._start(server)
        self._wait_until_served([server])

    def _start(self, server: ServerId) -> None:
        lines = ["[cluster]", f'id = "{self._name}"']
        for each in self.servers:
            lines += ["[[server]]", f"id = {each}", self.entry(each)]
        file = self._directory / "cluster.toml"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [*PAXON, "server", "--cluster", str(file), "--id", str(server)]
        with (self._directory / f"server-{server}.out").open("ab") as output:
            self._processes[server] = self.run(server, command, output)

    def _wait_until_served(self, servers: Iterable[ServerId]) -> None:
        wanted = set(servers)

        def served() -> bool:
            return wanted <= {row.server for row in self.status() if row.reply is not None}

        wait_until(served, f"servers {sorted(wanted)} serve")

    def status(self, timeout: float = 1.0) -> list[ServerStatus]:
        """A row for every server that runs."""
        running = [s for s, process in self._processes.items() if process.poll() is None]
        return look_around({server: self.watched(server) for server in running}, timeout)

    def leader(self, timeout: float = 10.0) -> ServerId:
        """The server that leads, once there is one."""
        end = time.monotonic() + timeout
        while True:
            leader = agreed_leader({r.server: r.reply for r in self.status(0.5) if r.reply})
            if leader is not None:
                return leader
            assert time.monotonic() < end, f"no server leads after {timeout:g} s"

    def client(self, group: str = MAIN, **options: Any) -> Client:
        """A client that knows where all are reached."""
        assert group == MAIN
        return self.reader([self.reached(server) for server in self.servers], **options)
