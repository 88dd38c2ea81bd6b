"""Which server a client takes for the leader, and how it finds another.

Everything is sent to the *target*. If it says that another leads, that one becomes the target. If
it does not know, or owes answers and is silent, the client *seeks*: it sends every server that it
knows, the target included, a tiny read that only a leader answers, again and again until one does.
So a leader that was merely slow is found where it was and is sent nothing twice, and the search
among servers of which none leads does not carry everything to each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

from paxon.actors.messages import ClientMessage, TellAddresses

__all__ = ["LeaderSearch", "CoreOptions", "CoreRandom"]

_LIST_BYTES = 5
"""What a list of operations takes besides them."""


class CoreRandom(Protocol):
    """The part of `random.Random` that a client core needs."""

    def uniform(self, a: float, b: float) -> float: ...

    def getrandbits(self, k: int) -> int: ...


@dataclass(frozen=True, slots=True)
class CoreOptions:
    """Tunables of a client. Times are seconds, sizes are bytes."""

    retry_first: float = 0.15
    """A server that owes answers and is silent for this long (give or take a fifth) makes the
    client ask all; doubles each time until …"""
    retry_max: float = 1.0
    """… this."""
    resend_after: float = 1.0
    """A request without an answer for this long, while others get theirs, is sent again."""
    busy_first: float = 0.005
    """Pause when the leader is too busy; doubles each time until …"""
    busy_max: float = 0.5
    """… this."""
    seek_first: float = 0.025
    """While no leader is known, all servers are asked every so often, and after a second …"""
    seek_max: float = 0.25
    """… less and less often, down to this."""
    window: int = 1024
    """Commands that may be unanswered (servers allow a session so many)."""
    window_bytes: int = 32 << 20
    """Bytes of commands that may be unanswered (a single larger one may go alone)."""
    eager: int = 2
    """Up to so many requests are sent at once; with more in flight what comes is gathered."""
    eager_weight: int = 16
    """With so many operations in flight another request goes only if it has far more."""
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

    def fitted(self, max_command_bytes: int, max_outstanding: int) -> Self:
        """Keep what the client packs by itself within the limits that the cluster has agreed on.

        0: that is not known.
        """
        most = max_command_bytes or self.batch_bytes + _LIST_BYTES
        return replace(
            self,
            batch_bytes=min(self.batch_bytes, most - _LIST_BYTES),
            window=min(self.window, max_outstanding or self.window),
        )


class LeaderSearch:
    """The target, and the times of waiting for it."""

    def __init__(
        self, servers: Sequence[str], random: CoreRandom, options: CoreOptions, *, redirect: bool
    ) -> None:
        self.servers = list(dict.fromkeys(servers))
        """All addresses known, those given first."""
        self.target = self.servers[0]
        self.seeking = False
        self.changes = 0
        """Counts changes of mind: whatever is queued for a server since before is obsolete."""
        self.waiting_since: float | None = None
        """Since when the target has been owing answers without giving any; None: owes none."""
        self.pause_until = -math.inf
        """Nothing is sent to the target before."""
        self.on_addresses: Callable[[Mapping[int, str], Mapping[int, str]], object] | None = None
        """Is told where each server is reached, by its id, and the keys of some."""
        self.asks_addresses = redirect
        """Some server may not have been asked yet to tell where all of them are."""
        self.told: list[str] = []
        """Where they are, as was told last."""
        self._asked: dict[str, float] = {}
        """Servers asked to tell over their present connection: at which of our `changes` each was;
        infinite once it has told."""
        self._given = len(self.servers)
        self._random = random
        self._options = options
        self._redirect = redirect
        self._confirmed = False
        """Whether the target has answered as a leader does."""
        self._silence = options.retry_first
        self._interval = self._jittered(self._silence)
        self._busy = options.busy_first
        self._hops = 0
        """Hints followed since somebody last answered as a leader does."""
        self._target_lost = False
        """The connection to the target ended while nothing was asked of it."""
        self._seek_at = math.inf
        self._seek_since = 0.0
        self._seek_interval = options.seek_first

    def due(self, now: float) -> float:
        """When a pause ends, a silence has become too long, or all servers are to be asked."""
        if self.pause_until > now:
            return self.pause_until
        if self.seeking:
            return self._seek_at
        return math.inf if self.waiting_since is None else self.waiting_since + self._interval

    def answered(self, address: str, now: float) -> bool:
        """A server did what only a leader does; whether all must be looked through to be sent."""
        self.waiting_since = now
        if self._confirmed:
            return False
        changed = self.seeking or address != self.target
        self.seeking = False
        if address != self.target:
            self._turn_to(address, now)
        self._confirmed = True
        self._hops = 0
        self._silence = self._options.retry_first
        self._interval = self._jittered(self._silence)
        return changed

    def all_answered(self) -> None:
        """The target owes nothing."""
        self.waiting_since = None

    def sent(self, now: float) -> None:
        """The target owes an answer from now on, if it did not already."""
        if self.waiting_since is None:
            self.waiting_since = now
        if self._target_lost:
            self._target_lost = False
            self._seek(now)

    def too_silent(self, now: float) -> bool:
        """Whether the target has owed answers for too long."""
        return (
            not self.seeking
            and self.waiting_since is not None
            and now >= self.waiting_since + self._interval
        )

    def silent(self, now: float) -> None:
        """The target has been silent for too long."""
        self._silence = min(self._silence * 2, self._options.retry_max)
        self._interval = self._jittered(self._silence)
        self._seek(now)

    def lost(self, address: str, now: float) -> None:
        """The connection to a server has ended."""
        self._asked.pop(address, None)
        self.asks_addresses = self._redirect
        if address != self.target or self.seeking:
            return
        if self.waiting_since is None:
            self._target_lost = True
        else:
            self._seek(now)

    def not_leader(self, address: str, hint: str, now: float) -> None:
        """A server says that it does not lead but `hint` does (empty: it does not know)."""
        if hint:
            self._learn(hint)
        if self.seeking or address != self.target:
            return  # who leads will say so itself
        self._hops += 1
        if hint in ("", address) or self._hops > 2:
            self._seek(now)
        else:
            self._turn_to(hint, now)

    def learn(self, addresses: Mapping[int, str], keys: Mapping[int, str] | None = None) -> None:
        """A server tells where all of them are reached, and by which keys; they may have moved."""
        if not addresses:
            return
        if self.on_addresses is not None:
            self.on_addresses(addresses, keys or {})
        for address in addresses.values():
            self._learn(address)
        if self._redirect:
            self.told[:] = addresses.values()
            self.asks_addresses = True

    def tells(self, address: str, addresses: Mapping[int, str], keys: Mapping[int, str]) -> None:
        """A server that was asked tells where all are, and will tell of changes."""
        self._asked[address] = math.inf
        self.learn(addresses, keys)

    @property
    def connected(self) -> list[str]:
        """Members that have told where all are, over connections that stand as far as is known."""
        return [address for address in self.told if self._asked.get(address) == math.inf]

    def ask_addresses(self, send: Callable[[str, ClientMessage, int], object]) -> None:
        """Ask target and members to tell where all are: once over each connection.

        A server that has not answered is asked again when what is queued for it is obsolete.
        Addresses that were given only are left alone: others may listen there by now.
        """
        self.asks_addresses = False
        for address in dict.fromkeys((self.target, *self.told)):
            if self._asked.get(address, -1) < self.changes:
                self._asked[address] = self.changes
                send(address, TellAddresses(), 16)

    def ask_addresses_anew(self) -> None:
        """Servers can be connected to now that could not be before."""
        self._asked = {a: asked for a, asked in self._asked.items() if asked == math.inf}
        self.asks_addresses = self._redirect

    def round_due(self, now: float) -> bool:
        """Whether to ask all servers now; if so the next time is set."""
        if not self.seeking or now < self._seek_at:
            return False
        self._seek_at = now + self._jittered(self._seek_interval)
        if now >= self._seek_since + 1.0:
            self._seek_interval = min(self._seek_interval * 1.5, self._options.seek_max)
        self.changes += 1
        self.asks_addresses = self._redirect
        return True

    def rest(self) -> None:
        """Nothing is wanted of a leader: stop seeking."""
        self.seeking = False
        self.waiting_since = None

    def pause_busy(self, now: float, seconds: float) -> None:
        """The leader takes nothing more in for now, and says for how long at least."""
        self.pause_until = max(self.pause_until, now + self._jittered(max(seconds, self._busy)))
        self._busy = min(self._busy * 2, self._options.busy_max)
        if self.waiting_since is not None:
            self.waiting_since = max(self.waiting_since, self.pause_until)

    def not_busy(self) -> None:
        """The leader took something in."""
        self._busy = self._options.busy_first

    # -------------------------------------------------------------------------------------------

    def _turn_to(self, address: str, now: float) -> None:
        """Take another server for the leader."""
        self.target = address
        self._target_lost = False
        self.changes += 1
        self.asks_addresses = self._redirect
        self._confirmed = False
        if self.waiting_since is not None:
            self.waiting_since = now

    def _seek(self, now: float) -> None:
        self.seeking = True
        self._confirmed = False
        self._seek_at = self._seek_since = now
        self._seek_interval = self._options.seek_first

    def _learn(self, address: str) -> None:
        if address in self.servers or not self._redirect:
            return
        if len(self.servers) >= max(self._options.known_servers, self._given + 1):
            del self.servers[self._given]
        self.servers.append(address)

    def _jittered(self, seconds: float) -> float:
        return seconds * self._random.uniform(0.8, 1.2)
