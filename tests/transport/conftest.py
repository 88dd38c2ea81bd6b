"""One harness for three transports: TCP, ipc and memory behave alike to the tests."""

from __future__ import annotations

import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from loguru import logger

from paxon.transport import (
    Burst,
    EndpointOptions,
    FrameCodec,
    MemoryClient,
    MemoryEndpoint,
    MemoryHub,
    ZmqEndpoint,
)

VERSION = 3
IDENTITY = 0xC1A5
PATIENCE = 10.0
"""Seconds after which a test gives up; no test waits this long when all is well."""


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=1):
    number: int
    payload: bytes = b""


class Note(msgspec.Struct, frozen=True, array_like=True, tag=2):
    text: str


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=1):
    number: int
    payload: bytes = b""


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=1):
    number: int
    payload: bytes = b""


class Shapes:
    """The message types, for tests: conftest cannot be imported by name."""

    Ping = Ping
    Note = Note
    Ask = Ask
    Answer = Answer
    version = VERSION
    identity = IDENTITY

    @staticmethod
    def peer_codec(server: int, **changes: Any) -> FrameCodec[Any, Any]:
        arguments: dict[str, Any] = {
            "protocol_version": VERSION,
            "identity": IDENTITY,
            "sender": server,
            "incarnation": 1000 + server,
        } | changes
        return FrameCodec(Ping | Note, Ping | Note, **arguments)

    @staticmethod
    def server_codec(server: int, **changes: Any) -> FrameCodec[Any, Any]:
        arguments: dict[str, Any] = {
            "protocol_version": VERSION,
            "identity": IDENTITY,
            "sender": server,
            "accept_any_cluster": True,
        } | changes
        return FrameCodec(Answer, Ask, **arguments)

    @staticmethod
    def client_codec(**changes: Any) -> FrameCodec[Any, Any]:
        arguments: dict[str, Any] = {
            "protocol_version": VERSION,
            "accept_any_cluster": True,
        } | changes
        return FrameCodec(Ask, Answer, **arguments)


Endpoint = ZmqEndpoint[Any, Any, Any] | MemoryEndpoint[Any, Any, Any]


class Wire(ABC):
    """Servers and clients on one transport; closes all that it opened."""

    name: str

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        read, write = os.pipe()
        self.wake_fd = read
        stack.callback(os.close, read)
        stack.callback(os.close, write)

    @abstractmethod
    def servers(
        self, count: int, options: EndpointOptions | None = None, **codec: Any
    ) -> dict[int, Endpoint]: ...

    @abstractmethod
    def reopen(self, server: int) -> Endpoint: ...

    @abstractmethod
    def client(self, server: int) -> Any:
        """Has `send(messages)`, `send_frame(bytes)`, `receive(timeout) -> list | None`, `close`."""

    @abstractmethod
    def send_to_peer_port(self, server: int, frame: bytes) -> None: ...

    def receive(
        self, endpoint: Endpoint, enough: Callable[[Burst[Any, Any]], Any], **kwargs: Any
    ) -> Burst[Any, Any]:
        """Take bursts until what they hold together is enough."""
        return take(endpoint, self.wake_fd, enough, **kwargs)

    def until(
        self, endpoint: Endpoint, done: Callable[[], Any], each: Callable[[], None] | None = None
    ) -> Burst[Any, Any]:
        """Take bursts, doing `each` before every wait, until `done`."""
        return take(endpoint, self.wake_fd, lambda _: done(), each=each)

    def introduce(self, sender: Endpoint, receiver: Endpoint, server: int) -> None:
        """Return once frames from sender to receiver (whose id is `server`) arrive."""
        self.receive(
            receiver, lambda burst: burst.peers, each=lambda: sender.send(server, [Ping(0)])
        )
        # Later greetings may still be on their way; the last one carries this mark.
        sender.send(server, [Note("introduced")])
        self.receive(receiver, lambda burst: Note("introduced") in peer_messages(burst))


def peer_messages(burst: Burst[Any, Any]) -> list[Any]:
    return [message for _, _, messages in burst.peers for message in messages]


def take(
    endpoint: Endpoint,
    wake_fd: int,
    enough: Callable[[Burst[Any, Any]], Any],
    each: Callable[[], None] | None = None,
) -> Burst[Any, Any]:
    total: Burst[Any, Any] = Burst()
    give_up = time.monotonic() + PATIENCE
    while True:
        if each is not None:
            each()
        burst = endpoint.receive()
        total.peers += burst.peers
        total.clients += burst.clients
        total.lost += burst.lost
        total.refused += burst.refused
        if enough(total):
            return total
        assert time.monotonic() < give_up, f"not in time; received {total}, {endpoint.counters()}"
        if not burst:
            endpoint.wait(0.02, wake_fd)


