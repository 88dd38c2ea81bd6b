"""The JSON gateway: etcd's calls as POSTs over HTTP/1.1, and `/version`, `/health`, `/metrics`.

The protocol is h11's work. One request at a time for each connection, as HTTP/1.1 has it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import h11

from paxon.kvstore.etcd.calls import MAX_MESSAGE_BYTES, TIMEOUT, Method, as_refusal
from paxon.kvstore.etcd.errors import CODES, Code, Refused, too_many_requests
from paxon.kvstore.etcd.grpc import timeout_of
from paxon.kvstore.etcd.http2 import Tally
from paxon.kvstore.etcd.messages import from_json, to_json
from paxon.transport.log import logger

__all__ = ["Http1", "Page"]

_MAX_BODY = 2 * MAX_MESSAGE_BYTES
"""Bytes of a request: values are in base64."""
_LARGE, _AS_JSON = 4 << 20, 4
"""Bytes in memory of an answer that takes long to put into JSON; what each of its own becomes."""
_MAX_AHEAD = 64 << 10
"""Bytes that may come before the request in front of them is answered."""
_PLAIN, _QUOTED = re.compile(rb'["{}\[\]]'), re.compile(rb'"|\\.', re.DOTALL)
"""What matters outside and inside of a JSON document's strings to find its end."""
_OLD = "/v3beta/"
"""What etcd 3.4 serves as `/v3/` as well."""
_JSON = "application/json"
_GRPC = ("Grpc-Metadata-Content-Type", "application/grpc")

Page = Callable[[], Awaitable[tuple[int, str, bytes]]]
"""Makes the answer to a GET: status, content type, body."""


def _encode(made: Any) -> bytes:
    return json.dumps(made, separators=(",", ":"), ensure_ascii=False).encode()


def _as_json(answer: Any) -> bytes:
    return _encode(to_json(answer))


