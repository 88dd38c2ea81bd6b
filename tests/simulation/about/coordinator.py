"""Clients that coordinate: the real `ClientCore` over connections that break as TCP's do.

Watches rely on the order of one connection, and on a connection being one: what comes after it has
ended comes under another token. So here nothing overtakes, nothing is lost alone, and servers and
clients hear of an end sometimes.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, TypeAlias

from paxon.actors.messages import ClientMessage, OtherCluster, ReadMode
from paxon.kvstore.client.core import ClientCore, CoreOptions
from paxon.kvstore.client.requests import Ticket
from paxon.kvstore.client.watches.side import Watched
from paxon.kvstore.errors import ClientClosed, PaxonError, WrongCluster
from paxon.kvstore.store.operations import Events, Operation, Result, is_refusal
from paxon.transport import ForeignCluster
from tests.predicates import require
from tests.simulation.client import FOREVER
from tests.simulation.node import CLIENT_PLACE, Node

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["Ask", "Coordinator", "Errand", "Next", "Pause", "Renewal", "Watch"]

FIRST_NUMBER = 500
"""That of the first of these clients, less one: so they are not taken for others."""
NOTICED = 0.7
"""The share of ends of connections that one side hears of."""


class Pause:
    """A step of an errand: wait so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def begin(self, client: Coordinator, errand: Errand) -> None:
        client.later(self.seconds, errand)


class Ask:
    """Ask the store for operations; their results."""

    def __init__(
        self, *operations: Operation, mode: ReadMode = "linearizable", patience: float | None = None
    ) -> None:
        self.operations = operations
        self.mode: ReadMode = mode
        self.patience = patience

    def begin(self, client: Coordinator, errand: Errand) -> None:
        now = client.world.now
        patience = client.plan.patience if self.patience is None else self.patience
        client.wait_for(
            client.core.submit_operations(
                self.operations, now=now, deadline=now + patience, mode=self.mode
            ),
            errand,
        )


class Renewal:
    """Ask for leases to live on; the servers' answer."""

    def __init__(self, body: bytes, patience: float) -> None:
        self.body = body
        self.patience = patience

    def begin(self, client: Coordinator, errand: Errand) -> None:
        now = client.world.now
        client.wait_for(
            client.core.ask_leader("renew", self.body, now=now, deadline=now + self.patience),
            errand,
        )


class Next:
    """Wait until a watch has an answer, or some seconds."""

    def __init__(self, watch: Watch, seconds: float) -> None:
        self.watch = watch
        self.seconds = seconds

    def begin(self, client: Coordinator, errand: Errand) -> None:
        now = client.world.now
        ticket = client.core.next_answer(self.watch.watched, now=now, deadline=now + self.seconds)
        client.wait_for(ticket, errand)


Step: TypeAlias = Pause | Ask | Renewal | Next
Steps: TypeAlias = Generator[Step, Any, Any]


class Errand:
    """Something that a client does, step by step."""

    def __init__(self, steps: Steps, *, again: bool, final: bool) -> None:
        self.steps = steps
        self.again = again
        """Another is drawn when it is over."""
        self.final = final
        """It is done after all is healed, and has to come to an end."""
        self.over = False

    def end(self) -> None:
        """Leave it as it is."""
        self.over = True
        self.steps.close()


class Watch:
    """A watch, and up to where it was told: each answer is what it ought to be."""

    def __init__(self, client: Coordinator, wanted: Events) -> None:
        self._client = client
        self.wanted = wanted
        self.told = wanted.after
        self.watched: Watched = client.core.start_watch(wanted)
        client.watching[self] = None

    def take(self) -> Result | None:
        """What has come: the answer, a refusal, or None."""
        watched, books = self.watched, self._client.books
        watched.ticket = None
        answer = watched.answer
        if answer is None:
            if (error := watched.error) is not None:
                gone = isinstance(error, ClientClosed | WrongCluster)
                require(gone, "progress", "a watch ended: %s", error)
                self._end()
            return None
        if is_refusal(answer):
            books.cut_off(watched.position, held=False)
            self._end()
        else:
            self.told = books.watched(self.wanted, self.told, answer)
            watched.answers.pop(0)
            self._client.core.watches.taken(watched)
        return answer

    @property
    def complete_to(self) -> int:
        """The revision through which it is known what happened."""
        return self.told if self.watched.answer is not None else self.watched.position

    def drop(self) -> None:
        """Watch no more; its position is one to go on from elsewhere."""
        if self.take() is None:
            self._client.books.quiet(self.wanted, self.told, self.watched.position)
        self._end()

    def _end(self) -> None:
        self._client.watching.pop(self, None)
        self._client.core.watches.drop(self.watched)


