"""gRPC over one HTTP/2 stream: a head and messages come, messages and trailers go."""

from __future__ import annotations

import asyncio
import functools
import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote

from paxon.kvstore.errors import RequestTimeout
from paxon.kvstore.etcd.calls import MAX_MESSAGE_BYTES, TIMEOUT, Asking, Method, as_refusal
from paxon.kvstore.etcd.errors import Code, Refused
from paxon.kvstore.etcd.http2 import ConnectionFault, Headers, Stream, header_block
from paxon.kvstore.etcd.messages import decode, encode
from paxon.transport.log import logger

__all__ = ["GrpcCall", "timeout_of"]

_PREFIX = 5
"""In front of each message: one byte "compressed", four of length."""
_HEAD = header_block((b":status", b"200"), (b"content-type", b"application/grpc"))
_OK = header_block((b"grpc-status", b"0"))
_NOT_GRPC = header_block((b":status", b"415"))
_LARGE = 64 << 10
"""Bytes of an answer that is not copied to be put behind its prefix."""
_MAX_TEXT = 1000
"""Characters of an error's text: clients take headers of a few kilobytes."""
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def timeout_of(headers: Headers) -> float:
    """Seconds that the caller waits. Raises `Refused`."""
    text = headers.get(b"grpc-timeout")
    if text is None:
        return float("inf")
    unit = _UNITS.get(text[-1:])
    if unit is None or not text[:-1].isdigit() or len(text) > 9:
        raise Refused(Code.INTERNAL, "malformed grpc-timeout")
    return int(text[:-1]) * unit


def _unknown(path: str, methods: Mapping[str, Method]) -> Refused:
    """The refusal of a path that is none of a method, in the words of etcd's gRPC."""
    service, slash, name = path.removeprefix("/").rpartition("/")
    if not slash:
        return Refused(Code.RESOURCE_EXHAUSTED, f"malformed method name: {json.dumps(path)}")
    if any(known.startswith(f"/{service}/") for known in methods):
        return Refused(Code.UNIMPLEMENTED, f"unknown method {name} for service {service}")
    return Refused(Code.UNIMPLEMENTED, f"unknown service {service}")


def _coded(coding: bytes) -> Refused:
    named = json.dumps(coding.decode("latin-1"))
    return Refused(
        Code.UNIMPLEMENTED, f"grpc: Decompressor is not installed for grpc-encoding {named}"
    )


def _trailers(refused: Refused) -> bytes:
    text = quote(refused.text[:_MAX_TEXT].encode(), safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}~").encode()
    return header_block((b"grpc-status", b"%d" % refused.code), (b"grpc-message", text))


def _refusal_of(error: Exception) -> Refused:
    try:
        return as_refusal(error)
    except Exception as bug:
        logger.opt(exception=bug).error("a call of etcd's API has failed")
        return Refused(Code.INTERNAL, f"an internal error ({type(bug).__name__})")
    finally:
        error.__traceback__ = None  # (its frames hold the answer, and they one another)


