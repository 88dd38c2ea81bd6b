"""Who floods a server with what is large or dear lets others go first (docs/design/overload.md)."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from paxon.actors.ballot import NO_BALLOT
from paxon.actors.disk.storage import SnapshotInfo
from paxon.actors.limits.allowances import CLIENT_SECONDS, EXECUTION_FACTOR, MESSAGE_SECONDS
from paxon.actors.limits.turns import MAX_BYTES, ClientTurns, Stored
from paxon.actors.members import ChangeMembers, MemberChange
from paxon.actors.messages import (
    P2A,
    ChangeSettings,
    Command,
    CommandReply,
    Overloaded,
    Query,
    QueryReply,
    Renew,
    StatusReply,
    StatusRequest,
    Unwatch,
    Watch,
)
from paxon.actors.parts.reception import BURST_MESSAGES, RENEWALS
from paxon.kvstore.store.operations import Get, Put, encode_operations
from paxon.kvstore.store.store import KVStore
from paxon.transport import Burst
from tests.disks import MemoryDisk
from tests.harness import Clock, Cluster, Register, Wire

MIB = 1 << 20
FLOODER, OTHER = b"flooder", b"other"


@pytest.fixture
def led() -> Cluster:
    cluster = Cluster(3, machine=KVStore).start()
    cluster.lead(1)
    return cluster


def put(session: int, seq: int, size: int) -> Command:
    command = encode_operations([Put(b"k", bytes(size))])
    return Command(session, seq, max(1, seq - 1), 0, command)


def arrives(cluster: Cluster, *frames: tuple[bytes, list[Any]]) -> None:
    """These frames arrive at the leader in one burst."""
    sizes = [len(getattr(m, "command", b"")) for _, messages in frames for m in messages]
    cluster.step(1, Burst(clients=list(frames), client_bytes=sum(sizes)))


def answered(cluster: Cluster, client: bytes) -> int:
    return len(cluster.told(CommandReply, client))


def test_whoever_has_much_in_the_log_lets_others_go_first(led: Cluster) -> None:
    flooder, other = led.open_session(1, FLOODER), led.open_session(1, OTHER)
    arrives(
        led,
        (FLOODER, [put(flooder, 1, 2 * MIB), put(flooder, 2, 2 * MIB)]),
        (OTHER, [put(other, 1, 10)]),
    )
    arrives(led, (FLOODER, [put(flooder, 3, 2 * MIB)]))
    values = [len(p2a.value) for p2a in led.sent(P2A, target=2)]
    assert sum(size > MIB for size in values) == 1
    led.stabilize()
    led.step(1)
    assert answered(led, OTHER) == 1


def test_it_then_sits_out_for_as_long_as_its_slot_took(led: Cluster) -> None:
    flooder, other = led.open_session(1, FLOODER), led.open_session(1, OTHER)
    arrives(
        led,
        (FLOODER, [put(flooder, 1, 2 * MIB), put(flooder, 2, 2 * MIB)]),
        (OTHER, [put(other, 1, 10)]),
    )
    led.clock.now += 0.2  # for so long it is stored
    led.stabilize()
    led.step(1)
    assert answered(led, FLOODER) == 1
    for seq in range(2, 20):
        led.clock.now += 0.01
        arrives(led, (OTHER, [put(other, seq, 10)]))
        led.stabilize()
        assert answered(led, FLOODER) == 1
        assert answered(led, OTHER) == seq  # at once, each time
    led.clock.now += 0.05
    led.step(1)
    led.stabilize()
    assert answered(led, FLOODER) == 2


def test_who_is_alone_never_sits_out(led: Cluster) -> None:
    flooder = led.open_session(1, FLOODER)
    led.pass_time(1.0)
    for seq in range(1, 5):
        arrives(led, (FLOODER, [put(flooder, seq, 2 * MIB)]))
        led.clock.now += 0.02
        led.stabilize()
        led.step(1)
        led.stabilize()
    assert answered(led, FLOODER) == 4


def test_a_few_dear_commands_in_a_small_frame_count_as_well(led: Cluster) -> None:
    flooder, other = led.open_session(1, FLOODER), led.open_session(1, OTHER)
    led.request(1, put(other, 1, 4 * MIB), client=OTHER)
    led.stabilize()
    turns = led.servers[1].reception.turns
    led.clock.now += 1.0
    led.step(1)
    assert not turns.waiting  # what comes now is handled at once
    get = encode_operations([Get(b"k")])
    gets = [Command(flooder, n, n, 0, get) for n in range(1, 50)]
    arrives(led, (FLOODER, gets), (OTHER, [put(other, 2, 10)]))
    assert len({p2a.slot for p2a in led.sent(P2A)}) == 1
    assert turns.messages >= 40
    for _ in range(3):
        led.step(1)
    assert OTHER not in turns.waiting
    assert len(turns.waiting[FLOODER].requests) >= 40


class Slow(Register):
    """Each command and query takes so many seconds as it says in milliseconds."""

    clock: ClassVar[Clock]

    def apply(self, command: bytes) -> bytes:
        self.clock.now += float(command) / 1000
        return command

    def query(self, query: bytes) -> bytes:
        return self.apply(query)

    def renews(self, command: bytes) -> bool:
        self.apply(command)
        return False


@pytest.fixture
def slow() -> Cluster:
    cluster = Cluster(3, machine=Slow)
    Slow.clock = cluster.clock
    cluster.start().lead(1)
    return cluster


@pytest.mark.parametrize("ask", [lambda n: Query(n, "stale", b"10"), lambda n: Renew(n, b"10")])
def test_whoever_asked_for_what_takes_long_sits_out_for_as_long(ask: Any, slow: Cluster) -> None:
    """Turn by turn: 300 of 10 ms each wait, and others find the server free half the time.

    Reads, or what turns out to be no renewal: that it is refused takes time, too.
    """
    slow.request(1, StatusRequest(1), client=OTHER)
    slow.request(1, *map(ask, range(300)), client=FLOODER)
    flooder = slow.servers[1].reception.turns.waiting[FLOODER]
    served = len(slow.told(QueryReply, FLOODER))
    for turn in range(20):
        now = slow.clock.now
        assert flooder.not_before >= now + 0.01 * (1 if turn else 0)
        slow.request(1, StatusRequest(turn), client=OTHER)  # at once, and none of the reads
        assert len(slow.told(QueryReply, FLOODER)) == served
        assert slow.servers[1].next_deadline() <= flooder.not_before
        slow.clock.now = max(now, flooder.not_before)
        slow.step(1)
        assert len(slow.told(QueryReply, FLOODER)) > served
        served = len(slow.told(QueryReply, FLOODER))


def test_who_asked_for_what_takes_no_time_sits_out_for_what_its_frames_take(slow: Cluster) -> None:
    slow.request(1, StatusRequest(1), client=OTHER)
    slow.request(1, *[Query(n, "stale", b"0") for n in range(3000)], client=FLOODER)
    turns = slow.servers[1].reception.turns
    while turns.messages:
        slow.clock.now = max(slow.clock.now, turns.due(slow.servers[1].latencies.burst.total))
        slow.step(1)
    assert len(slow.told(QueryReply, FLOODER)) == 3000
    assert slow.clock.now <= 100.0 + 2 * 3000 * MESSAGE_SECONDS + CLIENT_SECONDS


READS, SHORT_READS, COMMANDS = b"?10", b"?0.4", b"0.5"
"""Floods: how many milliseconds each takes, and whether it is a read."""


def rates(cluster: Cluster, floods: list[bytes], own: bytes | None) -> tuple[float, float]:
    """What part of the time these get, and how many commands a second another one, beside them.

    That one sends the next a millisecond after an answer, and nothing at all if `own` is None. The
    first 0.4 s do not count.
    """
    clients = [b"flooder %d" % number for number in range(len(floods))]
    sessions = [cluster.open_session(1, client) for client in clients]
    session = cluster.open_session(1, OTHER)
    turns = cluster.servers[1].reception.turns
    sent = seq = before = 0
    took = due = 0.0
    cluster.pass_time(0.2)
    began = cluster.clock.now + 0.4
    cluster.replies.clear()
    while (now := cluster.clock.now) < began + 0.5:
        frames: list[tuple[bytes, list[Any]]] = []
        for client, of, flood in zip(clients, sessions, floods, strict=True):
            if client not in turns.waiting or len(turns.waiting[client].requests) < 20:
                more = range(sent := sent + 1, (sent := sent + 40))
                if flood in (READS, SHORT_READS):
                    frames.append((client, [Query(n, "stale", flood[1:]) for n in more]))
                else:
                    frames.append((client, [Command(of, n, sent - 300, 0, flood) for n in more]))
        if own is not None and now >= due and answered(cluster, OTHER) == seq:
            seq += 1
            frames.append((OTHER, [Command(session, seq, seq, 0, own)]))
        arrives(cluster, *frames)
        cluster.stabilize()
        if answered(cluster, OTHER) == seq and due <= now:
            due = cluster.clock.now + 0.001
        if now < began:
            before = seq
        else:
            took += cluster.clock.now - now
        if cluster.clock.now == now:
            cluster.clock.now += 0.0001
    return took / 0.5, (seq - before) / 0.5


FLOODS = [[READS] * 3, [SHORT_READS] * 3, [COMMANDS] * 3, [READS, SHORT_READS, COMMANDS]]


@pytest.mark.parametrize(
    ("floods", "own"), [*((floods, b"0") for floods in FLOODS), ([COMMANDS] * 3, b"5")]
)
def test_three_that_flood_leave_half_of_a_fair_share(
    floods: list[bytes], own: bytes, slow: Cluster
) -> None:
    """… to who asks for little, and to who asks for much as well, but waits for each answer."""
    alone = 1 / (0.001 + 3 * float(own) / 1000)
    assert rates(slow, floods, own)[1] >= alone / 8


@pytest.mark.parametrize("floods", FLOODS)
def test_those_that_flood_get_everything_while_nobody_else_is_there(
    floods: list[bytes], slow: Cluster
) -> None:
    assert rates(slow, floods, None)[0] >= 0.9


def test_what_is_short_adds_up() -> None:
    """A turn of 0.1 ms is nothing, five are; who needs less than half of the time never waits."""
    turns, now = ClientTurns(), 100.0
    for _ in range(5):
        now += 0.0001
        turns.charge(FLOODER, 0.0001, now)
    assert turns.waiting[FLOODER].not_before == pytest.approx(now + 0.0005)
    for _ in range(50):
        now += 0.001
        turns.charge(OTHER, 0.0004, now)
    assert OTHER not in turns.waiting


def test_those_that_took_much_do_not_all_sit_out_beside_an_idle_server() -> None:
    turns, asks = ClientTurns(), [StatusRequest(1)]
    for client, seconds in ((FLOODER, 2.0), (OTHER, 0.4)):
        turns.charge(client, seconds, 1.0)
        turns.heard(client, asks, 1.0)
        turns.add(client, asks * 9)
    assert turns.due(1.0) < 1.0
    assert turns.next(1.0) == (OTHER, turns.waiting[OTHER])
    assert turns.waiting[FLOODER].not_before == pytest.approx(1.8)  # nobody had to wait for OTHER
    turns.charge(OTHER, 0.1, 1.0)
    turns.heard(b"modest", asks, 1.0)  # … but they do while somebody is there who took little, …
    turns.listened = 0.09
    assert turns.next(1.05) is None
    assert turns.due(0.96) == pytest.approx(1.06)  # (a tenth of a second, for so much was taken,
    assert turns.next(1.25) is None  # not counting the time of steps), …
    turns.listened = 0.11
    turns.hold_back(OTHER, (1, 1), 1.25)  # … or who owes less and is not in line …
    assert turns.next(1.35) is None
    turns.drop(OTHER)  # … before it leaves
    assert turns.next(1.35) == (FLOODER, turns.waiting[FLOODER])
    turns.charge(FLOODER, 0.1, 1.35)
    turns.charge(b"does not read", 0.05, 1.35)
    turns.add(b"does not read", asks)
    turns.wait_for_reader(b"does not read", 9.0)
    turns.heard(b"does not read", asks, 1.4)  # and whoever does not read is not there
    assert turns.next(1.4) == (FLOODER, turns.waiting[FLOODER])


def test_waiting_for_who_was_heard_ends_though_nothing_comes(slow: Cluster) -> None:
    server, now = slow.servers[1], slow.clock.now
    turns = server.reception.turns
    slow.request(1, StatusRequest(1), client=OTHER)
    turns.charge(FLOODER, 0.2, now)
    turns.add(FLOODER, [StatusRequest(2)])
    turns.waiting[FLOODER].took = 0.0
    due = server.next_deadline()
    assert due == pytest.approx(now + 0.02)
    slow.clock.now += 0.015
    assert server.next_deadline() == due, "it runs away from who sleeps until then"


def test_who_has_left_or_waits_for_a_snapshot_does_not_count_for_what_is_executed_then() -> None:
    turns = ClientTurns()
    turns.drop(FLOODER)
    turns.hold_for_snapshot({OTHER: 1.0}, 1.0)
    for client in (FLOODER, OTHER):
        turns.charge(client, 1.0, 1.0)
    assert not turns.greedy
    assert FLOODER not in turns.waiting, "nor is anything kept for it"


def test_what_was_taken_from_nobody_is_not_owed_to_who_comes_later() -> None:
    turns, now = ClientTurns(), 100.0
    for client in (b"1", b"2", b"3"):
        turns.add(client, [StatusRequest(1)] * 1000)
    for _ in range(900):
        turn = turns.next(now)
        assert turn is not None
        now += 0.01
        turns.charge(turn[0], 0.01, now)
    assert max(turns.paid_at.values()) < now + 0.2


@pytest.mark.parametrize(("others", "stay"), [(3, True), (200, True), (20, False)])
def test_a_pipeline_does_not_starve_beside_many(others: int, stay: bool) -> None:
    """Each asks for 0.5 ms, and again a millisecond after its answer, as somebody else or not."""
    turns, asks, now, number = ClientTurns(), [StatusRequest(1)], 100.0, others
    due = [(now, b"%d" % one) for one in range(others)]
    turns.add(FLOODER, asks * 10_000)
    longest = served = 0.0
    while now < 101.0:
        while due and due[0][0] <= now:
            client = due.pop(0)[1]
            turns.heard(client, asks, now)
            turns.add(client, asks)
        if (turn := turns.next(now)) is None:
            now, before = min([turns.due(now - turns.listened), *[at for at, _ in due[:1]]]), now
            turns.listened += now - before
            continue
        client, waiting = turn
        turns.take(waiting)
        now += 0.0005
        turns.charge(client, 0.0005, now)
        if client == FLOODER:
            longest, served = max(longest, now - max(served, 100.0)), now
            continue
        number += 1
        due.append((now + 0.001, client if stay else b"%d" % number))
    assert max(longest, now - served) <= 0.11
    assert turns.greedy.keys() <= {FLOODER, *((b"0", b"1", b"2") if others == 3 else ())}


class FullWire(Wire):
    """Some clients do not read."""

    full: ClassVar[set[bytes]] = set()
    looks = 0

    def congested(self, client: bytes) -> bool:
        FullWire.looks += 1
        return client in self.full


def test_a_step_looks_at_so_many_only_that_do_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(1, wire=FullWire).start()
    turns, clients = cluster.servers[1].reception.turns, {b"%d" % n for n in range(4000)}
    monkeypatch.setattr(FullWire, "full", clients)
    monkeypatch.setattr(FullWire, "looks", 0)
    for client in clients:
        turns.add(client, [StatusRequest(1)])
    cluster.step(1)
    assert FullWire.looks == BURST_MESSAGES


def test_two_that_owe_and_do_not_read_do_not_stop_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = Cluster(3, machine=Slow, wire=FullWire)
    Slow.clock = slow.clock
    slow.start().lead(1)
    for turn in range(8):
        for client in (FLOODER, OTHER):
            reads = [Query(100 * turn + number, "stale", b"10") for number in range(10)]
            slow.request(1, *reads, client=client)
        slow.clock.now += 0.15
    turns = slow.servers[1].reception.turns
    assert all(turns.waiting[client].requests for client in (FLOODER, OTHER))
    assert turns.waiting[FLOODER].owes
    monkeypatch.setattr(FullWire, "full", {FLOODER, OTHER})
    for _ in range(20):
        slow.step(1)
        slow.clock.now += 0.05
    assert not turns.waiting[FLOODER].owes


def test_who_waits_for_its_last_command_is_charged_and_goes_on_waiting() -> None:
    turns = ClientTurns()
    turns.hold_back(FLOODER, (1, 2), 1.0)
    turns.charge(FLOODER, 0.1, 1.0)
    assert turns.waiting[FLOODER].not_before == pytest.approx(11.0)
    turns.go_on(FLOODER, 1.0)
    assert turns.waiting[FLOODER].not_before == pytest.approx(1.1)


def test_what_took_long_to_execute_counts_though_it_was_short(slow: Cluster) -> None:
    """Here, at the followers, and as long again: the others have half of the cluster's time."""
    flooder, other = slow.open_session(1, FLOODER), slow.open_session(1, OTHER)
    arrives(slow, (OTHER, [Command(other, 1, 1, 0, b"0")]))
    slow.stabilize()
    began = slow.clock.now
    arrives(slow, (FLOODER, [Command(flooder, 1, 1, 0, b"20")]))
    slow.stabilize()
    turns = slow.servers[1].reception.turns
    assert turns.waiting[FLOODER].not_before == pytest.approx(
        began + 0.02 + EXECUTION_FACTOR * 0.02, abs=1e-5
    )
    assert OTHER not in turns.waiting


