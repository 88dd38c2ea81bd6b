"""Where searches about the end of an epoch, or of a reign, begin (docs/membership.md)."""

from __future__ import annotations

from collections.abc import Callable

from paxon.actors import Ballot
from paxon.actors.members import AskMembers
from paxon.actors.messages import (
    P1A,
    P1B,
    P2A,
    P2B,
    Accepted,
    CatchUp,
    CatchUpRequest,
    Query,
    Sealed,
    TransferLeader,
)
from paxon.actors.records.configuration import is_config
from tests.search.starts import (
    LEASE_READ,
    Story,
    accepted_by,
    acknowledged,
    answered,
    chosen,
    command,
    executed,
    leased,
    start,
)
from tests.search.steps import ASKS, CHANGE
from tests.search.world import Budget, Fact, Search, World

__all__: list[str] = []


def sealed(slot: int) -> Callable[[frozenset[Fact]], bool]:
    """A CONFIG is chosen there."""
    return lambda facts: any(f[:2] == ("chosen", slot) and is_config(f[2]) for f in facts)


def void(slot: int) -> Callable[[frozenset[Fact]], bool]:
    """A no-op is."""
    return lambda facts: ("chosen", slot, b"") in facts


def in_epoch(epoch: int) -> Callable[[frozenset[Fact]], bool]:
    """Somebody has accepted something in that epoch."""
    return lambda facts: any(fact[0] == "vote" and fact[2].epoch == epoch for fact in facts)


@start(
    15_000,
    goals=[("the CONFIG is void", void(2)), ("it is chosen", sealed(2))],
)
def a_config_and_a_value_above_it() -> tuple[Search, World]:
    """Servers 1 and 2 hold server 2's CONFIG in slot 2; 3 and 4 what 3 took over above, later.

    Server 3 knew nothing of the CONFIG. Server 5 tries to lead; P2As of the CONFIG are under way.
    """
    search = Search(5)
    story = Story(search)
    story.lead(1)
    story.request(1, command(1))
    story.lose()
    story.request(1, command(2))
    story.deliver(P2A, to=(4,))
    story.lose()
    story.campaign(2)
    story.deliver(P1A, to=(3, 5))
    story.deliver(P1B, to=(2,))
    story.change(2, 1, 2, 3)
    story.deliver(P2A, to=(1,))
    story.keep(P2A, to=(5,))
    old = story.world.network
    story.lose()
    story.campaign(3)
    story.deliver(P1A, to=(4, 5))
    story.deliver(P1B, to=(3,))
    story.lose(slot=2)
    story.deliver(P2A, to=(4,))
    story.keep(P2A, to=(1,))
    old |= story.world.network
    story.campaign(5)
    return search, story.world._replace(network=story.world.network | old)


@start(
    15_000,
    goals=[("the CONFIG is chosen", sealed(2))],
)
def a_value_that_a_later_config_passes_over() -> tuple[Search, World]:
    """Server 1's value in slot 3 is on 1 and 2, above a hole; 3, which led later, proposed a CONFIG
    in slot 2: it is on 3 and 4. Server 5 leads by promises of 2 and 4, and is asked for more."""
    search = Search(5)
    story = Story(search)
    story.lead(1)
    story.request(1, command(1))
    story.lose()
    story.request(1, command(2))
    story.deliver(P2A, to=(2,))
    story.lose()
    story.campaign(3)
    story.deliver(P1A, to=(4, 5))
    story.deliver(P1B, to=(3,))
    story.change(3, 3, 4, 5)
    story.deliver(P2A, to=(4,))
    story.lose()
    story.campaign(5)
    story.deliver(P1A, to=(2, 4))
    story.deliver(P1B, to=(5,))
    return search, search.say(story.world, 5, command(3))


def _opened(search: Search) -> Story:
    """Servers 1, 4 and 5 serve in epoch 1, and acknowledged command 1; 2 and 3 know nothing of it.

    Server 2 holds the CONFIG in slot 2, and server 3 nothing.
    """
    story = Story(search)
    story.lead(1)
    story.change(1, 1, 4, 5)
    story.deliver(P2A, to=(2,))
    story.deliver(P2B, to=(1,))
    story.deliver(Sealed, to=(4, 5))
    story.deliver(CatchUpRequest, to=(1,))
    story.deliver(CatchUp, to=(4, 5))
    story.settle(1, 4, 5)
    story.request(1, command(1))
    story.settle(1, 4, 5)
    return story


