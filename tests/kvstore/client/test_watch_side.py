"""A client's watches go from server to server, and tell each event once whatever happens.

The servers here are the store and the record of who holds what, without the protocol: each has
executed a prefix of one log. Messages are lost with their connection, as with TCP.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from paxon.actors.messages import (
    ClientMessage,
    QueryReply,
    ReplyStatus,
    ServerReply,
    Unwatch,
    Watch,
    WatchCheck,
    WatchesHeld,
    overloaded,
)
from paxon.actors.parts.watches import Watching
from paxon.kvstore.client.leader_search import CoreOptions, LeaderSearch
from paxon.kvstore.client.requests import Ticket
from paxon.kvstore.client.watches import side as watch_side
from paxon.kvstore.client.watches.side import _ANSWERS, _FEW, _ROUNDS, Watched, WatchSide
from paxon.kvstore.errors import ClientClosed, OperationFailed
from paxon.kvstore.store.operations import (
    Compact,
    Delete,
    Events,
    Put,
    decode_results,
    encode_operations,
    encode_results,
)
from paxon.kvstore.store.spans import prefix_span
from paxon.kvstore.store.store import KVStore

NAMES = ["tcp://a:1", "tcp://b:1", "tcp://c:1"]
CLIENT = b"client"


class Replica:
    """What a server does about watches."""

    def __init__(self, log: list[bytes]) -> None:
        self.log = log
        self.current = True
        self.names_leader = False
        self.executed = 0
        self.store = KVStore()
        self.watching = Watching()

    def restart(self) -> None:
        """It knows of no watches any more, and executes the log again."""
        self.store, self.watching, self.executed = KVStore(), Watching(), 0

    def execute(self, most: int) -> list[ServerReply]:
        replies: list[ServerReply] = []
        while self.executed < len(self.log) and most > 0:
            self.store.apply(self.log[self.executed])
            self.executed += 1
            most -= 1
        for number, answer in self.store.happened():
            held = self.watching.answer(number) if self.store.keeps(number) else None
            status = ReplyStatus.OK if held is None else ReplyStatus.GOES_ON
            if held is None:
                self.store.unwatch(number)
            _, watch = held or self.watching.take(number)
            replies.append(QueryReply(watch, status, answer))
        return replies

    def handle(self, message: ClientMessage) -> list[ServerReply]:
        match message:
            case Watch(watch, query, near, answers):
                if not self.current or (near and self.names_leader):
                    return [QueryReply(watch, ReplyStatus.NOT_CURRENT, b"")]
                number, before = self.watching.add(CLIENT, watch, len(query), 0.0, answers)
                assert before is None, "each asking has a number of its own"
                answer = self.store.watch(number, query)
                if answer is None:
                    return []
                self.watching.take(number)
                return [QueryReply(watch, ReplyStatus.OK, answer)]
            case Unwatch(ids):
                for number in self.watching.drop(CLIENT, ids or None):
                    self.store.unwatch(number)
                return []
            case WatchCheck(check):
                held, digest = self.watching.asked(CLIENT, 0.0)
                through = self.store.watched_through()
                return [WatchesHeld(check, held, through, self.current, digest)]
            case _:
                raise AssertionError(message)

    def let_go(self) -> list[ServerReply]:
        """It is not current any more."""
        self.current = False
        replies: list[ServerReply] = []
        for number in list(self.watching.held):
            _, watch = self.watching.take(number)
            self.store.unwatch(number)
            replies.append(QueryReply(watch, ReplyStatus.NOT_CURRENT, b""))
        return replies


class World:
    """One client, three replicas, and what is under way between them."""

    def __init__(self, seed: int = 0, first: int = 0) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.log: list[bytes] = []
        self.replicas = {name: Replica(self.log) for name in NAMES}
        self.side = WatchSide(NAMES, first)
        self.up: dict[str, list[ClientMessage]] = {name: [] for name in NAMES}
        self.down: dict[str, list[ServerReply]] = {name: [] for name in NAMES}
        self.frozen: set[str] = set()
        self.sent: list[tuple[str, ClientMessage]] = []
        self.leader: str | None = None
        """Whom servers name to who does not know it; None: whoever is asked leads."""

    def led_by(self, leader: str) -> None:
        """This one leads, and the others name it."""
        self.leader = leader
        for name, replica in self.replicas.items():
            replica.names_leader = name != leader

    def write(self, *operations: Any) -> None:
        self.log.append(encode_operations(operations))

    def poll(self) -> None:
        def send(address: str, message: ClientMessage, _size: int) -> None:
            self.sent.append((address, message))
            self.up[address].append(message)

        self.side.send(self.now, send)

    def serve(self, name: str) -> None:
        if name not in self.frozen:
            messages, self.up[name] = self.up[name], []
            for message in messages:
                self.down[name] += self.replicas[name].handle(message)

    def answer(self, name: str) -> None:
        replies, self.down[name] = self.down[name], []
        for reply in replies:
            if isinstance(reply, QueryReply):
                assert self.side.on_reply(name, reply, self.now, self.leader or name)
            else:
                assert isinstance(reply, WatchesHeld)
                self.side.on_held(name, reply, self.now)

    def cut(self, name: str) -> None:
        """The connection ends, with all that was under way; its server hears of it."""
        self.up[name], self.down[name] = [], []
        replica = self.replicas[name]
        for number in replica.watching.drop(CLIENT):
            replica.store.unwatch(number)
        self.side.lost(name, self.now)

    def settle(self, seconds: float = 0.0) -> None:
        """Everything executes and arrives; then time passes, in small steps."""
        end = self.now + seconds
        while True:
            self.poll()
            for name in NAMES:
                if name not in self.frozen:
                    self.down[name] += self.replicas[name].execute(1 << 30)
                self.serve(name)
                self.answer(name)
            if self.now >= end:
                return
            self.now += 0.05


class Caller:
    """Takes one answer after the other, as a loop over a watch does."""

    def __init__(self, world: World, after: int = 1, spans: Any = None, **options: Any) -> None:
        self.world = world
        self.after = after
        self.spans = spans if spans is not None else [(b"k", None)]
        self.watched: Watched = world.side.add(Events(after, self.spans, **options))
        self.ticket: Ticket[Any, Any] | None = None
        self.told: list[int] = []
        self.refused: Any = None

    def look(self) -> None:
        """Take what has come, and wait for the next."""
        while True:
            if self.ticket is None:
                self.ticket = Ticket(
                    None, mode="stale", weight=0, size=0, submitted=0, deadline=float("inf")
                )
                self.world.side.next_answer(self.watched, self.ticket)
            if not self.ticket.done or self.ticket.error is not None:
                return
            answer: Any = self.watched.answer
            self.ticket = None
            self.watched.answers.pop(0)
            self.world.side.taken(self.watched)
            if isinstance(answer, dict):
                self.refused = answer
                return
            self.told += [row[3] for row, _ in answer[1]]


def settle(world: World, *callers: Caller, seconds: float = 1.0) -> None:
    for _ in range(20):
        for caller in callers:
            caller.look()
        world.settle(seconds / 20)
    for caller in callers:
        caller.look()


def test_events_come_one_after_the_other() -> None:
    world = World()
    caller = Caller(world)
    for n in range(3):
        world.write(Put(b"k", b"%d" % n), Put(b"x", b""))
        settle(world, caller)
    assert caller.told == [2, 4, 6]
    assert caller.watched.position == 7, "and it knows that nothing more has happened"


def test_all_watches_are_at_one_server_and_one_check_serves_for_all() -> None:
    world = World()
    callers = [Caller(world) for _ in range(10)]
    settle(world, *callers, seconds=30)
    assert {address for address, _ in world.sent} == {NAMES[0]}
    checks = [message for _, message in world.sent if isinstance(message, WatchCheck)]
    assert 13 <= len(checks) <= 15
    assert sum(isinstance(message, Watch) for _, message in world.sent) == 10


def test_a_quiet_watch_moves_on_with_the_store() -> None:
    """So its resume point is known, and the end of history never overtakes it."""
    world = World()
    caller = Caller(world)
    settle(world, caller)
    for _ in range(5):
        world.write(Put(b"x", b""))
    world.write(Compact(6))
    settle(world, caller, seconds=3)
    assert caller.watched.position == 6
    world.cut(NAMES[0])
    world.write(Put(b"k", b""))
    settle(world, caller, seconds=3)
    assert caller.told == [7]
    assert caller.refused is None


def test_one_that_is_not_current_is_left_and_none_is_asked_again_and_again() -> None:
    world = World()
    caller = Caller(world)
    settle(world, caller)
    for name in NAMES[:2]:
        world.down[name] += world.replicas[name].let_go()
    settle(world, caller)
    assert world.side.home == NAMES[2]
    world.down[NAMES[2]] += world.replicas[NAMES[2]].let_go()
    before = len(world.sent)
    settle(world, caller, seconds=30)
    assert len(world.sent) - before < 30 / 0.5 * 3 * 2
    world.replicas[NAMES[1]].current = True
    world.write(Put(b"k", b""))
    settle(world, caller, seconds=3)
    assert caller.told == [2]


def test_a_server_that_is_silent_is_left() -> None:
    """A stopped process keeps its connections: nothing but its silence tells."""
    world = World()
    caller = Caller(world)
    settle(world, caller)
    world.frozen.add(NAMES[0])
    world.write(Put(b"k", b""))
    settle(world, caller, seconds=5)
    assert caller.told == [2]
    assert world.side.home == NAMES[1]


def test_one_that_was_started_again_is_asked_anew() -> None:
    world = World()
    caller = Caller(world)
    settle(world, caller)
    world.replicas[NAMES[0]].restart()  # and its port was never seen closed
    world.write(Put(b"k", b""))
    settle(world, caller, seconds=5)
    assert caller.told == [2]
    assert world.side.home == NAMES[0]


def test_a_watch_that_ended_since_the_check_was_sent_does_not_stand_for_another() -> None:
    """The home counts it still; the other one it does not hold.

    (Found by the simulator, seed 306 of runs about coordination.)
    """
    world = World()
    caller = Caller(world)
    settle(world, caller)
    home = world.replicas[NAMES[0]]
    home.restart()
    world.write(Put(b"k", b""))
    home.execute(1 << 30)
    passing = Caller(world, after=2, spans=[(b"other", None)])
    world.side.check_soon(world.now)
    world.poll()
    world.side.drop(passing.watched)
    settle(world, caller, seconds=5)
    assert caller.told == [2]


def test_a_watch_that_was_answered_as_it_ended_is_no_reason_to_ask_for_all_others() -> None:
    world = World()
    caller = Caller(world)
    passing = Caller(world, spans=[(b"other", None)])
    settle(world, caller, passing)
    world.write(Put(b"other", b""))
    world.down[NAMES[0]] += world.replicas[NAMES[0]].execute(1 << 30)
    world.side.check_soon(world.now)
    world.poll()
    world.side.drop(passing.watched)
    world.sent.clear()
    settle(world, caller, seconds=0.5)
    assert not [message for _, message in world.sent if isinstance(message, Watch)]
    assert caller.watched.position == 2


def test_what_a_home_held_before_does_not_count_when_they_come_back_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It lost a last answer; an old asking would make up for that."""
    monkeypatch.setattr(watch_side, "_ANSWERS", 1)
    world = World()
    callers = [Caller(world), Caller(world, spans=[(b"other", None)])]
    settle(world, *callers)
    for _ in NAMES:
        world.side.move(world.now)
        settle(world, *callers, seconds=0.2)
    home = world.replicas[NAMES[0]]
    assert len(home.watching.held) == 2
    world.write(Put(b"k", b""))
    assert home.execute(1 << 30), "it answers, and that is lost"
    settle(world, *callers, seconds=5)
    assert callers[0].told == [2]


