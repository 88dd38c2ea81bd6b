"""A server with the real world around it: system clocks, random numbers, SQLite, ZeroMQ.

`start_server` is for embedders: one call starts a `PaxosServer` actor in this process. For a
process of its own see paxon.kvstore.cluster.server_process.
"""

from __future__ import annotations

import atexit
import errno
import importlib
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias, cast, get_args

from msgspec import structs

from paxon.actors import PaxosServer, ServerId, ServerRef, Settings, StateMachine
from paxon.actors.codecs import peer_codec, port_codec
from paxon.actors.disk.memory_storage import MemoryStorage
from paxon.actors.disk.sqlite_storage import SqliteStorage
from paxon.actors.disk.storage import Storage, StorageError
from paxon.actors.environment import Environment, Network
from paxon.actors.execution.machine_errors import MachineFailure
from paxon.actors.messages import ClientMessage, PeerMessage, PortOfServers, ServerReply
from paxon.kvstore.client.addresses import check_address, check_dialled
from paxon.kvstore.client.checks import check_callable
from paxon.kvstore.client.leases.clock import BOOT_CLOCK
from paxon.kvstore.cluster.options import Durability, OptionError, check_limits
from paxon.kvstore.errors import InvalidRequest, PaxonError
from paxon.kvstore.objects.machine import machine_of
from paxon.kvstore.objects.replicated import Replicated
from paxon.kvstore.streams import open_standard_descriptors
from paxon.transport import (
    CurveSecurity,
    TransportError,
    ZmqEndpoint,
)
from paxon.transport.context import TOO_FEW_FILES, TOO_FEW_THREADS
from paxon.transport.log import logger

__all__ = [
    "ServerStartError",
    "MachineError",
    "ServerSockets",
    "checked_machine",
    "load_machine",
    "start_actor",
    "start_server",
    "reason_in_words",
]

ServerSockets: TypeAlias = ZmqEndpoint[PeerMessage, ClientMessage, ServerReply]

_STOP_SECONDS = 10.0
"""How long the end of the program waits for each of its servers."""

_COMES_BACK_FROM = 3
"""Servers in memory, of which one that stopped can get back from the others what it forgot."""

_CHECK_SECONDS = 0.5
"""How often to look whether an actor that has not reported yet is still alive."""


class ServerStartError(PaxonError):
    """A server could not start; the text is one sentence that says why and what to do."""


class MachineError(PaxonError):
    """A state machine cannot be found or made from its module:class name."""


class SystemClock:
    """The clocks of this machine."""

    monotonic: Callable[[], float] = staticmethod(partial(time.clock_gettime, BOOT_CLOCK))
    """Seconds since the machine was booted, suspended ones included. (Without a frame of Python's:
    a step asks several times.)"""
    awake: Callable[[], int] = staticmethod(time.monotonic_ns)
    """Nanoseconds, without those in which the machine was suspended."""


def load_machine(name: str) -> StateMachine:
    """A new state machine of the class named module:class. Raises `MachineError`."""
    module_name, colon, class_name = name.partition(":")
    if not colon:
        raise MachineError(f"state machine {name!r}: write module:class, such as counter:Counter")
    try:
        found: object = importlib.import_module(module_name)
        for part in class_name.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise MachineError(f"state machine {name!r} cannot be imported: {error}") from error
    except AttributeError:
        raise MachineError(
            f"state machine {name!r}: module {module_name} has no {class_name}"
        ) from None
    if not (isinstance(found, type) and issubclass(found, StateMachine | Replicated)):
        raise MachineError(f"{name!r} is not a subclass of paxon.StateMachine or paxon.Replicated")
    try:
        machine = found()
    except (Exception, SystemExit) as error:
        kind = type(error).__name__
        raise MachineError(f"state machine {name!r} cannot be made: {kind}: {error}") from error
    return checked_machine(machine)


