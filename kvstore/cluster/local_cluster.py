"""`LocalCluster`: some server processes on this machine, for tests, benches and trying things out.

How it starts, supervises and ends them is told in docs/running/local-cluster.md.
"""

from __future__ import annotations

import itertools
import secrets
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeVar

import msgspec

from paxon.actors import ServerId, SettingsError, StateMachine
from paxon.actors.ballot import in_list
from paxon.actors.disk.data_directory import in_words, owner_of, replace_file
from paxon.actors.members import MemberChange
from paxon.kvstore.client.addresses import (
    client_port,
    free_ports,
    hold_ports,
    peer_port,
    with_port,
)
from paxon.kvstore.client.checks import check_flag, check_timeout, check_wait
from paxon.kvstore.cluster.cluster_file import (
    STORE_MACHINE,
    ClusterDescription,
    ClusterFileError,
    ServerEntry,
    ServerPlan,
)
from paxon.kvstore.cluster.local_files import (
    ClusterError,
    ClusterOptionError,
    PortTaken,
    check_arguments,
    cluster_directory,
    held_alone,
    machine_name,
    members_in,
    name_in,
    refuse_while_imported,
    remove,
    socket_directory,
    usable_path,
)
from paxon.kvstore.cluster.logs import check_log_level, named
from paxon.kvstore.cluster.options import Durability, OptionError, check_etcd, parse_listen
from paxon.kvstore.cluster.server_process import LOG_NAME
from paxon.kvstore.cluster.status import ServerStatus, agreed_leader, ask_status
from paxon.kvstore.cluster.supervisor import STOP_SECONDS, Supervisor, forget_logs
from paxon.kvstore.errors import OperationFailed, PaxonError
from paxon.kvstore.objects.replicated import Replicated
from paxon.transport.log import logger

if TYPE_CHECKING:
    from paxon.kvstore.client.client import CommandClient
    from paxon.kvstore.client.links import Secure
    from paxon.kvstore.etcd.process import BackgroundGateway
    from paxon.kvstore.objects.async_proxy import AsyncProxy
    from paxon.kvstore.recipes.clients import AsyncClient, Client

R = TypeVar("R", bound=Replicated)
T = TypeVar("T")

__all__ = ["ClusterError", "ClusterOptionError", "LocalCluster", "Transport"]

Transport = Literal["tcp", "ipc"]
"""What servers talk to each other over. Clients always use tcp on loopback."""

CLUSTER_FILE = "cluster.toml"
"""Describes the cluster, in its directory; `paxon server --cluster` takes it too."""

_HOST = "127.0.0.1"
_FORCE_SECONDS = 60.0
"""How long `start` waits for the servers to make their cluster."""
_PASSING = ("is in use", "another change", "not heard of late", "do not reach each other")
"""Part of what a change is refused with for what passes: a server was just stopped, or started."""

_PORT_ATTEMPTS = 4
"""How often to draw other ports if somebody takes one between drawing and binding."""

THRIFTY_DELAY = 0.01
"""Seconds. Servers on one machine compete for its cores and its disk, so that the work of those
beyond a majority slows down the majority (docs/thrift.md); `thrifty_delay=0` switches it off."""


