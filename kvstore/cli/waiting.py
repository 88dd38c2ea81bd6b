"""What a command that waits says of it: after a while, and when it is given up by Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Waiting", "waiting"]

_PATIENCE_SECONDS = 2.0
"""Nothing is said before, nor sooner after what was said last."""


class Waiting:
    """Is told how things stand, and says so on stderr where that goes on for long."""

    def __init__(self, stands: str) -> None:
        self.stands = stands
        self._said = ""
        self._next_at = time.monotonic() + _PATIENCE_SECONDS

    def __call__(self, stands: str) -> None:
        """So it stands now."""
        self.stands = stands
        if stands != self._said and time.monotonic() >= self._next_at:
            self._said, self._next_at = stands, time.monotonic() + _PATIENCE_SECONDS
            sys.stderr.write(f"paxon: waiting: {stands}\n")


@contextmanager
def waiting(stands: str) -> Iterator[Waiting]:
    """While inside; whoever ends us by a signal is told where that leaves him."""
    told = Waiting(stands)
    try:
        yield told
    except (KeyboardInterrupt, SystemExit):
        sys.stderr.write(f"paxon: given up: {told.stands}\n")
        raise