def test_an_answer_to_an_earlier_asking_counts_no_more() -> None:
    """From a server that was left and come back to it would tell again what others have told."""
    world = World()
    caller = Caller(world)
    world.poll()
    world.write(Put(b"k", b""))
    late = world.replicas[NAMES[0]]
    late.execute(1 << 30)
    world.serve(NAMES[0])
    held, world.down[NAMES[0]] = world.down[NAMES[0]], []
    assert held, "it answers, and the answer is long under way"
    for _ in NAMES:
        world.side.move(world.now)
        settle(world, caller, seconds=0.5)
    assert world.side.home == NAMES[0]
    world.down[NAMES[0]] += held
    settle(world, caller)
    assert caller.told == [2]


def test_one_that_is_overloaded_is_asked_a_little_later() -> None:
    world = World()
    caller = Caller(world)
    world.poll()
    ((_, watch),) = world.sent
    assert isinstance(watch, Watch)
    refusal = QueryReply(watch.id, ReplyStatus.OVERLOADED, overloaded("much to read", 0.2))
    world.side.on_reply(NAMES[0], refusal, world.now, NAMES[0])
    world.up[NAMES[0]] = []
    assert world.side.next_deadline() == pytest.approx(0.2)
    world.write(Put(b"k", b""))
    settle(world, caller)
    assert caller.told == [2]


