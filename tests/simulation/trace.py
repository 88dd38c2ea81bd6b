"""The story of a run, line by line; the same seed tells the same story, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from paxon.transport import Burst

__all__ = ["Trace"]


def _place(number: int) -> str:
    return f"server {number}" if number < 1000 else f"client {number - 1000}"


class Trace:
    """Writes a line for whatever happens."""

    def __init__(self, now: Callable[[], float], write: Callable[[str], object]) -> None:
        self._now = now
        self._write = write

    def line(self, place: int, text: str) -> None:
        who = _place(place) if place else "world"
        self._write(f"{self._now():12.6f} {who:>10} {text}\n")

    def sent(self, source: int, targets: Sequence[int], messages: Sequence[Any]) -> None:
        whom = ", ".join(_place(target) for target in targets)
        for message in messages:
            self.line(source, f"sends to {whom}: {message!r}")

    def received(self, target: int, source: str, messages: Sequence[Any]) -> None:
        for message in messages:
            self.line(target, f"hears from {source}: {message!r}")

    def step(self, number: int, server: int, burst: Burst[Any, Any]) -> None:
        if not burst:
            self.line(server, f"step {number}: its timer")
        for sender, _, messages in burst.peers:
            for message in messages:
                self.line(server, f"step {number}: from server {sender}: {message!r}")
        for lost in burst.lost:
            self.line(server, f"step {number}: lost its connection to server {lost}")
        for client, messages in burst.clients:
            for message in messages:
                self.line(server, f"step {number}: from client {client.decode()}: {message!r}")
