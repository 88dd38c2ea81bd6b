"""The records of a client core: tickets of callers, requests on the wire, sessions."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import msgspec

from paxon.actors.execution.agreed import Change
from paxon.actors.members import AskMembers, ChangeMembers
from paxon.actors.messages import (
    ChangeSettings,
    ClientMessage,
    Command,
    OpenSession,
    Query,
    ReadMode,
    Renew,
    SlotRequest,
    StatusRequest,
    TransferLeader,
)
from paxon.kvstore.client.agreement import read_transfer
from paxon.kvstore.errors import PaxonError

__all__ = [
    "Ticket",
    "Kept",
    "Request",
    "Session",
    "TicketQueue",
    "Outbox",
    "Outgoing",
    "Kind",
]

_FRAME_MESSAGES = 1024
"""Messages in one frame (servers refuse frames of several thousand)."""
_weight = attrgetter("weight")
_size = attrgetter("size")
_after = attrgetter("after")

PayloadT = TypeVar("PayloadT")
ResultT = TypeVar("ResultT")

Outgoing = tuple[str, list[ClientMessage]]
"""One frame: the server's address and the messages for it, in order."""

Kind: TypeAlias = (
    Literal["open", "command", "status", "slot", "settings", "renew", "transfer", "members"]
    | ReadMode
)
"""What a request is: a query is named by its read mode."""


class Ticket(msgspec.Struct, Generic[PayloadT, ResultT], eq=False):
    """One submission of a caller: pending, then done with a result or an error."""

    payload: PayloadT
    mode: ReadMode | None
    """None: a command; else how to answer the query."""
    weight: int
    """Operations."""
    size: int
    """Bytes, about."""
    submitted: float
    """When, in seconds of the caller's clock."""
    deadline: float
    """When it is given up, by the same clock."""
    after: Ticket[PayloadT, ResultT] | None = None
    """Execute only after this one, which has to be executed."""
    request: Request | None = None
    """What carries it, once formed and until done."""
    done: bool = False
    executed: bool = True
    """Whether it certainly was executed, whatever came of it; once it is done."""
    result: ResultT | None = None
    error: PaxonError | None = None
    on_done: Callable[[Ticket[PayloadT, ResultT]], None] | None = None
    """Called once it is done; must neither raise nor block."""
    keeps: bool = False
    """Whether its command may be asked for again after a timeout (`Kept`)."""
    kept: weakref.ref[Kept] | None = None
    """Of one that timed out, which stands in its request for whoever may ask again."""

    def __repr__(self) -> str:
        """Without the payload, which may be megabytes, and the tickets before it."""
        kind = "command" if self.mode is None else f"{self.mode} query"
        return f"<Ticket: {kind}, {self.weight} operations, {'done' if self.done else 'pending'}>"

    def complete(self, result: ResultT | None, error: PaxonError | None, executed: bool) -> None:
        """Make it done. Does nothing if it is (a ticket that timed out stays so)."""
        if self.done:
            if self.kept is not None:  # known now, should somebody ask again
                self.result, self.error, self.executed = result, error, executed
            return
        # (To set a field costs far more than to look at one.)
        self.done = True
        if not executed:
            self.executed = False
        self.result = result
        if error is not None:
            self.error = error
        if self.after is not None:
            self.after = None
        self.request = None
        if self.on_done is not None:
            self.on_done(self)

    def value(self) -> ResultT:
        """The result. Raises the error instead if there is one."""
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


class Kept:
    """Held by the error of a write that timed out: while it is, the request can be asked for again.

    The session's floor does not pass the request until then, so servers still know its number.
    """

    __slots__ = ("__weakref__", "_request", "_ticket")

    def __init__(self, request: Request, ticket: Ticket[Any, Any]) -> None:
        self._request = request
        self._ticket = ticket
        """Stands in the request for the one that timed out; later the one that asks again."""

    def resume(
        self, sessions: Mapping[int, Session], now: float, deadline: float
    ) -> Ticket[Any, Any] | None:
        """A ticket that waits for the same command, or has its late answer; None: too late."""
        old, request = self._ticket, self._request
        again = getattr(old.error, "kept", None)
        if isinstance(again, Kept):  # it was asked for again, and timed out again
            return again.resume(sessions, now, deadline)
        ticket: Ticket[Any, Any] = Ticket(
            old.payload, mode=None, weight=old.weight, size=old.size, submitted=now,
            deadline=deadline, keeps=True,
        )  # fmt: skip
        session = request.session
        if old.result is not None or old.error is not None:
            ticket.complete(old.result, old.error, old.executed)
        elif (
            session is None
            or sessions.get(session.id) is not session
            or not old.done
            or not session.resume(request)
        ):
            return None
        else:
            request.tickets[request.tickets.index(old)] = self._ticket = ticket
            ticket.kept = weakref.ref(self)
            ticket.request = request
            request.sent_to = None
        return ticket


