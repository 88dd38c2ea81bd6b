"""The clock by which an owner counts what is left of its lease."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

__all__ = ["BOOT_CLOCK", "boot_seconds"]

BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux's clock that counts the time in which the machine was suspended. macOS has none of that
name, and its CLOCK_MONOTONIC does."""

boot_seconds: Callable[[], float] = partial(time.clock_gettime, BOOT_CLOCK)
"""Seconds since the machine was booted, suspended ones included: a laptop that slept must not wake
up as the holder of a lock."""
