"""A thread that does one operation after the other: how long each took, and where a gap was."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from paxon.bench.harness.errors import BenchError
from paxon.kvstore.errors import PaxonError

__all__ = ["PATIENCE_SECONDS", "Repeater", "wait_until"]

T = TypeVar("T")

PATIENCE_SECONDS = 120.0
"""What has not come by then never will."""


class Repeater(threading.Thread):
    """Calls a function over and over until `end`."""

    def __init__(self, call: Callable[[], object], pause_seconds: float = 0.0) -> None:
        """`pause_seconds`: between two calls."""
        super().__init__(name="paxon-repeater", daemon=True)
        self._call, self._pause = call, pause_seconds
        self._ending = False
        self._moved = threading.Condition()
        self._error: PaxonError | None = None
        self._calls: list[tuple[float, float]] = []
        """When each call began and ended, by the monotonic clock."""

    def run(self) -> None:
        try:
            while not self._ending:
                begun = time.monotonic()
                self._call()
                with self._moved:
                    self._calls.append((begun, time.monotonic()))
                    self._moved.notify_all()
                time.sleep(self._pause)
        except PaxonError as error:
            with self._moved:
                self._error = error
                self._moved.notify_all()

    def wait_for(self, calls: int) -> None:
        """Wait until so many calls more have ended. Raises `BenchError` if one failed."""
        with self._moved:
            goal = len(self._calls) + calls
            if not self._moved.wait_for(
                lambda: self._error is not None or len(self._calls) >= goal, PATIENCE_SECONDS
            ):
                raise BenchError(f"no operation has ended for {PATIENCE_SECONDS:g} s")
            self._check()

    def first_end_after(self, moment: float) -> float:
        """When the first call after a moment ended."""
        with self._moved:
            return next(ended for _, ended in self._calls if ended > moment)

    def take(self) -> list[float]:
        """Seconds of each call since the last time. Raises `BenchError` if one failed."""
        with self._moved:
            self._check()
            calls, self._calls = self._calls, []
        return [ended - begun for begun, ended in calls]

    def _check(self) -> None:
        if self._error is not None:
            raise BenchError(f"an operation failed: {self._error}")

    def end(self) -> None:
        """Finish the call under way."""
        self._ending = True
        self.join()


def wait_until(look: Callable[[], T | None], what: str, seconds: float = PATIENCE_SECONDS) -> T:
    """Wait until `look` finds something, and return it. Raises `BenchError` if that is late."""
    give_up = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > give_up:
            raise BenchError(f"{what} within {seconds:g} s")
        time.sleep(0.02)
    return found