def start_server(
    settings: Settings,
    machine: StateMachine | Replicated,
    *,
    peers: Mapping[ServerId, str],
    client_bind: str,
    peer_bind: str | None = None,
    directory: str | Path | None = None,
    durability: Durability = "disk",
    security: CurveSecurity | None = None,
    on_failed: Callable[[BaseException], None] | None = None,
    on_opened: Callable[[], None] | None = None,
    metrics: str = "",
    log: logging.Logger | None = None,
    around_network: Callable[[ServerSockets], Network] | None = None,
) -> ServerRef[PaxosServer]:
    """Start a server in this process and wait until it serves (not until anyone leads).

    Args:
        settings: what the server is told; its `client_addresses` are what clients are sent to.
        machine: a fresh state machine or `Replicated`, from now on used by its own thread alone.
        peers: where each server of the cluster listens for the others.
        client_bind: where this server listens for clients.
        peer_bind: where it listens for the other servers, if not at `peers[settings.server]`.
        directory: its data directory, made if missing; needed with durability "disk".
        durability: "disk" syncs all that safety rests on; "memory" forgets all at its end.
        security: keys for encrypted connections; None: nothing is encrypted, anyone may connect.
        on_failed: called in the server's thread if it stops by itself later, with the reason.
        on_opened: called in the server's thread once its data directory is known to be its own.
        metrics: where to show figures and health by HTTP: "9100", "0.0.0.0:9100"; "": nowhere.
        log: the standard library's logger that its lines go to; None: loguru's sinks.
        around_network: puts something before the sockets, such as a delay (benches).

    Stop it with the reference's `stop()`, or use the reference in a `with` statement. When the
    program ends, whatever its main thread was doing, servers that still run are stopped in order.
    Raises `ServerStartError`.
    """
    _check_types(settings, peers, durability, (security, log, metrics), (on_failed, on_opened))
    bind = _checked_binds(settings, peers, peer_bind, client_bind)
    started = threading.Event()
    failures: list[BaseException] = []

    def failed(error: BaseException) -> None:
        later = started.is_set()  # whether or not anybody has looked by now
        (on_failed if later and on_failed is not None else failures.append)(error)
        started.set()

    settings = structs.replace(settings, peer_addresses=dict(peers))
    where = _data_directory(directory, durability)
    world = _World(
        settings, peers, bind, client_bind, directory=where, security=security, on_opened=on_opened
    )

    def network() -> Network:
        sockets = world.network()
        return sockets if around_network is None else around_network(sockets)

    environment = Environment(
        SystemClock(), random.Random(), world.storage, network, started.set, failed, log
    )
    open_standard_descriptors()
    reference = start_actor(settings, checked_machine(machine), environment)
    try:
        _await_start(reference, started, failures)
        _open_door(reference, metrics, where)
    except BaseException:
        world.give_up(reference)
        raise
    return reference


def _await_start(
    reference: ServerRef[PaxosServer], started: threading.Event, failures: list[BaseException]
) -> None:
    while reference.is_alive() and not started.wait(_CHECK_SECONDS):
        pass
    reason = failures[0] if failures else None
    if reason is not None or not started.is_set():
        raise ServerStartError(reason_in_words(reason)) from reason


def _open_door(reference: ServerRef[PaxosServer], metrics: str, where: Path | None) -> None:
    """Show figures and health until the server ends, if wanted. Raises `ServerStartError`."""
    if not metrics:
        return
    # Not imported at the head: prometheus-client is for those who ask for it.
    from paxon.kvstore.cluster.door import Door, DoorError  # noqa: PLC0415

    try:
        Door(metrics, reference, where)
    except (DoorError, OptionError, RuntimeError) as error:
        reference.stop()
        text = reason_in_words(error) if isinstance(error, RuntimeError) else str(error)
        raise ServerStartError(text) from error


