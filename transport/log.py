"""Logging that nothing waits for: a server's thread hands its lines over and goes on.

A sink may block: a pipe that nobody reads, a hung disk, a network. Whoever logs to it waits, and a
server that waits is a server that is down. So threads that must never wait (`log_in_background`)
put their lines into a bounded queue, and a thread of their own gives them to loguru. Beyond the
bound lines are dropped and counted. In all other threads `logger` is loguru's, directly.

In a program that embeds Paxon the sinks are the application's; it sees the same records either way,
with the time, the module and the line at which they were logged. What a server's thread logs
carries its id, ballot and slot (`log_as`), and goes to a logger of the standard library if it was
given one.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import loguru

if TYPE_CHECKING:
    from loguru import Record

__all__ = [
    "Logger", "BackgroundWriter", "logger", "background", "log_as", "log_in_background",
    "flush_log", "forking_would_wait",
]  # fmt: skip

T = TypeVar("T")

QUEUED_LINES = 10_000
"""Lines that wait for a sink at most; what comes beyond is dropped and counted."""
FLUSH_SECONDS = 1.0
"""How long the program's end waits for lines that are still queued."""


class BackgroundWriter(Generic[T]):
    """A bounded queue, and a thread of its own that delivers what is in it, in order.

    `put` never waits and may be called from signal handlers and finalizers.
    """

    def __init__(
        self,
        deliver: Callable[[T], object],
        dropped: Callable[[int], object],
        *,
        bound: int = QUEUED_LINES,
    ) -> None:
        """Args: what to call with each item, and with the number of those dropped before it."""
        self._deliver = deliver
        self._tell_dropped = dropped
        self._bound = bound
        self._queue: SimpleQueue[T | threading.Event] = SimpleQueue()
        self._starting = threading.Lock()
        self._runs_in = 0
        """The process in which the thread runs; 0: it was not started yet."""
        self.dropped = 0
        """Items dropped that nobody has been told of yet."""

    def put(self, item: T) -> None:
        """Queue an item, or drop it if too many wait."""
        runs = self._runs_in == os.getpid()
        if self._runs_in and not runs:  # a fork: what waits is its parent's to deliver
            self._queue, self._starting, self._runs_in = SimpleQueue(), threading.Lock(), 0
        if self._queue.qsize() >= self._bound:
            self.dropped += 1
            return
        self._queue.put(item)
        if not runs:
            self._start()

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Wait until all that was put before is delivered, at most so long; whether it is."""
        if self._runs_in == 0 and self._queue.qsize():
            self._start()  # no thread was to be had …
        if self._runs_in == 0:
            while self._queue.qsize():  # … and none is
                with contextlib.suppress(Exception):
                    self._take(self._queue.get())
        if self._runs_in != os.getpid():
            return True
        done = threading.Event()
        self._queue.put(done)
        return done.wait(seconds)

    def _start(self) -> None:
        # Somebody else who is about to start it, this thread below a signal handler included, will.
        if not self._starting.acquire(blocking=False):
            return
        try:
            if self._runs_in != os.getpid():
                # Not by `threading`, whose locks a finalizer may have found taken.
                with contextlib.suppress(RuntimeError):  # no thread can be had: tried at the next
                    _thread.start_new_thread(self._run, ())
                    self._runs_in = os.getpid()
        finally:
            self._starting.release()

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            with contextlib.suppress(Exception):  # a sink that fails must not end all logging
                self._take(item)

    def _take(self, item: T | threading.Event) -> None:
        if isinstance(item, threading.Event):
            item.set()
            return
        if self.dropped:
            dropped, self.dropped = self.dropped, 0
            self._tell_dropped(dropped)
        self._deliver(item)


class _Line(NamedTuple):
    """A line that waits to be logged."""

    level: str
    text: str
    exception: BaseException | None
    module: str
    function: str
    number: int
    thread: str
    at: float
    """Monotonic seconds."""
    extra: Mapping[str, object]
    """What is bound to it: who logs, and how far it is."""
    to: logging.Logger | None
    """Where it goes instead of loguru's sinks."""


