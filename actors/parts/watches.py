"""Watches: reads that wait at any server (rule 14, docs/design/watches.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

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
from paxon.actors.records.watching import AT_ONCE, FAR_BEHIND, NEAR, SHORT, Watching

__all__ = ["Watches"]

_NOT_OVERTAKEN = frozenset({QueryReply, WatchesHeld})


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
        reign = host._reign
        if reign is None:
            known = max(known, host.catching_up.known_commit)
        now, patience = self._outbox.now, 2 * host.settings.election_timeout_max
        return (
            host.is_member
            and host._led_at() > now - patience
            and known - executed <= FAR_BEHIND
            and self._watching.stands_still(executed, known, now) <= patience
            and (reign is None or not (crowded or reign.sealing or executed < reign.takeover_end))
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
        watchers = [s for s, follower in reign.followers.items() if follower.watches]
        if not set(watchers).isdisjoint(reign.thrift.spare):
            host._send_put_off(reign)  # whoever has not got the slot would ask for it
        for server in watchers:
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