@start(
    20_000,
    goals=[("it is read in epoch 1", answered(b"1"))],
)
def a_config_taken_over_while_the_next_epoch_serves() -> tuple[Search, World]:
    """Server 2, which has the CONFIG and does not know it for chosen, may lead with 3 in epoch 0.

    What epoch 1 has acknowledged is asked for at server 2, and at server 1.
    """
    queries = [(2, Query(1, "linearizable", b"")), (1, Query(2, "linearizable", b""))]
    search = Search(5, members=(1, 2, 3), reads=queries)
    story = _opened(search)
    story.lose()
    return search, story.world._replace(budget=Budget((0, 1, 0, 0, 0), beats=1, reads=3))


@start(20_000, goals=[("slot 4 is chosen", chosen(4))])
def a_row_of_a_later_epoch_comes_before_the_seal() -> tuple[Search, World]:
    """The same; what epoch 1 has chosen in slot 3 is told to server 3, which lacks slot 2.

    Servers 2 and 3 may try to lead, in epoch 0: neither may take the CONFIG for void.
    """
    search = Search(5, members=(1, 2, 3))
    story = _opened(search)
    live = search.steps.peek(1, story.world.images[0])
    held = live.log.get(3)
    assert held is not None
    told = CatchUp([Accepted(3, held.ballot, held.value)], 3)
    story.lose()
    late = 1 << search.steps.messages.number(1, 3, told)
    world = search.say(story.world, 1, command(2))
    return search, world._replace(network=world.network | late, budget=Budget((0, 1, 1, 0, 0)))


def told(outcome: str) -> Callable[[frozenset[Fact]], bool]:
    """Somebody is told that the change ended so."""
    return lambda facts: ("told", CHANGE, outcome) in facts


def asks(*servers: int) -> list[tuple[int, Query | AskMembers]]:
    """Whoever wanted the change asks these how it ended."""
    return [(server, AskMembers(ASKS, CHANGE, Ballot(1, 1))) for server in servers]


@start(8_000, goals=[("nobody can say yet", told("unknown")), ("it is chosen", sealed(3))])
def a_change_whose_proposer_fell() -> tuple[Search, World]:
    """Server 1 had slot 2 chosen with 3, then a CONFIG in slot 3 with 2, which lacks slot 2.

    It fell before anybody heard of that. Server 2 leads with 3, and has proposed both once more.
    Servers 2 and 3 are asked how the change has ended.
    """
    search = Search(3, reads=asks(2, 3))
    story = Story(search)
    story.lead(1)
    story.request(1, command(1))
    story.deliver(P2A, to=(3,))
    story.deliver(P2B)
    story.lose()
    story.change(1, 2, 3)
    story.deliver(P2A, to=(2,))
    story.lose()
    story._happen(1, "crash")
    search.runs = frozenset((2, 3))
    story.campaign(2)
    story.deliver(P1A, to=(3,))
    story.deliver(P1B, to=(2,))
    world = search.say(story.world, 2, command(2))
    return search, world._replace(budget=Budget((0, 0, 0), beats=1, reads=3))


@start(8_000, goals=[("it is under way", told("pending"))])
def a_seal_that_one_knows() -> tuple[Search, World]:
    """Server 1 has had the CONFIG for 1, 4 and 5 chosen with 2; nobody else knows. It is asked."""
    search = Search(5, members=(1, 2, 3), reads=asks(1, 4))
    story = Story(search)
    story.lead(1)
    story.change(1, 1, 4, 5)
    story.deliver(P2A, to=(2,))
    story.deliver(P2B, to=(1,))
    return search, story.world._replace(budget=Budget(reads=3))


