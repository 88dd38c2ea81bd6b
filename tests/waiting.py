"""Waiting for something that comes by itself: the only way in which a test waits."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable

__all__ = ["happens_soon", "running_seconds", "stall_meter", "wait_until"]


def wait_until(
    condition: Callable[[], bool], what: str = "see the line of the test", seconds: float = 60.0
) -> None:
    """Look often until `condition` holds; fail if it does not within the time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.005)  # between two looks; how often decides nothing


def happens_soon(condition: Callable[[], bool], seconds: float = 2.0) -> bool:
    """Whether it comes to hold; a busy machine may well be too late for it, and is not wrong."""
    end = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.005)  # between two looks; how often decides nothing
    return holds


class _RunningClock:
    """Goes on while this machine runs: a thread looks often, and was held up where it is late."""

    LOOK_SECONDS = 0.02
    HELD_UP_SECONDS = 0.1
    """What passes between two looks counts up to here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last, self._ran = time.monotonic(), 0.0
        self._held_up: list[tuple[float, float]] = []
        """When looks were late, and what had passed since the one before."""
        threading.Thread(target=self._look, name="running-clock", daemon=True).start()

    def __call__(self) -> float:
        with self._lock:
            now = time.monotonic()
            passed, self._last = now - self._last, now
            self._ran += min(passed, self.HELD_UP_SECONDS)
            if passed > self.HELD_UP_SECONDS:
                self._held_up.append((now, passed))
            return self._ran

    def longest(self, since: float) -> float:
        """Seconds that a look was late at most, of those that came after `since`."""
        self()
        return max((passed for when, passed in self._held_up if when > since), default=0.0)

    def _look(self) -> None:
        while True:
            time.sleep(self.LOOK_SECONDS)
            self()


@functools.cache
def _running_clock() -> _RunningClock:
    return _RunningClock()


def running_seconds() -> float:
    """A clock for what may only take so long: it stands while this machine, or all of this process,
    does."""
    return _running_clock()()


def stall_meter() -> Callable[[], float]:
    """Says when asked for how many seconds this machine has stood at most since it was made.

    For what may befall servers that stand still together, and only those: another leads.
    """
    clock, began = _running_clock(), time.monotonic()
    clock()
    return lambda: clock.longest(began)
