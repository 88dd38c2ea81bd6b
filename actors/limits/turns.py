"""Clients' requests that wait: who gets how much of the server, and what is thrown away.

A step serves clients for a moment only (`CLIENT_SECONDS`), so that peers, heartbeats and the sync
come round again. What is left waits here, in a queue for each client, bounded. Clients take turns.
What the requests of each take, one by one or together, goes on its account; while others are there
it sits out as long again: however much it sends, and however dear each request is, the others find
the server free half of the time.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Container, Mapping, Sequence
from typing import TypeAlias

from paxon.actors.environment import NEVER, ClientToken
from paxon.actors.limits.allowances import CLIENT_SECONDS, MESSAGE_BYTES
from paxon.actors.messages import ClientMessage, Command, Query, Renew, Watch

__all__ = ["ClientTurns", "Openings", "Stored", "Waiting"]

Keys: TypeAlias = Container[tuple[int, int] | None]
"""Commands, by session and number."""

TURN_MESSAGES = 32
"""Requests of one client that are handled in a row while others wait, at most."""
TURN_SECONDS = 0.01
"""A client's commands in a slot are so many that executing them takes about so long, or one."""
MAX_MESSAGES = 16_384
"""Requests that may wait for one client …"""
MAX_BYTES = 32 << 20
"""… and their bytes; …"""
MAX_TOTAL_MESSAGES = 131_072
"""… for all clients together, of which each that has more than its share …"""
MAX_TOTAL_BYTES = 256 << 20
"""… gets no more in."""
PRESENT_SECONDS = 0.1
"""A client counts as present for so long after it was heard, and as long as it had to wait."""

AHEAD_SECONDS = CLIENT_SECONDS / 4
"""A client sits out once it has had so much more than its share …"""

EVEN_SECONDS = 1e-6
"""… and until it is even, but for so much."""

HELD_SECONDS = 10.0
"""A client sits out at most so long, whatever it did: a machine that was suspended meanwhile, or a
slot that found no majority, makes anything take for ever."""
LATELY_SECONDS = 5.0
"""A snapshot is put down to what was stored in the last one to two of these spans of time."""

OPENINGS = 64
"""Sessions that a client may open at once; it may open …"""
OPENINGS_PER_SECOND = 8.0
"""… so many more each second."""
ALL_OPENINGS = 4096
"""All clients together may open so many at once (who dials anew is another client each time) …"""
ALL_OPENINGS_PER_SECOND = 2000.0
"""… and so many more each second."""
REMEMBERED_CLIENTS = 4096
"""Clients whose openings or time are counted, the last ones heard."""


class Waiting:
    """One client's queue."""

    __slots__ = ("bytes", "last", "most", "not_before", "requests", "rests")

    def __init__(self) -> None:
        self.requests: deque[ClientMessage] = deque()
        self.bytes = 0
        self.not_before = -NEVER
        """It sits out until then, whatever is on its account."""
        self.rests = False
        """It sits out until it is even with the others, and …"""
        self.last: tuple[int, int] | None = None
        """… its last command is executed."""
        self.most = TURN_MESSAGES
        """Requests that are handled in a row: fewer if its commands take long to execute."""


