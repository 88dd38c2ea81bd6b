"""Processes of our own at the end of a pipe: clients, servers, floors.

A child calls one function after the other, as it is told, and ends with its parent however that
ends. What it keeps from one call to the next are variables of a module.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from typing import Any

from paxon.bench.harness.errors import BenchError
from paxon.kvstore.cluster.spawning import die_with_parent, start_process
from paxon.kvstore.errors import PaxonError

__all__ = ["Child", "Children", "obey"]

GRACE_SECONDS = 60.0
"""How much longer than its job a child may take before it counts as stuck."""


class Child:
    """A process that does what it is told."""

    def __init__(self, what: str) -> None:
        """Start it; `what` it is, for error messages."""
        context = multiprocessing.get_context("spawn")
        self._what = what
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs,), daemon=True)
        start_process(self._process)
        theirs.close()
        self.pid: int = self._process.pid or 0

    def tell(self, function: Callable[..., object], *arguments: object) -> None:
        """Have it call a function of a module. Raises `BenchError` if it has died."""
        try:
            self._pipe.send((function, arguments))
        except OSError:
            raise self._died() from None

    def answer(self, seconds: float = 0.0) -> Any:
        """The function's result, waiting `GRACE_SECONDS` longer than `seconds`.

        Raises `BenchError` if it has died, is stuck, or says why it failed.
        """
        try:
            if not self._pipe.poll(seconds + GRACE_SECONDS):
                raise BenchError(f"{self._what} has not answered for {seconds + GRACE_SECONDS:g} s")
            result = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise self._died() from None
        if isinstance(result, PaxonError):
            raise BenchError(f"{self._what} failed: {result}")
        return result

    def _died(self) -> BenchError:
        return BenchError(f"{self._what} has died; run the benchmark again")

    def close(self, seconds: float = 2.0) -> None:
        """Have it end, by force after so long; may be called twice."""
        self._pipe.close()
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


class Children(ExitStack):
    """As many of one kind as are needed at most, kept; use it in a `with` statement."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what
        self._children: list[Child] = []

    def take(self, count: int) -> list[Child]:
        """The first `count` of them, started as needed."""
        while len(self._children) < count:
            self._children.append(Child(self._what))
            self.callback(self._children[-1].close)
        return self._children[:count]


def _main(pipe: Connection) -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes the pipe
    gc.freeze()
    obey(pipe)
    os._exit(0)  # what is still under way is of no interest


def obey(pipe: Connection) -> None:
    """Call functions and send what they return, until the other end of the pipe is closed."""
    with suppress(EOFError, ConnectionError):
        while True:
            function, arguments = pipe.recv()
            try:
                result = function(*arguments)
            except PaxonError as error:
                result = BenchError(str(error))  # others may not be pickled
            pipe.send(result)
