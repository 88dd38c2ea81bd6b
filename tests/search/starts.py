"""Where searches begin: small stories up to the moment from which everything is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from paxon.actors import ServerId
from paxon.actors.execution.agreed import first_agreed
from paxon.actors.execution.sessions import SessionTable
from paxon.actors.messages import (
    P1A,
    P1B,
    P2A,
    P2B,
    ClientMessage,
    Command,
    CountAnswer,
    CountQuestion,
    Heartbeat,
    HeartbeatReply,
    OpenSession,
    Query,
)
from tests.harness import reign_of
from tests.search.breadth import Goal
from tests.search.making import MakingBudget, MakingSearch, MakingWorld, made_by_the_first
from tests.search.steps import IDENTITY
from tests.search.world import Budget, Fact, Search, World

__all__ = ["MAKING_STARTS", "STARTS", "Start", "Story"]

SESSION = SessionTable(first_agreed({}, {}), identity=IDENTITY).open(1, 0, 1) or 0
"""The session that every story opens first: slot 1 holds that."""


def command(seq: int, after: int = 0) -> Command:
    """A client's command; its text is its number."""
    return Command(SESSION, seq, 1, after, b"%d" % seq)


class Story:
    """Leads from the servers' start to where the search begins, one event after another."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self.world = search.start(Budget())
        self._delivered = 0
        """Bits of the messages that have arrived, or were lost."""

    def campaign(self, server: ServerId) -> None:
        self._happen(server, "campaign")

    def beat(self, server: ServerId) -> None:
        self._happen(server, "beat")

    def sync(self, *servers: ServerId) -> None:
        for server in servers:
            self._happen(server, "sync")

    def _happen(self, server: ServerId, name: str, number: int = 0) -> None:
        budget = Budget((9,) * len(self.search.ids), 9, 9, 0, 9)
        world = self.search.happen(self.world._replace(budget=budget), (server, (name, number)))
        self.world = world._replace(budget=Budget())

    def wait(self, seconds: float) -> None:
        self.search.steps.wait(seconds)

    def request(self, server: ServerId, request: ClientMessage) -> None:
        """A client's request arrives."""
        self.world = self.search.say(self.world, server, request)
        self.deliver(type(request), to=(server,))

    def deliver(
        self, *kinds: type, to: Iterable[ServerId] = (), by: Iterable[ServerId] = ()
    ) -> bool:
        """What is under way and matches arrives, once; whether anything did."""
        senders, receivers = tuple(by), tuple(to)
        arrived = False
        for number, (source, target, message) in enumerate(list(self.search.steps.messages.known)):
            bit = 1 << number
            if not self.world.network & bit or self._delivered & bit:
                continue
            if kinds and type(message) not in kinds:
                continue
            if (senders and source not in senders) or (receivers and target not in receivers):
                continue
            self._delivered |= bit
            self._happen(target, "deliver", number)
            arrived = True
        return arrived

    def settle(self, *among: ServerId) -> None:
        """Everything under way (among these servers) arrives, and what that sends."""
        senders = (0, *among) if among else ()
        while self.deliver(to=among, by=senders):
            pass

    def lose(self, slot: int = 0) -> None:
        """What is under way is lost for good; of one slot, its P2As alone."""
        lost = 0
        for number, (_, _, message) in enumerate(self.search.steps.messages.known):
            if not slot or (isinstance(message, P2A) and message.slot == slot):
                lost |= 1 << number
        self.world = self.world._replace(network=self.world.network & ~lost)

    def keep(self, *kinds: type, to: Iterable[ServerId] = ()) -> None:
        """Only messages of these kinds (to these servers) are under way any more."""
        receivers, kept = tuple(to), 0
        for number, (_, target, message) in enumerate(self.search.steps.messages.known):
            if type(message) in kinds and (not receivers or target in receivers):
                kept |= 1 << number
        self.world = self.world._replace(network=self.world.network & kept)

    def be_thrifty(self, server: ServerId, prompt: tuple[ServerId, ...]) -> None:
        """The leader `server` has found out who answers soonest."""
        images = list(self.world.images)
        images[server - 1] = self.search.steps.changed(
            server, images[server - 1], lambda live: reign_of(live).thrift.rely_on(prompt)
        )
        self.world = self.world._replace(images=tuple(images))

    def change(
        self, server: ServerId, *voters: ServerId, learners: tuple[ServerId, ...] = ()
    ) -> None:
        """The leader `server` is asked for these voters, and proposes that if nothing is open."""
        images, steps = list(self.world.images), self.search.steps
        images[server - 1] = steps.change_members(server, images[server - 1], voters, learners)
        self.world = self.world._replace(images=tuple(images))
        self._happen(server, "go on")

    def lead(self, server: ServerId) -> None:
        """`server` leads, all have heard of it, and a session is open."""
        self.campaign(server)
        self.settle()
        self.request(server, OpenSession(1))
        self.settle()
        self.beat(server)
        self.settle()
        self.lose()