def test_renewals_that_come_and_come_keep_nobody_waiting(slow: Cluster) -> None:
    """Each takes 10 ms to look at, and there are some in each burst."""
    slow.request(1, StatusRequest(1), client=OTHER)
    for number in range(2, 50):
        slow.clock.now += 0.001
        flood = (FLOODER, [Renew(10 * number + n, b"10") for n in range(5)])
        before = slow.clock.now
        arrives(slow, flood, flood, (OTHER, [StatusRequest(number)]))
        assert slow.clock.now - before <= 0.021  # one that goes before all, and one in its turn
        if number % 2:
            assert len(slow.told(StatusReply, OTHER)) >= number - 1


def test_renewals_go_before_all_else_that_their_client_asked_for(slow: Cluster) -> None:
    slow.request(1, *[Query(n, "stale", b"10") for n in range(9)], client=FLOODER)
    asked = [Query(1, "stale", b"1"), Renew(2, b"0"), Query(3, "stale", b"1"), Renew(4, b"0")]
    arrives(slow, (OTHER, asked))
    slow.pass_time(0.5)
    assert [reply.id for reply in slow.told(QueryReply, OTHER)] == [2, 4, 1, 3]


def test_renewals_of_several_that_flood_count_for_all_of_them(slow: Cluster) -> None:
    turns, began = slow.servers[1].reception.turns, slow.clock.now
    for client in (FLOODER, OTHER, b"third"):
        turns.charge(client, 1.0, began)
    arrives(slow, (FLOODER, [Renew(1, b"10")]))
    assert turns.paid_at[FLOODER + RENEWALS] == pytest.approx(began + 3 * 0.02)


