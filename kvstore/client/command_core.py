"""The heart of all clients: who leads, what is unanswered, what to send again, what to give up.

THEORY OF OPERATION

`CommandCore` does no I/O and has no clock: whoever drives it says what time it is, carries what
`poll` returns to the servers, and hands over what they answer. All clients and the simulator do.

A caller's submission is a *ticket*. Tickets wait in queues until they are put into *requests*, one
or many tickets each: commands (numbered in the client's session; each takes effect at most once)
and queries (which change nothing and may be asked any number of times). All requests but stale
reads go to the server thought to lead (leader_search.py). Each remembers where it was sent last:
what was sent to another server than that one has to be sent there.

What must hold for at-most-once:

- a command keeps its session, number and bytes however often it is sent;
- `acked` passes a command only when it is answered or given up; one that was given up is never sent
  again, and servers refuse copies of it that come late;
- a command refused because its session expired goes into a new session only if all that was ever
  sent of it was refused so; else it may have been executed, and its outcome is unknown. This counts
  on a connection not delivering one message twice, as TCP does not.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Generic, TypeVar, get_args

from paxon.actors.messages import (
    Addresses,
    CommandReply,
    NotLeader,
    OtherCluster,
    Overloaded,
    PortOfServers,
    Query,
    QueryReply,
    ReadMode,
    ReplyStatus,
    ServerReply,
    SessionOpened,
    SlotReply,
    StatusReply,
    WatchesHeld,
    retry_after,
)
from paxon.kvstore import errors
from paxon.kvstore.client import outcomes
from paxon.kvstore.client.agreement import Question
from paxon.kvstore.client.leader_search import CoreOptions, CoreRandom, LeaderSearch
from paxon.kvstore.client.requests import Outbox, Outgoing, Request, Session, Ticket, TicketQueue
from paxon.kvstore.client.side_requests import SideRequests
from paxon.kvstore.client.sightings import Sightings
from paxon.kvstore.client.watches.side import WatchSide

__all__ = ["CommandCore"]

PayloadT = TypeVar("PayloadT")
ResultT = TypeVar("ResultT")
_Alone = Ticket[Any, Any]
_OK = ReplyStatus.OK  # (looking it up costs more than all that follows)
_outstanding = attrgetter("outstanding")

GRACE = 0.005
"""Seconds after a batch's answers in which what is submitted counts as its successor."""


