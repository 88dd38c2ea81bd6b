"""Requests that a new leader keeps until it serves: plain data (rule 5)."""

from __future__ import annotations

from typing import TypeAlias

from paxon.actors.environment import ClientToken
from paxon.actors.execution.agreed import decode_change
from paxon.actors.limits.turns import request_bytes
from paxon.actors.messages import (
    RENEWAL,
    SETTINGS,
    ChangeSettings,
    Command,
    Entry,
    OpenSession,
    Query,
    Renew,
)
from paxon.actors.records.reign import Reign

__all__ = ["Held", "HeldRequests"]

Held: TypeAlias = Command | OpenSession | Query | ChangeSettings | Renew
"""What a new leader keeps until it serves."""


class HeldRequests:
    """Requests kept until this server serves (it leads, but has not executed the takeover)."""

    def __init__(self) -> None:
        self.requests: list[tuple[ClientToken, Held]] = []
        self._bytes = 0
        self.tried: set[tuple[int, int]] = set()
        """Held commands that this server has proposed before: they may have been executed."""

    def add(self, client: ClientToken, request: Held, most_bytes: int) -> bool:
        """Keep one, if there is room for it."""
        size = request_bytes(request)
        if self._bytes + size > most_bytes:
            return False
        self.requests.append((client, request))
        self._bytes += size
        return True

    def add_unfinished(self, reign: Reign) -> None:
        """Keep what clients wait for, until this server leads again (PMMC §2.3, replica)."""
        for entry in reign.unexecuted():
            client = reign.waiting.pop((entry.session, entry.seq), None)
            if client is None:
                continue
            if entry.session:
                self.tried.add((entry.session, entry.seq))
            self.requests.append((client, _as_request(entry)))
        self.requests.extend(reign.reads.clear())

    def take(self) -> list[tuple[ClientToken, Held]]:
        """Take out all."""
        taken, self.requests, self._bytes = self.requests, [], 0
        return taken


def _as_request(entry: Entry) -> Command | OpenSession | ChangeSettings | Renew:
    """The request that became this entry."""
    if entry.session:
        return Command(entry.session, entry.seq, entry.acked, entry.after, entry.command)
    if entry.acked == RENEWAL:
        return Renew(entry.seq, entry.command)
    if entry.acked == SETTINGS:
        change = decode_change(entry.command)
        return ChangeSettings(entry.seq, change.changed_at, change.values)
    return OpenSession(entry.seq)
