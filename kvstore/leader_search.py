"""Which server a client takes for the leader, and when it looks for another.

The target is either *confirmed* (it has answered what only a leader answers), or hoped for (a hint,
or nothing better known), or being *probed*: then only the first unanswered request is sent, so that
a search among servers of which none leads does not carry everything to each of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["LeaderSearch", "CoreOptions", "CoreRandom"]


class CoreRandom(Protocol):
    """What a client core needs of `random.Random`."""

    def uniform(self, a: float, b: float) -> float: ...

    def getrandbits(self, k: int) -> int: ...


@dataclass(frozen=True, slots=True)
class CoreOptions:
    """Tunables of a client. Times are seconds, sizes are bytes."""

    retry_first: float = 0.15
    """A server that owes an answer and is silent for this long (give or take a fifth) makes the
    client ask another; doubles each time until …"""
    retry_max: float = 1.0
    """… this."""
    suspicion: float = 0.5
    """For this long after its silence no hint leads back to a server: followers notice later than
    clients that a leader died."""
    resend_after: float = 1.0
    """A request without an answer for this long, while others get theirs, is sent again."""
    busy_first: float = 0.005
    """Pause when the leader is too busy; doubles each time until …"""
    busy_max: float = 0.5
    """… this."""
    seek_first: float = 0.02
    """Pause when no server knew of a leader; grows until …"""
    seek_max: float = 0.1
    """… this."""
    window: int = 1024
    """Commands that may be unanswered (servers allow a session so many)."""
    window_bytes: int = 32 << 20
    """Bytes of commands that may be unanswered (a single larger one may go alone)."""
    eager: int = 4
    """Up to so many requests are sent at once; with more in flight what comes is gathered."""
    full_weight: int = 256
    """Gathered operations that are worth a request however many are in flight."""
    full_bytes: int = 128 << 10
    """The same in bytes."""
    batch_weight: int = 512
    """Operations in one request at most."""
    batch_bytes: int = 1 << 20
    """Bytes in one request at most (a single larger submission goes alone)."""
    frame_bytes: int = 4 << 20
    """Messages for one server are packed into frames of about this size."""
    session_idle: float = 900.0
    """After so long without commands a new session is opened: the old one may have expired."""
    known_servers: int = 64
    """Addresses remembered at most, the given ones included."""


class LeaderSearch:
    """The target, and the times of waiting for it."""

    def __init__(
        self, servers: Sequence[str], random: CoreRandom, options: CoreOptions, *, redirect: bool
    ) -> None:
        self.servers = list(dict.fromkeys(servers))
        """All addresses known, those given first."""
        self.target = self.servers[0]
        self.probing = False
        self.changes = 0
        """Counts changes of mind: whatever is queued for a server since before is obsolete."""
        self.waiting_since: float | None = None
        """Since when the target has been owing answers without giving any; None: owes none."""
        self.pause_until = -math.inf
        """Nothing is sent to the target before."""
        self._given = len(self.servers)
        self._random = random
        self._options = options
        self._redirect = redirect
        self._confirmed = False
        self._suspects: dict[str, float] = {}
        self._backoff = options.retry_first
        self._interval = self._jittered(self._backoff)
        self._busy = options.busy_first
        self._seek_pause = options.seek_first
        self._hints = 0
        """Hints followed since somebody last answered as a leader does."""
        self._clueless = 0
        """Servers in turn that pointed to nobody of use."""

    def due(self, now: float) -> float:
        """When the search has something to do: a pause ends, or a silence has become too long."""
        if self.pause_until > now:
            return self.pause_until
        return math.inf if self.waiting_since is None else self.waiting_since + self._interval

    def answered(self, address: str, now: float) -> bool:
        """A server did what only a leader does; whether all must be looked through to be sent."""
        self.waiting_since = now
        if self._confirmed:
            return False
        changed = self.probing
        self._suspects.pop(address, None)
        if address != self.target:
            self._turn_to(address, now)
            changed = True
        self._confirmed = True
        self.probing = False
        self._hints = self._clueless = 0
        self._seek_pause = self._options.seek_first
        self._backoff = self._options.retry_first
        self._interval = self._jittered(self._backoff)
        return changed

    def all_answered(self) -> None:
        """The target owes nothing."""
        self.waiting_since = None

    def sent(self, now: float) -> None:
        """The target owes an answer from now on, if it did not already."""
        if self.waiting_since is None:
            self.waiting_since = now

    def too_silent(self, now: float) -> bool:
        return self.waiting_since is not None and now >= self.waiting_since + self._interval

    def silent(self, now: float) -> None:
        """The target has been silent for too long: suspect it and probe the next."""
        self._backoff = min(self._backoff * 2, self._options.retry_max)
        self._interval = self._jittered(self._backoff)
        self.waiting_since = now
        self.probing = True
        if self._redirect:
            self._suspects[self.target] = now + self._options.suspicion
            self._turn_to(self._next_server(now), now)
        else:
            self._turn_to(self.target, now)

    def not_leader(self, hint: str, now: float) -> None:
        """The target says that it does not lead but `hint` does (empty: it does not know)."""
        if hint:
            self._learn(hint)
        if hint in ("", self.target) or self._suspected(hint, now):
            self._clueless += 1
            self.probing = True
            if self._clueless >= len(self.servers):
                self._clueless = 0
                self._pause_seeking(now)
            self._turn_to(self._next_server(now), now)
            return
        self._hints += 1
        self.probing = self._hints > 1
        if self._hints > 2:
            self._pause_seeking(now)  # they point to each other
        self._turn_to(hint, now)

    def pause_busy(self, now: float) -> None:
        """The leader takes nothing more in for now."""
        self._pause(self._busy, now)
        self._busy = min(self._busy * 2, self._options.busy_max)

    def not_busy(self) -> None:
        self._busy = self._options.busy_first

    # -------------------------------------------------------------------------------------------

    def _turn_to(self, address: str, now: float) -> None:
        """Take another server for the leader, or the same one afresh."""
        self.target = address
        self.changes += 1
        self._confirmed = False
        if self.waiting_since is not None:
            self.waiting_since = max(now, self.pause_until)

    def _learn(self, address: str) -> None:
        if address in self.servers:
            return
        if len(self.servers) >= max(self._options.known_servers, self._given + 1):
            del self.servers[self._given]
        self.servers.append(address)

    def _suspected(self, address: str, now: float) -> bool:
        return self._suspects.get(address, -math.inf) > now

    def _next_server(self, now: float) -> str:
        """The next one in turn that is not suspect, if there is one."""
        at = self.servers.index(self.target) if self.target in self.servers else -1
        turn = [*self.servers[at + 1 :], *self.servers[: at + 1]]
        return next((server for server in turn if not self._suspected(server, now)), turn[0])

    def _pause(self, seconds: float, now: float) -> None:
        self.pause_until = max(self.pause_until, now + self._jittered(seconds))
        if self.waiting_since is not None:
            self.waiting_since = max(self.waiting_since, self.pause_until)

    def _pause_seeking(self, now: float) -> None:
        self._pause(self._seek_pause, now)
        self._seek_pause = min(self._seek_pause * 1.5, self._options.seek_max)

    def _jittered(self, seconds: float) -> float:
        return seconds * self._random.uniform(0.8, 1.2)