def test_what_waits_is_counted_whatever_it_is() -> None:
    turns, half = ClientTurns(), bytes(MAX_BYTES // 2)
    assert turns.add(FLOODER, [Renew(1, half)])
    assert not turns.add(FLOODER, [Watch(2, half)])
    for request in (
        Unwatch(list(range(20_000))),
        ChangeSettings(1, 0, dict.fromkeys(map(str, range(100)), 1)),
        ChangeMembers(1, NO_BALLOT, (MemberChange("add", 4, 1, "x" * 50_000),)),
    ):
        turns = ClientTurns()
        assert turns.add(FLOODER, [request])
        assert turns.bytes > 50_000


def test_large_replies_count_like_the_time_that_sending_them_takes(led: Cluster) -> None:
    other = led.open_session(1, OTHER)
    led.request(1, put(other, 1, 4 * MIB), client=OTHER)
    led.stabilize()
    led.request(1, StatusRequest(1), client=OTHER)
    get = encode_operations([Get(b"k")])
    led.request(1, *[Query(n, "stale", get) for n in range(20)], client=FLOODER)
    assert led.servers[1].reception.turns.waiting[FLOODER].not_before >= led.clock.now + 0.004


def test_who_has_much_waiting_is_not_listened_to_while_others_are_there(led: Cluster) -> None:
    flooder, other = led.open_session(1, FLOODER), led.open_session(1, OTHER)
    turns = led.servers[1].reception.turns
    large = MAX_BYTES // 4
    arrives(led, (OTHER, [put(other, 1, 10)]))
    for seq in range(1, 3):
        arrives(led, (FLOODER, [put(flooder, seq, large)]))
    assert turns.waiting[FLOODER].requests and not turns.ignored  # that is not much yet
    for seq in range(3, 5):
        arrives(led, (FLOODER, [put(flooder, seq, large)]))
    assert FLOODER in turns.ignored
    led.step(1, Burst(ignored={FLOODER}))
    assert led.told(Overloaded, FLOODER)
    for _ in range(40):
        led.stabilize()
        led.clock.now += 1.0
        led.step(1)
    assert answered(led, FLOODER) >= 3
    assert FLOODER not in turns.ignored


def test_who_is_alone_is_listened_to_however_much_waits(led: Cluster) -> None:
    flooder = led.open_session(1, FLOODER)
    led.pass_time(1.0)
    for seq in range(1, 6):
        arrives(led, (FLOODER, [put(flooder, seq, MAX_BYTES // 4)]))
    turns = led.servers[1].reception.turns
    assert turns.is_much(FLOODER)
    assert not turns.ignored


def test_a_leader_that_steps_down_holds_nobody_back(led: Cluster) -> None:
    flooder, other = led.open_session(1, FLOODER), led.open_session(1, OTHER)
    arrives(led, (OTHER, [put(other, 1, 10)]), (FLOODER, [put(flooder, 1, 2 * MIB)]))
    assert led.servers[1].reception.turns.held_back
    led.isolate(1)
    led.pass_time(3.0)
    assert led.servers[1].role == "follower"
    assert not led.servers[1].reception.turns.held_back


class SlowSnapshots(MemoryDisk):
    """Its snapshots are not ready before this is told."""

    ready = False

    def _taken(self) -> SnapshotInfo | None:
        return super()._taken() if self.ready else None


class SlowSnapshotCluster(Cluster):
    def new_disk(self, server: int) -> MemoryDisk:
        return SlowSnapshots(cluster="test", server=server)


@pytest.fixture
def snapshots() -> Cluster:
    cluster = SlowSnapshotCluster(3, machine=KVStore, options={"snapshot_bytes": 4 * MIB})
    cluster.start().lead(1)
    return cluster


def due(cluster: Cluster, *, others: bool = True) -> tuple[int, int]:
    """The flooder's second value of 2 MiB makes a snapshot due; both clients' sessions."""
    flooder, other = cluster.open_session(1, FLOODER), cluster.open_session(1, OTHER)
    cluster.pass_time(1.0)
    for seq in (1, 2):
        if others:
            arrives(cluster, (OTHER, [put(other, seq, 10)]))
            cluster.stabilize()
        arrives(cluster, (FLOODER, [put(flooder, seq, 2 * MIB)]))
        cluster.stabilize()
        cluster.clock.now += 0.01
        cluster.step(1)  # others went first
        cluster.stabilize()
    assert cluster.storages[1].taking_snapshot
    return flooder, other


def test_whoever_makes_a_snapshot_due_waits_for_it_and_as_long_again(snapshots: Cluster) -> None:
    flooder, other = due(snapshots)
    arrives(snapshots, (FLOODER, [put(flooder, 3, 2 * MIB)]))
    for seq in range(3, 23):  # for 0.4 s it is being taken, for another 0.4 s the others go first
        storage = snapshots.storages[1]
        assert isinstance(storage, SlowSnapshots)
        storage.ready = seq > 12
        snapshots.clock.now += 0.04
        arrives(snapshots, (OTHER, [put(other, seq, 10)]))
        snapshots.stabilize()
        assert answered(snapshots, OTHER) == seq  # at once, each time
        assert answered(snapshots, FLOODER) == 2
    snapshots.clock.now += 0.2
    snapshots.step(1)
    snapshots.stabilize()
    assert answered(snapshots, FLOODER) == 3


def test_alone_nobody_waits_for_a_snapshot(snapshots: Cluster) -> None:
    flooder, _ = due(snapshots, others=False)
    arrives(snapshots, (FLOODER, [put(flooder, 3, 2 * MIB)]))
    snapshots.stabilize()
    assert answered(snapshots, FLOODER) == 3


def test_a_pipeline_of_small_commands_waits_for_no_snapshot(snapshots: Cluster) -> None:
    """Else the ordinary load of a busy store would stand still twice a second."""
    flooder, other = snapshots.open_session(1, FLOODER), snapshots.open_session(1, OTHER)
    seq = 0
    while not snapshots.storages[1].taking_snapshot:
        seq += 1
        arrives(snapshots, (OTHER, [put(other, seq, 10)]))
        pipeline = [put(flooder, 4 * seq - n, 100 << 10) for n in (3, 2, 1, 0)]
        arrives(snapshots, (FLOODER, pipeline))
        snapshots.stabilize()
        snapshots.clock.now += 0.01
        snapshots.step(1)
        snapshots.stabilize()
        assert seq < 50
    assert not snapshots.servers[1].reception.turns.blamed


def test_a_leader_that_steps_down_holds_nobody_back_for_its_snapshot(snapshots: Cluster) -> None:
    due(snapshots)
    turns = snapshots.servers[1].reception.turns
    assert turns.waiting[FLOODER].not_before > snapshots.clock.now + 1.0
    snapshots.isolate(1)
    snapshots.pass_time(3.0)
    assert snapshots.servers[1].role == "follower"
    assert not turns.blamed
    assert all(w.not_before <= snapshots.clock.now for w in turns.waiting.values())


@pytest.mark.parametrize(("seconds", "blamed"), [(0.5, True), (11.0, False), (1000.0, False)])
def test_a_snapshot_is_put_down_to_who_stored_lately(
    snapshots: Cluster, seconds: float, blamed: bool
) -> None:
    """Who stored 2 MiB long ago does not wait beside somebody else's flood."""
    flooder, other = snapshots.open_session(1, FLOODER), snapshots.open_session(1, OTHER)
    arrives(snapshots, (OTHER, [put(other, 1, 2 * MIB)]))
    snapshots.stabilize()
    snapshots.pass_time(seconds, step=0.1)
    for seq in range(1, 3):
        arrives(snapshots, (OTHER, [put(other, 1 + seq, 10)]))
        arrives(snapshots, (FLOODER, [put(flooder, seq, MIB)]))
        snapshots.stabilize()
        snapshots.clock.now += 0.01
        snapshots.step(1)
        snapshots.stabilize()
    assert snapshots.storages[1].taking_snapshot
    parts = snapshots.servers[1].reception.turns.blamed
    assert parts == pytest.approx(
        {FLOODER: 0.5, OTHER: 0.5} if blamed else {FLOODER: 1.0}, abs=0.01
    )


def test_what_was_stored_counts_for_five_to_ten_seconds() -> None:
    stored = Stored()
    stored.add(OTHER, 100, 1000, 7.0)  # 900 were stored by others, or in small commands
    stored.add(FLOODER, 300, 1500, 12.5)
    assert stored.parts(100, 1600, 16.9) == {OTHER: 100 / 700, FLOODER: 300 / 700}
    assert stored.parts(100, 1600, 17.0) == {FLOODER: 300 / 400}
    assert stored.parts(100, 1600, 22.0) == {}


def test_nobody_sits_out_for_as_long_as_a_machine_was_suspended(led: Cluster) -> None:
    """The clock runs on meanwhile: what was just being stored seems to have taken hours."""
    flooder, other = led.open_session(1, FLOODER), led.open_session(1, OTHER)
    arrives(led, (FLOODER, [put(flooder, 1, 2 * MIB)]), (OTHER, [put(other, 1, 10)]))
    led.clock.now += 3600.0
    led.stabilize()
    led.step(1, Burst(clients=[(OTHER, [put(other, 2, 10)])]))
    assert answered(led, FLOODER) == 1
    turns = led.servers[1].reception.turns
    assert turns.waiting[FLOODER].not_before == pytest.approx(led.clock.now + 10.0)


def test_what_else_it_has_in_the_log_lets_nobody_go_before_the_snapshot_is_taken() -> None:
    turns = ClientTurns()
    turns.hold_for_snapshot({FLOODER: 0.5}, 100.0)
    turns.sit_out(FLOODER, 100.0, 0.5)
    assert turns.waiting[FLOODER].not_before == 110.0
    turns.snapshot_taken(2.0, 102.0)
    assert turns.waiting[FLOODER].not_before == 103.0
    turns.sit_out(FLOODER, 102.5)
    assert turns.waiting[FLOODER].not_before == 102.5
