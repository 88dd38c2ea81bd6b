"""A state of the whole cluster, what can happen in it, and what must hold.

The network never forgets a message: any message may arrive at any time, again or never. That covers
every order, loss and duplication without saying so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import permutations
from typing import Any, NamedTuple

from paxon.actors import Ballot, ServerId
from paxon.actors.members import AskMembers
from paxon.actors.messages import ClientMessage, Command, OpenSession, PeerMessage, Query
from paxon.actors.records.catching_up import CatchingUp
from paxon.actors.records.configuration import Configuration, decode_config, is_config
from paxon.actors.records.reign import Reign
from tests.harness import text_of
from tests.search.images import OBJECTS
from tests.search.steps import CLIENT, Effect, Event, Outcome, Steps

__all__ = ["Budget", "Fact", "Happening", "Search", "Violation", "World"]


class Violation(AssertionError):
    """Something that must hold does not; the text says what."""


class Budget(NamedTuple):
    """How often things may still happen: what bounds a search besides its depth."""

    campaigns: tuple[int, ...] = ()
    """Per server, how often it may begin phase 1."""
    beats: int = 0
    """Heartbeat rounds begun by timers."""
    crashes: int = 0
    reads: int = 0
    """Bits of the reads that clients have still to ask for."""
    syncs: int = 0
    """How often a chosen watermark may be synced by its timer."""
    agains: int = 0
    """How often a candidate may ask again for promises."""


class World(NamedTuple):
    """A state of the cluster: all of it numbers, so that it is cheap to keep and to compare."""

    images: tuple[int, ...]
    """Per server its state."""
    network: int
    """Bits of the messages sent so far."""
    facts: int
    """What has been seen, by number: votes, what was chosen, acknowledged, asked for."""
    budget: Budget


Happening = tuple[ServerId, Event]
"""An event and at which server; server 0 and "ask" is a client asking for a read."""

Fact = tuple[Any, ...]


class Search:
    """The rules of one search: the servers, their events, what is equal, what must hold."""

    def __init__(
        self,
        size: int,
        *,
        alike: Iterable[ServerId] = (),
        reads: Iterable[tuple[ServerId, Query | AskMembers]] = (),
        runs: Iterable[ServerId] = (),
        dies_in_sync: bool = False,
        in_order: bool = False,
        counted: bool = False,
        own: Mapping[ServerId, dict[str, Any]] | None = None,
        members: tuple[ServerId, ...] = (),
        **options: Any,
    ) -> None:
        """Rules for `size` servers with `options` besides the default settings.

        Args:
            alike: servers that never try to lead and differ in nothing but their number.
            reads: what clients may ask once each, and which server; how a change ended, too.
            runs: the only servers that ever run; by default all.
            in_order: each command names the one before it in its `after`.
            counted: whether commits are counted, and started servers have to be confirmed.
            own: settings of single servers besides those of all.
            members: those of the first epoch, by default all servers.
            dies_in_sync: whether crashes may also strike in the middle of a sync.
        """
        self.steps = Steps(size, options, own or {}, counted=counted, members=members)
        self.ids = self.steps.ids
        self.runs = frozenset(runs) or frozenset(self.ids)
        self.first = Configuration.of(self.steps.made)
        self.dies_in_sync = dies_in_sync
        self.in_order = in_order
        self.thrifty = bool(options.get("thrifty_delay"))
        self.reads = [
            (server, self.steps.messages.number(CLIENT, server, query), query.id)
            for server, query in reads
        ]
        self._once = {message for _, message, _ in self.reads}
        self._facts: list[frozenset[Fact]] = [frozenset()]
        self._fact_numbers: dict[frozenset[Fact], int] = {frozenset(): 0}
        self._known: dict[tuple[int, ServerId, tuple[Effect, ...]], int] = {}
        self._renamings = [dict(zip(self.ids, order, strict=True)) for order in _orders(
            self.ids, tuple(alike))]  # fmt: skip
        self._renamed_messages: list[dict[int, int]] = [{} for _ in self._renamings]
        self._renamed_images: list[dict[int, Any]] = [{} for _ in self._renamings]
        self._renamed_facts: list[dict[int, Any]] = [{} for _ in self._renamings]

    def start(self, budget: Budget) -> World:
        """All servers just started on empty disks."""
        world = World(tuple(map(self.steps.fresh, self.ids)), 0, 0, budget)
        for server in sorted(self.runs):
            world = self.happen(world, (server, ("restart", 0)))
        return world

    def facts(self, world: World) -> frozenset[Fact]:
        """What was seen on the way to this world."""
        return self._facts[world.facts]

    # --- what can happen -------------------------------------------------------------------------

    def happenings(self, world: World) -> Iterator[Happening]:
        """All that can happen next."""
        runs = [self.steps.runs(image) for image in world.images]
        bits, number = world.network, 0
        while bits:
            zeros = (bits & -bits).bit_length() - 1
            number += zeros
            target = self.steps.messages.known[number][1]
            if runs[target - 1]:
                yield target, ("deliver", number)
                if self.dies_in_sync and world.budget.crashes:
                    yield target, ("dies before the sync", number)
                    yield target, ("dies after the sync", number)
            bits >>= zeros + 1
            number += 1
        yield from self._timers_and_faults(world, runs)

    def _timers_and_faults(self, world: World, runs: list[bool]) -> Iterator[Happening]:
        budget = world.budget
        for server in self.ids:
            if not runs[server - 1]:
                if server in self.runs:
                    yield server, ("restart", 0)
                continue
            if budget.campaigns and budget.campaigns[server - 1]:
                yield server, ("campaign", 0)
            if budget.beats and self.leads(world, server):
                yield server, ("beat", 0)
            if self.thrifty and self.steps.thrift_is_armed(world.images[server - 1]):
                yield server, ("thrift", 0)
            if budget.syncs:
                yield server, ("sync", 0)
            if budget.agains and self._is_candidate(world, server):
                yield server, ("ask again", 0)
            if budget.crashes:
                yield server, ("crash", 0)
        for index in range(len(self.reads)):
            if budget.reads & 1 << index:
                yield CLIENT, ("ask", index)

    def _is_candidate(self, world: World, server: ServerId) -> bool:
        return self.steps.attributes(world.images[server - 1]).get("_candidacy") is not None

    def leads(self, world: World, server: ServerId) -> bool:
        return self.steps.attributes(world.images[server - 1]).get("_reign") is not None

    def happen(self, world: World, happening: Happening) -> World:
        """The world after it. Raises `Violation`."""
        server, event = happening
        if server == CLIENT:
            return self._ask(world, event[1])
        outcome = self.steps.outcome(server, world.images[server - 1], event)
        if outcome.failure:
            raise Violation(f"server {server} stopped: {outcome.failure}")
        images = list(world.images)
        images[server - 1] = outcome.image
        network = world.network | outcome.sent
        if event[0] == "deliver" and (
            event[1] in self._once  # a client asks for a read once
            or self._once_more_differs(event[1], world.images[server - 1], outcome.image)
        ):
            network &= ~(1 << event[1])
        return World(
            tuple(images),
            network,
            self._learn(world.facts, server, outcome),
            self._spend(world.budget, server, event[0]),
        )

    def _once_more_differs(self, message: int, before: int, after: int) -> bool:
        """Whether to let a message come once, where commits are counted.

        What a commit followed would be one more each time, and what is held for a client another
        request: other worlds without end, which differ in nothing else.
        """
        if not self.steps.counted:
            return False
        commits = self.steps.commits
        return commits(before) < commits(after) or self.steps.messages.known[message][0] == CLIENT

    def _spend(self, budget: Budget, server: ServerId, name: str) -> Budget:
        if name == "campaign":
            left = list(budget.campaigns)
            left[server - 1] -= 1
            return budget._replace(campaigns=tuple(left))
        if name == "crash" or name.startswith("dies"):
            return budget._replace(crashes=budget.crashes - 1)
        if name == "beat":
            return budget._replace(beats=budget.beats - 1)
        if name == "sync":
            return budget._replace(syncs=budget.syncs - 1)
        if name == "ask again":
            return budget._replace(agains=budget.agains - 1)
        return budget

    def _ask(self, world: World, index: int) -> World:
        """A client asks: from now on its request may arrive, and must see what was acknowledged."""
        _, message, number = self.reads[index]
        facts = self._facts[world.facts]
        seen = frozenset(fact[1:] for fact in facts if fact[0] == "acknowledged")
        return world._replace(
            network=world.network | 1 << message,
            facts=self._fact_number(facts | {("asked", number, seen)}),
            budget=world.budget._replace(reads=world.budget.reads & ~(1 << index)),
        )

    def say(self, world: World, server: ServerId, *requests: ClientMessage) -> World:
        """Clients have sent these requests to `server`; they may arrive from now on."""
        network = world.network
        for request in requests:
            network |= 1 << self.steps.messages.number(CLIENT, server, request)
        return world._replace(network=network)

    # --- what must hold --------------------------------------------------------------------------

    def _learn(self, facts: int, server: ServerId, outcome: Outcome) -> int:
        if not outcome.effects:
            return facts
        key = (facts, server, outcome.effects)
        known = self._known.get(key)
        if known is None:
            seen = set(self._facts[facts])
            for effect in outcome.effects:
                self._judge(seen, server, effect)
            known = self._known[key] = self._fact_number(frozenset(seen))
        return known

    def _fact_number(self, facts: frozenset[Fact]) -> int:
        number = self._fact_numbers.setdefault(facts, len(self._facts))
        if number == len(self._facts):
            self._facts.append(facts)
        return number

    def _judge(self, seen: set[Fact], server: ServerId, effect: Effect) -> None:
        """Note an effect, or raise `Violation`."""
        match effect:
            case "vote", slot, ballot, value:
                seen.add(("vote", slot, ballot, value, server))
                self._check_vote(seen, slot, ballot, value)
            case "executed", slot, value, applied:
                if ("chosen", slot, value) not in seen:
                    raise Violation(
                        f"server {server} executed {text_of(value)} in slot {slot}, which no "
                        f"majority has accepted"
                    )
                if len(set(applied)) < len(applied):
                    raise Violation(f"server {server} executed a command twice: {applied}")
                if self.in_order and [int(text) for text in applied] != _count_to(len(applied)):
                    raise Violation(f"server {server} executed {applied}, not in the order asked")
                seen.add(("state", slot, applied))
                if sum(fact[:2] == ("state", slot) for fact in seen) > 1:
                    raise Violation(f"two servers differ after slot {slot}")
            case "acknowledged", _, _:
                seen.add(effect)
            case ("refused" | "forgets a count",):
                seen.add((*effect, server))
            case "entered", epoch, left, missing:
                if left or missing:
                    raise Violation(
                        f"server {server} is in epoch {epoch}, still holds slots {left} above the "
                        f"seal, and lacks {missing} below it"
                    )
                seen.add(("entered", epoch, server))
            case "told", _, outcome:
                seen.add(effect)
                self._check_told(seen, outcome)
            case "read", number, payload:
                for fact in seen:
                    if fact[:2] == ("asked", number):
                        self._check_read(fact[2], payload)
                seen.add(("answered", number, payload))
            case _:
                pass

    def _check_vote(self, seen: set[Fact], slot: int, ballot: Ballot, value: bytes) -> None:
        votes = [fact for fact in seen if fact[0] == "vote" and fact[1:3] == (slot, ballot)]
        if len({vote[3] for vote in votes}) > 1:
            raise Violation(f"slot {slot} has two values in ballot {ballot}")
        configuration = self._configuration(seen, ballot.epoch)
        counted = [vote for vote in votes if vote[4] in configuration.voters]
        if len(counted) < configuration.majority:
            return
        seen.add(("chosen", slot, value))
        if self.steps.changes:
            seen.add(("decided", slot, configuration.epoch))
            self._check_epochs(seen)
            for fact in tuple(seen):
                if fact[0] == "told":
                    self._check_told(seen, "" if fact[2] == "done" else fact[2])
        for fact in seen:
            if fact[:2] == ("chosen", slot) and fact[2] != value:
                raise Violation(
                    f"slot {slot} is chosen twice: {text_of(value)} and {text_of(fact[2])}"
                )

    def _check_told(self, seen: set[Fact], outcome: str) -> None:
        """How a change is said to have ended is how it ended, and will ever have."""
        if outcome not in ("done", "not done", "refused"):
            return
        ends = [
            decode_config(fact[2]) for fact in seen if fact[0] == "chosen" and is_config(fact[2])
        ]
        if outcome != "done":
            if ends:
                raise Violation(f"the change is told as {outcome!r}, and {ends} is chosen")
            return
        after = min(ends, key=lambda end: end.epoch, default=None)
        voters = after.voters if after is not None else ()
        level = [fact[2] for fact in seen if fact[0] == "entered" and fact[2] in voters]
        if after is None or len(set(level)) < after.majority:
            raise Violation(f"the change is told as done, and only {level} of {after} know of it")

    def _check_epochs(self, seen: set[Fact]) -> None:
        """Each slot is decided by the configuration of its own epoch."""
        ends = [
            decode_config(fact[2]) for fact in seen if fact[0] == "chosen" and is_config(fact[2])
        ]
        for fact in seen:
            for after in ends if fact[0] == "decided" else ():
                if (fact[1] > after.sealed_at) != (fact[2] >= after.epoch):
                    raise Violation(f"slot {fact[1]} is decided in epoch {fact[2]}, and {after}")

    def _configuration(self, seen: set[Fact], epoch: int) -> Configuration:
        """Who decides in that epoch, by what was chosen."""
        if epoch == 0:
            return self.first
        for fact in seen:
            if fact[0] == "chosen" and is_config(fact[2]):
                after = decode_config(fact[2])
                if after.epoch == epoch:
                    return after
        raise Violation(f"votes in epoch {epoch}, which was never opened")

    def _check_read(self, acknowledged: frozenset[tuple[int, int]], payload: bytes) -> None:
        for _, seq in acknowledged:
            if seq and b"%d" % seq not in payload.split():
                raise Violation(
                    f"a read answers {payload!r}, without command {seq}, which was acknowledged "
                    f"before it was asked"
                )

    # --- what is equal ---------------------------------------------------------------------------

    def key(self, world: World) -> int:
        """The same number for worlds that differ in the numbers of servers `alike` only."""
        if len(self._renamings) == 1:
            return hash(world)
        return min(self._renamed(world, index) for index in range(len(self._renamings)))

    def _renamed(self, world: World, index: int) -> int:
        renaming = self._renamings[index]
        images: list[Any] = [None] * len(self.ids)
        for server in self.ids:
            image = world.images[server - 1]
            renamed = self._renamed_images[index].get(image)
            if renamed is None:
                renamed = self._rename_image(image, renaming)
                self._renamed_images[index][image] = renamed
            images[renaming[server] - 1] = renamed
        network, bits, number = 0, world.network, 0
        known = self._renamed_messages[index]
        while bits:
            zeros = (bits & -bits).bit_length() - 1
            number += zeros
            other = known.get(number)
            if other is None:
                other = known[number] = self._rename_message(number, renaming)
            network |= 1 << other
            bits >>= zeros + 1
            number += 1
        facts = self._renamed_facts[index].get(world.facts)
        if facts is None:
            facts = self._renamed_facts[index][world.facts] = hash(
                frozenset(
                    (*fact[:4], renaming[fact[4]]) if fact[0] == "vote" else fact
                    for fact in self._facts[world.facts]
                )
            )
        return hash((tuple(images), network, facts, world.budget))

    def _rename_message(self, number: int, renaming: dict[ServerId, ServerId]) -> int:
        source, target, message = self.steps.messages.known[number]
        return self.steps.messages.number(
            renaming.get(source, source), renaming.get(target, target), message
        )

    def _rename_image(self, image: int, renaming: dict[ServerId, ServerId]) -> int:
        """A number for the image with other servers' names in it; only compared, never run."""
        runs, server, disk = self.steps.state(image)
        if server is None:
            return hash((runs, disk))
        own = []
        for name, value in server[0]:
            renamed = value
            if name == "_reign" and value is not None:
                fields = dict(zip(OBJECTS[Reign], value[1:], strict=True))
                fields["followers"] = frozenset(
                    (renaming[peer], held) for peer, held in fields["followers"][1:]
                )
                fields["votes"] = frozenset(
                    (slot, _rename_bits(bits, renaming)) for slot, bits in fields["votes"][1:]
                )
                renamed = tuple(fields.values())
            elif name == "catching_up":
                fields = dict(zip(OBJECTS[CatchingUp], value[1:], strict=True))
                fields["source"] = renaming.get(fields["source"], fields["source"])
                renamed = tuple(fields.values())
            elif name == "_candidacy" and value is not None:
                kind, ballot, first, promised, expected, reported, again, after = value
                renamed = (
                    kind, ballot, first, frozenset(renaming[s] for s in promised[1]),
                    frozenset((renaming[s], slot) for s, slot in expected[1:]), reported, again,
                    after,
                )  # fmt: skip
            own.append((name, renamed))
        return hash((runs, tuple(own), server[1:], disk))

    # --- for people ------------------------------------------------------------------------------

    def describe(self, happening: Happening) -> str:
        """An event in words."""
        server, (name, number) = happening
        if server == CLIENT:
            return f"a client asks server {self.reads[number][0]} for a read"
        if name == "deliver" or name.startswith("dies"):
            source, _, message = self.steps.messages.known[number]
            sender = f"{source}->{server}" if source else f"client->{server}"
            return f"{sender} {_in_words(message)}" + ("" if name == "deliver" else f", {name}")
        return f"server {server}: {name}"


def _in_words(message: PeerMessage | ClientMessage) -> str:
    from tests.protocol.narrator import describe

    if isinstance(message, Command | OpenSession | Query):
        return repr(message)
    return describe(message)  # type: ignore[arg-type]


def _orders(ids: tuple[ServerId, ...], alike: tuple[ServerId, ...]) -> list[tuple[ServerId, ...]]:
    """All ways to exchange the numbers of the servers that are alike."""
    found = []
    for order in permutations(alike):
        exchanged = dict(zip(alike, order, strict=True))
        found.append(tuple(exchanged.get(server, server) for server in ids))
    return found


def _count_to(number: int) -> list[int]:
    return list(range(1, number + 1))


def _rename_bits(bits: int, renaming: dict[ServerId, ServerId]) -> int:
    """A vote is a bit at its server's place among 1, 2, … (docs/membership.md)."""
    return sum(1 << other - 1 for server, other in renaming.items() if bits & 1 << server - 1)
