"""For all tests."""

from __future__ import annotations

import gc
import signal

import pytest
from hypothesis import HealthCheck, settings

# Machines are busy, and no test may fail because an example took long to draw or to run.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    """Ctrl-C reaches the programs under test even where a shell started us in the background.

    Such a shell has SIGINT ignored, children inherit that, and tests of Ctrl-C would wait in vain.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # As servers do it: simulator and search keep many objects, and nearly all of what they drop is
    # freed without a collection. It takes a tenth off their time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def pytest_sessionfinish() -> None:
    """What pytest and Python collect at the end, eight times over, is soon to be gone anyway."""
    gc.collect()
    gc.freeze()
