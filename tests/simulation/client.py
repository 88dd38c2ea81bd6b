"""Simulated clients: the real `ClientCore`, and a history of what it was asked and answered."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from paxon.actors.messages import ClientMessage, OtherCluster, ReadMode, TellAddresses
from paxon.kvstore.client.core import ClientCore, CoreOptions, KVTicket
from paxon.kvstore.client.requests import Ticket
from paxon.kvstore.errors import PaxonError, RequestTimeout, WrongCluster
from paxon.kvstore.store.operations import (
    Append,
    Compare,
    CompareAndSet,
    Delete,
    Get,
    Operation,
    Put,
    Range,
    Scan,
    Txn,
    is_read,
    is_refusal,
)
from paxon.transport import ForeignCluster
from tests import linearizability
from tests.invariants import InvariantBroken
from tests.simulation.about.pairs import PAIRS, pair
from tests.simulation.node import CLIENT_PLACE

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["SimulatedClient"]

FOREVER = 1e9
"""Seconds."""


def _says_no_effect(operation: Operation, error: PaxonError) -> bool:
    """Whether a write's error says that it did not take effect, and never will."""
    if is_read(operation):
        return False
    return not (isinstance(error, RequestTimeout | WrongCluster) and error.unknown)


class SimulatedClient:
    """One client: keeps some operations under way and thinks after each answer."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.plan = world.plan.clients
        self.random = Random(f"client {world.plan.seed} {number}")
        weights = self.plan.weights
        role = self.random.choice(("mixed", "reader", "writer")) if self.plan.roles else "mixed"
        self._kinds = [
            kind
            for kind, weight in weights.items()
            for _ in range(weight)
            if role == "mixed" or (kind in {"get", "scan"}) == (role == "reader")
        ] or ["get"]
        self._token = str(number).encode()
        self._lives = 0
        self._written = 0
        self._seen: dict[bytes, bytes | None] = {}
        """Per key the last value that it read, to have some luck with compare-and-set."""
        self._last_write: KVTicket | None = None
        self._timer_at = FOREVER
        self.pending = 0
        """Operations under way that somebody waits for."""
        self._believes = not (self.plan.duplicates and world.plan.network.duplicate)
        """Errors that say "no effect" are taken at their word. Where frames come twice they are
        not: one that was refused may come again, and be taken in. TCP brings none twice."""
        self.core = self._new_core()

    def _new_core(self) -> ClientCore:
        self._lives += 1
        self.codec = self.world.new_client_codec()
        addresses = list(self.world.addresses.values())
        self.random.shuffle(addresses)
        seek = self.plan.seek
        options = CoreOptions(seek_first=seek, seek_max=max(seek, 0.1))
        return ClientCore(addresses, self.random, options=options)

    def start(self) -> None:
        for _ in range(self.plan.outstanding):
            self._think()

    def restart(self) -> None:
        """The client's process dies and comes back: what was under way is nobody's any more."""
        self.world.note(CLIENT_PLACE + self.number, "restarts")
        abandoned, self.pending = self.pending, 0
        self.core = self._new_core()
        self._last_write = None
        for _ in range(abandoned):
            self._think()

    def _think(self) -> None:
        pause = self.random.uniform(0, 2 * self.plan.think)
        self.world.schedule(self.world.now + pause, self._act, self._lives)

    def _act(self, life: object) -> None:
        """Ask for the next operation."""
        if life != self._lives:
            self._think()  # thinking outlives a restart
        elif not self.world.healing:
            self.ask(self._draw(), self.world.now + self.plan.patience)

    # --- asking ----------------------------------------------------------------------------------

    def _draw(self) -> Operation:
        random = self.random
        kind = random.choice(self._kinds)
        key = b"k%d" % random.randrange(self.plan.keys)
        self._written += 1
        value = b"%d.%d " % (self.number, self._written)
        match kind:
            case "put":
                return Put(key, value)
            case "append":
                return Append(key, value)
            case "delete":
                return Delete(key)
            case "cas":
                return CompareAndSet(key, self._seen.get(key), value)
            case "swap":  # compare-and-set, as a transaction
                seen = self._seen.get(key)
                held = (
                    Compare(key, "version", "=", 0)
                    if seen is None
                    else Compare(key, "value", "=", seen)
                )
                return Txn([held], [Put(key, value)], [Get(key)])
            case "pair":
                return pair(random.randrange(self.plan.keys), value)
            case "pairs":
                return random.choice((PAIRS, Txn([], [PAIRS], [])))
            case "past":
                return self.world.pairs.draw_past(random)
            case "scan":
                return Scan(random.choice((b"", b"k", key)), random.choice((1, 2, 100)))
            case _:
                return Get(key)

    def ask(self, operation: Operation, deadline: float) -> KVTicket:
        """Submit an operation and record it, unless nobody checks its answer (stale reads)."""
        mode: ReadMode = "linearizable"
        after = None
        if is_read(operation):
            chance = self.random.random()
            if chance < self.plan.stale:
                mode = "stale"
            elif chance < self.plan.stale + self.plan.lease:
                mode = "lease"
        elif self.plan.ordered and self.random.random() < self.plan.ordered:
            after = self._last_write
        recorded = None
        if mode != "stale":
            recorded = self._record(operation)
        ticket = self.core.submit_operations(
            [operation], now=self.world.now, deadline=deadline, ordered_after=after, mode=mode
        )
        if not is_read(operation):
            self._last_write = ticket
        life, floor = self._lives, self.world.revision

        def done(ticket: Ticket[Any, Any]) -> None:
            if life == self._lives:
                self.pending -= 1
                self._answered(operation, recorded, floor, ticket)

        ticket.on_done = done
        self.pending += 1
        self.poll()
        return ticket

    def _record(self, operation: Operation) -> linearizability.Operation | None:
        call = self.world.history.call
        match operation:
            case Put(key, value):
                return call(self.number, "put", key.decode(), value)
            case Append(key, value):
                return call(self.number, "append", key.decode(), value)
            case CompareAndSet(key, expected, new):
                return call(self.number, "cas", key.decode(), new, expected=expected)
            case Delete(key):
                return call(self.number, "delete", key.decode())
            case Scan(prefix, limit):
                return call(self.number, "scan", prefix.decode(), limit=limit)
            case Get(key):
                return call(self.number, "get", key.decode())
            case Txn([Compare(key, _, _, operand)], [Put(_, new), *_]):
                expected = operand if isinstance(operand, bytes) else None
                return call(self.number, "cas", key.decode(), new, expected=expected)
            case Txn() | Range():
                return None  # `Pairs` checks it
            case _:
                raise AssertionError(f"nobody asks for {operation!r}")

    def _answered(
        self,
        operation: Operation,
        recorded: linearizability.Operation | None,
        floor: int,
        ticket: Ticket[Any, Any],
    ) -> None:
        world = self.world
        if world.trace is not None:
            outcome = ticket.error if ticket.error is not None else ticket.result
            world.note(CLIENT_PLACE + self.number, "%r -> %r", operation, outcome)
        if ticket.error is None:
            world.answered += 1
            assert ticket.result is not None
            result = ticket.result[0]
            if isinstance(operation, Txn | Range):
                result = self._check_transaction(operation, floor, result)
            elif is_refusal(result):
                raise InvariantBroken("no failure", f"the store refused {operation!r}: {result}")
            if isinstance(operation, Scan):
                more, pairs = result
                if pairs and pairs[-1][0] >= b"~":  # what others than these clients write
                    more, pairs = False, [pair for pair in pairs if pair[0] < b"~"]
                result = tuple((key.decode(), value) for key, value in pairs)
                if not more and recorded is not None:
                    recorded.limit = None  # it saw all there is
            if isinstance(operation, Put):
                self._check_revision(operation, floor, result)
                result = None
            if recorded is not None:
                world.history.ok(recorded, result)
            if isinstance(operation, Get):
                self._seen[operation.key] = result
        else:
            world.unanswered += 1
            if recorded is not None and self._believes and _says_no_effect(operation, ticket.error):
                world.history.failed(recorded)
        if not world.healing:
            self._think()

    def _check_transaction(self, operation: Txn | Range, floor: int, result: Any) -> Any:
        """What it tells of revisions, and of pairs of keys; whether it succeeded."""
        match operation:
            case Txn([], [Put(key, value), *_]):
                self._check_revision(operation, floor, result[1])
                self.world.pairs.written(key, value, result)
            case Txn([_], [Put(key), *_]):
                if result[0]:
                    self._check_revision(operation, floor, result[1])
                else:
                    self._seen[key] = result[2][0]
                return result[0]
            case Txn():
                self.world.pairs.read(result[2][0], floor)
            case Range(_, None):
                self.world.pairs.read_past(operation, result)
            case Range():
                self.world.pairs.read(result, floor)
        return None

    def _check_revision(self, operation: Put | Txn, floor: int, revision: int) -> None:
        """No revision is told twice, and each is above all that were told before it was asked."""
        world = self.world
        if revision <= floor or revision in world.revisions:
            raise InvariantBroken("revisions", f"{operation!r} is said to be revision {revision}")
        world.revisions.add(revision)
        world.revision = max(world.revision, revision)

    # --- driving the core ------------------------------------------------------------------------

    def poll(self) -> None:
        """Send what there is to send, and come back when there is more to do."""
        world = self.world
        for address, messages in self.core.poll(world.now):
            # (servers have no addresses here that they could tell of)
            if wanted := [each for each in messages if type(each) is not TellAddresses]:
                self._transmit(address, wanted)
        due = self.core.next_deadline()
        if due < self._timer_at:
            self._timer_at = max(due, world.now) + 1e-7
            world.schedule(self._timer_at, self._on_timer, self._timer_at)

    def _transmit(self, address: str, messages: Sequence[ClientMessage]) -> None:
        world = self.world
        target = world.nodes[int(address.rpartition("-")[2])]
        place = CLIENT_PLACE + self.number
        if world.trace is not None:
            world.trace.sent(place, (target.id,), messages)
        frame = (self._token, self.codec.encode(messages))
        world.network.transmit(
            place, target.id, world.now, target.deliver_client, frame, twice=self.plan.duplicates
        )

    def _on_timer(self, due: object) -> None:
        if due == self._timer_at:
            self._timer_at = FOREVER
            self.poll()

    def deliver(self, frame: object) -> None:
        assert isinstance(frame, tuple)
        address, data = frame
        try:
            _, _, replies = self.codec.decode(data)
        except ForeignCluster as error:
            replies = [OtherCluster("", error.identity, self.codec.identity)]
        if self.world.trace is not None:
            self.world.trace.received(CLIENT_PLACE + self.number, address, replies)
        self.core.receive(address, replies, self.world.now)
        self.poll()