def start_actor(
    settings: Settings, machine: StateMachine, environment: Environment
) -> ServerRef[PaxosServer]:
    """Start a server in a world of the caller's; the end of the program stops it if nobody does.

    It may not serve yet. Raises `ServerStartError`.
    """
    try:
        actor = PaxosServer.start(settings, machine, environment)
    except (MachineFailure, RuntimeError) as error:
        raise ServerStartError(reason_in_words(error)) from error
    reference = cast("ServerRef[PaxosServer]", actor)
    _running.add(reference)
    return reference


_running: weakref.WeakSet[ServerRef[PaxosServer]] = weakref.WeakSet()
"""The servers that this program has started and that may still run."""


def _stop_all() -> None:
    """The program ends: stop what still runs, so that it need not recover at the next start."""
    stopping = [server.stop(block=False) for server in list(_running) if server.is_alive()]
    for stopped in stopping:
        with suppress(Exception):  # a hung disk: as good as a crash, which it survives
            stopped.get(timeout=_STOP_SECONDS)


def _after_fork() -> None:
    """Their threads are not in a fork: there they have stopped, for who would wait for them."""
    for server in list(_running):
        server.actor_stopped = threading.Event()  # (the lock of the other may be held for ever)
        server.actor_stopped.set()
    _running.clear()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_after_fork)


def reason_in_words(error: BaseException | None) -> str:
    """Why a server stopped, as a sentence for people."""
    if error is None:
        return "the server's thread ended without saying why"
    if isinstance(error, StorageError | TransportError | MachineFailure | PaxonError):
        return str(error)
    if getattr(error, "errno", None) == errno.EMFILE:
        return TOO_FEW_FILES
    if str(error) in (TOO_FEW_THREADS, "can't start new thread"):  # (Python's words)
        return TOO_FEW_THREADS
    return f"an internal error stopped the server ({type(error).__name__}: {error})"


def checked_machine(machine: object) -> StateMachine:
    """Raise `ServerStartError` for what is no state machine."""
    if isinstance(machine, type):
        name = machine.__name__
        raise ServerStartError(f"machine: give a state machine, {name}(…), not the class {name}")
    if isinstance(machine, Replicated):
        try:
            return machine_of(machine)
        except TypeError as error:
            raise ServerStartError(f"machine: {error}") from None
    if not isinstance(machine, StateMachine):
        raise ServerStartError(f"machine: {machine!r} is not a paxon.StateMachine")
    language: object = machine.language
    if not isinstance(language, str) or not language.isprintable() or len(language) > 1000:
        name = type(machine).__name__
        raise ServerStartError(
            f"machine: {name}.language has to be a line of text, not {language!r:.80}"
        )
    if wrong := check_limits(machine):
        raise ServerStartError(f"machine: {wrong}")
    return machine


def _check_types(
    settings: object,
    peers: object,
    durability: object,
    options: tuple[object, object, object],
    callbacks: tuple[object, object],
) -> None:
    """Raise `ServerStartError` for what no server can be made of, whatever type checkers said."""
    if not isinstance(settings, Settings):
        raise ServerStartError(f"settings: give Settings(…), not {settings!r}")
    if not isinstance(peers, Mapping):
        raise ServerStartError(f"peers: give the servers' addresses by id, not {peers!r}")
    if durability not in get_args(Durability):
        raise ServerStartError(f"durability = {durability!r}: must be 'disk' or 'memory'")
    security, log, metrics = options
    for name, given, kind in (("security", security, CurveSecurity), ("log", log, logging.Logger)):
        if not isinstance(given, kind | None):
            raise ServerStartError(f"{name} = {given!r}: must be a {kind.__name__}, or None")
    if not isinstance(metrics, str):
        raise ServerStartError(f"metrics = {metrics!r}: must be text, such as '9100'")
    for name, function in zip(("on_failed", "on_opened"), callbacks, strict=True):
        if function is not None:
            try:
                check_callable(name, function)
            except InvalidRequest as error:
                raise ServerStartError(str(error)) from None


