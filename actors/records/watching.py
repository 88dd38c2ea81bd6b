"""Reads that wait (rule 14): who asked for them, and since when nobody has asked again.

Plain data: what each waits for, the state machine keeps by its number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from paxon.actors.environment import ClientToken

__all__ = ["Held", "Watching"]

EACH = 20_000
"""Watches that a server holds for one client …"""
ALL = 200_000
"""… and for all of them."""
QUERY_BYTES = 64 << 10
"""What a watch asks may take so much …"""
HELD_BYTES = 64 << 20
"""… and those of all clients together this, of which one client may have a quarter."""
FORGOTTEN = 30.0
"""Seconds after which a client that has not asked how its watches are counts as gone: ZeroMQ does
not tell of every connection that ends."""
OF_LATE = 1.0
"""Seconds for which a server that held a watch wants to hear of commits at once: a watch that was
answered is asked for again soon, and a lock's waiter makes a new one each time."""
NEAR = 64
"""So many a leader holds for those that could ask elsewhere: the first ones are told soonest, and
a crowd costs the leader nothing."""
ANSWERS = 16
"""A watch may ask for so many answers at once …"""
SHORT = 4096
"""… of which all but the last take at most so many bytes each."""
AT_ONCE = 64
"""So many watches of a client go on after the answers of one step. The others' clients ask again,
which is counted as any request is: else many watches would take the server's time for nothing."""
FAR_BEHIND = 1000
"""Slots that a server may be behind what it was told is chosen, and still hold watches."""

Held = tuple[ClientToken, int]
"""A client, and its number for a watch."""


@dataclass(slots=True)
class _Client:
    asked_at: float = 0.0
    bytes: int = 0
    squares: int = 0
    """The sum of the squares of the ids that its watches' next answers will have."""
    numbers: dict[int, int] = field(default_factory=dict)
    """Its ids, and the server's numbers for them."""


@dataclass(slots=True)
class Watching:
    """The watches that a server holds."""

    held: dict[int, tuple[ClientToken, int, int, int, int]] = field(default_factory=dict)
    """Of each, by number: the client, its id, bytes, how many answers it has had, and may."""
    seen: int = 0
    """The state machine was asked for what happened up to this slot."""
    tidy_at: float = 0.0
    """When to look for clients that are gone, monotonic seconds."""
    late: tuple[int, float] | None = None
    """What was executed when more was first known to be chosen, and when that was."""
    _clients: dict[ClientToken, _Client] = field(default_factory=dict)
    _next: int = 0
    _held_at: float = -OF_LATE
    _bytes: int = 0

    def stands_still(self, executed: int, known: int, now: float) -> float:
        """Seconds for which nothing was executed although more is known to be chosen."""
        if known <= executed:
            self.late = None
            return 0.0
        if self.late is None or self.late[0] != executed:
            self.late = executed, now
        return now - self.late[1]

    def held_of_late(self, now: float) -> bool:
        """Whether the leader is to tell of each commit; asked at each heartbeat."""
        if self.held:
            self._held_at = now
        return now - self._held_at < OF_LATE

    def refusal(self, client: ClientToken, size: int) -> str:
        """Why one more cannot be held for a client; empty if it can."""
        one = self._clients.get(client)
        if size > QUERY_BYTES:
            return f"a watch may take {QUERY_BYTES} bytes"
        if one is not None and len(one.numbers) >= EACH:
            return f"a client may have {EACH} watches at one server"
        if one is not None and one.bytes + size > HELD_BYTES // 4:
            return "this client's watches are too long for one server"
        if len(self.held) >= ALL or self._bytes + size > HELD_BYTES:
            return "this server holds as many watches as it can"
        return ""

    def add(
        self, client: ClientToken, watch: int, size: int, now: float, answers: int = 1
    ) -> tuple[int, int | None]:
        """A number for a client's watch; and that of the one with the same id, no longer held."""
        one = self._clients.get(client)
        before = None if one is None else one.numbers.get(watch)
        if before is not None:
            self.take(before)
        one = self._clients.setdefault(client, _Client())
        one.asked_at = self._held_at = now
        self._next += 1
        one.numbers[watch] = self._next
        one.squares += watch * watch
        self.held[self._next] = (client, watch, size, 0, min(answers, ANSWERS))
        self._bytes += size
        one.bytes += size
        return self._next, before

    def take(self, number: int) -> Held:
        """A watch is no longer held: whose it was, and the id of its last answer."""
        client, watch, size, given, _ = self.held.pop(number)
        self._bytes -= size
        one = self._clients[client]
        one.bytes -= size
        one.squares -= (watch + given) ** 2
        del one.numbers[watch]
        if not one.numbers:
            del self._clients[client]
        return client, watch + given

    def answer(self, number: int) -> Held | None:
        """Whose a watch is that is held still, and the id of its answer; None: it is the last."""
        client, watch, size, given, answers = self.held[number]
        if given + 1 >= answers:
            return None
        self.held[number] = (client, watch, size, given + 1, answers)
        self._clients[client].squares += 2 * (watch + given) + 1
        return client, watch + given

    def drop(self, client: ClientToken, watches: Iterable[int] | None = None) -> list[int]:
        """A client no longer wants these (None: it is gone); their numbers."""
        one = self._clients.get(client)
        if one is None:
            return []
        wanted = list(one.numbers) if watches is None else watches
        dropped = [one.numbers[watch] for watch in dict.fromkeys(wanted) if watch in one.numbers]
        for number in dropped:
            self.take(number)
        return dropped

    def asked(self, client: ClientToken, now: float) -> tuple[int, int]:
        """A client asks how its watches are: how many there are, and `WatchesHeld.digest`."""
        one = self._clients.get(client)
        if one is None:
            return 0, 0
        one.asked_at = now
        return len(one.numbers), one.squares % (1 << 62)

    def gone(self, now: float) -> list[ClientToken]:
        """Those of whom nothing was heard for long."""
        self.tidy_at = now + FORGOTTEN / 10
        return [client for client, one in self._clients.items() if one.asked_at < now - FORGOTTEN]