class CommandCore(Generic[PayloadT, ResultT]):
    """Sessions, retries and redirects. Subclasses say what a request holds (see the two hooks)."""

    def __init__(
        self,
        servers: Sequence[str],
        random: CoreRandom,
        *,
        options: CoreOptions | None = None,
        redirect: bool = True,
    ) -> None:
        """Make a core that knows these addresses (else `InvalidRequest`) and has sent nothing.

        With `redirect` False it stays with the first address, and what that server will not do
        because it does not lead fails with `NotLeader`.
        """
        if not servers:
            raise errors.InvalidRequest("give the address of at least one server")
        self.options = options or CoreOptions()
        self._redirect = redirect
        self._random = random
        self._now = -math.inf
        self.sightings = Sightings()
        self.search = LeaderSearch(servers, random, self.options, redirect=redirect)
        """Who leads; for drivers and tests to read."""
        reachable = self.search.servers if redirect else self.search.servers[:1]
        self._side = SideRequests(reachable, self.options, random.getrandbits(16))
        self.watches = WatchSide(reachable, random.getrandbits(16), self.search)
        self._writes = TicketQueue()
        self._reads: dict[ReadMode, TicketQueue] = {m: TicketQueue() for m in get_args(ReadMode)}
        self._to_resend: list[Request] = []  # refused by an expired session, for the next one
        self._unsent: list[Request] = []  # formed by this `poll` and not sent yet
        self._resend = False  # there may be more to send than what is unsent yet
        self._fitted = self.options  # to what the cluster takes
        self._opening: Request | None = None
        self._session: Session | None = None
        self._sessions: dict[int, Session] = {}  # and expired ones that have commands unanswered
        self._queries: dict[int, Request] = {}
        self._query_id = self._probe_id = random.getrandbits(16)
        self._sends = 0
        self._next_expiry = self._aged_at = math.inf  # (single requests may have to go again)
        self._just_answered = 0  # operations answered just now, less those submitted since
        self._answered_at = -math.inf  # a caller not back by `GRACE` later does something else
        self._may_look_again = False  # a caller may look once more without having more sent

    # --- hooks -------------------------------------------------------------------------------

    _language = ""
    """In which the subclass gives commands; "": in whatever the servers' state machine takes."""
    _probe = b""
    """A query that costs next to nothing; any answer will do, even that it is no query."""

    def _take_batch(self, queue: TicketQueue) -> tuple[bytes, list[Ticket[PayloadT, ResultT]]]:
        """Take the tickets of the next request off the queue; at least one."""
        raise NotImplementedError

    def _deliver(self, request: Request, payload: bytes) -> None:
        """Complete the request's tickets from the state machine's answer."""
        raise NotImplementedError

    # --- for callers -------------------------------------------------------------------------

    def submit(
        self, payload: PayloadT, *, now: float, deadline: float, mode: ReadMode | None = None,
        after: Ticket[PayloadT, ResultT] | None = None, weight: int = 1, size: int = 0,
        keeps: bool = False,
    ) -> Ticket[PayloadT, ResultT]:  # fmt: skip
        """Take in a command (`mode` None) or query. Nothing is sent before the next `poll`.

        Args:
            payload: what to do; what it is, the subclass says.
            now: seconds of the driver's clock.
            deadline: when the caller gives up, on the same clock.
            mode: how a query is to be answered.
            after: a command that has to be executed before this command.
            weight: operations in the payload.
            size: bytes of the payload, about.
            keeps: whether it may be asked for again after a timeout (`ask_again`).
        """
        ticket: Ticket[PayloadT, ResultT] = Ticket(
            payload, mode, weight, size, now, deadline, after, keeps=keeps
        )
        if size > outcomes.MOST_BYTES:
            ticket.complete(None, outcomes.too_large(size), False)
            return ticket
        self._next_expiry = min(self._next_expiry, deadline)
        if self._just_answered:
            still_due = self._just_answered > weight and now < self._answered_at + GRACE
            self._just_answered = self._just_answered - weight if still_due else 0
        queue = self._writes if mode is None else self._reads[mode]
        queue.append(ticket)  # (as `add`, without a call)
        queue.weight += weight
        queue.size += size
        return ticket

    def ask(
        self, address: str, *, now: float, deadline: float, what: int | Question | None = None
    ) -> Ticket[Any, Any]:
        """Ask one server how it is, what is in a slot, or of members; the result is its reply."""
        ticket = self._ticket("stale", 0, now, deadline)
        self._query_id += 1
        self._side.ask(address, self._query_id, ticket, what)
        return ticket

    def ask_leader(
        self, kind: Any, body: bytes, *, now: float, deadline: float, changes: bool = False
    ) -> Ticket[Any, Any]:
        """Change "settings", "renew" or "transfer"; `changes`: its outcome may be unknown."""
        ticket = self._ticket(None if changes else "linearizable", len(body), now, deadline)
        request = Request(kind, self._random.getrandbits(63), body, [ticket])
        ticket.request = request
        self._queries[request.number] = request
        self._unsent.append(request)
        return ticket

    def _ticket(self, mode: ReadMode | None, size: int, now: float, deadline: float) -> _Alone:
        """One for a request that is not packed with others."""
        self._next_expiry = min(self._next_expiry, deadline)
        return Ticket(None, mode, 1, size, submitted=now, deadline=deadline)

    def ask_again(self, kept: Any, *, now: float, deadline: float) -> Ticket[PayloadT, ResultT]:
        """Ask again for a command that timed out (`Kept`): with its session and number."""
        ticket: Ticket[PayloadT, ResultT] | None = kept.resume(self._sessions, now, deadline)
        if ticket is None:
            raise outcomes.not_kept()
        self._next_expiry = min(self._next_expiry, deadline)
        self._resend = True
        return ticket

    def fail_all(self, error: errors.PaxonError) -> None:
        """Complete every ticket with this error, as when the client closes."""
        self.watches.fail(error)
        for ticket in list(self._all_tickets()):
            ticket.complete(None, error, False)
        self._forget_done()

    @property
    def idle(self) -> bool:
        """Whether nothing is asked for at all."""
        return not (self._side or self._reads["stale"] or self.watches or self.wants_leader)

    @property
    def wants_leader(self) -> bool:
        """Whether anything is asked for that only a leader does."""
        return bool(
            self._writes or self._to_resend or self._queries or self._opening
            or self._reads["linearizable"] or self._reads["lease"]
            or any(map(_outstanding, self._sessions.values()))
        )  # fmt: skip

    @property
    def gathering(self) -> bool:
        """Whether what is submitted now may as well wait for more.

        Something is under way, or the answers of a whole batch have just come and the caller goes
        on: two halves of a batch that follow each other would stay halves.
        """
        return (
            self.search.waiting_since is not None or self._just_answered > 0
        ) and self._writes.weight + self._reads["linearizable"].weight < self.options.full_weight

    def holds_back(self, now: float) -> bool:
        """Whether a caller that only looks for answers should first submit what it has.

        True once for each batch of answers: a caller that looks again is waiting.
        """
        may_look, self._may_look_again = self._may_look_again, False
        due = self._resend or now >= self._next_expiry
        return may_look and self._just_answered > 1 and not due and now < self._answered_at + GRACE

    # --- for drivers -------------------------------------------------------------------------

    def poll(self, now: float) -> list[Outgoing]:
        """Do what is due by now (deadlines, retries), and return what to send."""
        self._now = now
        self._just_answered = 0
        if now >= self._next_expiry:
            self._expire()
        outbox = Outbox(self.options.frame_bytes)
        if now >= self.search.pause_until:
            self._watch()
            if self.search.seeking:
                self._seek(outbox)
            else:
                self._form_requests()
                self._send_to_target(outbox)
        if self._side or self._reads["stale"]:
            self._send_aside(outbox)
        if self.watches:
            self.watches.send(now, outbox.add)
        if self.search.asks_addresses:
            self.search.ask_addresses(outbox.add)
        return outbox.frames

    def next_deadline(self) -> float:
        """When to `poll` even if nothing has come; infinity if never."""
        if self.idle:
            return math.inf
        due = min(self._next_expiry, self.search.due(self._now))
        if self._now >= self.search.pause_until:
            due = min(due, self._aged_at)
        due = min(due, self.watches.next_deadline() if self.watches else math.inf)
        return min(due, self._side.due() if self._side else math.inf)

    def receive(self, address: str, replies: Iterable[ServerReply], now: float) -> None:
        """Take in a frame from the server at `address`; `poll` afterwards."""
        self._now = now
        self.sightings.heard_at = self.sightings.heard[address] = now
        for reply in replies:
            match reply:
                case CommandReply():
                    self._on_command_reply(address, reply)
                case QueryReply():
                    self._on_query_reply(address, reply)
                case SessionOpened():
                    self._on_session_opened(address, reply)
                case NotLeader():
                    self._on_not_leader(address, reply)
                case Overloaded():
                    self._on_overloaded(address, reply)
                case StatusReply() | SlotReply():
                    self._side.told(address, reply)
                case Addresses(addresses, keys):
                    self.search.tells(address, addresses, keys)
                case WatchesHeld():
                    self.watches.on_held(address, reply, now)
                case PortOfServers():
                    if error := self.sightings.peer_port(address, reply, self.search.servers):
                        self.fail_all(error)
                case OtherCluster():
                    self.fail_all(outcomes.wrong_cluster(address, reply, list(self._unanswered())))

    def lost(self, address: str, now: float) -> None:
        """The connection to a server has ended, and with it what was under way; `poll` afterwards.

        A server that died is noticed by this at once, long before its silence would be.
        """
        self._now = now
        for request in self._unanswered():
            if request.sent_to == address:
                request.sent_to = None
                self._resend = True
        if self._redirect:
            self.search.lost(address, now)
        self.watches.lost(address, now)

    # --- forming requests --------------------------------------------------------------------

    def _form_requests(self) -> None:
        if self._writes or self._to_resend:
            session = self._usable_session()
            if session is not None:
                self._form_commands(session)
        for mode in ("linearizable", "lease"):
            queue = self._reads[mode]
            while queue and self._worth_sending(queue, self._queries):
                request = self._form_query(mode, queue)
                self._queries[request.number] = request
                self._unsent.append(request)

    def _worth_sending(self, queue: TicketQueue, in_flight: Mapping[int, Request]) -> bool:
        """Whether to send what is queued, or to let more gather until an answer comes.

        With much under way, only what is much more goes at once: each request costs the servers
        about the same, whatever is in it, so two of one size had better be one.
        """
        options = self.options
        if not in_flight or queue.weight >= options.full_weight or queue.size >= options.full_bytes:
            return True
        if len(in_flight) >= options.eager:
            return False
        if queue[0].after is not None:
            return True  # a pipeline's last piece is not one of two halves that take turns
        under_way = sum(request.weight for request in in_flight.values())
        return under_way < options.eager_weight or queue.weight >= 4 * under_way

    def _usable_session(self) -> Session | None:
        session = self._session
        if session is not None and session.idle(self._now, self.options.session_idle):
            del self._sessions[session.id]
            session = self._session = None
        if session is None and self._opening is None:
            self._opening = Request("open", self._random.getrandbits(63), b"", [])
            self._unsent.append(self._opening)
        return session

    def _form_commands(self, session: Session) -> None:
        options = self.options
        while self._to_resend and session.next_seq - session.floor < options.window:
            request = self._to_resend[0]
            if request.after is not None and request.after.executed:
                request.after = None
            if request.after is not None and request.after.session is not session:
                break  # its predecessor has not been decided yet
            self._enter(session, self._to_resend.pop(0))
        queue = self._writes
        while queue and self._worth_sending(queue, session.outstanding):
            if session.next_seq - session.floor >= self._fitted.window:
                if not session.parked:
                    return
                while session.parked:
                    self._give_up(next(iter(session.parked.values())), outcomes.not_kept())
                continue
            ticket = queue[0]
            if session.outstanding and session.bytes + ticket.size > options.window_bytes:
                return
            before = ticket.after
            if before is not None and before.done and not before.executed:
                queue.take().complete(None, outcomes.not_followed(before.error), False)
                continue
            request_before = before.request if before is not None else None
            if request_before is not None and request_before.session is not session:
                return
            body, tickets = self._take_batch(queue)
            request = Request("command", 0, body, tickets)
            request.after = request_before
            for ticket in tickets:
                ticket.request = request
            self._enter(session, request)

    def _enter(self, session: Session, request: Request) -> None:
        """Number a command in this session; from here on its message is fixed."""
        session.add(request)
        session.used_at = self._now
        request.after_seq = request.after.number if request.after is not None else 0
        self._unsent.append(request)

    def _form_query(self, mode: ReadMode, queue: TicketQueue) -> Request:
        body, tickets = self._take_batch(queue)
        self._query_id += 1
        request = Request(mode, self._query_id, body, tickets)
        for ticket in tickets:
            ticket.request = request
        return request

    # --- sending -----------------------------------------------------------------------------

    def _unanswered(self) -> Iterator[Request]:
        """All that the target owes an answer, in the order in which it is to be sent."""
        if self._opening is not None:
            yield self._opening
        for session in self._sessions.values():
            yield from session.outstanding.values()
        yield from self._queries.values()

    def _send_to_target(self, outbox: Outbox) -> None:
        target = self.search.target
        if self._resend:
            self._resend = False
            requests = [r for r in self._unanswered() if r.sent_to != target]
        elif self._unsent:
            requests = self._unsent
        else:
            return
        self._unsent = []
        for request in requests:
            self._send(outbox, target, request)
        if requests:
            self.search.sent(self._now)
            self._aged_at = min(self._aged_at, self._now + self.options.resend_after / 2)

    def _send_aside(self, outbox: Outbox) -> None:
        queue = self._reads["stale"]
        while queue and self._worth_sending(queue, self._side.reads()):
            self._side.add(self._form_query("stale", queue))
        self._side.send(self._now, lambda server, request: self._send(outbox, server, request))

    def _send(self, outbox: Outbox, address: str, request: Request) -> None:
        self._sends += 1
        request.order = self._sends
        request.sent_to = address
        request.sent_at = self._now
        request.sends += 1
        request.undecided += 1
        outbox.add(address, request.message(), request.size)

    # --- answers -----------------------------------------------------------------------------

    def _on_session_opened(self, address: str, reply: SessionOpened) -> None:
        if self._opening is None or self._opening.number != reply.nonce:
            return
        self._opening = None
        if self._language not in ("", reply.language):
            self.fail_all(outcomes.other_machine(reply.language, self._language))
            return
        self._session = self._sessions[reply.session] = Session(reply.session, self._now)
        self.search.learn(reply.addresses)
        self._fitted = self.options.fitted(reply.max_command_bytes, reply.max_outstanding)
        self._progress(address)
        self._after_answer()

    def _on_command_reply(self, address: str, reply: CommandReply) -> None:
        session = self._sessions.get(reply.session)
        if session is None:
            return
        request = session.outstanding.get(reply.seq) or session.parked.get(reply.seq)
        if request is None:
            return  # late, a second time, or for a command given up
        self._progress(address)
        request.undecided -= 1
        status = reply.status
        if status == _OK:
            self._settle(session, request)
            self._answered(request)
            self._deliver(request, reply.payload)
        elif status == ReplyStatus.OVERLOADED:
            self._on_busy(request, reply.payload)
        elif status == ReplyStatus.OUT_OF_ORDER:
            self._on_out_of_order(request)
        elif status == ReplyStatus.EXPIRED:
            self._on_expired(session, request)
        elif status == ReplyStatus.TOO_LARGE and request.can_be_parted and not self._to_resend:
            self._take_apart(session, request)
        elif status in (ReplyStatus.INVALID, ReplyStatus.TOO_LARGE):
            self._give_up(request, outcomes.refused(status, reply.payload))
        else:  # it failed when it was executed, or was executed before
            self._settle(session, request)
            self._complete(request, outcomes.refused(status, reply.payload), executed=True)

    def _take_apart(self, session: Session, request: Request) -> None:
        """The cluster takes no more commands of that size: the same again, fewer at once."""
        for ticket in session.take_apart(request):
            self._writes.add_first(ticket)
        self._session = None  # the next one tells what is agreed by now
        self._drop_if_done(session)
        self._after_answer()

    def _on_query_reply(self, address: str, reply: QueryReply) -> None:
        request = self._queries.get(reply.id)
        if reply.id == self._probe_id:
            self._progress(address)
            self._after_answer()
            return
        if request is not None:
            self._progress(address)
            if reply.status == ReplyStatus.OVERLOADED:
                request.undecided = 0
                self._on_busy(request, reply.payload)
                return
            del self._queries[reply.id]
            self._after_answer()
        else:
            request = self._side.get(reply.id)
            if request is None:  # of a watch, or late
                self.watches.on_reply(address, reply, self._now, self.search.target)
                return
            if reply.status == ReplyStatus.OVERLOADED:
                return  # a busy server is asked again after the retry interval
            self._side.remove(reply.id)
        if reply.status != _OK:
            self._complete(request, outcomes.refused(reply.status, reply.payload), executed=False)
        elif request.kind in {"settings", "renew", "transfer", "members"}:
            request.tickets[0].complete(reply.payload, None, True)
        else:
            self._answered(request)
            self._deliver(request, reply.payload)

    def _answered(self, request: Request) -> None:
        self._just_answered += request.weight
        self._answered_at, self._may_look_again = self._now, True

    def _progress(self, address: str) -> None:
        """A server does what only a leader does."""
        if self.search.answered(address, self._now):
            self._resend = True
            self.sightings.leads(address)

    def _settle(self, session: Session, request: Request) -> None:
        """A command was executed: it is no longer outstanding, and others may follow it."""
        request.executed = True
        request.after = None
        session.remove(request)
        self.search.not_busy()
        self._drop_if_done(session)
        self._after_answer()

    def _drop_if_done(self, session: Session) -> None:
        if session is not self._session and not session.outstanding:
            self._sessions.pop(session.id, None)

    def _after_answer(self) -> None:
        """If the target owes nothing now, there is nothing to wait for."""
        if not (self._queries or self._opening or any(map(_outstanding, self._sessions.values()))):
            self.search.all_answered()
            self._aged_at = math.inf

    def _complete(self, request: Request, error: errors.PaxonError, *, executed: bool) -> None:
        for ticket in request.tickets:
            ticket.complete(None, error, executed)

    def _on_busy(self, request: Request, payload: bytes) -> None:
        """A request was not taken in: it goes again a little later."""
        request.overloaded = seconds, _ = retry_after(payload)
        request.sent_to = None
        self._resend = True
        self.search.pause_busy(self._now, seconds)

    def _on_overloaded(self, address: str, reply: Overloaded) -> None:
        """A server threw away something of ours, and does not say what."""
        if address == self.search.target:
            self.search.pause_busy(self._now, reply.retry_after_ms / 1000)
        for request in self._unanswered():
            if request.sent_to == address:
                request.overloaded = reply.retry_after_ms / 1000, reply.reason
                request.sent_to = None
                self._resend = True

    def _on_out_of_order(self, request: Request) -> None:
        """The one before got lost or was refused: send both again, in order."""
        request.send_again_with_those_before()
        self._resend = True
        if request.sends > 2:
            self.search.pause_busy(self._now, 0.0)

    def _on_expired(self, session: Session, request: Request) -> None:
        """The session is gone for good: say whether the command may have been executed."""
        if session is self._session:
            self._session = None
        if request.undecided > 0:
            self._give_up(request, outcomes.session_expired())
            return
        session.remove(request)
        self._drop_if_done(session)
        request.place = (session.id, request.number)
        request.session = None
        request.sent_to = None
        insort(self._to_resend, request, key=attrgetter("place"))  # refusals may come in any order
        self._after_answer()

    def _seek(self, outbox: Outbox) -> None:
        """Ask every server for an answer that only a leader gives."""
        if not self.wants_leader:
            self.search.rest()
        elif self.search.round_due(self._now):
            for server in self.search.servers if self._redirect else [self.search.target]:
                outbox.add(server, Query(self._probe_id, "linearizable", self._probe), 64)

    def _on_not_leader(self, address: str, reply: NotLeader) -> None:
        self.sightings.not_leader(address, reply, self._now)
        self.search.learn(reply.addresses)
        for request in self._unanswered():
            if request.sent_to == address:
                request.sent_to = None  # it has dropped all that it had of us
        if self._redirect:
            self.search.not_leader(address, reply.address, self._now)
            self._resend = True
        elif address == self.search.target:
            self._refuse_redirect(reply)

    def _refuse_redirect(self, reply: NotLeader) -> None:
        error = outcomes.not_leader(self.search.target, reply.leader, reply.address)
        for queue in (self._writes, self._reads["linearizable"], self._reads["lease"]):
            for ticket in queue:
                ticket.complete(None, error, False)
        for request in [*self._to_resend, *self._unanswered()]:
            self._complete(request, error, executed=False)
        self._forget_done()

    def _watch(self) -> None:
        """Act on the target's silence, and on single requests whose answers got lost."""
        if self.search.too_silent(self._now):
            self.search.silent(self._now)
        if self._now >= self._aged_at:
            self._aged_at = self._now + self.options.resend_after / 2
            for request in self._unanswered():
                age = self._now - request.sent_at
                if age >= self.options.resend_after * 2.0 ** min(request.sends - 1, 3):
                    request.sent_to = None
                    self._resend = True

    # --- giving up ---------------------------------------------------------------------------

    def _expire(self) -> None:
        """Complete the tickets whose deadline has passed; forget what nobody waits for."""
        expired = [t for t in self._all_tickets() if not t.done and t.deadline <= self._now]
        for ticket in expired:
            error = outcomes.timeout(ticket, self._opening, self.search.servers, self.sightings)
            if ticket.keeps and ticket.request is not None:
                outcomes.keep(error, ticket, ticket.request)
            ticket.complete(None, error, False)
        if expired:
            self._forget_done()
        self._next_expiry = min(
            (t.deadline for t in self._all_tickets() if not t.done), default=math.inf
        )

    def _all_tickets(self) -> Iterator[Ticket[Any, Any]]:
        for queue in (self._writes, *self._reads.values()):
            yield from queue
        for request in [*self._to_resend, *self._unanswered(), *self._side]:
            yield from request.tickets
        yield from self.watches.tickets()

    def _forget_done(self) -> None:
        """Drop what has only completed tickets."""
        for queue in (self._writes, *self._reads.values()):
            queue.drop_done()
        dead = [request for request in self._to_resend if not request.live]
        self._to_resend = outcomes.without_followers(self._to_resend, dead)
        for session in list(self._sessions.values()):
            for request in session.to_give_up():
                self._give_up(request, None)
        for request in [*self._queries.values(), *self._side]:
            if not request.live:
                self._queries.pop(request.number, None)
                self._side.remove(request.number)
        if self._opening is not None and not (self._writes or self._to_resend):
            self._opening = None
        self._after_answer()

    def _give_up(self, request: Request, error: errors.PaxonError | None) -> None:
        """A command will not be asked for again, nor can those that were to follow it be."""
        session = request.session
        assert session is not None
        chain = session.followers(request)
        if error is not None:
            self._complete(request, error, executed=False)
        for other in chain:
            other.after = None
            error = outcomes.not_followed(request.tickets[0].error, other.undecided > 0)
            self._complete(other, error, executed=False)
        session.give_up(chain)
        self._to_resend = outcomes.without_followers(self._to_resend, chain)
        self._drop_if_done(session)
        self._after_answer()
