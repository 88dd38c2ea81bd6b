"""No process outlives the one that started it: what the kernel is asked for."""

from __future__ import annotations

import ctypes
import signal

__all__ = ["end_with_parent"]

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""
_prctl = getattr(ctypes.CDLL(None), "prctl", None)
"""Linux's; looked up before any fork: a forked child calls it and loads nothing."""


def end_with_parent() -> None:
    """Have the kernel kill this process once the thread that started it has ended.

    It does so even while this process is stopped. Systems other than Linux do nothing.
    """
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
