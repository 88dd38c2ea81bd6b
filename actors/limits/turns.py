"""Clients' requests that wait: who gets how much of the server, and what is thrown away.

A step serves clients for a moment only (`CLIENT_SECONDS`), so that peers, heartbeats and the sync
come round again. What is left waits here, in a queue for each client, bounded. Clients take turns.
What the requests of each take, one by one or together, goes on its account; while others are there
it sits out as long again: however much it sends, and however dear each request is, the others find
the server free half of the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from paxon.actors.environment import NEVER, ClientToken
from paxon.actors.limits.allowances import CLIENT_SECONDS, MESSAGE_BYTES
from paxon.actors.members import ChangeMembers
from paxon.actors.messages import (
    ChangeSettings,
    ClientMessage,
    Command,
    Query,
    Renew,
    Unwatch,
    Watch,
)

__all__ = ["ClientTurns", "Openings", "Stored", "Waiting"]

MAX_MESSAGES, MAX_BYTES = 16_384, 32 << 20
"""Requests that may wait for one client, and their bytes; …"""
MAX_TOTAL_MESSAGES, MAX_TOTAL_BYTES = 131_072, 256 << 20
"""… for all clients together, of which each that has more than its share gets no more in."""
PRESENT_SECONDS = 0.1
"""A client counts as present for so long after it was heard, and as long as it had to wait."""
SILENT_SECONDS = 0.02
"""Whoever owes goes on once the server has listened for so long and heard of nobody else, or for as
long as the last turn took, PRESENT_SECONDS at most."""
HELD_SECONDS = 10.0
"""A client sits out at most so long, whatever it did: a machine that was suspended meanwhile, or a
slot that found no majority, makes anything take for ever."""
LATELY_SECONDS = 5.0
"""A snapshot is put down to what was stored in the last one to two of these spans of time."""

OPENINGS, OPENINGS_PER_SECOND = 64, 8.0
"""Sessions that a client may open at once, and so many more each second; …"""
ALL_OPENINGS, ALL_OPENINGS_PER_SECOND = 4096, 2000.0
"""… all clients together (each new connection is another client)."""
ALLOWANCE = 1 / 8
"""A client that takes more than this part of the time …"""
ALLOWED_AHEAD = 0.5
"""… and on top of that as much as it may take in so many seconds (a sixteenth) is greedy …"""
MOST_GREEDY = 4
"""… and counts for so many at most, itself included."""
ID_BYTES, SETTING_BYTES = 40, 512
"""What a number in a list takes in memory, and a setting with the longest name, or a change of a
member without its addresses."""
REMEMBERED_CLIENTS = 4096
"""Clients whose openings or time are counted, the last ones heard."""


class Waiting:
    """One client's queue."""

    __slots__ = ("bytes", "not_before", "owes", "requests", "took")

    def __init__(self) -> None:
        self.requests: deque[ClientMessage] = deque()
        self.bytes = 0
        self.not_before = -NEVER
        """It sits out until then …"""
        self.owes = False
        """… for what is on its account, and for nothing else: …"""
        self.took = 0.0
        """… seconds of the others' since its last turn."""


