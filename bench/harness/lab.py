"""Clusters that are set up in a moment: server processes that serve one cluster after the other.

A comparison measures many variants, each on a fresh cluster. Starting Python for every server of
each would take longer than measuring, so the processes are started once and kept: a host process
runs one server, `paxon.kvstore.start_server`'s as in any application, until it is told to stop, and
then the next. What is measured is the same as on a `LocalCluster`.
"""

from __future__ import annotations

import gc
import itertools
import secrets
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import pykka
from loguru import logger

from paxon.actors import PaxosServer, ServerId, Settings, SettingsError
from paxon.actors.environment import Network
from paxon.bench.harness.child import Child, Children
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.lab_network import Event, LabNetwork, Recorder
from paxon.bench.harness.repeater import wait_until
from paxon.kvstore.client.addresses import free_ports, hold_ports
from paxon.kvstore.cluster.local_cluster import Transport
from paxon.kvstore.cluster.node import ServerSockets, ServerStartError, start_server
from paxon.kvstore.cluster.options import Durability
from paxon.kvstore.cluster.server_process import settle_garbage_collector
from paxon.kvstore.cluster.status import ServerStatus, agreed_leader, ask_status
from paxon.kvstore.store.store import KVStore

__all__ = ["SERVER", "LabCluster"]

SERVER = "a server process"
"""What hosts are called: `Children(SERVER)`."""
_LEADER_SECONDS = 20.0


class Start(NamedTuple):
    """A server to run."""

    settings: Settings
    peers: dict[ServerId, str]
    client: str
    directory: str
    """"" for a server that keeps nothing."""
    delay: float
    """Seconds that its messages to other servers take."""
    trace: bool


