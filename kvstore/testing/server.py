"""A real `PaxosServer` in this process, alone in its cluster, over the transport in memory."""

from __future__ import annotations

import itertools
import random
import threading
import time
from contextlib import suppress

import pykka

from paxon.actors import PaxosServer, ServerRef, Settings, SettingsError, StateMachine
from paxon.actors.codecs import peer_codec, port_codec
from paxon.actors.disk.memory_storage import MemoryStorage
from paxon.actors.environment import Environment, Network, ServerBurst
from paxon.kvstore.cluster.node import ServerStartError, reason_in_words, start_actor
from paxon.kvstore.cluster.options import OptionError, check_option
from paxon.transport import Burst, MemoryEndpoint, MemoryHub
from paxon.transport.wake import Waker

__all__ = ["MemoryServer", "server_at"]

_TICK = 1.0
"""Seconds that its clock is put forward by at once: short enough for it to go on leading."""
_SETTINGS = {
    # A busy machine may keep a thread waiting for long; and nobody else would lead.
    "heartbeat_interval": _TICK,
    "election_timeout_min": 5 * _TICK,
    "election_timeout_max": 5 * _TICK,
}
"""Times in seconds."""
_START_SECONDS = 10.0
_WAKE_UPS = 200
"""Slots in which an object's timers run, at most, once time has passed: twice what all can take."""

_servers: dict[str, MemoryServer] = {}
_numbers = itertools.count(1)


def server_at(address: str) -> MemoryServer | None:
    """The open server of this address."""
    return _servers.get(address)


class Clock:
    """The machine's clocks, and what a test has let pass besides (`ahead`, seconds)."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic() + self.ahead

    def awake(self) -> int:
        """The same in nanoseconds: no test lets the machine sleep."""
        return time.monotonic_ns() + int(self.ahead * 1e9)


class MemoryServer:
    """One server, its disk in memory, and those who want to know when it stops."""

    id = 1

    def __init__(self, machine: StateMachine, settings: dict[str, object]) -> None:
        """Start it and wait until it serves. Raises `SettingsError`, `ServerStartError`."""
        for name in ("durability", "rejoin"):
            if name in settings:
                raise SettingsError(f"'{name}' is of no use here: its disk is in memory too")
        try:
            checked = {name: check_option(name, value) for name, value in settings.items()}
        except OptionError as error:
            raise SettingsError(str(error)) from None
        self.hub = MemoryHub()
        self.clock = Clock()
        self.address = f"memory://{next(_numbers)}"
        self._settings = Settings(
            cluster="memory",
            server=self.id,
            servers=(self.id,),
            client_addresses={self.id: self.address},
            **{**_SETTINGS, **checked},  # type: ignore[arg-type]  # Settings checks them
        )
        self._storage = MemoryStorage("memory", self.id)
        self._watchers: set[Waker] = set()
        self.failure: BaseException | None = None
        """Why it has stopped by itself."""
        self._reference: ServerRef[PaxosServer] | None = None
        self.start(machine)

    def start(self, machine: StateMachine) -> None:
        """Start it on what its disk holds, with a fresh state machine."""
        started = threading.Event()
        self.failure = None

        def failed(error: BaseException) -> None:
            self.failure = error
            self._tell()
            started.set()

        environment = Environment(
            clock=self.clock,
            random=random.Random(),
            storage=lambda: self._storage,
            network=self._network,
            on_ready=started.set,
            on_failed=failed,
        )
        self._reference = start_actor(self._settings, machine, environment)
        _servers[self.address] = self
        if started.wait(_START_SECONDS) and self.failure is None:
            with suppress(pykka.ActorDeadError):  # it stops at what it executes of its log
                self._await_leading()
                return
        self.stop()
        raise ServerStartError(reason_in_words(self.failure))

    def _await_leading(self) -> None:
        """It has nobody to wait for: let the time pass after which it leads."""
        reference = self._reference
        assert reference is not None
        end = time.monotonic() + _START_SECONDS
        server = reference.proxy()
        while server.role.get() != "leader":
            if time.monotonic() >= end:
                raise ServerStartError(f"the server does not lead after {_START_SECONDS:g} s")
            self.let_pass(_TICK)
        # The log's time runs on once a heartbeat was answered, and the next one looks at it.
        for _ in range(2):
            self.let_pass(self._settings.heartbeat_interval)

    def _network(self) -> Network:
        return MemoryEndpoint(
            self.hub,
            self.id,
            peer_codec=peer_codec(self.id, self._storage.incarnation),
            client_codec=port_codec(self.id),
        )

    def stop(self) -> None:
        """Stop it and tell its clients. May be called twice."""
        _servers.pop(self.address, None)
        reference, self._reference = self._reference, None
        if reference is not None:
            reference.stop()
            self._tell()

    def let_pass(self, seconds: float) -> None:
        """Put its clock forward by and by, and have it look at it each time."""
        nothing: ServerBurst = Burst()
        while seconds > 0 and self._reference is not None:
            step = min(seconds, _TICK)
            self.clock.ahead += step
            seconds -= step
            self._reference.ask(nothing)
        if self._reference is None:
            return
        application = self._reference.proxy().application.get()
        for _ in range(_WAKE_UPS):
            before = application.executed
            self._reference.ask(nothing)  # what is due is proposed in one step …
            self._reference.ask(nothing)  # … and chosen, and executed, in the next
            if application.executed == before:
                return

    # --- who wants to know when it stops ---------------------------------------------------------

    def watch(self) -> Waker:
        """Becomes readable when the server stops."""
        waker = Waker()
        self._watchers.add(waker)
        return waker

    def unwatch(self, waker: Waker) -> None:
        """Nobody looks at it any more."""
        self._watchers.discard(waker)

    def _tell(self) -> None:
        for waker in tuple(self._watchers):
            waker.wake()
