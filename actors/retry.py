"""When to try again what the machine had no room for: later each time it fails."""

from __future__ import annotations

__all__ = ["Retry"]

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 60.0


class Retry:
    """Times are seconds on the monotonic clock that the caller reads."""

    def __init__(self) -> None:
        self._pause = 0.0
        self._at = 0.0

    def due(self, now: float) -> bool:
        """Whether it may be tried."""
        return now >= self._at

    def failed(self, now: float) -> None:
        """It failed: not again before a pause, twice as long as the one before."""
        self._pause = min(max(2 * self._pause, FIRST_SECONDS), LONGEST_SECONDS)
        self._at = now + self._pause

    def succeeded(self) -> None:
        """It went well: the next failure is the first one."""
        self._pause = 0.0
        self._at = 0.0
