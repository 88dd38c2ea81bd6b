"""How an operation is refused, wherever that is found out: before it changes anything."""

from __future__ import annotations

from paxon.kvstore.store.operations import Refused, Result, refusal, split_refusal

__all__ = ["LOOK_BYTES", "Refusal", "Room", "TooLong"]

LOOK_BYTES = 256
"""What looking at a key counts for in the room of a reply, though it is not answered: it takes a
microsecond or two. Part of the format."""

_LONG_REPLY = split_refusal()


class Refusal(Exception):
    """The operation is refused; `result` is what its caller is told."""

    def __init__(self, text: str, kind: Refused = "", **more: int) -> None:
        super().__init__(text)
        self.result: Result = refusal(text, kind, **more)


class TooLong(Refusal):
    """A read does not fit into the reply any more."""

    def __init__(self) -> None:
        super().__init__("")
        self.result = _LONG_REPLY


class Room:
    """The room left in a reply; the first item always fits. What was looked for takes room, too.

    So it also bounds how long a server stands still for a command or query.
    """

    __slots__ = ("full", "most", "used", "wasted")

    def __init__(self) -> None:
        self.most = 0
        self.used = 0
        self.full = False
        """Too much was looked for in vain: nothing more is, or each that follows would be."""
        self.wasted = 0

    def begin(self) -> None:
        """A command or query begins."""
        self.used = self.wasted = 0
        self.full = False

    def look(self) -> None:
        """Raises `TooLong` if nothing more is to be looked for."""
        if self.full or self.used >= self.most:
            raise TooLong

    def take(self, size: int) -> None:
        """Take so many bytes. Raises `TooLong` if they do not fit."""
        if self.used and self.used + size > self.most:
            raise TooLong
        self.used += size

    def spend(self, size: int) -> None:
        """The same for what had to be looked for."""
        try:
            self.take(size)
        except TooLong:
            self.full = True
            raise

    def waste(self, size: int) -> None:
        """So much was looked for and then refused."""
        self.wasted += size
        if self.wasted > self.most:
            self.full = True
