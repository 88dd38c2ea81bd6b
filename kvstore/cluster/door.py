"""The HTTP door of a server: `/metrics`, `/health/live`, `/health/ready` (docs/running/metrics.md).

A thread of its own with one event loop, so that whoever knocks costs the server's thread nothing
but one question for its figures, at most one every half second however many ask. Everything is
bounded: how many connections there are, how long each may take, how much it may say.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pykka

from paxon.actors import PaxosServer
from paxon.actors.embedding import AskFigures, Figures
from paxon.kvstore.cluster.metrics import CONTENT_TYPE, exposition, readiness
from paxon.kvstore.cluster.options import parse_listen
from paxon.transport.binding import why_not_listening
from paxon.transport.descriptors import (
    AT_ONCE,
    listen_longer,
    say_once_that_none_are_taken,
    takes_the_last,
)
from paxon.transport.log import background

__all__ = ["Door", "DoorError"]

CONNECTIONS = 64
"""At a time; beyond, the oldest is hung up on: idle connections keep nobody's probe out."""
FEW_CONNECTIONS = 2
"""The same where only a reserve of descriptors is left, for the server's files and peers."""
REQUEST_BYTES = 8 << 10
"""A request's line and headers."""
REQUEST_SECONDS = 5.0
"""For a request to come, and for its answer to be taken."""
FRESH_SECONDS = 0.5
"""Figures are asked for anew after so long."""
ALIVE_SECONDS = 10.0
"""A server's thread that has not answered for so long is stuck. (Large values on slow disks are
stored for seconds.)"""

_LINGER_SECONDS = 1.0
"""For who was answered to hang up."""

_TEXT = "text/plain; charset=utf-8"
_SCHEME_AND_HOST = re.compile(rb"^https?://[^/?]*", re.IGNORECASE)
_REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 431: "Request Header Fields Too Large", 503: "Service Unavailable",
}  # fmt: skip


class DoorError(OSError):
    """The door cannot be opened; the text is one sentence."""


