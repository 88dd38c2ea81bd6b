"""Clusters that are set up in a moment: server processes that serve one cluster after the other.

A comparison measures many variants, each on a fresh cluster. Starting Python for every server of
each would take longer than measuring, so the processes are started once and kept: a host process
runs one server, `paxon.kvstore.start_server`'s as in any application, until it is told to stop, and
then the next. What is measured is the same as on a `LocalCluster`.
"""

from __future__ import annotations

import gc
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import msgspec
import pykka
from loguru import logger

from paxon.actors import PaxosServer, ServerId, Settings, SettingsError
from paxon.actors.environment import Network
from paxon.bench.harness.child import Child, Children, Failed, hear, say
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.lab_network import Event, LabNetwork, Recorder
from paxon.kvstore.client.addresses import free_ports
from paxon.kvstore.cluster.local_cluster import Transport
from paxon.kvstore.cluster.node import ServerSockets, ServerStartError, start_server
from paxon.kvstore.cluster.options import Durability
from paxon.kvstore.cluster.status import StatusProbe, agreed_leader
from paxon.kvstore.store.store import KVStore

__all__ = ["ServerHosts", "LabCluster"]

_LEADER_SECONDS = 20.0
_PORT_ATTEMPTS = 4


class Start(msgspec.Struct, frozen=True, tag=True):
    """Run this server."""

    settings: Settings
    peers: dict[ServerId, str]
    client: str
    directory: str
    """"" for a server that keeps nothing."""
    delay: float
    """Seconds that its messages to other servers take."""
    trace: bool


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Stop the server that runs here."""


class Done(msgspec.Struct, frozen=True, tag=True):
    """The server serves, or has stopped."""

    events: list[Event] = []
    """What it sent, if it was to be traced."""
    seconds: float = 0.0
    """From being told to having done it."""


_requests: msgspec.msgpack.Decoder[Start | Stop] = msgspec.msgpack.Decoder(Start | Stop)


class ServerHosts(Children[Child]):
    """As many server processes as the largest cluster needs."""

    def __init__(self) -> None:
        super().__init__(lambda: Child("a server process", _serve))


class LabCluster:
    """A cluster on host processes, one at a time; use it in a `with` statement."""

    def __init__(
        self,
        hosts: ServerHosts,
        servers: int,
        *,
        durability: Durability = "disk",
        transport: Transport = "tcp",
        round_trip: float = 0.0,
        trace: bool = False,
        directory: Path | None = None,
        **options: Any,
    ) -> None:
        """Describe the cluster; see `start`.

        Args:
            hosts: the processes to run on.
            servers: how many, with the ids 1, 2, …
            durability: "disk" or "memory".
            transport: what servers talk to each other over.
            round_trip: seconds that a message between servers and its answer take on top of what
                they take on this machine.
            trace: have the servers note what they send; `stop` returns it.
            directory: keep data here, and find it here again; by default a temporary one.
            **options: fields of `Settings`, for all servers.
        """
        self._hosts = hosts
        self.servers: list[ServerId] = list(range(1, servers + 1))
        self._durability: Durability = durability
        self._transport: Transport = transport
        self._delay = round_trip / 2
        self._trace = trace
        self._kept = directory
        self._options = options
        self._scratch: Path | None = None
        self._starts: dict[ServerId, Start] = {}
        self._running: dict[ServerId, Child] = {}

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start all servers and wait until each serves. Raises `BenchError` if one cannot."""
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            try:
                self._start_once()
                return self
            except BenchError as error:
                self.stop()
                if attempt == _PORT_ATTEMPTS or "in use" not in str(error):
                    raise
        raise AssertionError("unreachable: the loop returns or raises")

    def _start_once(self) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix="paxon-lab-"))
        self._starts = self._plans(self._scratch)
        hosts = self._hosts.take(len(self.servers))
        for server, host in zip(self.servers, hosts, strict=True):
            host.tell(self._starts[server])
            self._running[server] = host
        self._gather(list(self.servers))

    def _plans(self, scratch: Path) -> dict[ServerId, Start]:
        ports = free_ports(2 * len(self.servers))
        clients = {s: f"tcp://127.0.0.1:{ports[2 * s - 2]}" for s in self.servers}
        peers = {
            s: f"ipc://{scratch}/{s}"
            if self._transport == "ipc"
            else f"tcp://127.0.0.1:{ports[2 * s - 1]}"
            for s in self.servers
        }
        data = self._kept if self._kept is not None else scratch
        cluster = "lab" if self._kept is not None else f"lab-{secrets.token_hex(4)}"
        plans = {}
        for server in self.servers:
            try:
                settings = Settings(
                    cluster=cluster, server=server, servers=tuple(self.servers),
                    client_addresses=clients, **self._options,
                )  # fmt: skip
            except SettingsError as error:
                raise BenchError(str(error)) from None
            directory = str(data / f"server-{server}") if self._durability == "disk" else ""
            plans[server] = Start(
                settings, peers, clients[server], directory, self._delay, self._trace
            )
        return plans

    def stop(self) -> list[Event]:
        """Stop all servers, remove a temporary directory; what they sent, in order of time."""
        running = list(self._running)
        try:
            for host in self._running.values():
                host.tell(Stop())
            done = self._gather(running)
        finally:
            self._running = {}
            if self._scratch is not None:
                shutil.rmtree(self._scratch, ignore_errors=True)
                self._scratch = None
        return sorted(
            (event for each in done for event in each.events), key=lambda event: event.seconds
        )

    def stop_server(self, server: ServerId) -> None:
        """Stop one server in order."""
        host = self._running.pop(server)
        host.tell(Stop())
        host.answer(Done)

    def start_server(self, server: ServerId) -> float:
        """Start a stopped server again; seconds until it serves, replay included."""
        host = self._hosts.take(len(self.servers))[server - 1]
        host.tell(self._starts[server])
        done = host.answer(Done)
        self._running[server] = host
        return done.seconds

    def _gather(self, servers: Sequence[ServerId]) -> list[Done]:
        """Take the answers of all, and only then raise what one of them says."""
        done: list[Done] = []
        failures: list[BenchError] = []
        for server in servers:
            try:
                done.append(self._running[server].answer(Done))
            except BenchError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return done

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- where it is -----------------------------------------------------------------------------

    @property
    def addresses(self) -> list[str]:
        """Where clients reach the servers, in the order of their ids."""
        return [self._starts[server].client for server in self.servers]

    @property
    def pids(self) -> dict[ServerId, int]:
        """The processes of the servers that run."""
        return {server: host.pid for server, host in self._running.items()}

    def leader(self) -> ServerId:
        """The server that leads, waiting for one. Raises `BenchError` if none does in time."""
        addresses = {s: self._starts[s].client for s in self._running}
        probe = StatusProbe()
        give_up = time.monotonic() + _LEADER_SECONDS
        try:
            while time.monotonic() < give_up:
                leader = agreed_leader(probe.ask(addresses, 0.3))
                if leader is not None:
                    return leader
                time.sleep(0.02)
        finally:
            probe.close()
        raise BenchError(f"no server leads after {_LEADER_SECONDS:g} s")


