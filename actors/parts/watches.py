"""Watches: reads that wait at any server (rule 14, docs/design/watches.md).

What each waits for, the state machine keeps by its number; who asked, and since when nobody has
asked again, is plain data (`Watching`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from paxon.actors.environment import ClientToken
from paxon.actors.execution.sessions import Reply
from paxon.actors.limits.allowances import FRAME_BYTES, MESSAGE_BYTES
from paxon.actors.limits.bounds import NUMBER_LIMIT
from paxon.actors.messages import (
    CommitNote,
    QueryReply,
    ReplyStatus,
    Unwatch,
    Watch,
    WatchCheck,
    WatchesHeld,
)
from paxon.actors.parts.host import Host, Part
from paxon.actors.records.reign import Reign

__all__ = ["Watches", "Watching"]

EACH, ALL = 20_000, 200_000
"""Watches that a server holds for one client, and for all of them."""
QUERY_BYTES, HELD_BYTES = 64 << 10, 64 << 20
"""Bytes that one watch's question may take, and all together; one client may have a quarter."""
FORGOTTEN = 30.0
"""Seconds after which a client that has not asked how its watches are counts as gone: ZeroMQ does
not tell of every connection that ends."""
OF_LATE = 1.0
"""Seconds for which a server that held a watch wants to hear of commits at once: a watch that was
answered is asked for again soon, and a lock's waiter makes a new one each time."""
NEAR = 64
"""So many a leader holds for those that could ask elsewhere: the first ones are told soonest, and
a crowd costs the leader nothing."""
ANSWERS, SHORT = 16, 4096
"""A watch may ask for so many answers at once: all but the last of so many bytes each, at most."""
AT_ONCE = 64
"""So many watches of a client go on after the answers of one step. The others' clients ask again,
which is counted as any request is: else many watches would take the server's time for nothing."""
FAR_BEHIND = 1000
"""Slots that a server may be behind what it was told is chosen, and still hold watches."""
_NOT_OVERTAKEN = frozenset({QueryReply, WatchesHeld})

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


