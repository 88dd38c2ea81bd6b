"""How an operation is refused, wherever that is found out: before it changes anything."""

from __future__ import annotations

from paxon.kvstore.store.operations import Refused, Result, refusal, split_refusal

__all__ = ["Refusal", "Room", "TooLong"]

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
    """The room left in a reply; the first item always fits."""

    __slots__ = ("most", "used")

    def __init__(self) -> None:
        self.most = 0
        self.used = 0

    def take(self, size: int) -> None:
        """Take so many bytes. Raises `TooLong` if they do not fit."""
        if self.used and self.used + size > self.most:
            raise TooLong
        self.used += size