def test_what_is_gone_from_history_is_said() -> None:
    world = World()
    world.write(*(Put(b"k", b"") for _ in range(5)))
    world.write(Compact(4))
    caller = Caller(world)
    settle(world, caller)
    assert caller.refused["kind"] == "compacted"
    assert caller.refused["oldest"] == 4


def test_most_answers_come_with_no_question_before_them() -> None:
    world = World()
    caller = Caller(world)
    for n in range(2 * _ANSWERS):
        world.write(Put(b"k", b"%d" % n))
        settle(world, caller, seconds=0.01)
    assert caller.told == list(range(2, 2 * _ANSWERS + 2))
    assert sum(isinstance(message, Watch) for _, message in world.sent) == 3


@pytest.mark.parametrize("more", [False, True])
def test_one_that_has_missed_an_answer_is_asked_for_again_from_there(more: bool) -> None:
    """By the number of the next answer, or by how many the server says it has given."""
    world = World()
    callers = [Caller(world), Caller(world, spans=[(b"other", None)])]
    settle(world, *callers)
    world.write(Put(b"k", b""))
    assert world.replicas[NAMES[0]].execute(1 << 30), "it answers, and that is lost"
    if more:
        world.write(Put(b"k", b""))
    settle(world, *callers, seconds=1.0 if more else 5.0)
    assert callers[0].told == ([2, 3] if more else [2])
    assert sum(isinstance(message, Watch) for _, message in world.sent) == (4 if more else 5)


