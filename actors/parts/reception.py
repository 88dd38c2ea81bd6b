"""Clients' share of each step, and their requests that wait (docs/design/overload.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeAlias

import msgspec

from paxon.actors.embedding import settle
from paxon.actors.environment import ClientToken, ServerBurst
from paxon.actors.execution.agreed import Change, check_rising, check_values
from paxon.actors.execution.application import Executed
from paxon.actors.execution.sessions import Reply
from paxon.actors.limits.allowances import (
    CHARGED_BYTES,
    CLIENT_SECONDS,
    EXECUTION_FACTOR,
    FRAME_BYTES,
    MESSAGE_BYTES,
    MESSAGE_SECONDS,
    RETRY_AFTER,
    SECONDS_PER_BYTE,
    TURN_BYTES,
)
from paxon.actors.limits.turns import ClientTurns, Openings, Stored, Waiting
from paxon.actors.messages import (
    RENEWAL,
    SETTINGS,
    ChangeSettings,
    ClientMessage,
    Command,
    CommandReply,
    Entry,
    OpenSession,
    Query,
    Renew,
    ReplyStatus,
    SlotRequest,
    StatusRequest,
)
from paxon.actors.parts.host import Host, Part
from paxon.actors.records.reign import LITTLE_ROOM, Reign, answer_to
from paxon.actors.settings import of_each_server

__all__ = ["Reception"]

Handlers: TypeAlias = dict[type, Callable[[Any, ClientToken], None]]

COUNT_THEMSELVES = (Command, Query, StatusRequest, SlotRequest)
"""Requests whose handlers tell `count_work` what they have answered, if anything."""

PAUSE = 0.001
"""Seconds after which a client is looked at again that could not be served."""
SLOW_READER_PAUSE = 0.02
"""The same for a client that does not read its replies."""
LONG_SLOT = CLIENT_SECONDS / 4
"""The time of a slot that took so many seconds is charged, if several clients are there."""
LARGE_REPLY = 4096
"""Replies to commands from this size on count towards what a step replies, in bytes."""
BURST_MESSAGES = 1024
"""Requests that one step handles at most."""
TURN_MESSAGES = 32
"""Requests of one client that are handled in a row while others wait."""
RENEWALS = b" renews"
"""With a client's token, the account of its renewals."""
UNTIMED_MESSAGES, UNTIMED_BYTES = 64, 16 << 10
"""Requests of a burst, and bytes, from which on the time that each frame takes is looked at."""