@start(
    15_000,
    goals=[("epoch 1 is opened by others than its sealer", in_epoch(1))],
)
def the_sealer_falls() -> tuple[Search, World]:
    """Server 1 has had the CONFIG for servers 2, 3 and 4 chosen, told 2 of it, and fell.

    Server 2 opens the next epoch. All that was sent is under way; 3 may try to lead in the old one.
    """
    search = Search(4, members=(1, 2, 3))
    story = Story(search)
    story.lead(1)
    story.change(1, 2, 3, 4)
    story.deliver(P2A, to=(2, 3))
    story.deliver(P2B, to=(1,), by=(2,))
    story.settle(1, 2)
    story._happen(1, "crash")
    search.runs = frozenset((2, 3, 4))
    world = search.say(story.world, 2, command(1))
    return search, world._replace(budget=Budget((0, 0, 1, 0)))


@start(15_000, goals=[("the second CONFIG is chosen", sealed(3))])
def a_learner_that_is_promoted() -> tuple[Search, World]:
    """Server 4 learns in epoch 1 and is to vote in epoch 2, in the place of 3, which knows nothing.

    The second CONFIG is on 1 and 4, whose acceptance does not count; it is under way to the others,
    and server 2 may try to lead.
    """
    search = Search(4, members=(1, 2, 3))
    story = Story(search)
    story.lead(1)
    story.change(1, 1, 2, 3, learners=(4,))
    story.settle(1, 2, 4)
    story.lose()
    story.change(1, 1, 2, 4)
    story.deliver(P2A, to=(4,))
    world = search.say(story.world, 1, command(1))
    return search, world._replace(budget=Budget((0, 1, 0, 0)))


@start(
    15_000,
    goals=[("a CONFIG is chosen", sealed(2))],
)
def two_configs_in_two_ballots() -> tuple[Search, World]:
    """Server 1 has asked for {1, 2} and server 3, later, for {3, 4}, in the same slot.

    Each is on its leader alone, and both are under way; servers 2 and 4 may try to lead.
    """
    search = Search(5)
    story = Story(search)
    story.lead(1)
    story.change(1, 1, 2)
    story.keep(P2A)
    old = story.world.network
    story.lose()
    story.campaign(3)
    story.deliver(P1A, to=(4, 5))
    story.deliver(P1B, to=(3,))
    story.change(3, 3, 4)
    story.keep(P2A)
    return search, story.world._replace(
        network=old | story.world.network, budget=Budget((0, 1, 0, 1, 0))
    )


@start(
    15_000,
    goals=[("slot 5 is executed", executed(5))],
    never=[("the old copy votes", accepted_by(2, 5))],
)
def a_copy_from_before_a_seal_is_put_back() -> tuple[Search, World]:
    """Server 2's directory is from before it accepted slot 2; 3 was told of that, and slept since.

    Epoch 1 is of servers 1, 2 and 4, which acknowledged command 2. All were restarted; 1 leads
    again, and 3, which knows nothing of epoch 1, may try to lead in the one before, with the copy.
    """
    search = Search(4, members=(1, 2, 3), counted=True)
    story = Story(search)
    story.lead(1)
    copied = story.world.images[1]
    story.request(1, command(1))
    story.settle()
    story.beat(1)
    story.settle()
    story.sync(3)
    story.change(1, 1, 2, 4)
    story.deliver(P2A, to=(2,))
    story.deliver(P2B, to=(1,))
    story.settle(1, 2, 4)
    story.request(1, command(2))
    story.settle(1, 2, 4)
    for server in search.ids:
        story._happen(server, "crash")
    images = list(story.world.images)
    images[1] = search.steps.put_back(2, copied)
    story.world = story.world._replace(images=tuple(images))
    for server in (1, 3, 4):
        story._happen(server, "restart")
    story.settle(1, 4)
    story.campaign(1)
    story.settle(1, 4)
    story.lose()
    world = search.say(story.world, 1, command(3))
    return search, world._replace(budget=Budget((0, 0, 1, 0), beats=1))


# --- small enough to be searched to their end ----------------------------------------------------


@start(6_000, goals=[("command 1 is acknowledged", acknowledged(1))])
def one_server_becomes_two() -> tuple[Search, World]:
    """Server 1 has chosen that by itself, and 2 may try to lead."""
    search = Search(2, members=(1,))
    story = Story(search)
    story.lead(1)
    story.change(1, 1, 2)
    world = search.say(story.world, 1, command(1))
    return search, world._replace(budget=Budget((0, 1)))