class Door:
    """Serves what one server shows of itself, until `close` or the server's end."""

    def __init__(
        self, listen: str, server: pykka.ActorRef[PaxosServer], directory: Path | None = None
    ) -> None:
        """Listen at once; `directory` is where the data is. Raises `DoorError` or `OptionError`."""
        self._host, self._asked_port = parse_listen(listen)
        self._server, self._directory = server, directory
        self._figures: Figures | None = None
        self._answered_at = time.monotonic()
        """When the server answered last; what begins now has not been stuck yet."""
        self._asking: pykka.Future[Figures] | None = None
        self.talking: dict[asyncio.StreamWriter, None] = {}
        """The open connections, the oldest first."""
        self.port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: Exception | None = None
        self._stop = asyncio.Event()
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="paxon-metrics", daemon=True
        )
        self._thread.start()
        started.wait()
        if self._failure is not None:
            raise DoorError(
                f"metrics: {listen} cannot be listened at: {why_not_listening(self._failure)}"
            ) from self._failure

    def close(self) -> None:
        """Stop listening; may be called twice."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it is closed already
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(REQUEST_SECONDS)

    def _run(self, started: threading.Event) -> None:
        try:
            with asyncio.Runner() as runner:  # at its end whoever still talks is hung up on
                self._loop = runner.get_loop()
                runner.run(self._serve(started))
        except Exception as error:  # nothing that a stranger sends may end more than this
            self._failure = error
            if started.is_set():
                background.opt(exception=error).error("metrics: the HTTP door has failed")
        finally:
            started.set()

    async def _serve(self, started: threading.Event) -> None:
        say_once_that_none_are_taken(asyncio.get_running_loop())
        listening = await asyncio.start_server(
            self._welcome,
            self._host or None,
            self._asked_port,
            limit=REQUEST_BYTES,
            backlog=AT_ONCE,
        )
        listen_longer(listening)
        self.port = listening.sockets[0].getsockname()[1]
        started.set()
        async with listening:
            while self._server.is_alive() and not self._stop.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), FRESH_SECONDS)

    # --- one connection --------------------------------------------------------------------------

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = writer.get_extra_info("socket").fileno()
        most = FEW_CONNECTIONS if takes_the_last(number) else CONNECTIONS
        while len(self.talking) >= most:
            oldest = next(iter(self.talking))
            del self.talking[oldest]
            oldest.transport.abort()
        self.talking[writer] = None
        try:
            await asyncio.wait_for(self._talk(reader, writer), 2 * REQUEST_SECONDS)
        except (OSError, TimeoutError):
            pass
        finally:
            self.talking.pop(writer, None)
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        only_head = False
        try:
            head = await asyncio.wait_for(_head_of(reader), REQUEST_SECONDS)
            only_head = head.startswith(b"HEAD ")
            status, kind, body = await self._answer(head)
        except asyncio.IncompleteReadError:
            return  # it has hung up
        except TimeoutError:
            status, kind, body = 408, _TEXT, b"the request did not come in time\n"
        except asyncio.LimitOverrunError:
            status, kind, body = 431, _TEXT, b"the request is too long\n"
        allow = "Allow: GET, HEAD\r\n" if status == 405 else ""
        writer.write(
            f"HTTP/1.1 {status} {_REASONS[status]}\r\n{allow}Content-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + (b"" if only_head else body)
        )
        await writer.drain()
        writer.write_eof()
        with suppress(TimeoutError):  # else unread bytes, of a body, would reset the answer
            async with asyncio.timeout(_LINGER_SECONDS):
                while await reader.read(REQUEST_BYTES):
                    pass

    async def _answer(self, head: bytes) -> tuple[int, str, bytes]:
        line = head.split(b"\n", 1)[0].rstrip(b"\r").split(b" ")
        if len(line) != 3 or not line[2].startswith(b"HTTP/1."):
            return 400, _TEXT, b"this is no HTTP request\n"
        method, path = line[0], _SCHEME_AND_HOST.sub(b"", line[1]).split(b"?", 1)[0]
        answers: dict[bytes, Callable[[], Awaitable[tuple[int, str, bytes]]]] = {
            b"/metrics": self._metrics,
            b"/health/live": self._live,
            b"/health/ready": self._ready,
        }
        if path not in answers:
            return 404, _TEXT, b"there are /metrics, /health/live and /health/ready\n"
        if method not in (b"GET", b"HEAD"):
            return 405, _TEXT, b"only GET is understood\n"
        return await answers[path]()

    async def _metrics(self) -> tuple[int, str, bytes]:
        figures = await self._ask()
        if figures is None:
            return 503, _TEXT, b"the server does not answer\n"
        free = None
        if self._directory is not None:
            with suppress(OSError):  # it is gone, or no descriptor is left
                free = shutil.disk_usage(self._directory).free
        return 200, CONTENT_TYPE, exposition(figures, free)

    async def _live(self) -> tuple[int, str, bytes]:
        await self._ask()
        silent = time.monotonic() - self._answered_at
        if not self._server.is_alive():
            return 503, _TEXT, b"the server has stopped\n"
        if silent > ALIVE_SECONDS:
            return 503, _TEXT, f"the server has not answered for {silent:.0f} s\n".encode()
        return 200, _TEXT, b"alive\n"

    async def _ready(self) -> tuple[int, str, bytes]:
        figures = await self._ask()
        if figures is None:
            return 503, _TEXT, b"the server does not answer\n"
        reason = readiness(figures.status)
        if reason:
            return 503, _TEXT, f"not ready: {reason}\n".encode()
        return 200, _TEXT, b"ready\n"

    async def _ask(self) -> Figures | None:
        """The server's figures, at most half a second old; None if it does not answer in time."""
        end = time.monotonic() + REQUEST_SECONDS / 2
        while True:
            self._take()
            now = time.monotonic()
            if self._figures is not None and now - self._answered_at < FRESH_SECONDS:
                return self._figures
            if self._asking is None:
                try:
                    self._asking = self._server.ask(AskFigures(), block=False)
                except pykka.ActorDeadError:
                    return None
            if now >= end:
                return None
            await asyncio.sleep(0.01)

    def _take(self) -> None:
        """Take the answer that has come, if any. One question is under way at most."""
        if self._asking is None:
            return
        try:
            self._figures = self._asking.get(timeout=0)
            self._answered_at = time.monotonic()
        except pykka.Timeout:
            return
        except Exception:  # it has stopped meanwhile
            self._figures = None
        self._asking = None


async def _head_of(reader: asyncio.StreamReader) -> bytes:
    """A request's line and headers: also after blank lines, and with bare newlines (RFC 9112)."""
    head = line = b""
    size = 0
    while not head or line.strip(b"\r\n"):
        line = await reader.readuntil(b"\n")
        head, size = (head + line).lstrip(b"\r\n"), size + len(line)
        if size > REQUEST_BYTES:
            raise asyncio.LimitOverrunError("", size)
    return head
