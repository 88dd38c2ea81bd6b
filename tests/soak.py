"""Sizes of the tests that have a short form, for `make test`, and a long one, for `make soak`."""

from __future__ import annotations

import os
from typing import TypeVar

__all__ = ["SOAK", "SEEDS", "sized"]

SOAK = bool(os.environ.get("PAXON_SOAK"))
"""Whether this is a long run."""

SEEDS = int(os.environ.get("PAXON_SEEDS", "120"))
"""Seeds of the simulator: CI takes 1,000 of them, `make soak` a night's worth."""

T = TypeVar("T")


def sized(short: T, full: T) -> T:
    """The short form in `make test`, the full one in `make soak`."""
    return full if SOAK else short