class Coordinator:
    """One client and its connections; what it does is in errands.py."""

    def __init__(self, world: World, number: int) -> None:
        assert world.plan.coordination is not None and world.watch.books is not None
        self.world = world
        self.number = FIRST_NUMBER + number
        self.plan = world.plan.coordination
        self.books = world.watch.books
        self.random = Random(f"coordinator {world.plan.seed} {number}")
        self._chance = Random(f"connections {world.plan.seed} {number}")
        slowest, fastest = world.plan.clock_range if self.plan.drift else (1.0, 1.0)
        self._rate = self.random.choice((1.0, slowest, fastest))
        self._generation = dict.fromkeys(world.nodes, 0)
        """Of the connection to each server."""
        self._lives = 0
        self._timer_at = FOREVER
        self._stalled_until = 0.0
        self.errands: list[Errand] = []
        self.watching: dict[Watch, None] = {}
        self.core = self._new_core()

    def _new_core(self) -> ClientCore:
        self._lives += 1
        self.codec = self.world.new_client_codec()
        addresses = list(self.world.addresses.values())
        self.random.shuffle(addresses)
        seek = self.world.plan.clients.seek
        return ClientCore(
            addresses, self.random, options=CoreOptions(seek_first=seek, seek_max=max(seek, 0.1))
        )

    @property
    def boot(self) -> float:
        """Its own clock, seconds."""
        return self.world.now * self._rate

    @property
    def pending(self) -> int:
        """What it has to come to an end with after all is healed."""
        return sum(errand.final for errand in self.errands)

    # --- errands -----------------------------------------------------------------------------

    def start(self) -> None:
        from tests.simulation.about.errands import watching

        for _ in range(self.plan.watches):
            self.run(watching(self), again=True)
        for _ in range(self.plan.errands):
            self._run_another()

    def _run_another(self) -> None:
        from tests.simulation.about.errands import draw_errand

        self.run(draw_errand(self), again=True)

    def run(self, steps: Steps, *, again: bool = False, final: bool = False) -> Errand:
        """Begin with an errand."""
        errand = Errand(steps, again=again, final=final)
        self.errands.append(errand)
        self.later(0.0, errand)
        return errand

    def heal(self) -> None:
        """Nothing new is begun; what is under way is left as a process leaves it that is killed.

        The leases end by themselves, and whoever waits for a lock gets it then.
        """
        from tests.simulation.about.errands import closing

        for errand in self.errands:
            errand.end()
        self.errands.clear()
        self.run(closing(self), final=True)

    def restart(self) -> None:
        """The process dies and comes back; the servers are not told."""
        self.world.note(CLIENT_PLACE + self.number, "restarts")
        again = sum(errand.again for errand in self.errands)
        for errand in self.errands:
            errand.end()
        self.errands.clear()
        self.watching.clear()
        self._stalled_until = 0.0
        self.core = self._new_core()
        for server in self._generation:
            self._generation[server] += 1
        if not self.world.healing:
            for _ in range(again):
                self._run_another()

    def stall(self, seconds: float) -> None:
        """The process stands still."""
        self._stalled_until = max(self._stalled_until, self.world.now + seconds)

    def later(self, seconds: float, errand: Errand) -> None:
        self.world.schedule(self.world.now + seconds, self._resume, (errand, None, None))

    def wait_for(self, ticket: Ticket[Any, Any], errand: Errand) -> None:
        """Go on once it is done."""

        def done(ticket: Ticket[Any, Any]) -> None:
            self.world.schedule(self.world.now, self._resume, (errand, ticket.result, ticket.error))

        if ticket.done:
            done(ticket)
        else:
            ticket.on_done = done
        self.poll()

    def _resume(self, what: Any) -> None:
        errand, value, error = what
        if errand.over:
            return
        if self.world.now < self._stalled_until:
            self.world.schedule(self._stalled_until, self._resume, what)
            return
        try:
            step = errand.steps.throw(error) if error is not None else errand.steps.send(value)
        except (StopIteration, PaxonError) as end:
            self.world.note(CLIENT_PLACE + self.number, "an errand ends: %r", end)
            errand.over = True
            self.errands.remove(errand)
            if errand.final and isinstance(end, PaxonError):
                self.heal()  # it does not give up
            elif errand.again and not self.world.healing:
                self._run_another()
        else:
            step.begin(self, errand)

    # --- connections -------------------------------------------------------------------------

    def poll(self) -> None:
        """Send what there is to send, and come back when there is more to do."""
        world = self.world
        for address, messages in self.core.poll(world.now):
            self._transmit(address, messages)
        due = self.core.next_deadline()
        if due < self._timer_at:
            self._timer_at = max(due, world.now) + 1e-7
            world.schedule(self._timer_at, self._on_timer, self._timer_at)

    def _on_timer(self, due: object) -> None:
        if due != self._timer_at:
            return
        self._timer_at = FOREVER
        if self.world.now >= self._stalled_until:
            self.poll()
        else:
            self._timer_at = self._stalled_until
            self.world.schedule(self._timer_at, self._on_timer, self._timer_at)

    def _transmit(self, address: str, messages: Sequence[ClientMessage]) -> None:
        world = self.world
        target = world.nodes[int(address.rpartition("-")[2])]
        place = CLIENT_PLACE + self.number
        if world.trace is not None:
            world.trace.sent(place, (target.id,), messages)
        frame = (self._token(target.id), self.codec.encode(messages), target.lives)
        if not world.network.transmit(
            place, target.id, world.now, self._arrive_at(target), frame, twice=False, stream=True
        ):
            self.break_off(target.id)

    def _token(self, server: int) -> bytes:
        return b"%d.%d" % (self.number, self._generation[server])

    def _arrive_at(self, target: Node) -> Any:
        def arrive(frame: Any) -> None:
            token, data, life = frame
            if target.lives != life or not target.takes_clients:
                if token == self._token(target.id):
                    self.break_off(target.id)
                return
            target.deliver_client((token, data))

        return arrive

    def break_off(self, server: int) -> None:
        """The connection to a server ends, with all that is under way."""
        world, chance = self.world, self._chance
        token = self._token(server)
        self._generation[server] += 1
        if chance.random() < NOTICED:
            world.schedule(world.now + chance.random(), self._notice, (server, self._lives))
        if chance.random() < NOTICED:
            delay = world.plan.network.latency * chance.choice((1, 1, 100))
            world.schedule(world.now + delay, world.nodes[server].lose_client, token)

    def _notice(self, what: Any) -> None:
        server, life = what
        if life != self._lives:
            return
        if self.world.now < self._stalled_until:
            self.world.schedule(self._stalled_until, self._notice, what)
            return
        self.core.lost(self.world.addresses[server], self.world.now)
        self.poll()

    def send_reply(self, node: Node, token: bytes, body: bytes) -> None:
        """A server answers on a connection, which may have ended."""
        world = self.world
        frame = (node.id, token, body)
        if not world.network.transmit(
            node.id, CLIENT_PLACE + self.number, world.now + node.elapsed, self.deliver, frame,
            twice=False, stream=True,
        ) and token == self._token(node.id):  # fmt: skip
            self.break_off(node.id)

    def deliver(self, frame: Any) -> None:
        server, token, data = frame
        if token != self._token(server):
            return
        if self.world.now < self._stalled_until:
            self.world.schedule(self._stalled_until, self.deliver, frame)
            return
        try:
            _, _, replies = self.codec.decode(data)
        except ForeignCluster as error:
            replies = [OtherCluster("", error.identity, self.codec.identity)]
        address = self.world.addresses[server]
        if self.world.trace is not None:
            self.world.trace.received(CLIENT_PLACE + self.number, address, replies)
        self.core.receive(address, replies, self.world.now)
        self.poll()
