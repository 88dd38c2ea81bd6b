"""A standard stream that is never waited for: what its reader does not take is left out."""

from __future__ import annotations

import contextlib
import io
import os
import select

__all__ = ["Outlet"]

_PIECE_BYTES = 512
"""Whoever can be written to takes at least so much at once (POSIX: _POSIX_PIPE_BUF)."""


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