class Reception(Part):
    """Serves clients, in turns once there is more to do than a step should take.

    All times are monotonic seconds.
    """

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._clock = host._clock
        self.handlers: Handlers = {}
        """The server's, for each kind of request."""
        self.turns = ClientTurns()
        self.openings = Openings()
        self.spent = False
        """Clients have had their share of this step."""
        self._serving = False
        """A client is charged for all of its frame or turn at the end of it."""
        self._ends_at = 0.0
        self._worked_at = 0.0
        """When the request before was done, as far as the clock was read."""
        self._turn_at = 0.0
        """When the present turn, or frame, began."""
        self._sent_seconds = 0.0
        """The time that sending the present turn's replies takes, as estimated from their sizes."""

    def timed(self, handlers: Handlers) -> Handlers:
        """Take these; what each request takes counts, though nothing be answered at once."""

        def count(handler: Callable[[Any, ClientToken], None]) -> Callable[..., None]:
            @wraps(handler)
            def handle(request: Any, client: ClientToken) -> None:
                handler(request, client)
                self.count_work(client, 0)

            return handle

        self.handlers = {
            kind: handler if kind in COUNT_THEMSELVES else count(handler)
            for kind, handler in handlers.items()
        }
        return self.handlers

    # --- a step ----------------------------------------------------------------------------------

    def serve(self, burst: ServerBurst, listened: float) -> None:
        """Handle the burst's requests, or let them wait behind others, and those that waited.

        `listened` are the seconds that the server has spent outside of its steps.
        """
        if burst.gone or burst.refused or burst.ignored:
            for client in burst.gone:
                self._host.watches.forget(client)
                self._host.places.forget(client)
                self.turns.drop(client)
            for client in burst.refused:
                self._outbox.throw_away(client, "a frame holds too many messages")
            for client in burst.ignored:
                self._outbox.throw_away(client, "too many requests are waiting")
        clients = burst.clients
        self.open(serving=True)
        handled = 0
        for _, requests in clients:
            handled += len(requests)
        self._counters["client_messages_received"] += handled
        turns = self.turns
        turns.listened = listened
        if handled > BURST_MESSAGES or turns.waiting or burst.client_bytes >= TURN_BYTES:
            self._let_wait(clients)
            self.open(serving=True)  # (what renewals took does not count)
            self._take_turns()
            return
        if not clients:
            return
        now = self._outbox.now
        client, requests = clients[0]
        turns.heard(client, requests, now)
        if len(clients) > 1:
            turns.heard(*clients[-1], now)
        handlers = self.handlers  # the usual case: all of it at once
        timed = handled > UNTIMED_MESSAGES or burst.client_bytes > UNTIMED_BYTES
        for index, (client, requests) in enumerate(clients):
            left = iter(requests)
            for request in left:
                handlers[type(request)](request, client)
                if self.spent:
                    break
            if timed or self.spent:
                self._charge(client, self._turn_seconds(len(requests)), self._worked_at)
                if self.spent:
                    self._let_wait([(client, list(left)), *clients[index + 1 :]])
                    return

    def open(self, *, serving: bool = False) -> None:
        """From now on clients are served for a moment."""
        self.spent = self._outbox.replied_bytes >= FRAME_BYTES
        self._serving = serving
        self._worked_at = self._turn_at = self._clock.monotonic()
        self._sent_seconds = 0.0
        self._ends_at = self._worked_at + CLIENT_SECONDS

    def _charge(self, client: ClientToken, seconds: float, now: float) -> None:
        """Something of a client's has taken so long until now: it counts while others are there."""
        if self._others_present(client, now - seconds):
            self.turns.charge(client, seconds, now)

    def _turn_seconds(self, served: int) -> float:
        """The time that the turn, or frame, that ends now has taken, with so many requests."""
        now = self._worked_at = self._clock.monotonic()
        seconds = now - self._turn_at + self._sent_seconds + served * MESSAGE_SECONDS
        self._turn_at, self._sent_seconds = now, 0.0
        return seconds

    def end_share(self) -> None:
        """Dear commands have come: what else clients want waits, in turns."""
        self.spent = True

    def count_work(self, client: ClientToken, size: int) -> None:
        """A request was answered at once, with so many bytes: is the step's share spent?"""
        outbox, now = self._outbox, self._clock.monotonic()
        outbox.replied_bytes += size
        took, self._worked_at = now - self._worked_at, now
        if size > LARGE_REPLY:
            took += size * SECONDS_PER_BYTE
            self._sent_seconds += size * SECONDS_PER_BYTE
        if now >= self._ends_at or outbox.replied_bytes >= FRAME_BYTES:
            self.spent = True
            if not self._serving:
                self._charge(client, took, now)

    def _others_present(self, client: ClientToken, since: float) -> bool:
        """Whether anybody but this client has asked for something since then, or waits."""
        reign = self._host._reign
        return self.turns.others_present(client, since) or (
            reign is not None and reign.others_wait(client)
        )

    # --- turns -----------------------------------------------------------------------------------

    def _let_wait(self, clients: Sequence[tuple[ClientToken, Sequence[ClientMessage]]]) -> None:
        """These requests wait for their clients' turns, if there is room for them."""
        turns, now = self.turns, self._outbox.now
        for client, came in clients:
            requests = self._renew_first(client, came)
            turns.heard(client, came, now)
            has_room = not requests or turns.add(client, requests)
            if turns.is_much(client) and self._others_present(client, now):
                turns.ignored.add(client)
            if not has_room:
                self._outbox.throw_away(client, "too many requests are waiting")

    def _renew_first(
        self, client: ClientToken, requests: Sequence[ClientMessage]
    ) -> Sequence[ClientMessage]:
        """Renewals wait behind nobody's commands, nor behind their own client's.

        They have an account of their own. Once that is overdrawn they wait like all other requests.
        """
        if Renew not in map(type, requests):
            return requests
        turns, account, left = self.turns, client + RENEWALS, []
        now = self._clock.monotonic()
        for request in requests:
            if type(request) is Renew and turns.paid_at.get(account, now) <= now + CLIENT_SECONDS:
                began = now
                self.handlers[Renew](request, client)
                now = self._clock.monotonic()
                turns.spend(account, now - began, now, turns.weight(client, now))
                self._charge(client, now - began, now)
            else:
                left.append(request)
        return left

    def _take_turns(self) -> None:
        """Serve those that waited, in turns, until the step's share is spent."""
        handled, turns, reign = 0, self.turns, self._host._reign
        if reign is not None and reign.awaits(turns.modest, turns.greedy):
            turns.awaited_at = turns.listened
        while handled < BURST_MESSAGES and not self.spent:
            turn = turns.next(self._turn_at)
            if turn is None:
                break
            client, waiting = turn
            if self._outbox.network.congested(client):
                turns.wait_for_reader(client, self._turn_at + SLOW_READER_PAUSE)
                handled += 1
                self._turn_at = self._clock.monotonic()
                self.spent = self._turn_at >= self._ends_at
                continue
            before = self._waiting_work()
            served = self._serve_turn(client, waiting)
            handled += served
            self._end_turn(client, served, self._waiting_work() - before)
        if handled >= BURST_MESSAGES:
            self.spent = True

    def _serve_turn(self, client: ClientToken, waiting: Waiting) -> int:
        """Handle some of one client's requests; returns how many."""
        enough = self._waiting_work() + TURN_BYTES
        for served in range(TURN_MESSAGES):
            if not waiting.requests or self.spent:
                return served
            reign = self._host._reign
            if reign is not None and not reign.takes_in(waiting.requests[0], self._settings):
                return served
            request = self.turns.take(waiting)
            self.handlers[type(request)](request, client)
            if self._waiting_work() >= enough:
                return served + 1
        return TURN_MESSAGES

    def _end_turn(self, client: ClientToken, served: int, queued: int) -> None:
        """So many requests of a client were handled, and put so much work into the queue."""
        turns, seconds, reign = self.turns, self._turn_seconds(served), self._host._reign
        if turns.ignored:
            turns.listen(client)
        now = self._worked_at
        if served == 0:  # it has to wait for something
            turns.sit_out(client, now, PAUSE)
        elif self._others_present(client, now - seconds):
            turns.charge(client, seconds, now)
            if reign is not None and queued >= TURN_BYTES:
                last = reign.pending.entries[-1]
                turns.hold_back(client, (last.session, last.seq), now)
        if now >= self._ends_at:
            self.spent = True

    def put_off_waiting(self, reign: Reign) -> None:
        """Put off all that waits for a slot: nothing of it is in the log."""
        for entry in reign.pending.take():
            key = (entry.session, entry.seq)
            client = reign.waiting.pop(key, None)
            if client is None:
                future = reign.futures.pop(entry.seq, None)
                settle(future, LITTLE_ROOM.status, LITTLE_ROOM.payload)
                continue
            if self.turns.held_back.pop(key, None) is not None:
                self.turns.sit_out(client, self._outbox.now)
            answer = answer_to(entry, LITTLE_ROOM, self._application, self._host.places)
            self._outbox.reply(client, answer)
            self._counters["overloaded"] += 1

    # --- what came of commands (rule 5) ----------------------------------------------------------

    def answer(self, reign: Reign, slot: int, results: Sequence[Executed], began: float) -> None:
        """A slot is executed, since `began`: answer the clients that wait for it here."""
        took, turns = self._clock.monotonic() - began, self.turns
        counts = turns.held_back or reign.large_slots or reign.chores.slot == slot
        if counts or (took >= LONG_SLOT and turns.several(began)):
            self._charge_slot(reign, slot, results, took)
        outbox, tried, places = self._outbox, self._host._held.tried, self._host.places
        for entry, reply in results:
            session, seq = key = (entry.session, entry.seq)
            if session == 0 and entry.command and entry.acked == 0:
                settle(reign.futures.pop(seq, None), reply.status, reply.payload)
                continue
            client = reign.waiting.pop(key, None)
            if client is None:
                continue
            if tried and key in tried:
                self.answer_command(client, key, reply)
                continue
            payload = reply.payload
            if len(payload) > LARGE_REPLY:
                outbox.replied_bytes += len(payload)
            elif session:  # (as nearly all: `answer_to` says the same)
                outbox.reply(client, CommandReply(session, seq, reply.status, payload))
                continue
            outbox.reply(client, answer_to(entry, reply, self._application, places))

    def answer_command(self, client: ClientToken, key: tuple[int, int], reply: Reply) -> None:
        """Say how a command ended, but not "expired" of one that we proposed more than once.

        The client takes that for "not executed" if it sent the command once, and it may have been
        executed at our first try. Asking again it counts one more send, and knows that it may.
        """
        tried = self._host._held.tried
        if key in tried:
            tried.remove(key)
            if reply.status == ReplyStatus.EXPIRED:
                self._host._refuse(client)
                return
        self._outbox.reply(client, CommandReply(*key, reply.status, reply.payload))

    def _charge_slot(
        self, reign: Reign, slot: int, results: Sequence[Executed], seconds: float
    ) -> None:
        """A slot is executed: who waited for it goes on, who filled it sits out for its time.

        It took `seconds`.
        """
        waiting, turns, stored = reign.waiting, self.turns, self._host.snapshots.executed_bytes
        if slot == reign.chores.slot:
            reign.chores.executed(seconds, self._clock.monotonic())
        began, now = reign.large_slots.pop(slot, None), self._clock.monotonic()
        if seconds >= CLIENT_SECONDS:
            seconds *= EXECUTION_FACTOR
        sizes: dict[ClientToken, int] = {}
        for entry, reply in results:
            client = waiting.get((entry.session, entry.seq))
            if client is None:
                continue
            if turns.held_back.pop((entry.session, entry.seq), None) is not None:
                turns.go_on(client, now)
            size = len(entry.command) + len(reply.payload) + MESSAGE_BYTES
            sizes[client] = sizes.get(client, 0) + size
            if size >= CHARGED_BYTES:  # (a pipeline of small ones harms nobody as much)
                reign.stored.add(client, size, stored, now)
        if began is not None:
            seconds = max(seconds, now - max(began, reign.charged_at))
            reign.charged_at = now
        total = sum(sizes.values())
        for client, size in sizes.items():
            took = seconds * size / total + size * SECONDS_PER_BYTE
            self._charge(client, took, now)

    def blame_for_snapshot(self, reign: Reign) -> None:
        """Let others go before those who have made a snapshot due, until it is taken.

        It takes disks and cores from them here and at the followers, that are due as well.
        """
        stored, reign.stored = reign.stored, Stored()
        now = self._outbox.now
        parts = stored.parts(TURN_BYTES, self._host.snapshots.executed_bytes, now)
        blamed = {c: part for c, part in parts.items() if self._others_present(c, now)}
        self.turns.hold_for_snapshot(blamed, now)

    def _waiting_work(self) -> int:
        """The work that waits for a slot, in bytes and cost."""
        reign = self._host._reign
        return reign.pending.work if reign is not None else 0

    # --- what only adds an entry to the log (rule 5) ---------------------------------------------

    def is_full(self, reign: Reign) -> bool:
        """Whether so many bytes of commands wait that there may be no more."""
        most = min(self._settings.max_pending_bytes, self._host._storage.room)
        return reign.pending.bytes >= most

    def _takes_in(
        self, request: OpenSession | ChangeSettings | Renew, client: ClientToken, number: int
    ) -> Reign | None:
        """The reign that is to take in what one entry of the log answers; None if none is to.

        Asked again, it is answered where it was asked last.
        """
        reign = self._host._serves()
        if reign is None:
            self._host._hold_or_refuse(client, request)
        elif (0, number) in reign.waiting:
            reign.waiting[0, number] = client
            return None
        return reign

    def on_open_session(self, request: OpenSession, client: ClientToken) -> None:
        """A session is opened by a command in the log, so that every server knows it."""
        reign = self._takes_in(request, client, request.nonce)
        if reign is None:
            return
        if not 0 <= request.nonce < 1 << 63:
            text = b"the nonce must be from 0 to below 2^63"
            self._outbox.reply(client, CommandReply(0, request.nonce, ReplyStatus.INVALID, text))
            return
        wait = self.openings.wait(client, self._outbox.now)
        if wait > 0 or self.is_full(reign):
            reason = "it opens too many sessions" if wait > 0 else "too much is waiting"
            if self._host._storage.room <= 0:
                reason = "the servers' disks have little room"
            self._outbox.throw_away(client, reason, max(wait, RETRY_AFTER))
            return
        reign.take_in(Entry(0, request.nonce, 0, 0, b""), client)

    def on_change_settings(self, change: ChangeSettings, client: ClientToken) -> None:
        """Change the agreed settings by an entry of the log; an empty change only tells them."""
        reign = self._takes_in(change, client, change.id)
        if reign is None:
            return
        agreed, limits = self._application.agreed, self._application.machine.limits
        if obstacle := (
            of_each_server(change.values)
            or check_values(change.values, limits)
            or check_rising(agreed, change.values, limits)
            or self._host._features.obstacle(change.values)
        ):
            self._outbox.refuse(client, change.id, obstacle)
        elif self.is_full(reign):
            self._outbox.put_off(client, change.id, "too much is waiting")
        else:
            command = msgspec.msgpack.encode(Change(change.changed_at, change.values))
            reign.take_in(Entry(0, change.id, SETTINGS, 0, command), client)

    def on_renew(self, request: Renew, client: ClientToken) -> None:
        """Leases are to live on: they have a budget of their own, and go before all commands."""
        reign = self._takes_in(request, client, request.id)
        if reign is None:
            return
        if reign.chores.is_full(client):
            self._outbox.put_off(client, request.id, "too many renewals are waiting")
        elif not self._application.renews(request.command):
            self._outbox.refuse(client, request.id, "this is no renewal: send it as a command")
        else:
            self._counters["renewals"] += 1
            entry = Entry(0, request.id, RENEWAL, 0, request.command)
            reign.waiting[0, request.id] = client
            reign.chores.add(entry, client, self._outbox.now)
