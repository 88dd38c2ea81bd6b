"""A spawned process that its supervisor alone signals and reaps, whatever else the program does.

The program may ignore SIGCHLD, so that the kernel reaps; it may call `waitpid(-1)` and reap our
children with its own; it may fork, and multiprocessing would have the copy end "its" children when
that exits. So a child is signalled through a descriptor of its own where the kernel has such
(pidfd), a process reaped by somebody else counts as ended with a code that nobody knows, and
multiprocessing's list of children does not hold it.
"""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import multiprocessing.process
import os
import signal
from multiprocessing.context import SpawnProcess

__all__ = ["ChildProcess"]

_UNKNOWN = 255
"""What multiprocessing is told of a code that nobody knows, so that it leaves the process alone."""


class ChildProcess:
    """A process that was started just now, by this thread."""

    def __init__(self, process: SpawnProcess) -> None:
        assert process.pid is not None
        self.pid: int = process.pid
        self.exit_code: int | None = None
        """As multiprocessing's, once it has ended; None if somebody else has reaped it."""
        self._process = process
        self._ended = False
        self._pidfd = _open_pidfd(self.pid)
        # Its private list of children; all on it get SIGTERM when this process, or a fork, exits.
        getattr(multiprocessing.process, "_children", set()).discard(process)

    @property
    def sentinel(self) -> int:
        """A descriptor that can be read once it has ended."""
        return self._pidfd if self._pidfd >= 0 else self._process.sentinel

    def ended(self) -> bool:
        """Whether it has ended; if so it is reaped, and `exit_code` says how."""
        if not self._ended and multiprocessing.connection.wait([self.sentinel], 0):
            try:
                self.exit_code = self._reap()
                self._ended = self.exit_code is not None
            except ChildProcessError:
                self._ended = True
        return self._ended

    def _reap(self) -> int | None:
        """Its exit code; None if it is ending. Raises ChildProcessError if it was reaped."""
        if self._pidfd < 0:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            return os.waitstatus_to_exitcode(status) if pid else None
        result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return None
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended; never to a stranger that has its number now."""
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, number)
            elif not self.ended():
                os.kill(self.pid, number)

    def close(self) -> None:
        """Give back what was open for a process that has ended."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        popen = getattr(self._process, "_popen", None)
        if popen is not None and popen.returncode is None:
            popen.returncode = _UNKNOWN if self.exit_code is None else self.exit_code
        with contextlib.suppress(ValueError):
            self._process.close()


def _open_pidfd(pid: int) -> int:
    """A descriptor for this process; -1 where there are none, or where it is gone already."""
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1