class ClientTurns:
    """A queue for each client that has to wait."""

    def __init__(self) -> None:
        self.waiting: dict[ClientToken, Waiting] = {}
        """In the order of their turns; one with nothing waiting in it sits out."""
        self.messages = 0
        self.bytes = 0
        self.ignored: set[ClientToken] = set()
        """Clients that are not listened to, for too much of what they want waits already."""
        self.held_back: dict[tuple[int, int], ClientToken] = {}
        """Clients that wait until a command of theirs is executed, by its session and number."""
        self.blamed: dict[ClientToken, float] = {}
        """Clients whose values made the snapshot due that is being taken, and which part each."""
        self.paid_at: dict[ClientToken, float] = {}
        """When each client will have left the server to others for as long as it took it."""
        self._ahead: dict[ClientToken, float] = {}
        """When each client will have taken no more than ALLOWANCE since it was last below that."""
        self.greedy: dict[ClientToken, float] = {}
        """Clients that have taken much more than that, and until when each counts as one …"""
        self._sorted_at = -NEVER
        """… and when those that no longer do so were last taken out."""
        self._left: dict[ClientToken, float] = {}
        """Clients that have left, the last ones: some of their commands may still be executed."""
        self.listened = 0.0
        """Seconds for which the server has waited for messages: it stands still during a step."""
        self._modest: dict[ClientToken, float] = {}
        """When the other clients were heard last, in those seconds, the last one at the end, …"""
        self.modest: tuple[int, int] | None = None
        """… the command that it sent, by its session and number, …"""
        self.awaited_at = -NEVER
        """… and when such a client last waited for something."""
        self._last, self._last_at = b"", -NEVER
        self._before, self._before_at = b"", -NEVER
        """The two clients heard last, and when: is anybody else there?"""

    def heard(self, client: ClientToken, requests: Sequence[ClientMessage], now: float) -> None:
        """A frame of this client has come."""
        if client != self._last:
            self._before, self._before_at = self._last, self._last_at
            self._last = client
        self._last_at = now
        waiting = self.waiting.get(client) if self.waiting else None
        if requests and client not in self.greedy and not (waiting and waiting.requests):
            asked, modest = requests[-1], self._modest
            modest.pop(client, None)
            modest[client] = self.listened
            _forget_one(modest)
            self.modest = (asked.session, asked.seq) if type(asked) is Command else None

    def _is_not_modest(self, client: ClientToken) -> None:
        if self._modest.pop(client, None) is not None:
            self.modest = None
            self.awaited_at = -NEVER  # (it may have been this one; any other is found again)

    def others_present(self, client: ClientToken, since: float) -> bool:
        """Whether anybody but this client waits, or was heard since then or a little before."""
        heard_at = self._before_at if client == self._last else self._last_at
        return heard_at > since - PRESENT_SECONDS or any(
            w.requests and c != client for c, w in self.waiting.items()
        )

    def several(self, now: float) -> bool:
        """Whether more than one client was heard in the last seconds."""
        return self._before_at > now - HELD_SECONDS

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

    def next(self, now: float) -> tuple[ClientToken, Waiting] | None:
        """Whose turn it is; that client then goes to the end. None if all sit out.

        Of those that sit out for their accounts alone the first to be done need not, if nobody
        else is there.
        """
        done, client = [], None
        for one, waiting in self.waiting.items():
            if waiting.not_before <= now:
                if waiting.requests:
                    client = one
                    break
                done.append(one)
        for one in done:
            del self.waiting[one]
        if client is None:
            client = self._next_in_debt(now)
        if client is None:
            return None
        waiting = self.waiting[client] = self.waiting.pop(client)
        waiting.took = 0.0
        return client, waiting

    def wait_for_reader(self, client: ClientToken, until: float) -> None:
        """It does not read its replies: until then it gets no turn, and shares with nobody."""
        waiting = self.waiting[client]
        waiting.not_before, waiting.owes = until, False
        self.greedy.pop(client, None)

    def _next_in_debt(self, now: float) -> ClientToken | None:
        """The client that goes on although it owes the others time, for nobody else is there.

        What it owes is taken off all accounts: it took that time from nobody.
        """
        owing = self._owing()
        if not owing or self._there_until(owing, now) > now:
            return None
        first = min(owing, key=owing.__getitem__)
        early = owing[first] - now
        for client, waiting in self.waiting.items():
            if waiting.owes:
                waiting.not_before -= early
                if client in self.paid_at:
                    self.paid_at[client] -= early
        return first

    def _there_until(self, owing: Mapping[ClientToken, float], now: float) -> float:
        """Until when somebody is there who would be served at once, or owes less than these."""
        first = min(owing, key=owing.__getitem__)
        least, paid_at = owing[first], self.paid_at
        silent = min(max(self.waiting[first].took, SILENT_SECONDS), PRESENT_SECONDS)
        modest_at = max(self.awaited_at, next(reversed(self._modest.values()), -NEVER))
        there = [now + modest_at + silent - self.listened]
        for client, until in self.greedy.items():
            if client not in owing and paid_at.get(client, -NEVER) < least:
                there.append(until)
        return max(there)

    def _owing(self) -> dict[ClientToken, float]:
        """Clients with something waiting that sit out for their accounts alone: until when."""
        return {c: w.not_before for c, w in self.waiting.items() if w.owes and w.requests}

    def take(self, waiting: Waiting) -> ClientMessage:
        """The next request of a client whose turn it is."""
        request = waiting.requests.popleft()
        size = request_bytes(request)
        waiting.bytes -= size
        self.messages -= 1
        self.bytes -= size
        return request

    def listen(self, client: ClientToken) -> None:
        """Listen to a client again unless it still has much that waits."""
        if not self.is_much(client):
            self.ignored.discard(client)

    def hold_back(self, client: ClientToken, key: tuple[int, int], now: float) -> None:
        """It has got much into the log: others go first until the last of it is executed."""
        self.held_back[key] = client
        self.sit_out(client, now, HELD_SECONDS)

    def let_go(self, now: float) -> None:
        """Nothing that anybody was held back for will be executed here any more."""
        held = {*self.held_back.values(), *self.blamed}
        self.held_back.clear()
        self.blamed.clear()
        for client in held:
            self.sit_out(client, now)

    def hold_for_snapshot(self, parts: Mapping[ClientToken, float], now: float) -> None:
        """Let these clients, whose values make a snapshot due, wait until it is taken."""
        for client, part in parts.items():
            self.sit_out(client, now, HELD_SECONDS)
            self.blamed[client] = part
            self.greedy.pop(client, None)

    def snapshot_taken(self, seconds: float, now: float) -> None:
        """It has taken so long: for their part of that they let others go first."""
        blamed, self.blamed = self.blamed, {}
        for client, part in blamed.items():
            self.sit_out(client, now, seconds * part)

    def spend(self, client: ClientToken, seconds: float, now: float, weight: int = 1) -> bool:
        """It has taken so much of the server's time; whether that is enough for a while."""
        began = max(self.paid_at.pop(client, -NEVER), now - seconds)
        until = self.paid_at[client] = min(began + 2 * weight * seconds, now + HELD_SECONDS)
        _forget_one(self.paid_at)
        return until - now >= weight * CLIENT_SECONDS / 2

    def charge(self, client: ClientToken, seconds: float, now: float) -> None:
        """It has taken so much of the others' time: once that is enough it sits out."""
        if client in self._left:
            return
        ahead = max(self._ahead.pop(client, now), now) + seconds / ALLOWANCE
        self._ahead[client] = min(ahead, now + ALLOWED_AHEAD + 1.0)
        _forget_one(self._ahead)
        is_greedy = ahead > now + ALLOWED_AHEAD and client not in self.blamed
        if is_greedy:
            self.greedy[client] = self.greedy.pop(client, NEVER)
            _forget_one(self.greedy)
            self._is_not_modest(client)
        owes = self.spend(client, seconds, now, self.weight(client, now))
        owed = max(0.0, self.paid_at[client] - now)
        if is_greedy:  # (it may be in the log for about as long as it owes)
            self.greedy[client] = now + 2 * owed + PRESENT_SECONDS
        if owes and client not in self.held_back.values():
            self.sit_out(client, now, owed, owes=True)
            self.waiting[client].took += seconds

    def weight(self, client: ClientToken, now: float) -> int:
        """What the client takes counts so many times.

        All greedy ones are to leave the others half of the time together, so each counts for all.
        """
        if client not in self.greedy:
            return 1
        if now >= self._sorted_at + PRESENT_SECONDS:
            self._sorted_at = now
            self.greedy = {c: until for c, until in self.greedy.items() if until > now}
        return min(max(len(self.greedy), 1), MOST_GREEDY)

    def go_on(self, client: ClientToken, now: float) -> None:
        """It waits for nothing but what is left on its account."""
        self.sit_out(client, now, max(0.0, self.paid_at.get(client, now) - now), owes=True)

    def sit_out(
        self, client: ClientToken, now: float, seconds: float = 0.0, *, owes: bool = False
    ) -> None:
        """It is not this client's turn for so long; by default it is from now on."""
        until = now + min(seconds, HELD_SECONDS)
        waiting = self.waiting.get(client)
        if waiting is None:
            waiting = self.waiting[client] = Waiting()
        if client not in self.blamed or until > waiting.not_before:
            waiting.not_before = until
            waiting.owes = owes and client not in self.blamed

    def drop(self, client: ClientToken) -> None:
        """Nobody waits for these any more."""
        waiting = self.waiting.pop(client, None)
        self.ignored.discard(client)
        for accounts in (self.paid_at, self.greedy, self._ahead, self._modest):
            accounts.pop(client, None)
        self._left[client] = NEVER
        _forget_one(self._left)
        if waiting is not None:
            self.messages -= len(waiting.requests)
            self.bytes -= waiting.bytes

    def due(self, busy: float) -> float:
        """When somebody's turn comes; infinity if nobody waits.

        `busy` are the seconds of all steps: what remains is what the server listens.
        """
        due = min((w.not_before for w in self.waiting.values() if w.requests), default=NEVER)
        if owing := self._owing():
            return min(due, self._there_until(owing, self.listened + busy))
        return due


def _forget_one(clients: dict[ClientToken, float]) -> None:
    """The one that was taken down longest ago, if there are too many."""
    if len(clients) > REMEMBERED_CLIENTS:
        del clients[next(iter(clients))]


def request_bytes(request: ClientMessage) -> int:
    """The bytes that a request counts for."""
    if isinstance(request, Command | Renew):
        return len(request.command) + MESSAGE_BYTES
    if isinstance(request, Query | Watch):
        return len(request.query) + MESSAGE_BYTES
    if isinstance(request, Unwatch):
        return len(request.ids) * ID_BYTES + MESSAGE_BYTES
    if isinstance(request, ChangeSettings):
        return len(request.values) * SETTING_BYTES + MESSAGE_BYTES
    if isinstance(request, ChangeMembers):
        names = sum(len(c.peer) + len(c.client) + len(c.key) for c in request.changes)
        return names + len(request.changes) * SETTING_BYTES + MESSAGE_BYTES
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
        self._all = float(ALL_OPENINGS), -NEVER
        """What each may still open, and what all may, and as of when."""

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