Make = Callable[[], tuple[Search, World] | tuple[MakingSearch, MakingWorld]]


@dataclass(frozen=True)
class Start:
    """A search to run."""

    name: str
    story: str
    make: Make
    states: int
    """How many states the short run visits."""
    goals: list[Goal] = field(default_factory=list)
    """What must be reachable."""
    never: list[Goal] = field(default_factory=list)


STARTS: list[Start] = []


def start(
    states: int, *, goals: Iterable[Goal] = (), never: Iterable[Goal] = ()
) -> Callable[[Make], Make]:
    """Add a function's search, named and told by the function."""

    def add(make: Make) -> Make:
        name = make.__name__.replace("_", " ")
        story = " ".join((make.__doc__ or "").split())
        STARTS.append(Start(name, story, make, states, list(goals), list(never)))
        return make

    return add


def chosen(slot: int) -> Callable[[frozenset[Fact]], bool]:
    return lambda facts: any(fact[:2] == ("chosen", slot) for fact in facts)


def chosen_before(later: int, earlier: int) -> Callable[[frozenset[Fact]], bool]:
    return lambda facts: chosen(later)(facts) and not chosen(earlier)(facts)


def answered(text: bytes) -> Callable[[frozenset[Fact]], bool]:
    return lambda facts: any(fact[0] == "answered" and fact[2] == text for fact in facts)


def accepted_by(server: ServerId, slot: int) -> Callable[[frozenset[Fact]], bool]:
    return lambda facts: any(
        fact[:2] == ("vote", slot) and fact[4] == server for fact in facts if fact[0] == "vote"
    )


def acknowledged(*numbers: int) -> Callable[[frozenset[Fact]], bool]:
    return lambda facts: all(("acknowledged", SESSION, number) in facts for number in numbers)


@start(60_000, goals=[("both commands are acknowledged", acknowledged(1, 2))])
def two_clients_commands_on_three_servers() -> tuple[Search, World]:
    """Server 1 leads; two clients' commands may reach it or server 2, which may try to lead."""
    search = Search(3)
    story = Story(search)
    story.lead(1)
    world = search.say(story.world, 1, command(1), command(2))
    world = search.say(world, 2, command(1), command(2))
    return search, world._replace(budget=Budget(campaigns=(0, 1, 0)))


@start(40_000, never=[("a minority has chosen something", chosen(1))])
def no_progress_in_a_minority() -> tuple[Search, World]:
    """Two of five servers run, and both may try to lead as they like: nothing is chosen."""
    search = Search(5, runs=(1, 2))
    world = search.start(Budget(campaigns=(2, 2, 0, 0, 0), beats=1))
    return search, search.say(world, 1, OpenSession(1))


def _seen(others: tuple[ServerId, ServerId]) -> tuple[Search, World]:
    search = Search(3, reads=[(3, Query(1, "linearizable", b""))])
    story = Story(search)
    story.lead(1)
    story.request(1, command(1))
    story.deliver(P2A, to=(2,))
    story.deliver(P2B)
    story.lose()
    gone = ({1, 2, 3} - set(others)).pop()
    story._happen(gone, "crash")
    search.runs = frozenset(others)
    campaigns = tuple(1 if server in others else 0 for server in search.ids)
    return search, story.world._replace(budget=Budget(campaigns, beats=1, reads=1))


@start(20_000, goals=[("server 3 answers a read with it", answered(b"1"))])
def a_value_seen_on_1_and_2_is_seen_on_1_and_3() -> tuple[Search, World]:
    """Servers 1 and 2 chose a command and its client knows; now 2 is down, and 3 has missed it."""
    return _seen((1, 3))


@start(20_000, goals=[("server 3 answers a read with it", answered(b"1"))])
def a_value_seen_on_1_and_2_is_seen_on_2_and_3() -> tuple[Search, World]:
    """The same with server 1 down."""
    return _seen((2, 3))


