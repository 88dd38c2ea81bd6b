"""`MemoryCluster`: what a test holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, Self, TypeVar

from paxon.actors import StateMachine
from paxon.kvstore.client.async_client import AsyncCommandClient
from paxon.kvstore.client.client import CommandClient
from paxon.kvstore.client.links import MEMORY
from paxon.kvstore.cluster.node import ServerStartError, checked_machine
from paxon.kvstore.errors import InvalidRequest
from paxon.kvstore.objects.async_proxy import AsyncProxy, async_proxy
from paxon.kvstore.objects.machine import ObjectMachine
from paxon.kvstore.objects.proxy import proxy
from paxon.kvstore.objects.replicated import Replicated
from paxon.kvstore.recipes.clients import AsyncClient, Client
from paxon.kvstore.store.store import KVStore
from paxon.kvstore.testing.links import MemoryLinks
from paxon.kvstore.testing.server import MemoryServer

__all__ = ["MemoryCluster"]

R = TypeVar("R", bound=Replicated)

MEMORY[:] = [MemoryLinks]


_SMALL_BYTES = 64 << 10
"""So large a state may be for a look whether a query changes it: each takes three images."""


class _Strict:
    """Answers queries, and raises if one has changed the state: one server's would then differ."""

    def __init__(self, machine: ObjectMachine) -> None:
        self._machine, self._query = machine, machine.query
        self._looks = True

    def __call__(self, asked: bytes) -> bytes:
        before = self._image()
        self._looks = self._looks and len(before) <= _SMALL_BYTES and self._image() == before
        answer = self._query(asked)
        if self._looks and self._image() != before:
            raise RuntimeError(
                "a query changed the state, of one server alone: make it a command, or have it "
                "work on a copy"
            )
        return answer

    def _image(self) -> bytes:
        with suppress(Exception):  # one that cannot be taken is told of where it is needed
            return self._machine.snapshot() if self._looks else b""
        return b""


class MemoryCluster:
    """A cluster of one server in this process: the real protocol and clients, nothing on disk.

    It serves as soon as it is made. Use it in a `with` statement, or `stop` it.
    """

    def __init__(
        self, machine: Callable[[], StateMachine | Replicated] = KVStore, **settings: Any
    ) -> None:
        """Start the server.

        Args:
            machine: your `Replicated` class, a state machine's, or a function that makes one. By
                default the key-value store.
            **settings: any field of `Settings`, such as `session_ttl`.

        Raises `SettingsError` for wrong settings, else `ServerStartError`.
        """
        if not callable(machine):
            raise ServerStartError(f"machine: give a class or a function, not {machine!r}")
        self._machine = machine
        self._server = MemoryServer(self._new(), settings)

    def _new(self) -> StateMachine:
        machine = checked_machine(self._machine())
        if isinstance(machine, ObjectMachine):
            machine.query = _Strict(machine)  # type: ignore[method-assign, assignment]
        return machine

    @property
    def addresses(self) -> list[str]:
        """Where clients of this process reach it: `Client(cluster.addresses)`."""
        return [self._server.address]

    def client(self, **options: Any) -> Client:
        """A new client of the store; `options` are those of `Client`."""
        return Client(self.addresses, **options)

    def command_client(self, **options: Any) -> CommandClient:
        """A new client of a state machine of your own; see `CommandClient`."""
        return CommandClient(self.addresses, **options)

    def async_client(self, **options: Any) -> AsyncClient:
        """A new asyncio client of the store; `options` are those of `AsyncClient`."""
        return AsyncClient(self.addresses, **options)

    def async_command_client(self, **options: Any) -> AsyncCommandClient:
        """The same of a state machine of your own."""
        return AsyncCommandClient(self.addresses, **options)

    def proxy(self, cls: type[R], **options: Any) -> R:
        """A new proxy of your `Replicated` class; `options` are those of `paxon.proxy`."""
        return proxy(self.addresses, cls, **options)

    def async_proxy(self, cls: type[R], **options: Any) -> AsyncProxy[R]:
        """The same for asyncio."""
        return async_proxy(self.addresses, cls, **options)

    def restart(self) -> None:
        """Stop the server and start it from what it stored, with a new state machine.

        What was acknowledged is there again; clients go on by themselves.
        """
        self._server.stop()
        self._server.start(self._new())

    def let_pass(self, seconds: float) -> None:
        """Let so much time pass at once for the server: what is due by then happens now.

        Raises `InvalidRequest` for what is no time.
        """
        if type(seconds) not in (int, float) or not 0 <= seconds < math.inf:
            raise InvalidRequest(f"let_pass takes a number of seconds from 0, not {seconds!r}")
        self._server.let_pass(seconds)

    @property
    def failure(self) -> BaseException | None:
        """Why the server has stopped by itself, None while it serves."""
        return self._server.failure

    def stop(self) -> None:
        """Stop the server. May be called twice."""
        self._server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a cluster is neither copied nor pickled: it lives in this process")
