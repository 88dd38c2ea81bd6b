"""The making of a cluster, from fresh directories: every order of events, on the real servers.

The other starts begin when the cluster is in force. Here servers introduce themselves, die, lose
their directories and come back with empty ones, and `tests/books/making.py` judges what becomes
durable. Only introductions travel: once in force, a server may try to promise, and that is all.
Members of another cluster, in force, introduce themselves to everybody, unasked.

A server's state is made again from its own history, event by event: there are few of them, and
nothing can be left out of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from paxon.actors import Environment, PaxosServer, ServerId, Settings
from paxon.actors.execution.agreed import encode_agreed, first_agreed
from paxon.actors.messages import Introduction, Made, PeerMessage, ServerReply
from paxon.actors.records.making import NotAMember
from paxon.transport import Burst, BurstInbox
from tests.books.making import MakingBooks
from tests.disks import MemoryDisk
from tests.harness import Register
from tests.quiet import QuietNetwork
from tests.search.images import always
from tests.search.steps import StandingClock
from tests.search.world import Violation

__all__ = ["MakingBudget", "MakingSearch", "MakingWorld", "made_by_the_first"]

Event = tuple[str, int]
"""What happens to a server; for "deliver" with the message's number."""
Fact = tuple[Any, ...]

AGREED = encode_agreed(first_agreed({}, {}))
PLACE = 100
"""A directory's incarnation is its server's id, and so much more for each that was lost before."""


class MakingBudget(NamedTuple):
    """How often things may still happen."""

    asks: int
    """Timers: a server asks all again."""
    crashes: int
    losses: int
    """Directories that are lost."""
    campaigns: int


class MakingWorld(NamedTuple):
    """A state of all servers, by number; and as in tests/search/world.py."""

    images: tuple[int, ...]
    network: int
    facts: int
    budget: MakingBudget


class _Disk(MemoryDisk):
    """Tells what becomes durable."""

    effects: list[Fact]
    created = always(True)  # a restarted server need not be confirmed
    count = always(0)

    def save_counts(self, counts: Mapping[ServerId, int]) -> None:
        """Of no matter here."""

    def commit(self) -> None:
        before = self.durable
        super().commit()
        now = self.durable
        if now.made is not None and (now.made, now.in_force) != (before.made, before.in_force):
            self.effects.append(("made", self.incarnation, now.made, now.in_force))
        if now.promised != before.promised:
            self.effects.append(("promise", self.incarnation))


class _Chance:
    """Draws another number each time, and the same ones in the same history."""

    def __init__(self, incarnation: int) -> None:
        self._drawn = incarnation * 1000

    def uniform(self, a: float, b: float) -> float:
        return b

    def getrandbits(self, k: int) -> int:
        self._drawn += 1
        return self._drawn


class _Wire(QuietNetwork):
    def __init__(self) -> None:
        self.sent: list[tuple[ServerId, Introduction]] = []

    def send(self, server: ServerId, messages: Sequence[PeerMessage]) -> None:
        self.sent += [(server, said) for said in messages if isinstance(said, Introduction)]

    def reply(self, client: bytes, messages: Sequence[ServerReply]) -> None:
        """There are no clients."""


class _Outcome(NamedTuple):
    image: int
    sent: int
    effects: tuple[Fact, ...]
    failure: str


class _State(NamedTuple):
    incarnation: int
    history: tuple[Event, ...]
    """What happened to the server since its directory was made."""
    runs: bool
    in_force: bool
    """Whether it takes part."""