@start(6_000, goals=[("command 1 is acknowledged", acknowledged(1))])
def three_servers_become_one() -> tuple[Search, World]:
    """Server 1 has proposed to be the only one."""
    search = Search(3)
    story = Story(search)
    story.lead(1)
    story.change(1, 1)
    return search, search.say(story.world, 1, command(1))


@start(6_000, goals=[("command 1 is acknowledged", acknowledged(1))])
def a_leader_of_two_leaves() -> tuple[Search, World]:
    """Server 1 leads 1 and 2, and has proposed that 2 and 3 go on; one server may fall."""
    search = Search(3, members=(1, 2))
    story = Story(search)
    story.lead(1)
    story.change(1, 2, 3)
    world = search.say(story.world, 2, command(1))
    return search, world._replace(budget=Budget(crashes=1))


@start(6_000, goals=[("epoch 1 is opened by the one it told", in_epoch(1))])
def the_sealer_of_three_falls() -> tuple[Search, World]:
    """Server 1 has had the CONFIG for 2 and 3 chosen with 2, told it, and fell; 3 may try to lead
    in the old epoch, of which it knows no end."""
    search = Search(3)
    story = Story(search)
    story.lead(1)
    story.change(1, 2, 3)
    story.deliver(P2A, to=(2,))
    story.deliver(P2B, to=(1,), by=(2,))
    story.settle(1, 2)
    story._happen(1, "crash")
    search.runs = frozenset((2, 3))
    world = search.say(story.world, 2, command(1))
    return search, world._replace(budget=Budget((0, 0, 1)))


@start(5_000, goals=[("server 3 hears of it", lambda facts: ("entered", 1, 3) in facts)])
def one_of_three_serves_alone() -> tuple[Search, World]:
    """Server 1 is the only one of epoch 1, and acknowledged command 1. Server 2 holds the CONFIG, 3
    may be told of slot 3 before that; 2 may try to lead, and is asked to read."""
    search = Search(3, reads=[(2, Query(1, "linearizable", b""))])
    story = Story(search)
    story.lead(1)
    story.change(1, 1)
    story.deliver(P2A, to=(2,))
    story.deliver(P2B, to=(1,))
    story.settle(1)
    story.request(1, command(1))
    story.settle(1)
    held = search.steps.peek(1, story.world.images[0]).log.get(3)
    assert held is not None
    told = CatchUp([Accepted(3, held.ballot, held.value)], 3)
    story.lose()
    late = 1 << search.steps.messages.number(1, 3, told)
    return search, story.world._replace(network=late, budget=Budget((0, 1, 0), reads=1))


@start(10_000, goals=[("command 2 is acknowledged", acknowledged(2))])
def a_leader_has_handed_over() -> tuple[Search, World]:
    """All have granted server 1 a lease; it has handed over to 2, which asks for promises."""
    search = Search(3, policy="stable", reads=LEASE_READ)
    story = leased(search)
    story.beat(1)
    story.settle()
    story.request(1, TransferLeader(9, Ballot(1, 1), 2))
    story.deliver(to=(2,))
    world = search.say(story.world, 2, command(2))
    return search, world._replace(budget=Budget(beats=1, reads=1))


@start(10_000, goals=[("server 2 acknowledges command 2", acknowledged(2))])
def a_handover_is_answered_in_a_later_reign() -> tuple[Search, World]:
    """Server 1 hands over to 3, whose P1A comes late: 2 leads by a lease of 1's, which is rude."""
    reads, own = [(2, LEASE_READ[0][1])], {1: {"policy": "random"}}
    search = Search(3, policy="stable", reads=reads, own=own)
    story = Story(search)
    story.lead(1)
    story.request(1, TransferLeader(9, Ballot(1, 1), 3))
    story.deliver(to=(3,))
    story.wait(0.31)
    story.campaign(2)
    story.settle(1, 2)
    story.request(2, Query(9, "lease", b""))
    story.settle(1, 2)
    story.keep(P1A)
    story.world = search.say(search.say(story.world, 2, command(2)), 3, command(2))
    return search, story.world._replace(budget=Budget(reads=1))