def test_one_whose_question_was_thrown_away_is_asked_for_again() -> None:
    """Its home holds as many as it should: another one, which was to be forgotten by the frame."""
    world = World()
    gone = Caller(world, spans=[(b"other", None)])
    settle(world, gone)
    world.side.drop(gone.watched, ClientClosed("nobody wants it"))
    caller = Caller(world)
    world.poll()
    world.up[NAMES[0]].clear()  # `Unwatch` and `Watch`: what waits for this client is too much
    world.write(Put(b"k", b""))
    settle(world, caller, seconds=5.0)
    assert caller.told == [2]


def test_who_does_not_take_its_answers_gets_few() -> None:
    """A watch that nobody reads costs the servers nothing more."""
    world = World()
    caller = Caller(world)
    settle(world, caller)
    for n in range(100):
        world.write(Put(b"k", b"%d" % n))
        world.settle(0.05)
    asked = [message for _, message in world.sent if isinstance(message, Watch)]
    assert len(asked) == 1
    assert len(caller.watched.answers) == _ANSWERS
    settle(world, caller)
    assert caller.told == list(range(2, 102))


def test_a_watch_that_ends_is_forgotten_by_its_server_too() -> None:
    world = World()
    callers = [Caller(world) for _ in range(3)]
    settle(world, *callers)
    ticket = callers[0].ticket
    world.side.drop(callers[0].watched, ClientClosed("the watch is closed"))
    world.side.abandon(callers[1].watched)
    settle(world, callers[2])
    assert len(world.replicas[NAMES[0]].watching.held) == 1
    assert ticket is not None
    assert isinstance(ticket.error, ClientClosed)
    world.side.fail(ClientClosed("the client is closed"))
    assert callers[2].ticket is not None
    assert isinstance(callers[2].ticket.error, ClientClosed)
    assert not world.side


def test_a_client_without_watches_asks_for_none() -> None:
    world = World()
    caller = Caller(world)
    settle(world, caller)
    world.side.drop(caller.watched)
    world.settle(0.1)
    before = len(world.sent)
    world.settle(30)
    assert len(world.sent) == before
    assert world.side.next_deadline() == float("inf")
    caller = Caller(world)
    settle(world, caller)
    assert world.side.home == NAMES[0], "its silence in between was none"