@start(30_000, goals=[("slot 2 is chosen after all", chosen(2))])
def many_leaders_with_old_votes() -> tuple[Search, World]:
    """Server 4 leads for the second time; votes and rejections of its first time are under way.

    The course's case: an old P2A reaches a server that has promised the new ballot. What it answers
    must not count for what is proposed now.
    """
    search = Search(5, alike=(1, 2, 3))
    story = Story(search)
    story.lead(4)
    story.request(4, command(1))
    old = story.world.network
    story.campaign(5)
    story.deliver(P1A, to=(4,), by=(5,))
    story.campaign(4)
    story.deliver(P1A, by=(4,))
    story.deliver(P1B, to=(4,))
    return search, story.world._replace(
        network=old | story.world.network, budget=Budget(campaigns=(0, 0, 0, 0, 1))
    )


@start(30_000, goals=[("slot 2 is chosen", chosen(2))])
def a_value_of_another_ballot_in_the_same_slot() -> tuple[Search, World]:
    """Server 1 proposed command 1 in slot 2, was preempted before anyone heard, and leads again.

    Server 2 has led in between and proposed command 2 there, which server 3 has accepted. Votes for
    slot 2 of three ballots are under way.
    """
    search = Search(3)
    story = Story(search)
    story.lead(1)
    story.request(1, command(1))
    story.campaign(2)
    story.deliver(P1A, to=(3,), by=(2,))
    story.deliver(P1B, to=(2,))
    story.request(2, command(2))
    story.deliver(P2A, to=(3,), by=(2,))
    return search, story.world._replace(budget=Budget(campaigns=(1, 0, 0)))


@start(40_000, goals=[("slot 3 is chosen while slot 2 is not", chosen_before(3, 2))])
def slot_3_is_chosen_before_slot_2() -> tuple[Search, World]:
    """Two slots are in flight and come through in any order; server 2 may take over meanwhile."""
    search = Search(3, in_order=True)
    story = Story(search)
    story.lead(1)
    story.request(1, command(1))
    story.request(1, command(2, after=1))
    return search, story.world._replace(budget=Budget(campaigns=(0, 1, 0), beats=1))


@start(20_000, goals=[("both commands are acknowledged", acknowledged(1, 2))])
def one_server_alone_decides() -> tuple[Search, World]:
    """A cluster of one, which may die at any time, in its syncs too, and starts again."""
    search = Search(1, dies_in_sync=True, reads=[(1, Query(1, "linearizable", b""))])
    world = search.start(Budget(campaigns=(4,), crashes=3, reads=1, beats=1))
    return search, search.say(world, 1, OpenSession(1), command(1), command(2))


@start(60_000, goals=[("the command is acknowledged", acknowledged(1))])
def a_leader_dies_in_a_sync() -> tuple[Search, World]:
    """Its P2As may have left, its own acceptance may be lost; it starts again and leads again."""
    search = Search(3, dies_in_sync=True)
    story = Story(search)
    story.lead(1)
    world = search.say(story.world, 1, command(1), command(2))
    return search, world._replace(budget=Budget(campaigns=(1, 0, 0), crashes=1))


@start(60_000, goals=[("server 2 answers with both", answered(b"1 2"))])
def reads_from_a_leader_that_was_deposed() -> tuple[Search, World]:
    """Server 2 leads and server 1 has not heard of it; old answers to its heartbeats are under way.

    Command 2 may be acknowledged by server 2 before a client asks server 1 for a read.
    """
    queries = [(1, Query(1, "linearizable", b"")), (2, Query(2, "linearizable", b""))]
    search = Search(3, reads=queries)
    story = Story(search)
    story.lead(1)
    story.request(1, command(1))
    story.settle()
    story.lose()
    story.beat(1)
    story.deliver(Heartbeat, to=(2, 3), by=(1,))
    story.campaign(2)
    story.deliver(P1A, to=(3,))
    story.deliver(P1B, to=(2,))
    story.deliver(P2A, to=(3,), by=(2,))
    story.deliver(P2B, to=(2,), by=(3,))
    story.keep(HeartbeatReply)
    world = search.say(story.world, 2, command(2))
    return search, world._replace(budget=Budget(beats=1, reads=3))