class MakingSteps:
    """The servers of a search, and all that was ever computed."""

    def __init__(self, ids: tuple[ServerId, ...], members: int) -> None:
        self.members = ids[:members]
        self.computed = 0
        self.known: list[tuple[int, ServerId, Introduction]] = []
        """All messages ever sent: by which directory, to whom, what."""
        self._numbers: dict[tuple[int, ServerId, bytes], int] = {}
        self._states: list[_State] = []
        self._state_numbers: dict[Any, int] = {}
        self._outcomes: dict[tuple[int, Event], _Outcome] = {}

    def state(self, image: int) -> _State:
        return self._states[image]

    def fresh(self, incarnation: int) -> int:
        """A server that has never run, with an empty directory."""
        return self._number((incarnation,), _State(incarnation, (), False, False))

    def _number(self, what: Any, state: _State) -> int:
        found = self._state_numbers.setdefault(what, len(self._states))
        if found == len(self._states):
            self._states.append(state)
        return found

    def message(self, source: int, target: ServerId, message: Introduction) -> int:
        key = (source, target, msgspec.msgpack.encode(message))
        found = self._numbers.setdefault(key, len(self.known))
        if found == len(self.known):
            self.known.append((source, target, message))
        return found

    def outcome(self, image: int, event: Event) -> _Outcome:
        key = (image, event)
        found = self._outcomes.get(key)
        if found is None:
            found = self._outcomes[key] = self._compute(self._states[image], event)
        return found

    def _compute(self, state: _State, event: Event) -> _Outcome:
        self.computed += 1
        disk = _Disk("search", state.incarnation % PLACE, incarnation=state.incarnation)
        disk.effects = []
        wire = _Wire()
        server: PaxosServer | None = None
        for past in state.history:
            disk, server, _ = self._happen(disk, server, past, wire)
        wire.sent.clear()
        disk.effects.clear()
        disk, server, failure = self._happen(disk, server, event, wire)
        sent = 0
        for target, message in wire.sent:
            sent |= 1 << self.message(state.incarnation, target, message)
        history = (*state.history, event)
        in_force = server is not None and server.making.in_force
        after = _State(state.incarnation, history, server is not None, in_force)
        effects = tuple(disk.effects)
        return _Outcome(self._number(_image(disk, server), after), sent, effects, failure)

    def _happen(
        self, disk: _Disk, server: PaxosServer | None, event: Event, wire: _Wire
    ) -> tuple[_Disk, PaxosServer | None, str]:
        name, number = event
        try:
            if name == "start":
                server = self._new_server(disk, wire)
                server.open()
            elif name == "crash":
                effects = disk.effects
                disk = disk.crash()
                disk.effects, server = effects, None
            else:
                assert server is not None
                self._step(server, name, number)
        except NotAMember as error:
            server = None
            if disk.incarnation < PLACE:  # its directory is the one that it began with
                return disk, None, str(error)
        except Exception as error:
            return disk, None, f"{type(error).__name__}: {error}"
        return disk, server, ""

    def _new_server(self, disk: _Disk, wire: _Wire) -> PaxosServer:
        settings = Settings(
            cluster="search", server=disk.server, servers=tuple({*self.members, disk.server}),
            join=disk.server not in self.members, policy="random",
        )  # fmt: skip
        environment = Environment(
            clock=StandingClock(),
            random=_Chance(disk.incarnation),
            storage=lambda: disk,
            network=lambda: wire,
        )
        server = PaxosServer(settings, Register(), environment)
        assert isinstance(server.actor_inbox, BurstInbox)
        server.actor_inbox.close()
        return server

    def _step(self, server: PaxosServer, name: str, number: int) -> None:
        burst: Burst[Any, Any] = Burst()
        if name == "deliver":
            source, _, message = self.known[number]
            burst.peers.append((source % PLACE, source, [message]))
        elif name == "ask":
            server.making.ask_at = server._now
        elif name == "campaign":
            server._following.election_at = server._now
        server.step(burst)


def _image(disk: _Disk, server: PaxosServer | None) -> Any:
    """What tells states apart."""
    durable = (disk.incarnation, disk.durable.made, disk.durable.in_force, disk.durable.promised)
    if server is None:
        return durable
    making = server.making
    return (
        *durable, making.made, making.in_force, server._takes_part, server.promised,
        frozenset(making._fresh_directories.items()), frozenset(making._asked_since.items()),
        making._fresh_for,
        frozenset(making._stored), frozenset(server.disks.incarnations.items()),
    )  # fmt: skip