def _checked_binds(
    settings: Settings, peers: Mapping[ServerId, str], peer_bind: str | None, client_bind: str
) -> str:
    """The address to listen on for peers; all addresses are checked on the way."""
    missing = [server for server in settings.servers if server not in peers]
    if missing:
        raise ServerStartError(f"peers: no address is given for server {missing[0]}")
    known = {settings.server, *settings.client_addresses}  # (itself it need not name)
    missing = [server for server in settings.servers if server not in known]
    if missing:
        raise ServerStartError(
            f"settings: client_addresses has none for server {missing[0]}, to which clients are "
            "sent while it leads: give one for each server"
        )
    bind = peer_bind if peer_bind is not None else peers[settings.server]
    try:
        for address in (*peers.values(), *settings.client_addresses.values()):
            check_dialled(address)
        for address in (bind, client_bind):
            check_address(address)
    except ValueError as error:
        raise ServerStartError(str(error)) from None
    return bind


class _World:
    """Opens a server's disk and sockets; both are called in the server's thread, in this order."""

    def __init__(
        self,
        settings: Settings,
        peers: Mapping[ServerId, str],
        peer_bind: str,
        client_bind: str,
        *,
        directory: Path | None,
        security: CurveSecurity | None,
        on_opened: Callable[[], None] | None,
    ) -> None:
        self._settings = settings
        self._peers = {s: peers[s] for s in settings.servers if s != settings.server}
        self._peer_bind = peer_bind
        self._client_bind = client_bind
        self._directory = directory
        self._security = security
        self._on_opened = on_opened
        self._incarnation = 0
        self._given_up = False

    def give_up(self, reference: ServerRef[PaxosServer]) -> None:
        """Ctrl-C while it starts: end it, for nobody would ever know of it."""
        self._given_up = True
        with suppress(Exception):
            reference.stop(block=False).get(timeout=_CHECK_SECONDS)
        _running.discard(reference)  # (the program's end need not wait for it once more)

    def storage(self) -> Storage:
        """The disk, or memory if there is no directory."""
        settings = self._settings
        storage: Storage
        if self._directory is None:
            storage = MemoryStorage(settings.cluster, settings.server)
        else:
            storage = SqliteStorage(
                self._directory, cluster=settings.cluster, server=settings.server
            )
        self._incarnation = storage.incarnation
        if self._on_opened is not None:
            try:
                self._on_opened()
            except BaseException:
                storage.close()
                raise
        if self._directory is None:
            few = len(settings.servers) < _COMES_BACK_FROM
            logger.warning(
                "server {} keeps nothing on disk (durability = memory): what was acknowledged is "
                "lost when servers stop{}; use this for tests and benches only",
                settings.server,
                ", and of so few not one may: it could not come back" if few else "",
            )
        return storage

    def network(self) -> ServerSockets:
        """The sockets, whose frames say which disk this server is running on."""
        server = self._settings.server
        clients = self._settings.client_addresses.get(server, "")
        return ZmqEndpoint(
            peer_address=self._peer_bind,
            client_address=self._client_bind,
            peers=self._peers,
            peer_codec=peer_codec(server, self._incarnation),
            client_codec=port_codec(server),
            at_peer_port=PortOfServers(server, clients),
            security=self._security,
            given_up=lambda: self._given_up,
        )


def _data_directory(directory: str | Path | None, durability: Durability) -> Path | None:
    """Where the server's data goes, wherever the program changes to later; None for memory."""
    if durability == "memory":
        return None
    if not isinstance(directory, str | os.PathLike) or not os.fspath(directory):
        raise ServerStartError("directory: a server with durability 'disk' needs a data directory")
    try:
        if "\0" in str(path := Path(directory)):
            raise ServerStartError(f"directory: a null character is in {str(path)!r}")
        return path.absolute()
    except FileNotFoundError:
        raise ServerStartError(f"directory: {path} is below one that was deleted") from None
    except TypeError:
        raise ServerStartError(f"directory: {directory!r} is neither text nor a Path") from None
