"""The additions to `CommandCore` for clients of the store and of embedders' state machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NoReturn, TypeAlias

from paxon.actors.messages import ReadMode
from paxon.kvstore.client.command_core import CommandCore
from paxon.kvstore.client.leader_search import CoreOptions, CoreRandom
from paxon.kvstore.client.requests import Outgoing, Request, Ticket, TicketQueue
from paxon.kvstore.client.watches.side import Watched
from paxon.kvstore.errors import ClientClosed, OperationFailed
from paxon.kvstore.store.operations import (
    LANGUAGE,
    PUT_BYTES,
    Events,
    Operation,
    Put,
    Result,
    decode_results,
    encode_operations,
    is_read,
    is_split,
    only_reads,
    operation_bytes,
)

__all__ = [
    "ClientCore",
    "RawCore",
    "KVTicket",
    "RawTicket",
    "CoreOptions",
    "CoreRandom",
    "Outgoing",
]

_OTHER_MACHINE = (
    "the reply is not one of the key-value store: if the cluster runs another state "
    "machine, use a CommandClient; what came is malformed: "
)

_payload = attrgetter("payload")
_after = attrgetter("after")
_SPLIT = b"\xa5split\xc3"
"""Is in every reply to something that was refused for want of room in it."""

RawTicket: TypeAlias = Ticket[bytes, bytes]
KVTicket: TypeAlias = Ticket[Sequence[Operation], list[Result]]


class RawCore(CommandCore[bytes, bytes]):
    """Commands and queries of any state machine: each submission is a request of its own."""

    def _take_batch(self, queue: TicketQueue) -> tuple[bytes, list[RawTicket]]:
        ticket: RawTicket = queue.take()
        return ticket.payload, [ticket]

    def _worth_sending(self, queue: TicketQueue, in_flight: Mapping[int, Request]) -> bool:
        return True

    def holds_back(self, now: float) -> bool:
        return False

    def _deliver(self, request: Request, payload: bytes) -> None:
        request.tickets[0].complete(payload, None, True)


class ClientCore(CommandCore[Sequence[Operation], "list[Result]"]):
    """Operations of the key-value store, those of many tickets packed into one request."""

    _probe = encode_operations(())
    _language = LANGUAGE

    def __reduce__(self) -> NoReturn:
        """Of watches as well, which have it."""
        raise TypeError("a client is neither copied nor pickled, nor is what it has made")

    def submit_operation(
        self,
        operation: Operation,
        *,
        now: float,
        deadline: float,
        mode: ReadMode,
        keeps: bool = False,
    ) -> KVTicket:
        """Take in one operation alone; see `submit_operations`."""
        if type(operation) is Put:  # (as nearly all: two calls less)
            wanted, size = None, len(operation.key) + len(operation.value) + PUT_BYTES
        else:
            wanted, size = mode if is_read(operation) else None, operation_bytes(operation)
        return self.submit(
            (operation,), now=now, deadline=deadline, mode=wanted, size=size, keeps=keeps
        )

    def submit_operations(
        self,
        operations: Sequence[Operation],
        *,
        now: float,
        deadline: float,
        ordered_after: KVTicket | None = None,
        command: bool = False,
        mode: ReadMode = "linearizable",
        size: int | None = None,
    ) -> KVTicket:
        """Take in operations that are to be executed together and in order.

        Only gets and scans with nothing to be ordered after become a query, answered as `mode`
        says; anything else becomes a command. The operations have been checked by the caller.

        Args:
            operations: at least one; the list must not change afterwards.
            now: seconds of the driver's clock.
            deadline: when the caller gives up, on the same clock.
            ordered_after: a ticket of a command that has to be executed before this one.
            command: make it a command even if it holds only reads.
            mode: how a query is to be answered.
            size: their size in bytes if known, so that it need not be added up again.
        """
        reads = not command and ordered_after is None and only_reads(operations)
        if size is None:
            size = sum(map(operation_bytes, operations))
        return self.submit(
            operations,
            now=now,
            deadline=deadline,
            mode=mode if reads else None,
            after=ordered_after,
            weight=len(operations),
            size=size,
        )

    def abandon(self, ticket: KVTicket | None = None) -> None:
        """Nobody will ask for this again, nor for what no error keeps: late copies are refused.

        (By the next command at the latest, which tells the servers so.)
        """
        if ticket is not None and not ticket.done:
            ticket.keeps = False
            ticket.complete(None, ClientClosed("it was interrupted"), False)
        self._forget_done()

    def start_watch(self, wanted: Events) -> Watched:
        """Begin a watch: at the leader, which is the first to know, or with many elsewhere."""
        self.watches.begin(self.search.target, self._random.getrandbits(16))
        return self.watches.add(wanted)

    def next_answer(self, watched: Watched, *, now: float, deadline: float) -> Ticket[Any, Any]:
        """A ticket for what a watch is answered next."""
        ticket = self._ticket("stale", 0, now, deadline)
        self.watches.next_answer(watched, ticket)
        return ticket

    def _take_batch(self, queue: TicketQueue) -> tuple[bytes, list[KVTicket]]:
        """Pack tickets up to the bounds.

        A ticket that has to follow one in another request takes only its own followers along: its
        request may have to wait or fail with that one, which is nobody else's concern.
        """
        room_bytes, room_weight = self._fitted.batch_bytes, self.options.batch_weight
        if queue.size <= room_bytes and queue.weight <= room_weight and not queue.in_order():
            tickets = queue.take_all()  # as nearly always, and soonest done
            return encode_operations(list(chain.from_iterable(map(_payload, tickets)))), tickets
        waiting = iter(queue)
        last: KVTicket = next(waiting)
        tickets = [last]
        operations = list(last.payload)
        size, weight = last.size, last.weight
        bound = last.after is not None and not last.after.done
        for ticket in waiting:
            before = ticket.after
            if before is not last and (bound or (before is not None and not _free(before))):
                break
            size += ticket.size
            weight += ticket.weight
            if size > room_bytes or weight > room_weight:
                break
            operations += ticket.payload
            tickets.append(ticket)
            last = ticket
        queue.drop_first(tickets)
        return encode_operations(operations), tickets

    def _deliver(self, request: Request, payload: bytes) -> None:
        tickets: list[KVTicket] = request.tickets
        try:
            results = decode_results(payload)
        except ValueError as error:
            self._complete(request, OperationFailed(_OTHER_MACHINE + str(error)), executed=True)
            return
        if len(results) != request.weight:
            wrong = OperationFailed(_OTHER_MACHINE + "another number of results than of operations")
            self._complete(request, wrong, executed=True)
            return
        if len(tickets) == 1 and request.kind == "command":
            tickets[0].complete(results, None, True)
            return
        some_refused = _SPLIT in payload
        if len(tickets) == len(results) and not some_refused:  # one operation each, as nearly all
            for ticket, result in zip(tickets, results, strict=True):
                if ticket.result is None:
                    ticket.complete([result], None, True)
                elif not ticket.done:
                    self._deliver_read(ticket, [result])
            return
        alone = self._not_followed(tickets) if some_refused else set()
        start = 0
        for ticket in tickets:
            end = start + ticket.weight
            part = results[start:end]
            start = end
            if alone and ticket in alone and is_split(part[0]):
                ticket.request = None  # refused before it did anything: it goes again by itself
                self._writes.add_first(ticket)
            elif ticket.mode is None:
                ticket.complete(part, None, True)
            elif not ticket.done:
                self._deliver_read(ticket, part)

    def _not_followed(self, tickets: list[KVTicket]) -> set[KVTicket]:
        """Those of one operation each of a command that may be executed after all that was sent."""
        sent = chain(tickets, *(request.tickets for request in self._unanswered()))
        followed = set(map(id, map(_after, sent)))
        return {
            ticket
            for ticket in tickets
            if ticket.mode is None
            and not ticket.done
            and ticket.weight == 1
            and ticket.after is None
            and id(ticket) not in followed
        }

    def _deliver_read(self, ticket: KVTicket, results: list[Result]) -> None:
        """Complete a read, or ask again for what did not fit into the reply with all the others."""
        if ticket.result is not None:
            results = ticket.result + results
        fitted = next((i for i, result in enumerate(results) if is_split(result)), len(results))
        if fitted == len(results):
            ticket.result = None
            ticket.complete(results, None, True)
            return
        ticket.result = results[:fitted]
        rest = ticket.payload[fitted - (len(results) - ticket.weight) :]
        ticket.payload = rest
        ticket.weight = len(rest)
        ticket.request = None
        assert ticket.mode is not None
        self._reads[ticket.mode].add_first(ticket)


def _free(before: Ticket[Any, Any]) -> bool:
    """Whether what has to follow this ticket need not wait for it any more."""
    return before.done and before.executed