class MakingSearch:
    """The rules of a search: for `breadth_first`, as `Search` is."""

    def __init__(self, size: int, joining: int = 0) -> None:
        self.ids = tuple(range(1, size + 1))
        self.steps = MakingSteps(self.ids, size - joining)
        self._facts: list[frozenset[Fact]] = [frozenset()]
        self._fact_numbers: dict[frozenset[Fact], int] = {frozenset(): 0}

    def start(self, budget: MakingBudget) -> MakingWorld:
        """All servers have just been started with fresh directories."""
        world = MakingWorld(tuple(map(self.steps.fresh, self.ids)), 0, 0, budget)
        for server in self.ids:
            world = self.happen(world, (server, ("start", 0)))
        return world._replace(network=world.network | self._strangers())

    def _strangers(self) -> int:
        """Members of another cluster look for each other where they were, and these are now."""
        made = Made(9, "search", tuple((s, 9 * PLACE + s) for s in self.ids), AGREED)
        sent = 0
        for server, one in zip(self.ids, (*self.ids[1:], 1), strict=True):
            there = made.members[one - 1][1]
            said = Introduction(there, 0, False, "search", self.ids, made, in_force=True)
            sent |= 1 << self.steps.message(there, server, said)
        return sent

    def facts(self, world: MakingWorld) -> frozenset[Fact]:
        return self._facts[world.facts]

    def key(self, world: MakingWorld) -> int:
        return hash(world)

    def happenings(self, world: MakingWorld) -> Iterator[tuple[ServerId, Event]]:
        """All that can happen next."""
        states = [self.steps.state(image) for image in world.images]
        budget = world.budget
        bits, number = world.network, 0
        while bits:
            zeros = (bits & -bits).bit_length() - 1
            number += zeros
            target = self.steps.known[number][1]
            if states[target - 1].runs:
                yield target, ("deliver", number)
            bits >>= zeros + 1
            number += 1
        for server, state in zip(self.ids, states, strict=True):
            if budget.losses:
                yield server, ("lose", 0)
            if not state.runs:
                yield server, ("start", 0)
                continue
            if budget.crashes:
                yield server, ("crash", 0)
            if budget.asks and not state.in_force:
                yield server, ("ask", 0)
            if budget.campaigns and state.in_force:
                yield server, ("campaign", 0)

    def happen(self, world: MakingWorld, happening: tuple[ServerId, Event]) -> MakingWorld:
        """The world after it. Raises `Violation`."""
        server, event = happening
        name = event[0]
        images = list(world.images)
        spent = {"ask": "asks", "crash": "crashes", "lose": "losses", "campaign": "campaigns"}
        budget = world.budget
        if name in spent:
            field = spent[name]
            budget = budget._replace(**{field: getattr(budget, field) - 1})
        if name == "lose":
            lost = self.steps.state(images[server - 1]).incarnation
            images[server - 1] = self.steps.fresh(lost + PLACE)
            return world._replace(images=tuple(images), budget=budget)
        outcome = self.steps.outcome(images[server - 1], event)
        if outcome.failure:
            raise Violation(f"server {server} stopped: {outcome.failure}")
        images[server - 1] = outcome.image
        facts = self._learn(world.facts, server, outcome.effects)
        return MakingWorld(tuple(images), world.network | outcome.sent, facts, budget)

    def _learn(self, facts: int, server: ServerId, effects: tuple[Fact, ...]) -> int:
        if not effects:
            return facts
        seen = set(self._facts[facts])
        for effect in effects:
            wrong = _judge(seen, server, effect)
            if wrong:
                raise Violation(wrong)
        found = self._fact_numbers.setdefault(frozenset(seen), len(self._facts))
        if found == len(self._facts):
            self._facts.append(frozenset(seen))
        return found

    def describe(self, happening: tuple[ServerId, Event]) -> str:
        """An event in words."""
        server, (name, number) = happening
        if name == "deliver":
            source, _, message = self.steps.known[number]
            return f"directory {source} -> server {server}: {message}"
        return f"server {server}: {name}"


def _judge(seen: set[Fact], server: ServerId, effect: Fact) -> str:
    """Note what became durable; what is wrong with it, "" if nothing is."""
    books = MakingBooks()
    for fact in seen:
        if fact[0] == "stored":
            books.stored[fact[1]] = fact[2]
        elif fact[0] == "in force":
            books.in_force.add(fact[1])
            books.identity = fact[2]
    disk = (server, effect[1])
    if effect[0] == "promise":
        return books.on_promise(disk)
    made: Made = effect[2]
    wrong = books.on_made(disk, made, in_force=effect[3])
    seen.add(("stored", disk, made.identity))
    if effect[3]:
        seen.add(("in force", disk, made.identity))
    return wrong


def made_by_the_first(search: MakingSearch) -> MakingWorld:
    """Server 1 has stored the making; the others answered as fresh and have not heard of it."""
    world = search.start(MakingBudget(0, 0, 0, 0))
    for sources, targets in (((1,), search.ids[1:]), (search.ids[1:], (1,))):
        for number, (source, target, message) in enumerate(list(search.steps.known)):
            answers = target != 1 or message.to == 1
            if source in sources and target in targets and answers:
                world = search.happen(world, (target, ("deliver", number)))
    return world