class Watches(Part):
    """Holds the watches of clients, and answers each as often as it asks for."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._watching = Watching()
        self.held = self._watching.held
        """By the server's number of each."""

    def _is_current(self, crowded: bool) -> bool:
        """Whether this server would hear, soon, of whatever is chosen, and so may hold watches.

        `crowded`: many are held: a leader has enough to do then.
        """
        host, executed, known = self._host, self._application.executed, self._host.log.chosen_to
        reign, told = host._reign, host.catching_up.known_commit
        known = max(known, told if reign is None else reign.takeover_end)
        now, patience = self._outbox.now, 2 * host.settings.election_timeout_max
        return (
            host.is_member
            and host._led_at() > now - patience
            and known - executed <= FAR_BEHIND
            and self._watching.stands_still(executed, known, now) <= patience
            and (reign is None or not crowded)
        )

    def _names_leader(self, client: ClientToken) -> bool:
        """Tell a client who leads, if that is another server which clients can reach."""
        host, leader = self._host, self._host.leader
        if leader in (0, host.settings.server) or not host.places.client_address(leader):
            return False
        host._refuse(client)
        return True

    def on_watch(self, watch: Watch, client: ClientToken) -> None:
        """Answer at once what has happened, or keep the watch until something does."""
        if not 0 <= watch.id < NUMBER_LIMIT:  # its answers are numbered from there on
            self._outbox.reply(client, QueryReply(watch.id, ReplyStatus.INVALID, b"no such number"))
            return
        elsewhere = watch.near and self._names_leader(client)
        if elsewhere or not self._is_current(watch.near and len(self.held) >= NEAR):
            self._outbox.reply(client, QueryReply(watch.id, ReplyStatus.NOT_CURRENT, b""))
            return
        watching = self._watching
        reason = watching.refusal(client, len(watch.query))
        if reason:
            self._outbox.put_off(client, watch.id, reason)
            return
        if not self.held:
            watching.seen = self._application.executed
        size = len(watch.query)
        number, before = watching.add(client, watch.id, size, self._outbox.now, watch.answers)
        if before is not None:
            self._application.unwatch(before)
        reply = self._application.watch(number, watch.query)
        if reply is not None:
            watching.take(number)
            self._counters["watches_answered"] += 1
            answer = QueryReply(watch.id, reply.status, reply.payload)
            self._outbox.reply(client, answer)
            self._host.reception.count_work(client, len(reply.payload))

    def on_unwatch(self, unwatch: Unwatch, client: ClientToken) -> None:
        """Forget watches that a client does not want any more."""
        for number in self._watching.drop(client, unwatch.ids or None):
            self._application.unwatch(number)

    def on_watch_check(self, check: WatchCheck, client: ClientToken) -> None:
        """Say how many of a client's watches are held, and how far they are complete.

        Whatever happened up to there was answered before: on one connection, in this order.
        """
        self.look_after()
        held, digest = self._watching.asked(client, self._outbox.now)
        through, current = self._application.watched_through(), self._is_current(False)
        self._outbox.reply(client, WatchesHeld(check.id, held, through, current, digest))

    def forget(self, client: ClientToken) -> None:
        """A client is gone."""
        for number in self._watching.drop(client):
            self._application.unwatch(number)

    def look_after(self) -> None:
        """Answer those for which something has happened; let go of what must not wait here."""
        watching, now = self._watching, self._outbox.now
        executed = self._application.executed
        if watching.seen < executed:
            watching.seen = executed
            happened = self._application.happened()
            if happened is None:
                self._release()
                return
            self._answer(happened)
        if not self._is_current(False):  # else a server cut off would keep them for ever
            self._release()
        elif now >= watching.tidy_at:
            for client in watching.gone(now):
                self.forget(client)

    def answer_first(self, *, synced: bool) -> None:
        """Answer before all else leaves; what is executed is durable at a majority, synced or not.

        Answers do not overtake each other, nor what is said of how far all are complete. Once all
        is synced they travel with what else there is for their client.
        """
        outbox = self._outbox
        if not synced and self._watching.seen >= self._application.executed:
            return
        waiting, outbox.to_client = outbox.to_client, {}
        self.look_after()
        for client in waiting.keys() & outbox.to_client.keys():
            if synced or not _NOT_OVERTAKEN.isdisjoint(map(type, waiting[client])):
                waiting[client] += outbox.to_client.pop(client)
        outbox.send_replies()
        outbox.to_client = waiting

    def tell_of_commits(self, reign: Reign) -> None:
        """Followers that hold watches hear at once what is chosen, unless a P2A tells them."""
        host, commit = self._host, self._host.log.chosen_to
        reign.told_commit = commit
        for server, follower in reign.followers.items():
            if follower.watches:
                if server in reign.thrift.spare:
                    host._send_put_off(reign)  # whoever has not got the slot would ask for it
                self._outbox.send(server, CommitNote(host.promised, commit))

    def held_of_late(self) -> bool:
        """Whether the leader is to tell of each commit at once."""
        return self._watching.held_of_late(self._outbox.now)

    def _answer(self, happened: Sequence[tuple[int, Reply]]) -> None:
        """Something has happened for these. A client that does not read has to ask again."""
        outbox = self._outbox
        self._counters["watches_answered"] += len(happened)
        sizes: dict[ClientToken, int] = {}
        going_on = Counter[ClientToken]()
        for number, reply in happened:
            if number not in self.held:  # it has ended since the machine looked
                continue
            client = self.held[number][0]
            if client not in sizes:
                sizes[client] = FRAME_BYTES if outbox.network.congested(client) else 0
            size, much = len(reply.payload) + MESSAGE_BYTES, sizes[client] >= FRAME_BYTES
            kept, status = self._application.keeps(number), reply.status
            may = kept and size <= SHORT and not much and going_on[client] < AT_ONCE
            stays = self._watching.answer(number) if may else None
            if stays is not None:
                status = ReplyStatus.GOES_ON
                going_on[client] += 1
            elif kept:
                self._application.unwatch(number)
            client, answer = stays or self._watching.take(number)
            if much:
                outbox.put_off(client, answer, "this client has much to read")
                continue
            sizes[client] += size
            outbox.replied_bytes += size
            outbox.reply(client, QueryReply(answer, status, reply.payload))

    def _release(self) -> None:
        """Their clients have to ask elsewhere."""
        for number in list(self.held):
            client, watch = self._watching.take(number)
            self._application.unwatch(number)
            self._outbox.reply(client, QueryReply(watch, ReplyStatus.NOT_CURRENT, b""))