class Request(msgspec.Struct, eq=False):
    """One message that waits for its answer, for one or many tickets."""

    kind: Kind
    number: int
    """Sequence number of a command, nonce of an opening, id of anything else."""
    body: bytes
    tickets: list[Ticket[Any, Any]]
    size: int = 0
    """Bytes, about."""
    weight: int = 0
    """Operations in it."""
    session: Session | None = None
    after: Request | None = None
    """The command that has to be executed before this one, while it is unanswered."""
    after_seq: int = 0
    address: str = ""
    """The one server that it is for; empty: any, or the leader."""
    executed: bool = False
    sent_to: str | None = None
    """Where it was sent last; None: it has to be sent (again)."""
    sent_at: float = 0.0
    place: tuple[int, int] = (0, 0)
    """Session and number under which it was refused, to keep the order in the next session."""
    order: int = 0
    """Numbers all sends, to know which of two was sent later."""
    sends: int = 0
    overloaded: tuple[float, str] | None = None
    """If the last answer was that a bound is reached: seconds to wait, and which."""
    undecided: int = 0
    """Sends of which no answer has said that they were not, and will not be, executed."""

    def __post_init__(self) -> None:
        self.size = len(self.body) + 64
        self.weight = sum(map(_weight, self.tickets))

    def __repr__(self) -> str:
        """As that of a ticket: without what may be megabytes, and the requests before it."""
        return f"<Request: {self.kind} {self.number}, {self.weight} operations>"

    @property
    def live(self) -> bool:
        """Whether anybody still waits for it."""
        return not all(ticket.done for ticket in self.tickets)

    @property
    def kept(self) -> bool:
        """Whether somebody may still ask for it again."""
        return any(ticket.kept is not None and ticket.kept() for ticket in self.tickets)

    def keep(self, timed_out: Ticket[Any, Any]) -> Kept:
        """Have a ticket that timed out replaced by one that holds neither its error nor callback.

        (Else the error, held by the ticket, would be held for as long as the request is.)
        """
        ticket: Ticket[Any, Any] = Ticket(
            timed_out.payload, mode=None, weight=timed_out.weight, size=timed_out.size,
            submitted=timed_out.submitted, deadline=timed_out.deadline, done=True, executed=False,
        )  # fmt: skip
        kept = Kept(self, ticket)
        ticket.kept = weakref.ref(kept)
        self.tickets[self.tickets.index(timed_out)] = ticket
        return kept

    @property
    def can_be_parted(self) -> bool:
        """Whether it carries several submissions, and no copy of it is under way."""
        return len(self.tickets) > 1 and self.undecided <= 0

    def send_again_with_those_before(self) -> None:
        """It has to be sent again, and so do those before it that were sent no later."""
        last_sent = self.order
        self.sent_to = None
        before = self.after
        while before is not None and not before.executed and before.order < last_sent:
            before.sent_to = None
            before = before.after

    def message(self) -> ClientMessage:
        """The message to send now; only `acked` ever differs from an earlier time."""
        match self.kind:
            case "command":
                assert self.session is not None
                return Command(
                    self.session.id, self.number, self.session.floor, self.after_seq, self.body
                )
            case "open":
                return OpenSession(self.number)
            case "status":
                return StatusRequest(self.number)
            case "slot":
                return SlotRequest(self.number, int.from_bytes(self.body, "big"))
            case "settings":
                change = msgspec.msgpack.decode(self.body, type=Change)
                return ChangeSettings(self.number, change.changed_at, change.values)
            case "transfer":
                return TransferLeader(self.number, *read_transfer(self.body))
            case "members":
                return msgspec.msgpack.decode(self.body, type=AskMembers | ChangeMembers)
            case "renew":
                return Renew(self.number, self.body)
            case mode:
                return Query(self.number, mode, self.body)


