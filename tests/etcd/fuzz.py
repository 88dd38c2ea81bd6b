"""What strangers may send, in pieces and of all kinds, to one connection without a network.

`one` takes the bytes that a fuzzer makes up; test_fuzz.py has it run by atheris, which sees where
they lead, or by hypothesis where there is no atheris:

    python -m tests.etcd.fuzz [libFuzzer's flags]
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import struct
import sys
from typing import Any, Self, cast

try:
    atheris: Any = importlib.import_module("atheris")
except ImportError:
    atheris = None

WATCHED = ["paxon.kvstore.etcd", "h11", "hpack"]
"""Packages in which it sees where an input leads."""

with contextlib.nullcontext() if atheris is None else atheris.instrument_imports(include=WATCHED):
    import h11._connection  # noqa: F401
    import hpack.hpack  # noqa: F401

    from paxon.kvstore.etcd import grpc, http1, http2, kv, lease, listener, locks, messages, watch
    from paxon.kvstore.etcd.calls import Call, Done, Method, methods
    from paxon.kvstore.etcd.errors import Code, Refused

__all__ = ["one"]

_MAX_ANSWER = 4 << 20
"""Bytes: far more than what is asked for here is answered with."""
_TURNS = 8
"""Of the loop, in which what has come is answered."""
_HEAD = http2.header_block(
    (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/etcdserverpb.KV/Txn"),
    (b":authority", b"x"), (b"content-type", b"application/grpc"), (b"te", b"trailers"),
)  # fmt: skip


class NotYet:
    """Something that was asked for, and is refused in the next turn of the loop."""

    def __init__(self, done: Done) -> None:
        self._waiting: Done | None = done
        asyncio.get_running_loop().call_soon(self._refuse)

    def _refuse(self) -> None:
        if self._waiting is not None:
            self._waiting(Refused(Code.UNAVAILABLE, "nobody is there"))

    def give_up(self) -> None:
        self._waiting = None


class Nobody:
    """A front whose cluster does not answer: all that is before it is tried."""

    revision = 1
    kv = None

    async def ask_one(self, *_: Any, **__: Any) -> Any:
        raise Refused(Code.UNAVAILABLE, "nobody is there")

    ask = ask_any = now = ask_one

    def begin(self, _operation: Any, _timeout: float, _answer: Any, done: Done) -> NotYet:
        return NotYet(done)

    def header(self, revision: int = 0) -> Any:
        return messages.message("ResponseHeader")(revision=revision)


async def _echo(call: Call) -> None:
    while (request := await call.receive()) is not None:
        await call.send(request)


def _table() -> dict[str, Method]:
    front: Any = Nobody()
    services = (kv.KV, lease.LeaseService, locks.LockService, watch.WatchService)
    table = [method for service in services for method in service(front).methods]
    table.append(Method("/x/Echo", "/v3/echo", "TxnRequest", None, _echo))
    return methods(table)


class Link:
    """The transport of a connection: takes what is written, and tells no one."""

    def __init__(self) -> None:
        self.written = 0
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += len(data)
        assert self.written <= _MAX_ANSWER, "a few bytes are answered with megabytes"

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def set_write_buffer_limits(self, **_: int) -> None:
        pass

    def get_extra_info(self, _name: str) -> Self:
        return self

    def fileno(self) -> int:
        return 0

    def setsockopt(self, *_: object) -> None:
        pass

    pause_reading = resume_reading = lambda _self: None


class Taken:
    """Bytes, taken from the front as numbers and pieces."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, below: int) -> int:
        return int.from_bytes(self.piece(2).ljust(2, b"\0"), "big") % below

    def piece(self, size: int) -> bytes:
        data = self._data[self._at : self._at + size]
        self._at += size
        return data


def _frames(taken: Taken) -> bytes:
    """A connection of HTTP/2 that keeps to the rules at first."""
    said = http2.PREFACE + b"\0\0\0\4\0\0\0\0\0"
    while taken:
        kind, flags, stream = taken.number(11), taken.number(64), taken.number(8)
        payload = taken.piece(taken.number(200))
        if kind == 1 and flags & 32 == 0:
            payload, flags = _HEAD + payload[:8], flags | 4
        elif kind == 10:  # a message, whole
            kind, payload = 0, b"\0" + struct.pack(">I", len(payload)) + payload
        said += len(payload).to_bytes(3, "big") + bytes((kind, flags)) + struct.pack(">I", stream)
        said += payload
    return said


def _request(taken: Taken) -> bytes:
    """A request of HTTP/1.1 with a body."""
    paths = [path for path in _TABLE if path.startswith("/v3/")]
    path = paths[taken.number(len(paths))].encode()
    rest = taken.piece(4096)
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path, len(rest), rest)


def _translate(taken: Taken) -> None:
    """A message, as bytes and as JSON, turned into an operation."""
    names = ["RangeRequest", "PutRequest", "DeleteRangeRequest", "TxnRequest", "WatchRequest"]
    kind = messages.message(names[taken.number(len(names))])
    as_json, data = taken.number(2), taken.piece(4096)
    with contextlib.suppress(ValueError):
        request = (messages.from_json if as_json else messages.decode)(kind, data)
        messages.to_json(request)
        if kind.DESCRIPTOR.name == "TxnRequest":
            with contextlib.suppress(Refused):
                kv._txn(request, 128)


def _complain(*_: Any, **__: Any) -> Any:
    """What a gateway would log as a bug of its own is one."""
    raise AssertionError("an error that nothing provides for") from sys.exc_info()[1]


class _Logger:
    opt = staticmethod(_complain)


for module in (grpc, http1):
    module.logger = _Logger  # type: ignore[attr-defined]
_TABLE = _table()
_LOOP = asyncio.new_event_loop()


async def _serve(said: bytes, cut: int) -> None:
    connection = listener._Connection(listener.Listener(_TABLE, {}))
    link = Link()
    failed: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failed.append(context))
    connection.connection_made(cast("asyncio.Transport", link))
    for part in (said[:cut], said[cut:]):
        if part and not link.closed:
            connection.data_received(part)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
    connection.connection_lost(None)
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"{left} outlive their connection"
    assert not failed, failed
    speaks = connection._speaks
    assert speaks is None or (speaks.streams, speaks.blocked_bytes) == (0, 0)


def one(data: bytes) -> None:
    """Try one input. Raises what a gateway must not raise."""
    taken = Taken(data)
    way = taken.number(4)
    if way == 0:
        _translate(taken)
        return
    cut = taken.number(400)
    said = taken.piece(8192) if way == 1 else _frames(taken) if way == 2 else _request(taken)
    _LOOP.run_until_complete(_serve(said, cut))


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
