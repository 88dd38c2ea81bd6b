"""Which server holds a client's watches, and how they go on elsewhere. No I/O, no clock.

All watches of a client are at one server, its *home*. While they are few, that is the leader, which
is the first to know; otherwise it is another server, because a leader has enough to do. The home
answers a watch as often as was asked for. When the caller has taken the last answer, the watch is
asked for again from where that ended. The client moves with all watches when its home is not
current, or is silent: every `_CHECK_SECONDS` it asks the home how many it holds. So a watch's
position is all that has to be remembered, and nothing is told twice or left out, wherever the next
server is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import msgspec

from paxon.actors.messages import (
    MOST_UNWATCHED,
    ClientMessage,
    QueryReply,
    ReplyStatus,
    Unwatch,
    Watch,
    WatchCheck,
    WatchesHeld,
    retry_after,
    watch_digest,
)
from paxon.kvstore.client import outcomes
from paxon.kvstore.client.leader_search import LeaderSearch
from paxon.kvstore.client.requests import Ticket
from paxon.kvstore.errors import PaxonError
from paxon.kvstore.store.operations import Events, Result, decode_results, encode_operations

__all__ = ["Watched", "WatchSide"]

_CHECK_SECONDS = 2.0
"""How often the home is asked for its watches, at most …"""
_SILENT_SECONDS = 1.5
"""… and how long it may owe the answer."""
_FIRST_ORDER = 1 << 40
"""Above the numbers of a client's queries, and a multiple of `_ANSWERS`."""
_ANSWERS = 16
"""A watch is asked for so many at once: most come with no question before them."""
_FEW = 8
"""So many watches of a client are at the leader."""
_PAUSE_FIRST, _PAUSE_MAX = 0.05, 0.5
"""Once no server would hold them, they are offered again after so many seconds, growing."""
_ROUNDS = 6
"""So often they are offered to all that the client is connected to, before others are tried."""

Answer = Result
"""`[through, events]`, or a refusal."""


class Watched:
    """One watch: what is waited for, how far it has come, and a few answers not yet taken."""

    __slots__ = (
        "answers", "error", "given", "not_before", "number", "order", "position", "sent", "ticket",
        "wanted",
    )  # fmt: skip

    def __init__(self, number: int, wanted: Events) -> None:
        self.number = number
        self.wanted = wanted
        self.position = wanted.after
        """Everything up to this revision has been answered; it never falls."""
        self.answers: list[Answer] = []
        """Answers that the caller has not taken."""
        self.error: PaxonError | None = None
        """It cannot go on."""
        self.ticket: Ticket[Any, Any] | None = None
        """The caller that waits for the next answer."""
        self.sent = False
        """Its home has been asked, and has not given its last answer."""
        self.order = 0
        """Of its last asking: askings and checks are numbered together, with room for answers."""
        self.given = 0
        """Answers to that asking."""
        self.not_before = -math.inf

    @property
    def answer(self) -> Answer | None:
        """The first of its answers, if there is one."""
        first = self.answers[:1]
        return first[0] if first else None

    @property
    def due(self) -> bool:
        """Whether it has to be asked for."""
        return not (self.sent or self.answers or self.error)

    def message(self, near: bool) -> Watch:
        """The question, from its position on."""
        wanted = self.wanted
        if wanted.after != self.position:
            wanted = self.wanted = msgspec.structs.replace(wanted, after=self.position)
        return Watch(self.order, encode_operations((wanted,)), near, _ANSWERS)