class ZmqClient:
    def __init__(self, context: zmq.Context[Any], address: str) -> None:
        self.codec = Shapes.client_codec()
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)

    def send(self, messages: list[Any]) -> None:
        self.send_frame(self.codec.encode(messages))

    def send_frame(self, frame: bytes) -> None:
        self.socket.send(frame)

    def receive(self, timeout_seconds: float) -> list[Any] | None:
        if not self.socket.poll(timeout_seconds * 1000):
            return None
        return self.codec.decode(self.socket.recv())[2]

    def close(self) -> None:
        self.socket.close(0)


class ZmqWire(Wire):
    def __init__(self, stack: ExitStack, scheme: str) -> None:
        super().__init__(stack)
        self.name = scheme
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="paxon-")))
        self.context: zmq.Context[Any] = stack.enter_context(zmq.Context())
        self.addresses: dict[int, tuple[str, str]] = {}
        self.options: EndpointOptions | None = None
        self.codec: dict[str, Any] = {}

    def open(self, server: int, peer_address: str, client_address: str) -> Any:
        endpoint: Any = ZmqEndpoint(
            peer_address=peer_address,
            client_address=client_address,
            peers={},
            peer_codec=Shapes.peer_codec(server, **self.codec),
            client_codec=Shapes.server_codec(server, **self.codec),
            options=self.options,
        )
        self.stack.callback(endpoint.close)
        self.addresses[server] = (endpoint.peer_address, endpoint.client_address)
        return endpoint

    def servers(
        self, count: int, options: EndpointOptions | None = None, **codec: Any
    ) -> dict[int, Endpoint]:
        self.options, self.codec = options, codec
        opened = {}
        for server in range(1, count + 1):
            if self.name == "tcp":
                opened[server] = self.open(server, "tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
            else:
                base = f"ipc://{self.folder}/{server}"
                opened[server] = self.open(server, f"{base}-peer", f"{base}-client")
        for server, endpoint in opened.items():
            self.connect(server, endpoint)
        return opened

    def connect(self, server: int, endpoint: Any) -> None:
        for other, (address, _) in self.addresses.items():
            if other != server:
                endpoint.connect(other, address)

    def reopen(self, server: int) -> Endpoint:
        endpoint: Endpoint = self.open(server, *self.addresses[server])
        self.connect(server, endpoint)
        return endpoint

    def client(self, server: int) -> ZmqClient:
        client = ZmqClient(self.context, self.addresses[server][1])
        self.stack.callback(client.close)
        return client

    def send_to_peer_port(self, server: int, frame: bytes) -> None:
        client = ZmqClient(self.context, self.addresses[server][0])
        self.stack.callback(client.close)
        client.send_frame(frame)


class MemoryWire(Wire):
    name = "memory"

    def __init__(self, stack: ExitStack) -> None:
        super().__init__(stack)
        self.hub = MemoryHub()
        self.count = 0
        self.options: EndpointOptions | None = None
        self.codec: dict[str, Any] = {}

    def servers(
        self, count: int, options: EndpointOptions | None = None, **codec: Any
    ) -> dict[int, Endpoint]:
        self.count, self.options, self.codec = count, options, codec
        return {server: self.reopen(server) for server in range(1, count + 1)}

    def reopen(self, server: int) -> Endpoint:
        endpoint: Any = MemoryEndpoint(
            self.hub,
            server,
            peer_codec=Shapes.peer_codec(server, **self.codec),
            client_codec=Shapes.server_codec(server, **self.codec),
            options=self.options,
        )
        self.stack.callback(endpoint.close)
        return endpoint  # type: ignore[no-any-return]  # Any stands for the three message unions.

    def client(self, server: int) -> Any:
        client = MemoryClient(self.hub, server, Shapes.client_codec())
        self.stack.callback(client.close)
        return client

    def send_to_peer_port(self, server: int, frame: bytes) -> None:
        assert self.hub.to_server(server, frame)


@pytest.fixture
def shapes() -> type[Shapes]:
    return Shapes


@pytest.fixture(params=["tcp", "ipc", "memory"])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    with ExitStack() as stack:
        yield MemoryWire(stack) if request.param == "memory" else ZmqWire(stack, request.param)


@pytest.fixture(params=["tcp", "ipc"])
def zmq_wire(request: pytest.FixtureRequest) -> Iterator[ZmqWire]:
    with ExitStack() as stack:
        yield ZmqWire(stack, request.param)


@pytest.fixture
def tcp_wire() -> Iterator[ZmqWire]:
    with ExitStack() as stack:
        yield ZmqWire(stack, "tcp")


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    """What is logged at level WARNING and above while the test runs."""
    lines: list[str] = []
    sink = logger.add(lambda text: lines.append(str(text)), level="WARNING", format="{message}")
    yield lines
    logger.remove(sink)
