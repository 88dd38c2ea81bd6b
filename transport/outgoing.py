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

    def __init__(self, limit: int, total_limit: int | None = None) -> None:
        """Args: bytes that may wait for one receiver, and for all together (None: any)."""
        self._limit = limit
        self._total_limit = total_limit
        self.bytes = 0
        """What waits for all receivers, as far as was looked."""
        self._waiting: dict[Hashable, deque[tuple[zmq.MessageTracker, int]]] = {}
        self._bytes: dict[Hashable, int] = {}

    def has_room(self, receiver: Hashable, size: int) -> bool:
        """Whether a frame of `size` bytes may be queued; anything may if nothing else waits."""
        self._settle(receiver)
        waiting = self._bytes.get(receiver, 0)
        if waiting and waiting + size > self._limit:
            return False
        if self._total_limit is None or self.bytes + size <= self._total_limit:
            return True
        self.prune()
        return self.bytes == 0 or self.bytes + size <= self._total_limit

    def _settle(self, receiver: Hashable) -> None:
        """Take off what has been written out for this receiver."""
        waiting = self._waiting.get(receiver)
        if waiting is None:
            return
        while waiting and waiting[0][0].done:
            size = waiting.popleft()[1]
            self._bytes[receiver] -= size
            self.bytes -= size
        if not waiting:
            del self._waiting[receiver], self._bytes[receiver]

    def send(
        self, socket: zmq.Socket[bytes], receiver: Hashable, body: bytearray, flags: int
    ) -> None:
        """Hand `body` over; it must not be changed any more. Raises `zmq.ZMQError`."""
        frame = zmq.Frame(body, track=True, copy=False)
        tracker = socket.send(frame, flags, copy=False, track=True)
        self._waiting.setdefault(receiver, deque()).append((tracker, len(body)))
        self._bytes[receiver] = self._bytes.get(receiver, 0) + len(body)
        self.bytes += len(body)

    def prune(self) -> None:
        """Look through all: forget receivers for which nothing waits any more."""
        for receiver in list(self._waiting):
            self._settle(receiver)