class LabCluster:
    """A cluster on host processes, one at a time; use it in a `with` statement."""

    def __init__(
        self, hosts: Children, servers: int, *, durability: Durability = "disk",
        transport: Transport = "tcp", round_trip: float = 0.0, trace: bool = False,
        directory: Path | None = None, **options: Any,
    ) -> None:  # fmt: skip
        """Describe the cluster; see `start`.

        Args:
            hosts: the processes to run on.
            servers: how many, with the ids 1, 2, …
            durability, transport: as of `LocalCluster`.
            round_trip: seconds that a message between servers and its answer take on top of what
                they take on this machine.
            trace: have the servers note what they send; `stop` returns it.
            directory: keep data here, and find it here again; by default a temporary one.
            **options: fields of `Settings`, for all servers.
        """
        self._hosts = hosts
        self.servers: list[ServerId] = list(range(1, servers + 1))
        self._durability, self._transport = durability, transport
        self._delay, self._trace = round_trip / 2, trace
        self._kept = directory
        self._options = options
        self._scratch = ExitStack()
        self._starts: dict[ServerId, Start] = {}
        self._running: dict[ServerId, Child] = {}

    def start(self) -> Self:
        """Start all servers and wait until each serves. Raises `BenchError` if one cannot."""
        try:
            self._starts = self._plans()
            for server in self.servers:
                self._begin(server)
            self._gather()
        except BenchError:
            self.stop()
            raise
        return self

    def _plans(self) -> dict[ServerId, Start]:
        scratch = Path(tempfile.mkdtemp(prefix="paxon-lab-"))
        self._scratch.callback(shutil.rmtree, scratch, ignore_errors=True)
        ports = free_ports(2 * len(self.servers))
        for held in hold_ports(ports):
            self._scratch.enter_context(held)
        clients = {s: f"tcp://127.0.0.1:{ports[2 * s - 2]}" for s in self.servers}
        peers = {s: f"tcp://127.0.0.1:{ports[2 * s - 1]}" for s in self.servers}
        if self._transport == "ipc":
            peers = {s: f"ipc://{scratch}/{s}" for s in self.servers}
        cluster = "lab" if self._kept is not None else f"lab-{secrets.token_hex(4)}"
        try:
            all_settings = [
                Settings(
                    cluster=cluster, server=server, servers=tuple(self.servers),
                    client_addresses=clients, **self._options,
                )
                for server in self.servers
            ]  # fmt: skip
        except SettingsError as error:
            raise BenchError(str(error)) from None
        data, on_disk = self._kept or scratch, self._durability == "disk"
        return {
            s.server: Start(
                s, peers, clients[s.server], str(data / f"server-{s.server}") if on_disk else "",
                self._delay, self._trace,
            )
            for s in all_settings
        }  # fmt: skip

    def stop(self) -> list[Event]:
        """Stop all servers, remove a temporary directory; what they sent, in order of time."""
        try:
            for host in self._running.values():
                host.tell(stop_server)
            noted = self._gather()
        finally:
            self._running = {}
            self._scratch.close()
        return sorted(itertools.chain(*noted), key=lambda event: event.seconds)

    def stop_server(self, server: ServerId) -> None:
        """Stop one server in order."""
        host = self._running.pop(server)
        host.tell(stop_server)
        host.answer()

    def start_server(self, server: ServerId) -> float:
        """Start a stopped server again; seconds until it serves, replay included."""
        return float(self._begin(server).answer())

    def _begin(self, server: ServerId) -> Child:
        host = self._running[server] = self._hosts.take(len(self.servers))[server - 1]
        host.tell(run_server, self._starts[server])
        return host

    def _gather(self) -> list[Any]:
        """Take the answers of all, and only then raise what one of them says."""
        answers: list[Any] = []
        failure: BenchError | None = None
        for host in self._running.values():
            try:
                answers.append(host.answer())
            except BenchError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return answers

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def addresses(self) -> list[str]:
        """Where clients reach the servers, in the order of their ids."""
        return [self._starts[server].client for server in self.servers]

    @property
    def pids(self) -> dict[ServerId, int]:
        """The processes of the servers that run."""
        return {server: host.pid for server, host in self._running.items()}

    def status(self, timeout: float = 1.0, *, state: bool = False) -> list[ServerStatus]:
        """A row for each server that runs; see `LocalCluster.status`."""
        clients = {server: self._starts[server].client for server in self._running}
        replies = ask_status(clients, timeout, state=state)
        return [
            ServerStatus(server=s, address=clients[s], pid=pid, reply=replies.get(s))
            for s, pid in self.pids.items()
        ]

    def leader(self) -> ServerId:
        """The server that leads, waiting for one. Raises `BenchError` if none does in time."""

        def leads() -> ServerId | None:
            return agreed_leader({r.server: r.reply for r in self.status(0.3) if r.reply})

        return wait_until(leads, "no server leads", _LEADER_SECONDS)


# --- inside a host -------------------------------------------------------------------------------


class _Here:
    """The server of this process."""

    server: pykka.ActorRef[PaxosServer] | None = None
    recorder: Recorder | None = None
    settled = False
    """Whether it collects its garbage as a server does."""


def run_server(start: Start) -> float:
    """Start a server as applications do, with a delay or a recorder if there is to be one.

    Returns how many seconds it took. Raises `BenchError`.
    """
    begin = time.monotonic()
    if not _Here.settled:
        _Here.settled = True
        logger.remove()
        settle_garbage_collector()
    recorder = _Here.recorder = Recorder(start.settings.server) if start.trace else None

    def around(sockets: ServerSockets) -> Network:
        if start.delay == 0 and recorder is None:
            return sockets
        return LabNetwork(sockets, delay=start.delay, recorder=recorder)

    try:
        _Here.server = start_server(
            start.settings, KVStore(), peers=start.peers, client_bind=start.client,
            directory=start.directory or None, durability="disk" if start.directory else "memory",
            around_network=around,
        )  # fmt: skip
    except ServerStartError as error:
        raise BenchError(f"server {start.settings.server} did not start: {error}") from None
    return time.monotonic() - begin


def stop_server() -> list[Event]:
    """Stop the server that runs here, if one does; what it sent, if that was noted."""
    if _Here.server is not None:
        _Here.server.stop()
        _Here.server = None
        gc.collect()  # what the next server has to live with is not this one's garbage
    return _Here.recorder.events if _Here.recorder is not None else []