class ClientTurns:
    """A queue for each client that has to wait."""

    def __init__(self) -> None:
        self.waiting: dict[ClientToken, Waiting] = {}
        """In the order of their turns; who has nothing waiting in it sits out."""
        self._fresh: deque[ClientToken] = deque()
        """Who came when nothing of theirs waited: they go first."""
        self.messages = 0
        self.bytes = 0
        self.ignored: set[ClientToken] = set()
        """Clients that are not listened to, for too much of what they want waits already."""
        self.blamed: dict[ClientToken, float] = {}
        """Clients whose values made the snapshot due that is being taken, and which part each."""
        self.accounts: dict[ClientToken, float] = {}
        """Up to when by the clock of shares those have had theirs that have had more than that …"""
        self._order: list[tuple[float, ClientToken]] = []
        """… and who will be the first to be even."""
        self._shares = self._shares_at = 0.0
        """The clock of shares, and when it showed that. It goes by what each of these is to have of
        the time, all others together as much as one; and never behind who is there and had least.
        """
        self._heard: dict[ClientToken, tuple[float, tuple[int, int] | None]] = {}
        """When each client was heard last, and with which command, if any; the last one last."""
        self._others_until = -NEVER
        """Until then somebody is there for whom those sit out that have had more."""

    def heard(self, client: ClientToken, requests: Sequence[ClientMessage], now: float) -> None:
        """A frame of this client has come."""
        heard, last = self._heard, requests[-1] if requests else None
        heard.pop(client, None)
        heard[client] = now, (last.session, last.seq) if isinstance(last, Command) else None
        if len(self._heard) > REMEMBERED_CLIENTS:
            del self._heard[next(iter(self._heard))]

    def others_present(self, client: ClientToken, since: float) -> bool:
        """Whether anybody but this client waits, or was heard since then or a little before."""
        for other in reversed(self._heard):
            if other != client:
                if self._heard[other][0] > since - PRESENT_SECONDS:
                    return True
                break
        return any(w.requests and c != client for c, w in self.waiting.items())

    def several(self) -> bool:
        """Whether more than one client was heard, as far as is remembered."""
        return len(self._heard) > 1

    def is_much(self, client: ClientToken) -> bool:
        """Whether so much waits for this client that it need not be listened to for a while."""
        waiting = self.waiting.get(client)
        return waiting is not None and (
            len(waiting.requests) > MAX_MESSAGES // 2 or waiting.bytes > MAX_BYTES // 2
        )

    def add(self, client: ClientToken, requests: Sequence[ClientMessage]) -> bool:
        """Take in a client's requests, all or none: False if a bound would be passed."""
        size = sum(map(request_bytes, requests))
        waiting = self.waiting.get(client)
        if not self._has_room(waiting, len(requests), size):
            return False
        if waiting is None:
            waiting = self.waiting[client] = Waiting()
        if not waiting.requests:
            self._fresh.append(client)
        waiting.requests.extend(requests)
        waiting.bytes += size
        self.messages += len(requests)
        self.bytes += size
        return True

    def _has_room(self, waiting: Waiting | None, messages: int, size: int) -> bool:
        if waiting is None:
            have_messages = have_bytes = 0
            clients = len(self.waiting) + 1
        else:
            have_messages, have_bytes = len(waiting.requests), waiting.bytes
            clients = len(self.waiting)
            if have_messages + messages > MAX_MESSAGES or have_bytes + size > MAX_BYTES:
                return False
        if self.messages + messages > MAX_TOTAL_MESSAGES:
            return have_messages + messages <= MAX_TOTAL_MESSAGES // clients // 2
        if self.bytes + size > MAX_TOTAL_BYTES:
            return have_bytes + size <= MAX_TOTAL_BYTES // clients // 2
        return True

    def next(self, now: float, in_log: Keys = ()) -> tuple[ClientToken, Waiting] | None:
        """Whose turn it is; that client then goes to the end. None if all sit out.

        First come those that have had no more than their share, in turns, then who has had least.
        (Commands that are `in_log` are waited for.)
        """
        self.pass_time(now)
        while self._fresh:
            client = self._fresh.popleft()
            held = self.waiting.get(client)
            if held is None or not held.requests or held.not_before > now:
                continue
            if not held.rests and not self.is_ahead(client):
                return client, held
        shares, least, found = self._shares, (True, math.inf), None
        for client, waiting in list(self.waiting.items()):
            if waiting.not_before > now:
                continue
            had = self.accounts.get(client, shares)
            if waiting.rests:
                waiting.rests = had > shares + EVEN_SECONDS or waiting.last in in_log
            else:
                waiting.rests = had > shares + AHEAD_SECONDS
            if not waiting.requests:
                if had <= shares and not waiting.rests:
                    del self.waiting[client]
            elif (waiting.rests, had) < least:
                least, found = (waiting.rests, had), client
                if had <= shares and not waiting.rests:
                    break
        if found is None:
            return None
        if self.waiting[found].rests and self._others_first(found, least[1], now, in_log):
            return None
        waiting = self.waiting[found] = self.waiting.pop(found)
        return found, waiting

    def pass_time(self, now: float) -> None:
        """The clock of shares goes on."""
        left, order = now - self._shares_at, self._order
        if left <= 0:
            return
        self._shares_at = now
        while order and (until := (order[0][0] - self._shares) * self._sharing()) <= left:
            self._shares, _ = order.pop(0)
            left -= until
        self._shares += left / self._sharing()

    def _sharing(self) -> int:
        """Among how many the time is shared now."""
        return 1 + max(len(self.waiting), len(self._order))

    def _others_first(self, resting: ClientToken, had: float, now: float, in_log: Keys) -> bool:
        """Whether somebody is there for whom a client rests that has had so much.

        If not, the clock of shares is set to at most `PRESENT_SECONDS` before that.
        """
        in_line = self.waiting[resting].last in in_log
        for client, (at, last) in list(self._heard.items()):
            waiting, until = self.waiting.get(client), at + PRESENT_SECONDS
            if until <= now:
                if last not in in_log and (waiting is None or not waiting.requests):
                    if until <= now - HELD_SECONDS:
                        del self._heard[client]
                    continue
                until = now + PRESENT_SECONDS
            if client != resting and (
                waiting is None
                or not waiting.rests
                or self.accounts.get(client, self._shares) < had - AHEAD_SECONDS
                or (in_line and waiting.last not in in_log)
            ):
                self._others_until = until
                return True
        self._shares = max(self._shares, had - PRESENT_SECONDS / self._sharing())
        while self._order and self._order[0][0] <= self._shares:
            del self._order[0]
        return False

    def take(self, waiting: Waiting) -> ClientMessage:
        """The next request of a client whose turn it is."""
        request = waiting.requests.popleft()
        size = request_bytes(request)
        waiting.bytes -= size
        self.messages -= 1
        self.bytes -= size
        return request

    def leave_if_done(self, client: ClientToken, waiting: Waiting) -> None:
        """After a turn: who has nothing left, and need not rest, is not counted any more."""
        if not (waiting.requests or waiting.rests or self.is_ahead(client)):
            self.waiting.pop(client, None)

    def listen(self, client: ClientToken) -> None:
        """Listen to a client again unless it still has much that waits."""
        if not self.is_much(client):
            self.ignored.discard(client)

    def let_go(self, now: float) -> None:
        """No snapshot will be taken here that anybody waits for."""
        blamed, self.blamed = self.blamed, {}
        for client in blamed:
            self.sit_out(client, now)

    def hold_for_snapshot(self, parts: Mapping[ClientToken, float], now: float) -> None:
        """Let these clients, whose values make a snapshot due, wait until it is taken."""
        for client, part in parts.items():
            self.sit_out(client, now, HELD_SECONDS)
            self.blamed[client] = part

    def snapshot_taken(self, seconds: float, now: float) -> None:
        """It has taken so long: for their part of that they let others go first."""
        blamed, self.blamed = self.blamed, {}
        for client, part in blamed.items():
            self.sit_out(client, now)
            self.charge(client, seconds * part, now)

    def spend(self, client: ClientToken, seconds: float, now: float) -> None:
        """It has taken so much of the server's time."""
        self.pass_time(now)
        had = self._forget(client)
        sharing = len(self.waiting.keys() | {client}) + 1
        began = max(had, self._shares - seconds / sharing)
        had = min(began + seconds, self._shares + HELD_SECONDS / sharing)
        self.accounts[client] = had
        if len(self.accounts) > REMEMBERED_CLIENTS:
            self._forget(next(iter(self.accounts)))

    def _forget(self, client: ClientToken) -> float:
        """Close a client's account; returns what it said."""
        had = self.accounts.pop(client, -NEVER)
        at = bisect_left(self._order, (had, client))
        if self._order[at : at + 1] == [(had, client)]:
            del self._order[at]
        return had

    def charge(self, client: ClientToken, seconds: float, now: float) -> None:
        """It has taken so much of the others' time: once that is enough it sits out."""
        self.spend(client, seconds, now)
        insort(self._order, (self.accounts[client], client))
        if self.is_ahead(client) and client not in self.waiting:
            self.waiting[client] = Waiting()

    def executed(self, client: ClientToken, seconds: float, now: float) -> None:
        """What it had in a slot took so long: what it gets at once is to take `TURN_SECONDS`."""
        _, last = self._heard.pop(client, (now, None))
        self._heard[client] = now, last  # it has waited until now
        waiting = self.waiting.get(client)
        if waiting is not None:
            most = int(waiting.most * TURN_SECONDS / seconds)
            waiting.most = max(1, min(most, TURN_MESSAGES))

    def is_ahead(self, client: ClientToken) -> bool:
        """Whether it has had so much more than its share that it sits out."""
        return self.accounts.get(client, self._shares) > self._shares + AHEAD_SECONDS

    def sit_out(self, client: ClientToken, now: float, seconds: float = 0.0) -> None:
        """It is not this client's turn for so long; by default it is from now on."""
        until = now + min(seconds, HELD_SECONDS)
        waiting = self.waiting.get(client)
        if waiting is None:
            waiting = self.waiting[client] = Waiting()
        if client not in self.blamed or until > waiting.not_before:
            waiting.not_before = until

    def drop(self, client: ClientToken) -> None:
        """Nobody waits for these any more."""
        waiting = self.waiting.pop(client, None)
        self.ignored.discard(client)
        self._forget(client)
        self._heard.pop(client, None)
        if waiting is not None:
            self.messages -= len(waiting.requests)
            self.bytes -= waiting.bytes

    def due(self) -> float:
        """When somebody's turn comes; infinity if nobody waits."""
        due, sharing = NEVER, len(self.waiting) + 1
        for client, waiting in self.waiting.items():
            if waiting.requests and waiting.not_before < due:
                ahead = self.accounts.get(client, self._shares) - self._shares
                even_at = self._shares_at + ahead * sharing
                if ahead <= 0 and waiting.last is not None and waiting.rests:
                    even_at = NEVER  # (what it waits for comes from the log)
                due = min(due, max(waiting.not_before, min(even_at, self._others_until)))
        return due