class LocalCluster:
    """Server processes on this machine, started by multiprocessing's spawn and supervised.

    Use it in a `with` statement, or call `start` and `stop`. Whatever happens to this process, the
    servers end with it. Any thread may call any method.
    """

    def __init__(
        self,
        servers: int = 3,
        directory: str | Path | None = None,
        *,
        port: int | None = None,
        durability: Durability = "disk",
        transport: Transport = "tcp",
        machine: type[StateMachine | Replicated] | None = None,
        log_level: str = "INFO",
        metrics: int | None = None,
        etcd: bool | int = False,
        keys: bool = False,
        **settings: Any,
    ) -> None:
        """Describe the cluster; no process is started yet.

        Args:
            servers: how many, with the ids 1, 2, …
            directory: for data and logs, kept; by default a temporary one that `stop` removes. One
                that was used before brings its members with it.
            port: base port: server N listens at port + 10·N for servers and one above for clients.
                By default free ports are chosen.
            durability: "disk", or "memory" for tests: then `stop` and `kill` lose what it knew.
            transport: what servers talk to each other over: "tcp", or "ipc" (Unix sockets).
            machine: your `Replicated` class, or a state machine's, importable; else the store.
            log_level: of the servers' logs.
            metrics: server N shows figures and health by HTTP at this port plus N - 1.
            keys: encrypt: each server gets a key pair, kept in `directory` (docs/running/keys.md).
            etcd: a port where a thread of this process serves etcd's API; True: see `etcd_address`.
            **settings: any field of `Settings` for all servers, such as `election_timeout_min`.

        Raises `ClusterError` for what cannot be.
        """
        refuse_while_imported()
        check_arguments(servers, port, metrics, keys)
        self._ids = self._wanted = list(range(1, servers + 1))
        self._given_directory = None if directory is None else usable_path(directory)
        self._directory: Path | None = None
        self._base_port = port
        if transport not in ("tcp", "ipc"):
            raise ClusterOptionError(f"transport = {transport!r}: must be 'tcp' or 'ipc'")
        self._transport, self._metrics, self._keys = transport, metrics, keys
        self._machine, self._import_main = machine_name(machine)
        try:
            self._etcd = check_etcd(etcd, self._machine == STORE_MACHINE)
            self._log_level = check_log_level(log_level)
        except OptionError as error:
            raise ClusterOptionError(str(error)) from None
        self._options: dict[str, object] = {
            "durability": durability, "thrifty_delay": THRIFTY_DELAY, **settings,
        }  # fmt: skip
        self._description: ClusterDescription | None = None
        self._sockets: Path | None = None
        self._supervisor: Supervisor | None = None
        self._temporary: list[Path] = []
        self._gateways: list[BackgroundGateway] = []  # one or none
        self._held: list[socket.socket | ExitStack] = []
        """Its directory, and its ports, while a server is down."""
        self._stopping, self._changing = threading.RLock(), threading.RLock()
        self._finalizer: weakref.finalize[..., LocalCluster] | None = None
        self._describe(Path("/unused"), None, ports=None)  # wrong settings show here

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start all servers and wait until each serves (not until one leads: see `leader`).

        Raises `ClusterError` with the server's own sentence if one cannot start; then none is left.
        """
        if self._supervisor is not None:
            raise ClusterError("the cluster is started already")
        self._at_free_ports(self._start_once)
        return self

    def _at_free_ports(self, start: Callable[[], T]) -> T:
        """Once more, at other ports, if somebody takes one between drawing and binding."""
        for _ in range(_PORT_ATTEMPTS - 1):
            with suppress(PortTaken):
                return start()
        return start()

    def _start_once(self) -> None:
        """Start everything, or raise with nothing left running."""
        temporary: list[Path] = []
        try:
            directory = cluster_directory(self._given_directory, temporary)
            self._held.append(held_alone(directory))
            self._ids = members_in(directory, self._wanted)
            self._sockets = None if self._transport == "tcp" else socket_directory(temporary)
            ports = self._draw_ports(len(self._ids))
            self._description = self._describe(directory, self._sockets, ports)
            if self._keys:
                self._description = self._description.with_keys()
            self._settle_identity(directory)
            supervisor = Supervisor(
                self._ids, import_main=self._import_main, log_level=self._log_level
            )
            self._directory, self._temporary, self._supervisor = directory, temporary, supervisor
            # Also runs when the program ends without `stop`, or drops the cluster.
            self._hold_ports()
            self._finalizer = weakref.finalize(
                self, _end, supervisor, temporary, self._gateways, self._held
            )
            self._start_servers(supervisor)
            self._write_cluster_file(directory)
            self._await_force()
            self._serve_etcds_clients()
        except BaseException as error:
            self.stop()
            _let_go(self._held)
            remove(temporary)
            forget_logs(error, self._given_directory)
            raise

    def _hold_ports(self) -> None:
        entries = self._described().servers.values()
        addresses = [address for entry in entries for address in (entry.peer, entry.client)]
        tcp = [address for address in addresses if address.startswith("tcp://")]
        self._held.extend(hold_ports(int(address.rpartition(":")[2]) for address in tcp))

    def _start_servers(self, supervisor: Supervisor) -> None:
        starts = {server: supervisor.start(self._plan(server)) for server in self._ids}
        problems = {server: started.exception() for server, started in starts.items()}
        failures = [f"server {s} did not start: {p}" for s, p in problems.items() if p is not None]
        if failures:
            raise self._failure(failures)

    def _failure(self, said: list[str]) -> ClusterError:
        taken = self._base_port is None and any("in use:" in text for text in said)
        return (PortTaken if taken else ClusterError)(said[0])

    def _serve_etcds_clients(self) -> None:
        if self._etcd is False:
            return
        from paxon.kvstore.cluster.backup import saver  # noqa: PLC0415 (the same)
        from paxon.kvstore.etcd.process import BackgroundGateway, Listening  # noqa: PLC0415 (an extra)

        listening = Listening(_HOST, 0 if self._etcd is True else self._etcd)
        save = saver(self.addresses, self.secure)
        self._gateways.append(BackgroundGateway(self.addresses, listening, save, self.secure))
        try:
            self._gateways[0].start()
        except OSError as error:
            raise ClusterError(f"the etcd API cannot be served: {error}") from None

    def _await_force(self) -> None:
        """Wait until the servers have made the cluster, or know it from their directories.

        One whose directory was lost keeps nobody else from it: it says so and stops.
        """
        end = time.monotonic() + _FORCE_SECONDS
        while True:
            rows = self.status(0.5, state=False)
            gone = [row for row in rows if row.state == "failed"]
            waiting = [row for row in rows if row.reply is not None and row.reply.waits_for]
            silent = [row for row in rows if row.reply is None and row not in gone]
            if not waiting and not silent and 2 * len(gone) < len(rows):
                for row in gone:
                    logger.warning("server {} does not take part: {}", row.server, row.reason)
                return
            self._waiting_to_start(rows)
            if 2 * len(gone) >= len(rows):  # without a majority it never will be
                raise ClusterError(named(gone[0].server, gone[0].reason))
            if time.monotonic() >= end:
                said = [named(row.server, row.reply.waits_for) for row in waiting if row.reply]
                said += [named(row.server, row.reason) for row in gone]
                said += [f"server {row.server} does not answer" for row in silent]
                raise ClusterError(
                    f"the cluster is not in force after {_FORCE_SECONDS:g} s: {'; '.join(said)}"
                )
            time.sleep(0.01)

    def _waiting_to_start(self, rows: list[ServerStatus]) -> None:
        """Looked at again and again while `start` waits (for `paxon up`, to show it)."""

    def stop(self) -> None:
        """Stop all servers (SIGTERM, in the end SIGKILL) and remove a temporary directory.

        The cluster can be started again: from its directory if it was given one, else empty.
        """
        with self._stopping:
            if self._supervisor is not None:
                _end(self._supervisor, self._temporary, self._gateways, self._held)
            if self._finalizer is not None:
                self._finalizer.detach()  # not before: what Ctrl-C cuts short is done at the exit
            self._supervisor = None
            self._finalizer = None

    def __enter__(self) -> Self:
        return self if self._supervisor is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a cluster is neither copied nor pickled: give others its `addresses`")

    # --- one server ------------------------------------------------------------------------------

    def kill(self, server: ServerId) -> None:
        """End a server by SIGKILL, without any chance to tidy up, and wait until it is gone."""
        self._signal(server, signal.SIGKILL)

    def stop_server(self, server: ServerId) -> None:
        """Have a server stop in order (SIGTERM) and wait until it has."""
        self._signal(server, signal.SIGTERM)

    def restart(self, server: ServerId, *, rejoin: bool = False) -> None:
        """Start a server again that was killed, was stopped or failed; wait until it serves.

        A server that is running is stopped in order first. `rejoin` is for one whose directory was
        lost: it comes back with an empty one (docs/membership.md). With durability "memory" that is
        always so. Raises `ClusterError` with the server's own sentence if it does not start.
        """
        check_flag("rejoin", rejoin)
        self.stop_server(server)
        flags: dict[str, object] = {"rejoin": True} if rejoin or self._forgets else {}
        self._result(server, self._running().start(self._plan(server, flags)), "did not restart")

    def pause(self, server: ServerId) -> None:
        """Freeze a server's process by SIGSTOP and wait until it stands still.

        It keeps its connections, and does nothing until `resume`.
        """
        self._signal(server, signal.SIGSTOP)

    def resume(self, server: ServerId) -> None:
        """Let a paused server go on (SIGCONT)."""
        self._signal(server, signal.SIGCONT)

    def _signal(self, server: ServerId, number: signal.Signals) -> None:
        self._check(server)
        done = self._running().send(server, number)
        self._result(server, done, f"got no {number.name}", timeout=STOP_SECONDS + 5.0)

    def _result(
        self, server: ServerId, done: Future[None], what: str, timeout: float | None = None
    ) -> None:
        try:
            problem = done.exception(timeout)
        except TimeoutError:  # a call to the kernel that does not end keeps any process as it is
            problem = RuntimeError(f"it has not happened within {timeout:g} s")
        if problem is not None:
            raise self._failure([f"server {server} {what}: {problem}"]) from None

    # --- other members ---------------------------------------------------------------------------

    def add_server(self, *, learner: bool = False, timeout: float = 60.0) -> ServerId:
        """Start one server more, and make it a member once it has all data; returns its id.

        A `learner` has no vote. Raises `ClusterError` with the reason if that does not come about
        within so many seconds; the cluster goes on as it was.
        """
        timeout = check_timeout(timeout, 60.0)
        check_flag("learner", learner)
        with self._changing:
            server = next(number for number in itertools.count(1) if number not in self._ids)
            self._running().look_after(server)
            try:
                self._join(server, timeout, lambda kv, given: kv.add_member(
                    server, learner=learner, timeout=timeout, **given
                ))  # fmt: skip
            finally:
                if server not in self._ids:
                    sent = self._running().send(server, signal.SIGTERM)
                    self._result(server, sent, "did not stop")
                    self._running().forget(server)
            return server

    def remove_server(self, server: ServerId, *, timeout: float = 10.0) -> None:
        """Take a server out of the cluster, stop it, and remove its directory.

        Raises `ClusterError` with the reason if it cannot be spared.
        """
        self._check(server)
        timeout = check_timeout(timeout, 10.0)
        with self._changing:
            self._change(lambda kv: kv.change_members(MemberChange("remove", server)), timeout)
            self.stop_server(server)
            described = self._described()
            remove([Path(described.servers[server].directory)])
            self._running().forget(server)
            self._describe_anew(described, [other for other in self._ids if other != server])

    def replace_server(self, server: ServerId, *, timeout: float = 60.0) -> None:
        """End a server, and have a new one in its place: on an empty disk, at other ports.

        What the old one knew is lost. Raises `ClusterError` with the reason if that cannot be; the
        cluster then goes on without that server.
        """
        self._check(server)
        timeout = check_timeout(timeout, 60.0)  # (before anything is lost)
        with self._changing:
            self.kill(server)
            remove([Path(self._described().servers[server].directory)])
            self._join(server, timeout, lambda kv, given: kv.replace_member(
                server, timeout=timeout, **given
            ))  # fmt: skip

    def _join(
        self, server: ServerId, timeout: float, ask: Callable[[CommandClient, dict[str, Any]], Any]
    ) -> None:
        """Start a server on an empty directory, and have it made a member."""
        grown = self._at_free_ports(lambda: self._start_joiner(server))
        entry = grown.servers[server]
        given = {
            "incarnation": owner_of(Path(entry.directory)).incarnation,
            "peer": entry.peer, "client": entry.client, "key": entry.public_key,
        }  # fmt: skip
        members = sorted({*self._ids, server})
        try:
            self._change(lambda kv: ask(kv, given), timeout)
        except KeyboardInterrupt:
            if self._may_be_member(server):
                self._describe_anew(grown, members)
            raise
        self._describe_anew(grown, members)
        self._await_part(server, timeout)

    def _start_joiner(self, server: ServerId) -> ClusterDescription:
        """Start it at ports that are free; the cluster, with this server in it."""
        before = self._described()
        ports = self._draw_ports(1)
        entry = self._entry(server, self.directory, self._sockets, ports)
        remove([Path(entry.directory)])  # (one that was removed left nothing that could come back)
        grown = msgspec.structs.replace(before, servers=before.servers | {server: entry})
        if self._keys:
            grown = grown.with_keys()
        self._held.extend(hold_ports(ports or ()))
        plan = grown.plan(server, machine=self._machine, join=True)
        self._result(server, self._running().start(plan), "did not start")
        return grown

    def _change(self, ask: Callable[[CommandClient], Any], timeout: float) -> None:
        """Ask for a change, until it is not refused for what passes by itself."""
        end = time.monotonic() + timeout
        with self.command_client(timeout=timeout) as kv:
            while True:
                try:
                    ask(kv)
                    return
                except PaxonError as error:
                    text = str(error)
                    passes = isinstance(error, OperationFailed) and any(p in text for p in _PASSING)
                    if not passes or time.monotonic() >= end:
                        raise ClusterError(text) from None
                    time.sleep(0.05)

    def _may_be_member(self, server: ServerId) -> bool:
        """Whether it is one, or nobody can say."""
        try:
            with self.command_client(timeout=2) as kv:
                return any(found.server == server for found in kv.cluster_members().members)
        except PaxonError:
            return True

    def _await_part(self, server: ServerId, timeout: float) -> None:
        """Wait until a new member knows itself that it is one."""
        end, found = time.monotonic() + timeout, None
        while not (found and found.part in ("voter", "learner") and not found.waits_for):
            if time.monotonic() >= end:
                said = f": it {found.waits_for}" if found and found.waits_for else ""
                raise ClusterError(f"server {server} is a member, and takes no part yet{said}")
            client = self._described().client_addresses[server]
            found = ask_status({server: client}, 0.3, self.secure).get(server)

    def _describe_anew(self, described: ClusterDescription, ids: list[ServerId]) -> None:
        """These of the servers described are the members now."""
        servers = {server: described.servers[server] for server in ids}
        self._ids, self._description = ids, msgspec.structs.replace(described, servers=servers)
        self._write_cluster_file(self.directory)

    # --- all of them -----------------------------------------------------------------------------

    @property
    def servers(self) -> list[ServerId]:
        """The ids of all servers, running or not."""
        return list(self._ids)

    @property
    def addresses(self) -> list[str]:
        """Where clients reach the servers, in the order of their ids."""
        return list(self._described().client_addresses.values())

    @property
    def etcd_address(self) -> str:
        """Where etcd's clients are served, as HOST:PORT."""
        self._running()
        if not self._gateways:
            raise ClusterError("the etcd API is not served: LocalCluster(etcd=True) does that")
        return f"{_HOST}:{self._gateways[0].port}"

    @property
    def peer_addresses(self) -> list[str]:
        """Where servers reach each other, in the order of their ids."""
        return [entry.peer for entry in self._described().servers.values()]

    @property
    def directory(self) -> Path:
        """Where data and logs are; a temporary one is gone after `stop`."""
        self._described()
        if self._directory is None:
            raise ClusterError("the cluster is not started: use it in `with`, or call start()")
        return self._directory

    def log_path(self, server: ServerId) -> Path:
        """The log file of a server."""
        self._check(server)
        return Path(self._described().servers[server].directory) / LOG_NAME

    def status(self, timeout: float = 1.0, *, state: bool = True) -> list[ServerStatus]:
        """A row for every server; those that do not answer within `timeout` s have no `reply`.

        With `state` each also computes its state's fingerprint (`StatusReply.state_digest`), for
        which it stands still for up to 20 ms.
        """
        check_flag("state", state)
        supervisor = self._running()
        servers = self._described().servers  # (others may be added and removed meanwhile)
        alive = {
            server: entry.client
            for server, entry in servers.items()
            if supervisor.info(server).state in ("running", "stopping")
        }
        replies = ask_status(alive, check_timeout(timeout, 1.0), self.secure, state=state)
        return [
            ServerStatus(
                server=server, address=entry.client, state=info.state, pid=info.pid,
                reason=info.reason, reply=replies.get(server),
            )
            for server, entry in servers.items()
            for info in [supervisor.info(server)]
        ]  # fmt: skip

    def leader(self, timeout: float = 10.0) -> ServerId:
        """The server that leads, waiting up to `timeout` seconds for one to be elected.

        Raises `ClusterError` if none is by then, `InvalidRequest` for what is no time.
        """
        timeout = 10.0 if timeout is None else check_wait(timeout) or 0.0
        end = time.monotonic() + timeout
        while True:
            replies = {row.server: row.reply for row in self.status(0.3, state=False) if row.reply}
            leader = agreed_leader(replies)
            if leader is not None:
                return leader
            if time.monotonic() >= end:
                raise ClusterError(
                    f"no server leads after {timeout:g} s; {len(replies)} of {len(self._ids)} "
                    "servers answer, and it takes a majority"
                )
            time.sleep(0.02)

    @property
    def secure(self) -> Secure | None:
        """A value for the `secure` of a client of this cluster; None without keys."""
        return self._described().secure()

    def client(self, **options: Any) -> Client:
        """A new client of this cluster; `options` are those of `Client`."""
        from paxon.kvstore.recipes.clients import Client  # noqa: PLC0415 (keeps the command line quick)

        return Client(self.addresses, **{"secure": self.secure} | options)

    def command_client(self, **options: Any) -> CommandClient:
        """A new client of this cluster for a state machine of one's own; see `CommandClient`."""
        from paxon.kvstore.client.client import CommandClient  # noqa: PLC0415 (the same)

        return CommandClient(self.addresses, **{"secure": self.secure} | options)

    def proxy(self, cls: type[R], **options: Any) -> R:
        """A new proxy of this cluster's `Replicated` class; `options` are those of `proxy`."""
        from paxon.kvstore.objects.proxy import proxy  # noqa: PLC0415 (the same)

        return proxy(self.addresses, cls, **{"secure": self.secure} | options)

    def async_proxy(self, cls: type[R], **options: Any) -> AsyncProxy[R]:
        """The same for asyncio; `options` are those of `async_proxy`."""
        from paxon.kvstore.objects.async_proxy import async_proxy  # noqa: PLC0415 (the same)

        return async_proxy(self.addresses, cls, **{"secure": self.secure} | options)

    def async_client(self, **options: Any) -> AsyncClient:
        """A new asyncio client of this cluster; `options` are those of `AsyncClient`."""
        from paxon.kvstore.recipes.clients import AsyncClient  # noqa: PLC0415 (the same)

        return AsyncClient(self.addresses, **{"secure": self.secure} | options)

    # --- inner parts -----------------------------------------------------------------------------

    @property
    def _forgets(self) -> bool:
        return self._options["durability"] == "memory"

    def _check(self, server: ServerId) -> None:
        if type(server) is not int or server not in self._ids:
            raise ClusterError(f"there is no server {server!r}, only {in_list(self._ids)}")

    def _running(self) -> Supervisor:
        if self._supervisor is None:
            raise ClusterError("the cluster is not started: use it in `with`, or call start()")
        return self._supervisor

    def _described(self) -> ClusterDescription:
        if self._description is None:
            raise ClusterError("the cluster is not started: use it in `with`, or call start()")
        return self._description

    def _plan(self, server: ServerId, flags: dict[str, object] | None = None) -> ServerPlan:
        return self._described().plan(server, flags, machine=self._machine)

    def _draw_ports(self, servers: int) -> list[int] | None:
        return free_ports(2 * servers) if self._base_port is None else None

    def _describe(
        self, directory: Path, sockets: Path | None, ports: list[int] | None
    ) -> ClusterDescription:
        """The cluster with a new id; checks all that the user gave. Raises `ClusterError`."""
        try:
            entries = {
                server: self._entry(server, directory, sockets, ports and ports[2 * place :])
                for place, server in enumerate(self._ids)
            }
            description = ClusterDescription(
                id=f"local-{secrets.token_hex(4)}", servers=entries, options=self._options
            )
            description.plan(self._ids[0])
        except (OptionError, SettingsError, ValueError) as error:
            raise ClusterOptionError(str(error)) from None
        return description

    def _entry(
        self, server: ServerId, directory: Path, sockets: Path | None, ports: list[int] | None
    ) -> ServerEntry:
        """A server at the first two ports, or as the base port says. Raises ValueError."""
        base = self._base_port if self._base_port is not None else 0
        peer_number, client_number = (
            (ports[0], ports[1]) if ports else (peer_port(base, server), client_port(base, server))
        )
        peer = with_port(_HOST, peer_number) if sockets is None else f"ipc://{sockets}/{server}"
        client = with_port(_HOST, client_number)
        metrics = "" if self._metrics is None else str(self._metrics + server - 1)
        if metrics:
            parse_listen(metrics)
        return ServerEntry(
            id=server, peer=peer, client=client, peer_bind=peer, client_bind=client,
            directory=str(directory / f"server-{server}"), metrics=metrics,
        )  # fmt: skip

    def _settle_identity(self, directory: Path) -> None:
        """Keep the id of a cluster that lived in this directory before."""
        path, name = directory / CLUSTER_FILE, name_in(directory)
        if path.exists():
            try:
                name = name or ClusterDescription.read(path).id
            except ClusterFileError as error:
                raise ClusterError(str(error)) from None
        if name:
            self._description = msgspec.structs.replace(self._described(), id=name)

    def _write_cluster_file(self, directory: Path) -> None:
        """Write down where the cluster is reached now."""
        try:
            replace_file(directory / CLUSTER_FILE, self._described().to_toml().encode())
        except OSError as error:
            raise ClusterError(
                f"the directory {directory} cannot be used: {in_words(error)}"
            ) from None


def _end(
    supervisor: Supervisor,
    temporary: Sequence[Path],
    gateways: list[Any],
    held: list[socket.socket | ExitStack],
) -> None:
    """Stop the servers, then remove what was only lent; in a fork of their owner do nothing."""
    if not supervisor.is_ours():
        return
    while gateways:
        gateways.pop().stop()
    try:
        try:
            supervisor.close()
        finally:
            # Has servers left only if Ctrl-C came meanwhile; then without further patience.
            supervisor.close(signal.SIGKILL)
    finally:
        _let_go(held)
        remove(temporary)


def _let_go(held: list[socket.socket | ExitStack]) -> None:
    while held:
        held.pop().close()