@start(10_000, goals=[("server 2 acknowledges command 2", acknowledged(2))])
def answers_to_an_older_reign() -> tuple[Search, World]:
    """Server 1 leads for the second time; server 2 leads by now, and server 1 has not heard of it.

    What was answered to heartbeats of server 1's first reign, of which there were more than of the
    second, is still under way: before server 3 had heard of the second reign, and after. None of it
    may confirm anything now.
    """
    search = Search(3, reads=[(1, Query(1, "linearizable", b""))])
    story = Story(search)
    story.lead(1)
    story.request(1, command(1))
    story.settle()
    story.beat(1)
    story.deliver(Heartbeat, to=(2, 3), by=(1,))
    story.keep(HeartbeatReply)
    answers = story.world.network
    story.lose()
    story.beat(1)
    late = story.world.network
    story.lose()
    story.campaign(1)
    story.settle()
    story.lose()
    story.world = story.world._replace(network=late)
    story.deliver(Heartbeat, to=(3,))
    story.keep(HeartbeatReply)
    answers |= story.world.network
    story.lose()
    story.campaign(2)
    story.settle(2, 3)
    story.lose()
    world = search.say(story.world, 2, command(2))
    return search, world._replace(network=world.network | answers, budget=Budget(beats=1, reads=1))


@start(60_000)
def reads_while_the_leader_changes() -> tuple[Search, World]:
    """Command 1 is acknowledged; a read may be asked of the old leader and of the new one."""
    queries = [(1, Query(1, "linearizable", b"")), (2, Query(2, "linearizable", b""))]
    search = Search(3, reads=queries)
    story = Story(search)
    story.lead(1)
    story.request(1, command(1))
    story.deliver(P2A, to=(2, 3))
    story.deliver(P2B)
    story.lose()
    story.campaign(2)
    story.deliver(P1A, to=(3,))
    world = search.say(story.world, 2, command(2))
    return search, world._replace(budget=Budget(beats=1, reads=3))


@start(160_000)
def a_late_server_and_its_snapshot() -> tuple[Search, World]:
    """Server 3 lacks slots that the others have discarded; it may also try to lead."""
    search = Search(3, reads=[(3, Query(1, "linearizable", b""))], snapshot_slots=2, retain_slots=1)
    story = Story(search)
    story.lead(1)
    for seq in (1, 2):
        story.request(1, command(seq))
        story.settle(1, 2)
    for _ in range(2):
        story.beat(1)
        story.settle(1, 2)
    story.lose()
    world = search.say(story.world, 1, command(3))
    return search, world._replace(budget=Budget((0, 0, 1), beats=1, reads=1))


@start(40_000)
def discarding_while_servers_fall() -> tuple[Search, World]:
    """All have executed, not all have synced that; a server that falls must get back in step."""
    search = Search(3)
    story = Story(search)
    story.lead(1)
    story.request(1, command(1))
    story.settle()
    story.beat(1)
    story.deliver(Heartbeat)
    return search, story.world._replace(budget=Budget((0, 1, 0), beats=2, crashes=1, syncs=2))


def executed(slot: int) -> Callable[[frozenset[Fact]], bool]:
    return lambda facts: any(fact[:2] == ("state", slot) for fact in facts)


@start(20_000, goals=[("slot 3 is executed", executed(3))])
def a_hole_in_the_log() -> tuple[Search, World]:
    """Command 1 in slot 2 reached nobody, command 2 in slot 3 one server, and the leader is gone.

    Server 3 must get past the hole: it may fill it with a no-op.
    """
    search = Search(3)
    story = Story(search)
    story.lead(1)
    story.request(1, command(1))
    story.lose()
    story.request(1, command(2))
    story.deliver(P2A, to=(2,))
    story.lose()
    story._happen(1, "crash")
    search.runs = frozenset((2, 3))
    return search, story.world._replace(budget=Budget((0, 1, 1), beats=1))


def leased(search: Search) -> Story:
    """Server 1 leads under `stable`, has acknowledged command 1, and its clients read by lease."""
    story = Story(search)
    story.campaign(1)
    story.settle()
    story.request(1, OpenSession(1))
    story.settle()
    story.request(1, command(1))
    story.settle()
    story.request(1, Query(9, "lease", b""))
    story.settle()
    story.lose()
    return story


LEASE_READ = [(1, Query(1, "lease", b""))]


@start(40_000, goals=[("command 2 is acknowledged", acknowledged(2))])
def a_lease_that_has_run_out() -> tuple[Search, World]:
    """All have granted server 1 a lease, 0.31 s ago; nothing of it is heard since.

    Server 2 asks for votes. Server 1 may go on sending heartbeats that nobody answers.
    """
    search = Search(3, policy="stable", reads=LEASE_READ)
    story = leased(search)
    story.beat(1)
    story.settle()
    story.lose()
    story.wait(0.31)
    story.campaign(2)
    story.settle(2, 3)
    story.lose()
    world = search.say(story.world, 2, command(2))
    return search, world._replace(budget=Budget((0, 1, 0), beats=1, reads=1))