def test_few_watches_are_at_the_leader_and_many_elsewhere() -> None:
    world = World()
    world.side.begin(NAMES[1], 0)
    callers = [Caller(world) for _ in range(_FEW)]
    settle(world, *callers)
    assert {address for address, _ in world.sent} == {NAMES[1]}
    assert all(message.near for _, message in world.sent if isinstance(message, Watch))
    callers.append(Caller(world))
    world.write(Put(b"k", b""))
    settle(world, *callers)
    assert world.side.home == NAMES[0]
    assert all(caller.told == [2] for caller in callers)
    held = [len(world.replicas[name].watching.held) for name in NAMES]
    assert held == [_FEW + 1, 0, 0], "and the leader has forgotten them"
    assert not any(message.near for _, message in world.sent[-3:] if isinstance(message, Watch))


def test_who_does_not_know_the_leader_is_sent_there_and_goes_on_elsewhere_if_it_is_silent() -> None:
    world = World()
    world.led_by(NAMES[2])
    world.side.begin(NAMES[0], 0)
    callers = [Caller(world) for _ in range(2)]
    settle(world, *callers)
    assert world.side.home == NAMES[2]
    world.write(Put(b"k", b""))
    settle(world, *callers)
    assert [caller.told for caller in callers] == [[2], [2]]
    world.frozen.add(NAMES[2])
    world.write(Put(b"k", b""))
    settle(world, *callers, seconds=10)
    assert world.side.home == NAMES[0], "who names a leader that is silent has to hold them itself"
    assert [caller.told for caller in callers] == [[2, 3], [2, 3]]


def test_who_leads_but_has_too_many_is_not_asked_again() -> None:
    world = World()
    world.led_by(NAMES[2])
    world.replicas[NAMES[2]].names_leader = True  # it has its crowd
    world.side.begin(NAMES[0], 0)
    caller = Caller(world)
    settle(world, caller)
    assert world.side.home == NAMES[0]
    asked = [address for address, message in world.sent if isinstance(message, Watch)]
    assert asked == [NAMES[0], NAMES[2], NAMES[0]]


def test_one_that_ended_is_forgotten_where_it_was_asked_for() -> None:
    """Its client begins the next one elsewhere, for another server leads by then."""
    world = World()
    world.side.begin(NAMES[1], 0)
    caller = Caller(world)
    settle(world, caller)
    world.side.drop(caller.watched)
    world.side.begin(NAMES[2], 0)
    settle(world, Caller(world))
    assert [len(world.replicas[name].watching.held) for name in NAMES] == [0, 0, 1]


def test_an_answer_in_another_language_is_an_error() -> None:
    world = World()
    caller = Caller(world)
    caller.look()
    world.poll()
    watch = world.sent[-1][1]
    assert isinstance(watch, Watch)
    world.side.on_reply(NAMES[0], QueryReply(watch.id, ReplyStatus.OK, b"\xc1"), 0.0, NAMES[0])
    assert caller.ticket is not None
    assert isinstance(caller.ticket.error, OperationFailed)


@pytest.mark.parametrize("seed", [*range(60), 463])  # (463: a check that counted one too many)
def test_no_event_is_lost_or_told_twice_across_any_faults(seed: int) -> None:
    """Cuts, silences, restarts, lateness and servers that are not current, at random."""
    world = World(seed, first=seed)
    chance = world.random
    spans: Sequence[Any] = ([(b"k", None)], [prefix_span(b"k")], [(b"k", b"k1"), (b"x", None)])
    if seed % 2:
        world.side.begin(chance.choice(NAMES), seed)  # (the leader)
    callers = [Caller(world, after=chance.choice((1, 1, 3, 20)), spans=s) for s in spans]
    passing: list[Watched] = []
    for step in range(300):
        if step == 150 and seed % 4 == 1:  # with these they are many
            others = [Caller(world, spans=[(b"other", None)]) for _ in range(_FEW)]
            assert len(others) == _FEW
        world.now += chance.choice((0.0, 0.01, 0.3))
        name = chance.choice(NAMES)
        match chance.randrange(18):
            case 0 | 1 | 2:
                key = chance.choice((b"k", b"k0", b"k2", b"x"))
                world.write(*(Put(key, b"") for _ in range(chance.randrange(1, 4))))
            case 3:
                world.write(Delete(b"k"))
            case 4:
                world.cut(name)
            case 5:
                world.frozen ^= {name}
            case 6:
                world.replicas[name].restart()
            case 7:
                world.down[name] += world.replicas[name].let_go()
            case 8:
                world.replicas[name].current = True
            case 9 | 10:
                chance.choice(callers).look()
            case 11 | 12:
                if name not in world.frozen:
                    answers = world.replicas[name].execute(chance.randrange(1, 5))
                    world.down[name] += answers if step % 4 else ()  # (or they are lost)
            case 13:
                world.poll()
            case 14:
                world.serve(name)
            case 15 if passing:
                world.side.drop(passing.pop())
            case 15:
                passing.append(world.side.add(Events(1 << 30, [(b"k", None)])))
            case 16:
                world.side.check_soon(world.now)
            case _:
                world.answer(name)
    ends_well(world, callers)