class Http1:
    """One connection."""

    def __init__(
        self,
        count: Callable[[], None],
        methods: Mapping[str, Method],
        pages: Mapping[str, Page],
        transport: asyncio.Transport,
        tally: Tally,
    ) -> None:
        """`count` is called for each request; `tally` is of all connections."""
        self._count, self._tally = count, tally
        self._methods, self._pages, self._transport = methods, pages, transport
        self._h11 = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._seen = 0
        """Bytes of the body so far."""
        self._call: _JsonCall | None = None
        self._task: asyncio.Task[None] | None = None
        self._ahead = 0
        self.room = asyncio.Event()
        """Set while the socket takes more."""
        self.room.set()

    # --- what comes --------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take in what came."""
        if self._h11.our_state in (h11.CLOSED, h11.MUST_CLOSE, h11.ERROR):
            return
        if self._request is not None and self._h11.their_state is h11.DONE:
            self._ahead += len(data)
            if self._ahead > _MAX_AHEAD:
                self._transport.abort()
                return
        try:
            self._h11.receive_data(data)
            self._go_on()
        except h11.RemoteProtocolError as error:
            self._refuse_all(error)

    def _refuse_all(self, error: h11.RemoteProtocolError) -> None:
        """Refuse something that is no HTTP, and close."""
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE) and self._task is None:
            self._answer(error.error_status_hint or 400, "text/plain", f"{error}\n".encode())
        self._transport.close()

    def _go_on(self) -> None:
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            match event:
                case h11.Request():
                    self._begin(event)
                case h11.Data():
                    self._take(bytes(event.data))
                case h11.EndOfMessage():
                    self._end()
                case _:  # it is closed
                    self._transport.close()
                    return

    def _begin(self, request: h11.Request) -> None:
        self._request, self._seen, self._ahead = request, 0, 0
        self._count()
        self._body.clear()
        if self._h11.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            self._write(self._h11.send(go_on))
        method = self._methods.get(self._path())
        if request.method == b"POST" and method is not None and method.unary is None:
            self._call = _JsonCall(self, method)
            self._task = asyncio.get_running_loop().create_task(self._stream(method, self._call))

    def _path(self) -> str:
        assert self._request is not None
        path = self._request.target.decode("latin-1").partition("?")[0]
        return f"/v3/{path.removeprefix(_OLD)}" if path.startswith(_OLD) else path

    def _timeout(self) -> float:
        """Seconds that the client waits. Raises `Refused`."""
        assert self._request is not None
        headers = dict(self._request.headers)
        try:
            return timeout_of(headers)
        except Refused:
            said = headers[b"grpc-timeout"].decode("latin-1")
            raise Refused(Code.INVALID_ARGUMENT, f"invalid grpc-timeout: {said}") from None

    def _take(self, data: bytes) -> None:
        self._seen += len(data)
        if self._call is not None:
            self._call.take(data)
        elif self._seen <= _MAX_BODY:
            self._body += data

    def _end(self) -> None:
        if self._call is not None:
            self._call.take(None)
            return
        self._task = asyncio.get_running_loop().create_task(self._respond())

    def lost(self) -> None:
        """The connection has ended."""
        self.room.set()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    # --- answering ---------------------------------------------------------------------------

    def _write(self, data: bytes | None) -> None:
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def _answer(self, status: int, kind: str, body: bytes, *more: tuple[str, str]) -> None:
        """Send a whole answer."""
        head = h11.Response(
            status_code=status,
            reason=HTTPStatus(status).phrase.encode(),
            headers=[("Content-Type", kind), *more, ("Content-Length", str(len(body)))],
        )
        out = self._h11.send(head) or b""
        request = self._request
        if request is None or request.method != b"HEAD":
            if len(body) > _LARGE:  # (it is not copied)
                self._write(out)
                out = b""
            out += self._h11.send(h11.Data(data=body)) or b""
        self._write(out + (self._h11.send(h11.EndOfMessage()) or b""))

    def _next(self) -> None:
        """Ready for the next request, if there is to be one."""
        self._request = self._call = self._task = None
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            try:
                self._go_on()
            except h11.RemoteProtocolError as error:
                self._refuse_all(error)
        else:
            self._transport.close()

    async def _respond(self) -> None:
        assert self._request is not None
        method = self._methods.get(path := self._path())
        page = self._pages.get(path)
        try:
            if page is not None and self._request.method in (b"GET", b"HEAD"):
                self._answer(*await page())
            elif method is None and page is None:
                text = b"Not Found\n" if path.startswith("/v3/") else b"404 page not found\n"
                self._answer(404, "text/plain; charset=utf-8", text)
            elif page is not None or self._request.method != b"POST":
                allowed = "POST" if page is None else "GET"
                text = b"Method Not Allowed\n"
                self._answer(405, "text/plain; charset=utf-8", text, ("Allow", allowed))
            else:
                assert method is not None
                await self._respond_to_call(method)
        except Exception as bug:
            logger.opt(exception=bug).error("a request of etcd's API has failed")
            if self._h11.our_state is h11.SEND_RESPONSE:
                self._answer(500, "text/plain", f"{type(bug).__name__}\n".encode())
        await self.room.wait()
        self._next()

    async def _respond_to_call(self, method: Method) -> None:
        assert method.unary is not None
        try:
            if self._seen > _MAX_BODY:
                raise Refused(
                    Code.RESOURCE_EXHAUSTED,
                    f"grpc: received message larger than max ({self._seen} vs. {_MAX_BODY})",
                )
            timeout = self._timeout()
            request = _parsed(method, bytes(self._body))
            async with asyncio.timeout(timeout if timeout < TIMEOUT else None):
                answer = await method.unary(request, min(timeout, TIMEOUT))
            owed = _AS_JSON * answer.ByteSize()
            if not self._tally.has_room(owed):
                raise too_many_requests()
        except Exception as error:
            self._refuse(as_refusal(error))
            return
        self._tally.blocked += owed
        try:
            if owed > _LARGE:  # others have their turn meanwhile
                made = await asyncio.to_thread(_as_json, answer)
            else:
                made = _as_json(answer)
            self._answer(200, _JSON, made, _GRPC)
            del answer, made
            await self.room.wait()
        finally:
            self._tally.blocked -= owed

    def _refuse(self, refused: Refused) -> None:
        body = {"error": refused.text, "message": refused.text, "code": refused.code}
        self._answer(CODES[refused.code], _JSON, _encode(body))

    async def _stream(self, method: Method, call: _JsonCall) -> None:
        assert method.stream is not None
        try:
            await method.stream(call)
            call.begin()
        except Exception as error:
            refused = as_refusal(error)
            if isinstance(refused, _Malformed) and not call.begun:
                self._refuse(refused)
                self._next()
                return
            status = CODES[refused.code]
            body = {
                "grpc_code": refused.code, "http_code": status, "message": refused.text,
                "http_status": HTTPStatus(status).phrase,
            }  # fmt: skip
            call.begin(status)
            call.say({"error": body})
        self._write(self._h11.send(h11.EndOfMessage()))
        self._next()

    def begin_stream(self, status: int) -> None:
        """Send the head of a stream of answers."""
        head = h11.Response(
            status_code=status,
            reason=HTTPStatus(status).phrase.encode(),
            headers=[("Content-Type", _JSON), _GRPC, ("Transfer-Encoding", "chunked")],
        )
        self._write(self._h11.send(head))

    def send_part(self, made: Any) -> None:
        """Send one document, as one chunk."""
        self._write(self._h11.send(h11.Data(data=_encode(made) + b"\n")))