class Session:
    """A session of the cluster, as its one client sees it."""

    def __init__(self, session_id: int, now: float) -> None:
        self.id = session_id
        self.used_at = now
        """When it last carried a command, seconds."""
        self.next_seq = 1
        self.floor = 1
        """Every command below is answered or given up: what `acked` says."""
        self.outstanding: dict[int, Request] = {}
        """By sequence number, in its order."""
        self.parked: dict[int, Request] = {}
        """Commands that nobody waits for, and somebody may ask for again: not sent meanwhile."""
        self.bytes = 0
        self._given_up: list[tuple[int, int]] = []
        """Chains of commands given up: lowest and highest sequence number of each."""

    def idle(self, now: float, seconds: float) -> bool:
        """Whether nothing is outstanding, and it has carried no command for so long."""
        return not self.outstanding and now - self.used_at > seconds

    def add(self, request: Request) -> None:
        """Give a command the next sequence number."""
        request.number = self.next_seq
        request.session = self
        self.next_seq += 1
        self.outstanding[request.number] = request
        self.bytes += request.size

    def remove(self, request: Request) -> None:
        """A command is answered."""
        self._drop(request)
        self._raise_floor()

    def _drop(self, request: Request) -> None:
        if self.parked.pop(request.number, None) is None:
            del self.outstanding[request.number]
            self.bytes -= request.size

    def to_give_up(self) -> Iterator[Request]:
        """Commands that nobody waits for or may ask for again. Those that somebody may are parked.

        One that others wait for is neither, where it may be asked for: they follow it.
        """
        for request in [*self.outstanding.values(), *self.parked.values()]:
            there = request.number in self.outstanding or request.number in self.parked
            if request.live or not there:
                continue
            chain = self.followers(request)
            if not any(each.kept for each in chain):
                yield request
            elif not any(each.live for each in chain):
                self.park(chain)

    def park(self, chain: list[Request]) -> None:
        """Set aside commands of which nobody waits for any: one, and all that follow it."""
        for request in chain:
            if self.outstanding.pop(request.number, None) is not None:
                self.bytes -= request.size
                self.parked[request.number] = request

    def resume(self, request: Request) -> bool:
        """Ask for a command again, after those that it follows; whether that is possible."""
        if request.number not in self.parked:
            return self.outstanding.get(request.number) is request
        before: Request | None = request
        while before is not None and self.parked.pop(before.number, None) is not None:
            self.outstanding[before.number] = before
            self.bytes += before.size
            before.sent_to = None
            before = before.after
        self.outstanding = dict(sorted(self.outstanding.items()))
        return True

    def followers(self, request: Request) -> list[Request]:
        """The request, and all that are to be executed only after it."""
        chain = [request]
        others = self.outstanding
        if self.parked:
            others = dict(sorted({**others, **self.parked}.items()))
        for other in others.values():
            if other.after in chain:
                chain.append(other)
        return chain

    def take_apart(self, request: Request) -> list[Ticket[Any, Any]]:
        """The tickets of a command that was refused, and of those to follow it, from the last one.

        It was never executed and never will be, so neither were they: none goes without it.
        """
        chain = self.followers(request)
        self.give_up(chain)
        tickets = [ticket for each in chain for ticket in each.tickets if not ticket.done]
        for ticket in tickets:
            ticket.request = None
        return tickets[::-1]

    def give_up(self, chain: list[Request]) -> None:
        """Nobody waits for these any more: a command, and those that were to follow it.

        The floor passes all of them in one step. Would it pass the first alone, the servers would
        take that one for executed, and a late copy of the next, which was to be executed only after
        it, would be executed without it.
        """
        for request in chain:
            self._drop(request)
        if len(chain) > 1:
            self._given_up.append((chain[0].number, chain[-1].number))
        self._raise_floor()

    def _raise_floor(self) -> None:
        floor = min(next(iter(self.outstanding), self.next_seq), *self.parked, self.next_seq)
        if self._given_up:
            self._given_up.sort(reverse=True)
            for low, high in self._given_up:
                if low < floor <= high:
                    floor = low
            self._given_up = [(low, high) for low, high in self._given_up if high >= floor]
        self.floor = floor


class TicketQueue(deque[Ticket[Any, Any]]):
    """Tickets that wait to be put into a request."""

    __slots__ = ("size", "weight")

    def __init__(self) -> None:
        super().__init__()
        self.weight = 0
        self.size = 0

    def add(self, ticket: Ticket[Any, Any]) -> None:
        self.append(ticket)
        self.weight += ticket.weight
        self.size += ticket.size

    def add_first(self, ticket: Ticket[Any, Any]) -> None:
        self.appendleft(ticket)
        self.weight += ticket.weight
        self.size += ticket.size

    def take(self) -> Ticket[Any, Any]:
        ticket = self.popleft()
        self.weight -= ticket.weight
        self.size -= ticket.size
        return ticket

    def in_order(self) -> bool:
        """Whether any of them is to be executed only after another."""
        return any(map(_after, self))

    def take_all(self) -> list[Ticket[Any, Any]]:
        """Take off all of them."""
        tickets = list(self)
        self.clear()
        self.weight = self.size = 0
        return tickets

    def drop_first(self, tickets: Sequence[Ticket[Any, Any]]) -> None:
        """Take off these, which are the first."""
        drop = self.popleft
        for _ in tickets:
            drop()
        self.weight -= sum(map(_weight, tickets))
        self.size -= sum(map(_size, tickets))

    def drop_done(self) -> None:
        """Forget those that are done already."""
        for ticket in self.take_all():
            if not ticket.done:
                self.add(ticket)


class Outbox:
    """Packs messages into frames."""

    __slots__ = ("_limit", "_size", "frames")

    def __init__(self, limit: int) -> None:
        self.frames: list[Outgoing] = []
        self._limit = limit
        self._size = 0

    def add(self, address: str, message: ClientMessage, size: int) -> None:
        """Put a message into the frame at hand, or begin a new one."""
        frames = self.frames
        if (
            frames
            and frames[-1][0] == address
            and self._size + size <= self._limit
            and len(frames[-1][1]) < _FRAME_MESSAGES
        ):
            frames[-1][1].append(message)
            self._size += size
        else:
            self.frames.append((address, [message]))
            self._size = size
