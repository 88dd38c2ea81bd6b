"""Waiting for something that comes by itself: the only way in which a test waits."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["happens_soon", "wait_until"]


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