class WatchSide:
    """All watches of one client."""

    def __init__(
        self, servers: Sequence[str], first: int, search: LeaderSearch | None = None
    ) -> None:
        """Args: all addresses (may change), where to begin, and who knows which are in use.

        Of all addresses some may be those of servers that are no more.
        """
        self._servers, self._search = servers, search
        self.home = servers[first % len(servers)]
        """The server that holds the watches."""
        self._near = False
        """It is thought to lead, and was chosen for that."""
        self._elsewhere = first
        """Where to go when they have become many."""
        self._watches: dict[int, Watched] = {}
        """By a number of this client's."""
        self._asked: dict[int, Watched] = {}
        """By the number of their last asking: an answer to an earlier one, from a server that they
        have left and come back to, would tell again what others have told."""
        self._abandoned: deque[Watched] = deque()
        """Those whose callers have let go of them, in whatever thread the collector ran."""
        self._dropped: dict[str, list[int]] = {}
        """Askings that a server may hold for nobody; []: whatever it holds."""
        self._order = _FIRST_ORDER
        self._check: tuple[int, float] | None = None
        """Order and time of the check that the home owes an answer to …"""
        self._ended: dict[int, int] = {}
        """… and the askings that it counts, and that have ended meanwhile; the answers to each."""
        self._check_at = math.inf
        self._moves = 0
        """Since a home did as it was asked."""
        self._not_before = -math.inf
        self._to_ask: dict[Watched, None] = {}
        """Those that may have to be asked for: with many it would cost too much to look at all."""

    def __bool__(self) -> bool:
        return bool(self._watches or self._dropped)

    def begin(self, leader: str, elsewhere: int) -> None:
        """A client with no watches so far begins with the leader; where it would go from there."""
        if not self._watches:
            self.home, self._near, self._elsewhere = leader, True, elsewhere

    # --- for callers -------------------------------------------------------------------------

    def add(self, wanted: Events) -> Watched:
        """Begin a watch."""
        self._order += _ANSWERS
        watched = self._watches[self._order] = Watched(self._order, wanted)
        self._to_ask[watched] = None
        if self._near and len(self._watches) > _FEW:
            self._leave()
        return watched

    def _leave(self) -> None:
        """They have become many for a leader: go on elsewhere, and have it forget them."""
        self._near = False
        for servers in (self._connected, self._servers):
            if others := [address for address in servers if address != self.home]:
                break
        else:
            return
        for watched in list(self._asked.values()):
            self._forget_asking(watched)
            self._to_ask[watched] = None
        self._check, self._check_at = None, math.inf
        self.home = others[self._elsewhere % len(others)]

    def drop(self, watched: Watched, error: PaxonError | None = None) -> None:
        """End a watch; those that wait for it get the error."""
        if self._watches.pop(watched.number, None) is None:
            return
        self._to_ask.pop(watched, None)
        watched.error = watched.error or error
        self._forget_asking(watched)
        if not self._watches:
            self._check, self._check_at, self._moves = None, math.inf, 0
        self._tell(watched)

    def abandon(self, watched: Watched) -> None:
        """End a watch soon. (Of all methods this one needs no lock.)"""
        self._abandoned.append(watched)

    def _forget_asking(self, watched: Watched) -> None:
        """Have the home forget it, too."""
        if watched.sent:
            watched.sent = False
            del self._asked[watched.order]
            if self._check is not None and watched.order < self._check[0]:
                self._ended[watched.order] = watched.given
            self._dropped.setdefault(self.home, []).append(watched.order)

    def next_answer(self, watched: Watched, ticket: Ticket[Any, Any]) -> None:
        """Complete the ticket once there is an answer, now or when it comes."""
        watched.ticket = ticket
        self._tell(watched)

    def _tell(self, watched: Watched) -> None:
        """Wake its waiter. The answer stays until its caller takes it: no interrupt loses it."""
        ticket = watched.ticket
        if ticket is None or not (watched.answers or watched.error):
            return
        watched.ticket = None
        ticket.complete(None, None if watched.answers else watched.error, True)

    def taken(self, watched: Watched) -> bool:
        """The caller has taken an answer; whether the watch has to be asked for again."""
        if watched.sent or watched.number not in self._watches:
            return False
        self._to_ask[watched] = None
        return True

    def tickets(self) -> list[Ticket[Any, Any]]:
        """Those that wait."""
        return [w.ticket for w in self._watches.values() if w.ticket is not None]

    def fail(self, error: PaxonError) -> None:
        """All watches end."""
        for watched in list(self._watches.values()):
            self.drop(watched, error)
        self._dropped.clear()

    # --- for the core ------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When to send something even if nothing comes."""
        if self._dropped:
            return -math.inf
        if not self._watches:
            return math.inf
        due = self._check_at if self._check is None else self._check[1] + _SILENT_SECONDS
        waiting = [watched.not_before for watched in self._to_ask if watched.due]
        return min(due, max(self._not_before, min(waiting, default=math.inf)))

    def send(self, now: float, send: Callable[[str, ClientMessage, int], None]) -> None:
        """Ask for what is to be asked for, and how the home is."""
        while self._abandoned:
            self.drop(self._abandoned.popleft())
        if self._check is not None and now >= self._check[1] + _SILENT_SECONDS:
            self.move(now)
        if self._dropped:
            for address, orders in self._dropped.items():
                for at in range(0, len(orders) or 1, MOST_UNWATCHED):
                    these = orders[at : at + MOST_UNWATCHED]
                    send(address, Unwatch(these), 16 * len(these))
            self._dropped = {}
        if now < self._not_before:
            return
        if self._to_ask:
            to_ask, self._to_ask = self._to_ask, {}
            for watched in to_ask:
                if not watched.due:
                    continue
                if now < watched.not_before:
                    self._to_ask[watched] = None
                    continue
                self._order += _ANSWERS
                watched.order, watched.given, watched.sent = self._order, 0, True
                self._asked[self._order] = watched
                message = watched.message(self._near)
                send(self.home, message, len(message.query) + 32)
                self._check_at = min(self._check_at, now + _CHECK_SECONDS)
        if self._check is None and now >= self._check_at:
            self._order += _ANSWERS
            self._check, self._check_at = (self._order, now), math.inf
            self._ended.clear()
            send(self.home, WatchCheck(self._order), 32)

    @property
    def _connected(self) -> Sequence[str]:
        """Where somebody answers, as far as is known."""
        return () if self._search is None else self._search.connected

    def _offers(self) -> Sequence[str]:
        """Where they may go: of a server that is gone only its silence would tell."""
        connected = self._connected
        if self._moves < _ROUNDS * len(connected):
            return connected
        told = () if self._search is None else self._search.told
        return told if self._moves < len(told) else self._servers

    def move(self, now: float) -> None:
        """Go on elsewhere, from each watch's own position."""
        servers = self._offers()
        place = servers.index(self.home) if self.home in servers else self._elsewhere
        self._near = False
        self._settle(servers[(place + 1) % len(servers)])
        self._moves += 1
        rounds, rest = divmod(self._moves, len(servers))
        if rounds and not rest:
            self._not_before = now + min(_PAUSE_FIRST * 2.0 ** min(rounds - 1, 8), _PAUSE_MAX)
        if self._search is not None and self.home not in self._connected:
            self._check_at = max(now, self._not_before)  # nobody may be there

    def _settle(self, address: str) -> None:
        """All watches go on at this server, and the one before is to forget them.

        If they come back to it, what it held before must not count for what it holds then.
        """
        if self._asked:
            self._dropped.setdefault(self.home, []).extend(self._asked)
        self.home = address
        self._check, self._check_at = None, math.inf
        self._asked.clear()
        self._to_ask = dict.fromkeys(self._watches.values())
        for watched in self._watches.values():
            watched.sent = False

    def check_soon(self, now: float) -> None:
        """Somebody wants to know how far the watches are complete."""
        if self._watches and self._check is None:
            self._check_at = min(self._check_at, now)

    def lost(self, address: str, now: float) -> None:
        """The connection to a server has ended, and what it held is gone."""
        self._dropped.pop(address, None)
        if self._watches and address == self.home:
            self._asked.clear()
            self.move(now)

    def on_reply(self, address: str, reply: QueryReply, now: float, leader: str) -> bool:
        """A server answers a watch; False if it is not one of ours.

        `leader`: who is thought to lead, maybe by the same frame: a follower names whom it
        follows when it is asked for a few watches (docs/design/watches.md).
        """
        given, goes_on = reply.id % _ANSWERS, reply.status == ReplyStatus.GOES_ON
        order = reply.id - given
        watched = self._asked.get(order)
        if watched is None or address != self.home:  # late: it ended, or was asked for elsewhere
            if not goes_on:
                self._ended.pop(order, None)
            elif order in self._ended:
                self._ended[order] = given + 1
            return reply.id > _FIRST_ORDER
        missed, watched.given = given != watched.given, given + 1
        if not goes_on:
            del self._asked[order]
            watched.sent = False
        elif missed:
            self._forget_asking(watched)
        if missed:  # an answer was lost: again from where it was
            self._to_ask[watched] = None
        elif reply.status == ReplyStatus.NOT_CURRENT and self._near and leader != address:
            self._settle(leader)
        elif reply.status == ReplyStatus.NOT_CURRENT:
            self.move(now)
        elif reply.status == ReplyStatus.OVERLOADED:
            watched.not_before = now + max(retry_after(reply.payload)[0], _PAUSE_FIRST)
            self._to_ask[watched] = None
        elif reply.status != ReplyStatus.OK and not goes_on:
            watched.error = outcomes.refused(reply.status, reply.payload)
        else:
            self._moves = 0
            self._take(watched, reply.payload)
        self._tell(watched)
        return True

    def _take(self, watched: Watched, payload: bytes) -> None:
        try:
            answer = decode_results(payload)[0]
            through = answer[0] if type(answer) is list else watched.position
        except (ValueError, LookupError) as error:
            watched.error = outcomes.not_the_store(str(error))
            return
        if type(answer) is list:
            if through <= watched.position:  # (never: a server waits until it is past that)
                self._to_ask[watched] = None
                return
            watched.position = through
            if not answer[1]:
                self._to_ask[watched] = None  # nothing yet, but so far it has looked
                return
        watched.answers.append(answer)

    def on_held(self, address: str, reply: WatchesHeld, now: float) -> None:
        """The home says how many watches it holds, and how far they are complete."""
        if self._check is None or self._check[0] != reply.id or address != self.home:
            return
        order = self._check[0]
        self._check, self._check_at = None, now + _CHECK_SECONDS
        asked = [w for w in self._watches.values() if w.sent and w.order < order]
        if not reply.current:
            self.move(now)
        elif (reply.held, reply.digest) != (
            len(asked) + len(self._ended),
            watch_digest(
                chain(
                    (watched.order + watched.given for watched in asked),
                    (ended + given for ended, given in self._ended.items()),
                )
            ),
        ):  # it was started again, or a message was lost: from the beginning
            self._asked.clear()
            self._dropped[self.home] = []
            self._to_ask = dict.fromkeys(self._watches.values())
            for watched in self._watches.values():
                watched.sent = False
        elif asked:
            through: int = decode_results(reply.through)[0]
            self._moves = 0
            for watched in asked:
                watched.position = max(watched.position, through)
