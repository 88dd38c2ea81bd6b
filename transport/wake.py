"""Waking a thread that sleeps in a poll."""

from __future__ import annotations

import contextlib
import os
import weakref

__all__ = ["Waker"]

_ONE = (1).to_bytes(8, "little")


class Waker:
    """A descriptor to sleep on that becomes readable by `wake` and stays so until `clear`.

    The users serialise `wake` and `close` among themselves (a lock), so that no wake-up reaches a
    descriptor that has since been given to someone else.
    """

    __slots__ = ("__weakref__", "_release", "_write", "descriptor")

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self.descriptor = self._write = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            self.descriptor, self._write = os.pipe()
            os.set_blocking(self.descriptor, False)
            os.set_blocking(self._write, False)
        # An actor that is never started has nobody to close its inbox.
        self._release = weakref.finalize(self, _close_all, {self.descriptor, self._write})
        self._release.atexit = False  # the program's end stops actors by their inbox

    def wake(self) -> None:
        """Make the descriptor readable."""
        with contextlib.suppress(BlockingIOError):  # Full: it is readable already.
            os.write(self._write, _ONE)

    def clear(self) -> None:
        """Make it unreadable again."""
        with contextlib.suppress(BlockingIOError):  # Nobody woke it.
            os.read(self.descriptor, 4096)

    def close(self) -> None:
        """Give the descriptors back. May be called twice."""
        self._release()


def _close_all(descriptors: set[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