def _emit(line: _Line) -> None:
    if line.to is not None:
        error = line.exception
        told = None if error is None else (type(error), error, error.__traceback__)
        level = logging.getLevelName(line.level)
        bound = {f"paxon_{name}": value for name, value in line.extra.items()}
        line.to.log(level, "%s", line.text, exc_info=told, extra=bound)
        return

    def patch(record: Record) -> None:
        record["name"], record["function"], record["line"] = line.module, line.function, line.number
        record["module"] = line.module.rpartition(".")[2]
        record["thread"].name = line.thread
        record["extra"].update(line.extra)
        record["time"] -= timedelta(seconds=time.monotonic() - line.at)

    loguru.logger.patch(patch).opt(exception=line.exception).log(line.level, "{}", line.text)


def _tell_dropped(count: int) -> None:
    loguru.logger.warning("{} lines were not logged: the log is written too slowly", count)


_writer = BackgroundWriter[_Line](_emit, _tell_dropped)
_own = threading.local()
_everywhere = False


def log_in_background(*, whole_process: bool = False) -> None:
    """From now on this thread, or each thread of this process, logs without ever waiting."""
    global _everywhere  # noqa: PLW0603 (one process, one log)
    if whole_process:
        _everywhere = True
    else:
        _own.background = True


def log_as(bound: Callable[[], Mapping[str, object]], to: logging.Logger | None = None) -> None:
    """Bind to each line of this thread what `bound` says then; and give them to `to`, if any."""
    _own.bound, _own.to = bound, to


def flush_log(seconds: float = FLUSH_SECONDS) -> bool:
    """Wait, at most so long, until the lines that wait are logged; whether they are."""
    return _writer.flush(seconds)


def forking_would_wait(seconds: float = 0.02) -> bool:
    """Whether a fork would wait for a sink that is blocked.

    loguru takes the lock of each sink before a fork, so that no child inherits one that is held.
    """
    machinery = sys.modules.get("loguru._locks_machinery")
    for name in ("logger_locks", "handler_locks"):
        for lock in list(getattr(machinery, name, ())):
            if not lock.acquire(timeout=seconds):
                return True
            lock.release()
    return False


class Logger:
    """The part of loguru's logger that Paxon uses."""

    def __init__(self, *, background: bool = False, exception: BaseException | None = None) -> None:
        self._background = background
        self._exception = exception

    def opt(self, *, exception: BaseException | None) -> Logger:
        """The same, with an exception whose traceback is logged along."""
        return Logger(background=self._background, exception=exception)

    def info(self, text: str, *arguments: Any) -> None:
        self._log("INFO", text, arguments)

    def warning(self, text: str, *arguments: Any) -> None:
        self._log("WARNING", text, arguments)

    def error(self, text: str, *arguments: Any) -> None:
        self._log("ERROR", text, arguments)

    def critical(self, text: str, *arguments: Any) -> None:
        self._log("CRITICAL", text, arguments)

    def log(self, level: str, text: str, *arguments: Any) -> None:
        self._log(level, text, arguments)

    def _log(self, level: str, text: str, arguments: tuple[Any, ...]) -> None:
        bound = getattr(_own, "bound", None)
        if bound is None and not (
            self._background or _everywhere or getattr(_own, "background", False)
        ):
            loguru.logger.opt(depth=2, exception=self._exception).log(level, text, *arguments)
            return
        frame = sys._getframe(2)
        _writer.put(
            _Line(
                level,
                text.format(*arguments) if arguments else text,
                self._exception,
                frame.f_globals.get("__name__", ""),
                frame.f_code.co_name,
                frame.f_lineno,
                threading.current_thread().name,
                time.monotonic(),
                {} if bound is None else bound(),
                getattr(_own, "to", None),
            )
        )


logger = Logger()
"""Loguru's logger; in threads that must not wait, by way of the queue."""

background = Logger(background=True)
"""By way of the queue from any thread: for code that runs in the application's threads."""

atexit.register(flush_log)