def request_bytes(request: ClientMessage) -> int:
    """The bytes that a request counts for."""
    if isinstance(request, Command | Renew):
        return len(request.command) + MESSAGE_BYTES
    if isinstance(request, Query | Watch):
        return len(request.query) + MESSAGE_BYTES
    return MESSAGE_BYTES


class Stored:
    """Which clients a snapshot is due to: large commands that were executed, but only lately.

    What somebody stored long ago takes nothing from anybody by now. So bytes are kept for two spans
    of time, and the older one is forgotten as a whole. `executed` is what all have stored since the
    last snapshot.
    """

    def __init__(self) -> None:
        self._since = -NEVER
        """When the newer span began, seconds."""
        self._newer: dict[ClientToken, int] = {}
        self._older: dict[ClientToken, int] = {}
        self._newer_from = self._older_from = 0
        """What all had stored when each began."""

    def add(self, client: ClientToken, size: int, executed: int, now: float) -> None:
        """A large command of this client is executed."""
        self._go_on(executed - size, now)
        self._newer[client] = self._newer.get(client, 0) + size

    def parts(self, least: int, executed: int, now: float) -> dict[ClientToken, float]:
        """The clients that have stored so many bytes lately, each with its part of all."""
        self._go_on(executed, now)
        sizes = dict(self._older)
        for client, size in self._newer.items():
            sizes[client] = sizes.get(client, 0) + size
        total = max(executed - self._older_from, sum(sizes.values()))
        return {client: size / total for client, size in sizes.items() if size >= least}

    def _go_on(self, executed: int, now: float) -> None:
        spans = (now - self._since) // LATELY_SECONDS
        if spans < 1:
            return
        if spans == 1:
            self._since += LATELY_SECONDS
            self._older, self._older_from = self._newer, self._newer_from
        else:
            self._since = now
            self._older, self._older_from = {}, executed
        self._newer, self._newer_from = {}, executed


class Openings:
    """How many sessions each client has opened lately, and all together."""

    def __init__(self) -> None:
        self._left: dict[ClientToken, tuple[float, float]] = {}
        """What each may still open, and as of when …"""
        self._all = float(ALL_OPENINGS), -NEVER
        """… and what all may."""

    def wait(self, client: ClientToken, now: float) -> float:
        """Count one opening; or the seconds until this client may open a session again."""
        left, at = self._left.pop(client, (float(OPENINGS), now))
        left = min(float(OPENINGS), left + (now - at) * OPENINGS_PER_SECOND)
        most, at = self._all
        most = min(float(ALL_OPENINGS), most + (now - at) * ALL_OPENINGS_PER_SECOND)
        wait = max((1.0 - left) / OPENINGS_PER_SECOND, (1.0 - most) / ALL_OPENINGS_PER_SECOND)
        counted = 1.0 if wait <= 0 else 0.0
        self._left[client], self._all = (left - counted, now), (most - counted, now)
        if len(self._left) > REMEMBERED_CLIENTS:
            del self._left[next(iter(self._left))]
        return max(wait, 0.0)
