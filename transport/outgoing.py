"""Large frames on their way out: not copied, and bounded in bytes for each receiver."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

import zmq

__all__ = ["LargeFrames"]


class LargeFrames:
    """Bytes of large frames that ZeroMQ has not yet written out, for each receiver.

    libzmq bounds its queues by frames only: a few hundred frames of a megabyte for a server that
    has stopped reading would take all memory. It tells, though, when it lets go of a frame that was
    given to it without copying.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: dict[Hashable, deque[tuple[zmq.MessageTracker, int]]] = {}
        self._bytes: dict[Hashable, int] = {}

    def has_room(self, receiver: Hashable, size: int) -> bool:
        """Whether a frame of `size` bytes may be queued; anything may if nothing else waits."""
        waiting = self._waiting.get(receiver)
        if waiting is None:
            return True
        while waiting and waiting[0][0].done:
            self._bytes[receiver] -= waiting.popleft()[1]
        if not waiting:
            del self._waiting[receiver], self._bytes[receiver]
            return True
        return self._bytes[receiver] + size <= self._limit

    def send(
        self, socket: zmq.Socket[bytes], receiver: Hashable, body: bytearray, flags: int
    ) -> None:
        """Hand `body` over; it must not be changed any more. Raises `zmq.ZMQError`."""
        tracker = socket.send(body, flags, copy=False, track=True)
        self._waiting.setdefault(receiver, deque()).append((tracker, len(body)))
        self._bytes[receiver] = self._bytes.get(receiver, 0) + len(body)

    def prune(self) -> None:
        """Forget receivers for which nothing waits any more (clients that are gone)."""
        for receiver in list(self._waiting):
            self.has_room(receiver, 0)
