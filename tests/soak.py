"""Sizes of the tests that have a short form, for `make test`, and a long one, for `make soak`."""

from __future__ import annotations

import os
from typing import TypeVar

__all__ = ["SOAK", "SOAK_SEEDS", "sized"]

SOAK = bool(os.environ.get("PAXON_SOAK"))
"""Whether this is a long run."""

SOAK_SEEDS = int(os.environ.get("PAXON_SOAK_SEEDS", "100000"))
"""Seeds of the simulator in a long run."""

T = TypeVar("T")


def sized(short: T, full: T) -> T:
    """The short form in `make test`, the full one in `make soak`."""
    return full if SOAK else short