def _parsed(method: Method, text: bytes) -> Any:
    try:
        return from_json(method.request_class, text or b"{}")
    except ValueError as error:
        raise Refused(Code.INVALID_ARGUMENT, str(error)) from None


class _Malformed(Refused):
    """The error for something in a stream that is no request."""

    def __init__(self, text: str) -> None:
        super().__init__(Code.UNKNOWN, text)


class Documents:
    """Cuts a stream into JSON documents, as they come: each byte is looked at once."""

    def __init__(self) -> None:
        self.left = bytearray()
        """What belongs to no whole document yet."""
        self._seen = 0
        self._depth = 0
        self._quoted = False

    def take(self, data: bytes) -> Iterator[bytes]:
        """More has come: the documents that are whole now. (What is none stays in `left`.)"""
        left = self.left
        left += data
        while found := (_QUOTED if self._quoted else _PLAIN).search(left, self._seen):
            self._seen = found.end()
            mark = found[0][:1]
            if mark == b'"':
                self._quoted = not self._quoted
            elif mark in b"{[":
                self._depth += 1
            elif mark in b"}]":
                self._depth -= 1
                if self._depth == 0:
                    yield bytes(left[: self._seen])
                    del left[: self._seen]
                    self._seen = 0
        self._seen = max(self._seen, len(left) - left.endswith(b"\\"))  # (it escapes what comes)


class _JsonCall:
    """A stream of JSON documents in, one out; see `Call`."""

    def __init__(self, connection: Http1, method: Method) -> None:
        self._connection, self._method = connection, method
        self._coming = Documents()
        self._documents: deque[bytes] = deque()
        self._held = 0
        """Bytes of them."""
        self._ended = False
        self._refused: Refused | None = None
        self._wake = asyncio.Event()
        self.begun = False
        """Whether the head of the answer has left."""

    def take(self, data: bytes | None) -> None:
        """More of the body; None: that was all."""
        if data is None:
            self._ended = True
        else:
            if self._refused is None:
                for document in self._coming.take(data):
                    self._documents.append(document)
                    self._held += len(document)
            if self._held + len(self._coming.left) > _MAX_BODY:
                self._refused = Refused(Code.RESOURCE_EXHAUSTED, "the request is too large")
                self._coming = Documents()
        self._wake.set()

    @property
    def waiting(self) -> int:
        """See `Call`."""
        return len(self._documents)

    async def receive(self) -> Any:
        """See `Call`."""
        while not self._documents:
            if self._refused is not None:
                raise self._refused
            if self._ended:
                if self._coming.left.strip():
                    raise _Malformed("the request is no JSON document")
                return None
            self._wake.clear()
            await self._wake.wait()
        document = self._documents.popleft()
        self._held -= len(document)
        try:
            return from_json(self._method.request_class, document)
        except ValueError as error:
            raise _Malformed(str(error)) from None

    def begin(self, status: int = 200) -> None:
        """Send the head of the answer, if it has not left."""
        if not self.begun:
            self.begun = True
            self._connection.begin_stream(status)

    def say(self, made: Any) -> None:
        """Send a document."""
        self.begin()
        self._connection.send_part(made)

    async def send(self, answer: Any) -> None:
        """See `Call`."""
        self.say({"result": to_json(answer)})
        await self._connection.room.wait()