@start(40_000)
def a_lease_that_a_restarted_server_has_granted() -> tuple[Search, World]:
    """Servers 1 and 3 hear each other, server 2 has heard nobody for 0.31 s and tries to lead.

    Server 3 grants server 1 a lease, falls and starts again at once: it must not help server 2.
    """
    search = Search(3, policy="stable", reads=LEASE_READ)
    story = leased(search)
    story.wait(0.31)
    story.beat(1)
    story.settle(1, 3)
    story.lose()
    story._happen(3, "crash")
    story._happen(3, "restart")
    story.campaign(2)
    world = search.say(story.world, 2, command(2))
    return search, world._replace(budget=Budget((0, 1, 0), reads=1))


@start(40_000)
def a_lease_among_servers_of_other_settings() -> tuple[Search, World]:
    """Server 1 has asked for a lease of 3 s; the others' timeout is 0.3 s, under other policies.

    0.6 s ago servers 2 and 3 granted it, fell and came back. Server 2 tries to lead.
    """
    search = Search(
        3, policy="random", reads=LEASE_READ,
        own={1: {"policy": "stable", "election_timeout_min": 3.0, "election_timeout_max": 4.0}},
    )  # fmt: skip
    story = leased(search)
    story.beat(1)
    story.settle()
    story.lose()
    for server in (2, 3):
        story._happen(server, "crash")
        story._happen(server, "restart")
    story.wait(0.6)
    world = search.say(story.world, 2, command(2))
    return search, world._replace(budget=Budget((0, 1, 0), reads=1))


@start(
    20_000,
    goals=[
        ("both commands are acknowledged", acknowledged(1, 2)),
        ("server 3 accepts slot 2", accepted_by(3, 2)),
        ("a read is answered", answered(b"1")),
    ],
)
def a_leader_that_asks_a_majority_first() -> tuple[Search, World]:
    """Server 1 asks 2 at once and 3 a moment later (docs/thrift.md); server 2 may lead too."""
    search = Search(3, reads=[(1, Query(1, "linearizable", b""))], thrifty_delay=0.01)
    story = Story(search)
    story.lead(1)
    story.be_thrifty(1, (2,))
    world = search.say(story.world, 1, command(1), command(2))
    return search, world._replace(budget=Budget(campaigns=(0, 1, 0), beats=1, reads=1))


@start(5_000, goals=[("server 3 takes over slot 2", accepted_by(3, 2))])
def a_candidate_that_raises_its_ballot_amid_chunks() -> tuple[Search, World]:
    """Promises come in chunks of one value. Server 3 has the first chunk of server 2's.

    Server 2 had slots 3 and 4 then and not slot 2, which it has accepted since, in a ballot of
    server 1's; so slot 2 is chosen. Now server 3 raises its ballot: it must begin from slot 2.
    """
    search = Search(3, transfer_bytes=1)
    story = Story(search)
    story.lead(1)
    story.request(1, command(1))
    story.lose()
    story.request(1, command(2))
    story.request(1, command(3))
    story.deliver(P2A, to=(2,))
    story.lose()
    story.campaign(3)
    story.deliver(P1A, to=(2,), by=(3,))
    story.deliver(P1B, to=(3,))
    story.lose()
    story.campaign(1)
    story.settle(1, 2)
    story.lose()
    return search, story.world._replace(budget=Budget((0, 0, 1), agains=1))


def _put_back(search: Search, *, old: bool) -> World:
    """Server 2's directory is replaced by a copy, and it has not been started since.

    Slot 2 holds command 1, which 1 and 2 have accepted and a client knows of; slot 3 holds command
    2, which 1 and 3 have accepted and nobody has heard of. Servers 1 and 3 were down, too.
    """
    story = Story(search)
    story.lead(1)
    copied = story.world.images[1]
    story.request(1, command(1))
    story.deliver(P2A, to=(2,))
    story.deliver(P2B)
    copied = copied if old else story.world.images[1]
    story.lose()
    story.beat(1)  # it hands on what it knows of server 2
    story.deliver(Heartbeat, to=(3,))
    story.lose()
    story.request(1, command(2))
    story.deliver(P2A, to=(3,))
    story.lose()
    for server in search.ids:
        story._happen(server, "crash")
    images = list(story.world.images)
    images[1] = search.steps.put_back(2, copied)
    story.world = story.world._replace(images=tuple(images))
    for server in (1, 3):
        story._happen(server, "restart")
    while story.deliver(CountQuestion, CountAnswer, to=(1, 3), by=(1, 3)):
        pass
    story.lose()
    return search.say(story.world, 3, command(3))


