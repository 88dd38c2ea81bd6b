"""Processes of our own at the end of a pipe: clients, servers, floors.

A child runs one function until its parent closes the pipe, and ends with its parent however that
ends. What goes through the pipe are tagged msgspec structs.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Generic, Self, TypeVar

import msgspec

from paxon.bench.harness.errors import BenchError
from paxon.kvstore.cluster.spawning import die_with_parent, start_process

__all__ = ["Child", "Children", "Failed", "say", "hear"]

GRACE_SECONDS = 60.0
"""How much longer than its job a child may take before it counts as stuck."""

T = TypeVar("T", bound=msgspec.Struct)


class Failed(msgspec.Struct, frozen=True, tag=True):
    """What a child answers if it cannot do what it was told."""

    sentence: str


def say(pipe: Connection, message: msgspec.Struct) -> None:
    """Send a message. Raises OSError if nobody is there."""
    pipe.send_bytes(msgspec.msgpack.encode(message))


def hear(pipe: Connection, messages: msgspec.msgpack.Decoder[T]) -> T:
    """Wait for one of these messages. Raises EOFError or OSError if none will come."""
    return messages.decode(pipe.recv_bytes())


class Child:
    """A process that answers what it is told."""

    def __init__(self, what: str, main: Callable[..., None], *arguments: object) -> None:
        """Run `main(pipe, *arguments)` in a new process; `what` it is, for error messages."""
        context = multiprocessing.get_context("spawn")
        self._what = what
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_begin, args=(theirs, main, arguments), daemon=True)
        start_process(self._process)
        theirs.close()
        if self._process.pid is None:
            raise AssertionError("unreachable: it was just started")
        self.pid: int = self._process.pid

    def tell(self, message: msgspec.Struct) -> None:
        """Send it a message. Raises `BenchError` if it has died."""
        try:
            say(self._pipe, message)
        except OSError:
            raise self._died() from None

    def answer(self, kind: type[T], seconds: float = 0.0) -> T:
        """Wait for its answer, `GRACE_SECONDS` longer than `seconds`.

        Raises `BenchError` if it has died, is stuck, or says that it failed.
        """
        try:
            if not self._pipe.poll(seconds + GRACE_SECONDS):
                raise BenchError(f"{self._what} has not answered for {seconds + GRACE_SECONDS:g} s")
            data = self._pipe.recv_bytes()
        except (EOFError, ConnectionError):
            raise self._died() from None
        either: Any = kind | Failed
        answer: T | Failed = msgspec.msgpack.decode(data, type=either)
        if isinstance(answer, Failed):
            raise BenchError(answer.sentence)
        return answer

    def _died(self) -> BenchError:
        return BenchError(f"{self._what} has died; run the benchmark again")

    def close(self, seconds: float = 2.0) -> None:
        """Have it end, by force after so long; may be called twice."""
        self._pipe.close()
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


C = TypeVar("C", bound=Child)


class Children(Generic[C]):
    """As many of one kind as are needed at most, kept; use it in a `with` statement."""

    def __init__(self, start: Callable[[], C]) -> None:
        self._start = start
        self._children: list[C] = []

    def take(self, count: int) -> list[C]:
        """The first `count` of them, started as needed."""
        while len(self._children) < count:
            self._children.append(self._start())
        return self._children[:count]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.close()


def _begin(pipe: Connection, main: Callable[..., None], arguments: tuple[object, ...]) -> None:
    """Main function of a child."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes the pipe
    gc.freeze()
    try:
        main(pipe, *arguments)
    except (EOFError, ConnectionError):
        # The parent is gone or wants no more. What is still under way is of no interest.
        os._exit(0)
    os._exit(0)
