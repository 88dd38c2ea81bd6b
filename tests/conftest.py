"""For all tests."""

from __future__ import annotations

import signal

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Ctrl-C reaches the programs under test even where a shell started us in the background.

    Such a shell has SIGINT ignored, children inherit that, and tests of Ctrl-C would wait in vain.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
