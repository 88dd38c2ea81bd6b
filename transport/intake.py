"""What every endpoint counts, and how it speaks of refused frames without flooding the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from loguru import logger

from paxon.transport.errors import ForeignFrame, FrameError, OversizedFrame

__all__ = ["Counters", "Complaints"]

COMPLAINT_INTERVAL = 5.0
"""Seconds between two log lines of the same kind about the same peer."""
_REMEMBERED_PEERS = 256
"""Distinct (kind, peer) pairs with a line of their own; beyond it they share one."""


@dataclass(slots=True)
class Counters:
    """Totals since the endpoint was opened."""

    messages_sent: int = 0
    messages_received: int = 0
    frames_sent: int = 0
    frames_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    dropped_frames: int = 0
    """Not sent to a server: it is not connected or takes too long to read."""
    dropped_replies: int = 0
    """Not sent to a client: it is gone or takes too long to read."""
    malformed_frames: int = 0
    foreign_frames: int = 0
    oversized_frames: int = 0
    """Refused for their size, whether received or about to be sent."""
    handshake_failures: int = 0
    """Connections that ended before they spoke ZeroMQ's protocol properly."""
    disconnects: int = 0
    """Connections to our ports that ended later, for whatever reason."""

    def as_dict(self) -> dict[str, int]:
        """All counters by name."""
        return asdict(self)


class Complaints:
    """Log lines about bad input, at most one per kind and peer in `COMPLAINT_INTERVAL` seconds."""

    __slots__ = ("_monotonic", "_recent")

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._recent: dict[tuple[str, str], list[float]] = {}

    def refuse(self, counters: Counters, error: FrameError, peer: str) -> None:
        """Count a refused frame by its kind and say so."""
        if isinstance(error, OversizedFrame):
            counters.oversized_frames += 1
            kind = "oversized"
        elif isinstance(error, ForeignFrame):
            counters.foreign_frames += 1
            kind = "foreign"
        else:
            counters.malformed_frames += 1
            kind = "malformed"
        article = "an" if kind == "oversized" else "a"
        self.say(kind, peer, f"Refused {article} {kind} frame from {{}}: {{}}", str(error))

    def say(self, kind: str, peer: str, template: str, detail: str) -> None:
        """Log `template` with peer and detail unless such a line was written a moment ago."""
        now = self._monotonic()
        key = (kind, peer)
        if key not in self._recent and len(self._recent) >= _REMEMBERED_PEERS:
            self._forget(now)
            if len(self._recent) >= _REMEMBERED_PEERS:
                key = (kind, "")
        state = self._recent.get(key)
        if state is None:
            state = self._recent[key] = [now - COMPLAINT_INTERVAL, 0]
        if now - state[0] < COMPLAINT_INTERVAL:
            state[1] += 1
            return
        text = template.format(peer, detail)
        if state[1]:
            text += f" ({int(state[1])} more like it not logged)"
        logger.warning("{}", text)
        state[0], state[1] = now, 0

    def _forget(self, now: float) -> None:
        """Drop the pairs that have been quiet long enough to get a line again anyway."""
        self._recent = {
            key: state
            for key, state in self._recent.items()
            if now - state[0] < COMPLAINT_INTERVAL or state[1]
        }