def ends_well(world: World, callers: list[Caller]) -> None:
    """Once all servers are well, each has been told all that happened, and nothing twice."""
    world.frozen.clear()
    for replica in world.replicas.values():
        replica.current = True
    settle(world, *callers, seconds=10)
    store = KVStore()
    for command in world.log:
        store.apply(command)
    for caller in callers:
        query = encode_operations([Events(caller.after, caller.spans)])
        answer = decode_results(store.query(query))[0]
        assert caller.told == [row[3] for row, _ in answer[1]]
        assert caller.watched.position == max(store.revision, caller.after)


def test_who_is_gone_is_not_waited_for() -> None:
    """Replaced servers' addresses are known still, and no connection ends there any more."""
    gone = "tcp://gone:1"
    search = LeaderSearch((gone,), random.Random(7), CoreOptions(), redirect=True)
    for name in (gone, *NAMES):
        search.tells(name, dict(enumerate((gone, *NAMES))), {})
    search.lost(gone, 0.0)
    side, sent = WatchSide(search.servers, 0, search), list[tuple[str, ClientMessage]]()

    def poll(now: float) -> list[type[ClientMessage]]:
        sent.clear()
        side.send(now, lambda address, message, _size: sent.append((address, message)))
        return [type(message) for address, message in sent if address == side.home]

    side.begin(gone, 0)
    side.add(Events(0, [(b"k", None)]))
    assert poll(0.0) == [Watch]
    homes, now = [], 1.0
    for _ in range(_ROUNDS * len(NAMES)):
        side.move(now)
        homes.append(side.home)
        now += 1.0
        assert poll(now) == [Watch]
    assert homes == [NAMES[1], NAMES[2], NAMES[0]] * _ROUNDS
    while side.home != gone:  # in the end all are tried …
        assert now < 100.0
        side.move(now)
        now += 1.0
        asked = poll(now)
    assert asked == [Watch, WatchCheck]  # … and asked at once, for nobody may be there
    poll(side.next_deadline())
    assert side.home != gone and side.next_deadline() > now


def test_what_one_watch_needs_is_found_without_looking_at_all_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With ten thousand of them a client would be busy with nothing else."""
    looks = 0
    real = Watched.__dict__["due"]

    def counted(watched: Watched) -> bool:
        nonlocal looks
        looks += 1
        due: bool = real.fget(watched)
        return due

    monkeypatch.setattr(Watched, "due", property(counted))
    side, sent = WatchSide(NAMES, 0), list[ClientMessage]()
    many = 1000
    watches = []
    for _ in range(many):
        watches.append(side.add(Events(0, [(b"k", None)])))
        side.next_deadline()
        side.send(0.0, lambda _address, message, _size: sent.append(message))
    assert len(sent) == many
    for watched in watches:
        answer = encode_results([[1, [[[b"k", b"v", 1, 1, 1, 0], None]]]])
        reply = QueryReply(watched.order, ReplyStatus.OK, answer)
        assert side.on_reply(side.home, reply, 0.0, side.home)
        watched.answers.pop(0)
        side.taken(watched)
        side.next_deadline()
        side.send(0.0, lambda _address, message, _size: sent.append(message))
    assert len(sent) == 2 * many
    assert looks <= 2 * 2 * many