class GrpcCall:
    """One call: takes in its messages, has them answered, and sends the answers."""

    def __init__(self, stream: Stream, methods: Mapping[str, Method], *, busy: bool) -> None:
        """`busy`: the client reads too little of what it is sent: no more work for it."""
        self._stream = stream
        self._buffer = bytearray()
        self._requests: deque[bytes] = deque()
        self._ended = False
        self._begun = False
        self._task: asyncio.Task[None] | None = None
        self._asking: Asking | None = None
        """What is asked for without a task."""
        self._wake: asyncio.Event | None = None
        self._room: asyncio.Event | None = None
        self._method: Method | None = None
        self._timeout = TIMEOUT
        headers = stream.headers
        if not headers.get(b"content-type", b"").startswith(b"application/grpc"):
            stream.finish(_NOT_GRPC)
            return
        try:
            self._timeout = timeout_of(headers)
            path = headers.get(b":path", b"").decode("latin-1")
            method = methods.get(path)
            if method is None or method.path != path:
                raise _unknown(path, methods)
            if (coding := headers.get(b"grpc-encoding", b"identity")) != b"identity":
                raise _coded(coding)
            if busy:
                raise Refused(Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests")
        except Refused as refused:
            self._refuse(refused)
            return
        self._method = method
        if method.unary is None:
            self._start()

    # --- what comes ----------------------------------------------------------------------------

    def data(self, data: bytes) -> None:
        """See `Receiver`."""
        if self._stream.closed:
            self._stream.consumed(len(data))
            return
        self._buffer += data
        while len(self._buffer) >= _PREFIX:
            size = int.from_bytes(self._buffer[1:_PREFIX], "big")
            if size > MAX_MESSAGE_BYTES:
                self._refuse(Refused(
                    Code.RESOURCE_EXHAUSTED,
                    f"grpc: received message larger than max ({size} vs. {MAX_MESSAGE_BYTES})",
                ))  # fmt: skip
                return
            if self._buffer[0]:
                self._refuse(Refused(
                    Code.INTERNAL, "grpc: compressed flag set with identity or empty encoding"
                ))  # fmt: skip
                return
            if len(self._buffer) - _PREFIX < size:
                return
            self._requests.append(bytes(self._buffer[_PREFIX : _PREFIX + size]))
            del self._buffer[: _PREFIX + size]
            method = self._method
            if method is not None and method.unary is not None:
                self._stream.consumed(_PREFIX + size)
                if len(self._requests) > 1:
                    self._refuse(Refused(Code.INTERNAL, "a second request in a call of one"))
                    return
            elif self._wake is not None:
                self._wake.set()

    def end(self) -> None:
        """See `Receiver`."""
        self._ended = True
        if self._wake is not None:
            self._wake.set()
        if self._stream.closed or self._method is None or self._method.unary is None:
            return
        if not self._requests or self._buffer:
            self._refuse(Refused(Code.INTERNAL, "a request is not complete"))
            return
        self._start()

    def aborted(self) -> None:
        """See `Receiver`."""
        self._give_back()
        asking, self._asking, task, self._task = self._asking, None, self._task, None
        if asking is not None:
            asking.give_up()
        if task is not None:
            task.cancel()

    def writable(self) -> None:
        """See `Receiver`."""
        if self._room is not None:
            self._room.set()

    def _give_back(self) -> None:
        """Nothing of what came is held any more."""
        size = len(self._buffer)
        if self._method is None or self._method.unary is None:  # (else it was given back before)
            size += sum(_PREFIX + len(each) for each in self._requests)
        self._buffer.clear()
        self._requests.clear()
        if size:
            self._stream.consumed(size)

    # --- answering -----------------------------------------------------------------------------

    def _start(self) -> None:
        method = self._method
        assert method is not None
        if method.unary is None:
            self._go_on(self._answer_stream)
        elif method.quick is None or self._timeout <= 0 or not self._ask_quickly(method):
            self._go_on(functools.partial(self._answer_one, method))

    def _go_on(self, answering: Callable[[], Awaitable[None]]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(answering))

    def _ask_quickly(self, method: Method) -> bool:
        """Ask without a task; False: this has to be asked with one."""
        assert method.quick is not None
        try:
            request = self._decoded(method, self._requests[0])
            timeout = min(self._timeout, TIMEOUT)
            self._asking = method.quick(request, timeout, self._on_outcome)
        except Exception as error:
            self._refuse(_refusal_of(error))
            return True
        return self._asking is not None

    def _on_outcome(self, outcome: Any) -> None:
        """Take in the outcome of a question without a task."""
        self._asking = None
        try:
            if callable(outcome):
                self._go_on(lambda: self._answer_with(outcome()))
            elif isinstance(outcome, RequestTimeout) and self._timeout < TIMEOUT:
                self._refuse(_refusal_of(TimeoutError()))
            elif isinstance(outcome, Exception):
                self._refuse(_refusal_of(outcome))
            else:
                made = encode(outcome)
                self._stream.answer(_HEAD, b"\0" + len(made).to_bytes(4, "big") + made, _OK)
        except ConnectionFault as fault:
            self._stream.give_up(fault)
        except Exception as error:
            self._refuse(_refusal_of(error))

    async def _run(self, answering: Callable[[], Awaitable[None]]) -> None:
        try:
            await answering()
        except ConnectionFault as fault:
            self._stream.give_up(fault)
        except asyncio.CancelledError:
            if not self._stream.closed:  # the gateway stops
                self._refuse(Refused(Code.UNAVAILABLE, "etcdserver: server stopped"))
            raise
        except Exception as error:
            self._refuse(_refusal_of(error))

    def _decoded(self, method: Method, data: bytes) -> Any:
        try:
            return decode(method.request_class, data)
        except ValueError as error:
            raise Refused(Code.INTERNAL, f"grpc: error unmarshalling request: {error}") from None

    async def _answer_one(self, method: Method) -> None:
        assert method.unary is not None
        request, timeout = self._decoded(method, self._requests.popleft()), self._timeout
        await self._answer_with(method.unary(request, min(timeout, TIMEOUT) if timeout > 0 else 0))

    async def _answer_with(self, answer: Awaitable[Any]) -> None:
        timeout = self._timeout
        if timeout < TIMEOUT:
            async with asyncio.timeout(max(timeout, 0)):
                made = encode(await answer)
        else:
            made = encode(await answer)
        self._send(made)
        self._finish(_OK)

    async def _answer_stream(self) -> None:
        assert self._method is not None and self._method.stream is not None
        self._wake = asyncio.Event()
        async with asyncio.timeout(None if self._timeout == float("inf") else self._timeout):
            await self._method.stream(self)
        self._finish(_OK)

    @property
    def waiting(self) -> int:
        """See `Call`."""
        return len(self._requests)

    async def receive(self) -> Any:
        """See `Call`."""
        assert self._wake is not None and self._method is not None
        while not self._requests:
            if self._ended:
                return None
            self._wake.clear()
            await self._wake.wait()
        data = self._requests.popleft()
        self._stream.consumed(_PREFIX + len(data))
        return self._decoded(self._method, data)

    async def send(self, answer: Any) -> None:
        """See `Call`."""
        self._send(encode(answer))
        while self._stream.blocked and not self._stream.closed:
            if self._room is None:
                self._room = asyncio.Event()
            self._room.clear()
            await self._room.wait()

    def _send(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            self._stream.begin(_HEAD)
        head = b"\0" + len(data).to_bytes(4, "big")
        if len(data) < _LARGE:
            self._stream.send(head + data)
        else:
            self._stream.send(head)
            self._stream.send(data)

    def _refuse(self, refused: Refused) -> None:
        self._give_back()
        self._finish(_trailers(refused))

    def _finish(self, block: bytes) -> None:
        self._stream.finish(block if self._begun else _HEAD + block)
