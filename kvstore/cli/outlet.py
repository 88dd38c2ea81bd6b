"""What is said beside the output: never waited for, and how things stand while we wait."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import time
from collections.abc import Iterator

__all__ = ["Outlet", "Waiting", "waiting"]

_PIECE_BYTES = 512
"""Whoever can be written to takes at least so much at once (POSIX: _POSIX_PIPE_BUF)."""

_PATIENCE_SECONDS = 2.0
"""Nothing is said before, nor sooner after what was said last."""


class Outlet(io.TextIOBase):
    """Writes text to a descriptor as long as its reader keeps up; errors are no news here.

    For a process whose work is not what it prints: `paxon up` has to stop when asked, whether or
    not anybody reads what it says meanwhile.
    """

    encoding = "utf-8"

    def __init__(self, descriptor: int, patience: float = 0.25) -> None:
        """`patience`: seconds to wait for the reader, each time."""
        self._descriptor = descriptor
        self._patience = patience

    def write(self, text: str) -> int:
        data = text.encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads
            while data:
                if not select.select([], [self._descriptor], [], self._patience)[1]:
                    break
                data = data[os.write(self._descriptor, data[:_PIECE_BYTES]) :]
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True


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


@contextlib.contextmanager
def waiting(stands: str) -> Iterator[Waiting]:
    """While inside; whoever ends us by a signal is told where that leaves him."""
    told = Waiting(stands)
    try:
        yield told
    except (KeyboardInterrupt, SystemExit):
        sys.stderr.write(f"paxon: given up: {told.stands}\n")
        raise