# --- inside a host -------------------------------------------------------------------------------


def _serve(pipe: Connection) -> None:
    """Main function of a host: run servers until the other end of the pipe is closed."""
    logger.remove()
    # As in a server process of its own (paxon.kvstore.cluster.server_process).
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    server: pykka.ActorRef[PaxosServer] | None = None
    recorder: Recorder | None = None
    try:
        while True:
            request = hear(pipe, _requests)
            begin = time.monotonic()
            if isinstance(request, Start):
                recorder = Recorder(request.settings.server) if request.trace else None
                try:
                    server = _run(request, recorder)
                except ServerStartError as error:
                    say(pipe, Failed(f"server {request.settings.server} did not start: {error}"))
                    continue
                say(pipe, Done(seconds=time.monotonic() - begin))
                continue
            if server is not None:
                server.stop()
                server = None
                gc.collect()  # what the next server has to live with is not this one's garbage
            events = recorder.events if recorder is not None else []
            recorder = None
            say(pipe, Done(events=events, seconds=time.monotonic() - begin))
    finally:
        if server is not None:
            server.stop()


def _run(start: Start, recorder: Recorder | None) -> pykka.ActorRef[PaxosServer]:
    """Start a server as applications do, with a delay or a recorder if there is to be one."""

    def around(sockets: ServerSockets) -> Network:
        if start.delay == 0 and recorder is None:
            return sockets
        return LabNetwork(sockets, delay=start.delay, recorder=recorder)

    return start_server(
        start.settings,
        KVStore(),
        peers=start.peers,
        client_bind=start.client,
        directory=start.directory or None,
        durability="disk" if start.directory else "memory",
        around_network=around,
    )