@start(
    40_000,
    goals=[("slot 3 is executed", executed(3))],
    never=[("the old copy votes", accepted_by(2, 3))],
)
def an_old_copy_of_a_directory_is_put_back() -> tuple[Search, World]:
    """Server 2's directory is from before it accepted slot 2; servers 1 and 3 were restarted.

    Server 3 has missed slot 2. It and the copy would be a majority that knows nothing of it. All
    questions about counts, and answers, are really asked.
    """
    search = Search(3, counted=True)
    world = _put_back(search, old=True)
    return search, world._replace(budget=Budget((0, 0, 1), beats=1))


@start(20_000, goals=[("server 2 accepts slot 3", accepted_by(2, 3))])
def a_copy_of_the_newest_state_of_a_directory_is_put_back() -> tuple[Search, World]:
    """The same with a copy of all that server 2 has accepted: it is confirmed and takes part."""
    search = Search(3, counted=True)
    world = _put_back(search, old=False)
    return search, world._replace(budget=Budget((0, 0, 1), beats=1))


@start(
    20_000,
    goals=[("the copy is refused", lambda facts: ("refused", 2) in facts)],
    never=[("a count is forgotten", lambda facts: any(f[0] == "forgets a count" for f in facts))],
)
def an_old_copy_that_was_let_in_is_put_back() -> tuple[Search, World]:
    """Server 2 runs on a copy from before it accepted slot 2, and 3 has confirmed it.

    Server 1, which leads, knows better, and has only been silent until now; 3 has to hear of it.
    """
    search = Search(3, counted=True)
    story = Story(search)
    story.lead(1)
    copied = story.world.images[1]
    story.request(1, command(1))
    story.deliver(P2A, to=(2,))
    story.deliver(P2B)
    story.lose()
    story._happen(2, "crash")
    images = list(story.world.images)
    images[1] = search.steps.put_back(2, copied)
    story.world = story.world._replace(images=tuple(images))
    story._happen(2, "restart")
    story.deliver(CountQuestion, to=(3,), by=(2,))
    story.deliver(CountAnswer, to=(2,), by=(3,))
    return search, story.world._replace(budget=Budget(beats=2))


def in_force(servers: int) -> Callable[[frozenset[Fact]], bool]:
    return lambda facts: sum(fact[0] == "in force" for fact in facts) >= servers


@start(20_000, goals=[("the cluster is in force on all three", in_force(3))])
def a_cluster_is_made_from_fresh_directories() -> tuple[MakingSearch, MakingWorld]:
    """Three servers have just been started with empty directories."""
    search = MakingSearch(3)
    return search, search.start(MakingBudget(asks=0, crashes=0, losses=0, campaigns=1))


@start(40_000)
def a_directory_is_lost_before_the_making() -> tuple[MakingSearch, MakingWorld]:
    """The same, while any server may fall, and any one may lose its directory."""
    search = MakingSearch(3)
    return search, search.start(MakingBudget(asks=1, crashes=1, losses=1, campaigns=1))


@start(20_000, goals=[("the cluster is in force on all three", in_force(3))])
def a_directory_is_lost_amid_the_making() -> tuple[MakingSearch, MakingWorld]:
    """Server 1 has made the cluster and the others do not know; any one may lose its directory."""
    search = MakingSearch(3)
    world = made_by_the_first(search)
    return search, world._replace(budget=MakingBudget(0, crashes=0, losses=1, campaigns=1))


@start(20_000, goals=[("the cluster is in force on all three", in_force(3))])
def a_server_joins_while_the_cluster_is_made() -> tuple[MakingSearch, MakingWorld]:
    """Two servers and one that is to join have just been started with empty directories."""
    search = MakingSearch(3, joining=1)
    return search, search.start(MakingBudget(asks=1, crashes=1, losses=0, campaigns=1))


MAKING_STARTS = tuple(start.name for start in STARTS[-4:])
"""Those that begin before the cluster is in force."""

import tests.search.membership_starts  # noqa: E402, F401 (it adds its own to the list)
