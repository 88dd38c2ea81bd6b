"""What one client, command, session or burst may take (docs/design/overload.md), by server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from paxon.actors import Execute, Settings, SettingsError
from paxon.actors.codecs import client_codec, port_codec
from paxon.actors.execution.agreed import first_agreed
from paxon.actors.execution.application import Application, encode_batch
from paxon.actors.execution.sessions import SessionTable
from paxon.actors.limits import turns
from paxon.actors.limits.allowances import (
    FRAME_BYTES,
    IN_FLIGHT_BYTES,
    SLOT_REPLIES,
    TRANSFERS_PER_PEER,
)
from paxon.actors.limits.turns import ALL_OPENINGS, MAX_MESSAGES, OPENINGS, Openings
from paxon.actors.messages import (
    P1A,
    P2A,
    Batch,
    CatchUp,
    CatchUpRequest,
    ChangeSettings,
    ClientMessage,
    Command,
    Entry,
    OpenSession,
    Overloaded,
    PreVote,
    Query,
    QueryReply,
    ReplyStatus,
    ServerReply,
    SessionOpened,
    SlotReply,
    SlotRequest,
    StatusReply,
    StatusRequest,
    Unwatch,
    retry_after,
)
from paxon.actors.records.reign import HeldRequests
from paxon.kvstore.store.operations import Append, Get, Put, encode_operations
from paxon.kvstore.store.store import KVStore
from paxon.transport import Burst, FrameError
from tests.harness import CLIENT, Cluster, Register, Wire

FLOODER, OTHER = b"flooder", b"other"


class Sized(Register):
    """Replies with as many bytes as the command says."""

    def apply(self, command: bytes) -> bytes:
        self.applied.append(command)
        return bytes(int(command))

    def query(self, query: bytes) -> bytes:
        return bytes(int(query))


class Frames(Wire):
    """Remembers what each step's frames to clients held."""

    sizes: ClassVar[list[int]] = []
    full: ClassVar[bool] = False

    def reply(self, client: bytes, messages: Sequence[ServerReply]) -> None:
        size = sum(len(getattr(m, "payload", getattr(m, "value", b""))) for m in messages)
        self.sizes.append(size)
        super().reply(client, messages)

    def congested(self, client: bytes) -> bool:
        return self.full and client == FLOODER


@pytest.fixture(autouse=True)
def _forget() -> None:
    Frames.sizes, Frames.full = [], False


def led(machine: Any = Sized, **options: Any) -> Cluster:
    cluster = Cluster(3, options=options, machine=machine, wire=Frames).start()
    cluster.lead(1)
    return cluster


def serve_all(cluster: Cluster, server: int = 1) -> list[int]:
    """Step while something waits; how many bytes each step replied."""
    steps, turns = [], cluster.servers[server].reception.turns
    while turns.messages or cluster.servers[server].next_deadline() <= cluster.clock.now:
        cluster.clock.now = max(
            cluster.clock.now,
            turns.due(cluster.servers[server].latencies.burst.total) if turns.messages else 0.0,
        )
        Frames.sizes.clear()
        cluster.step(server)
        steps.append(sum(Frames.sizes))
        assert len(steps) < 10_000
    return steps


# --- replies -------------------------------------------------------------------------------------


def test_ten_thousand_slot_requests_are_answered_a_few_megabytes_a_step() -> None:
    cluster = led()
    cluster.isolate(3)  # or the slot would be discarded
    session = cluster.open_session(1)
    cluster.command(1, session, 1, b"0" * 1_000_000)
    cluster.stabilize()
    slot = cluster.servers[1].last_non_empty()
    cluster.clock.now += 1.0  # it is alone
    flood = [SlotRequest(n, slot) for n in range(10_000)]
    Frames.sizes.clear()
    cluster.request(1, *flood, client=FLOODER)
    steps = [sum(Frames.sizes), *serve_all(cluster)]
    assert max(steps) <= FRAME_BYTES + 2_000_000
    assert len(cluster.told(SlotReply, FLOODER)) == 10_000


def test_who_asks_again_for_a_large_reply_gets_a_few_megabytes_a_step() -> None:
    cluster = led()
    session = cluster.open_session(1)
    cluster.command(1, session, 1, b"1000000", client=FLOODER)
    cluster.stabilize()
    Frames.sizes.clear()
    again = [Command(session, 1, 1, 0, b"1000000")] * 100
    cluster.request(1, *again, client=FLOODER)
    assert max([sum(Frames.sizes), *serve_all(cluster)]) <= FRAME_BYTES + 1_000_000


@pytest.mark.parametrize(
    "message", [Unwatch([1] * 20_001), ChangeSettings(1, 0, {str(n): 1 for n in range(101)})]
)
def test_a_list_in_a_clients_message_is_bounded(message: ClientMessage) -> None:
    """It takes far more in memory than in its frame, and somebody else's time to read."""
    frame = bytes(client_codec().encode([message]))
    with pytest.raises(FrameError, match="length <= "):
        port_codec(1).decode(frame)


@pytest.mark.parametrize("mode", ["stale", "linearizable"])
def test_large_reads_are_answered_a_few_megabytes_a_step(mode: Any) -> None:
    cluster = led()
    Frames.sizes.clear()
    cluster.request(1, *[Query(n, mode, b"1000000") for n in range(300)], client=FLOODER)
    assert sum(Frames.sizes) <= FRAME_BYTES + 1_000_000
    steps = []
    for _ in range(100):
        for packet in cluster.packets[:]:
            Frames.sizes.clear()
            cluster.packets.remove(packet)
            cluster.hand(packet.target, packet.source, packet.message)
            steps.append(sum(Frames.sizes))
        steps += serve_all(cluster)
    assert max(steps) <= FRAME_BYTES + 1_000_000
    assert len(cluster.told(QueryReply, FLOODER)) == 300


def test_who_reads_nothing_gets_nothing_more() -> None:
    cluster = led()
    Frames.full = True
    cluster.request(1, *[Query(n, "stale", b"1000000") for n in range(300)], client=FLOODER)
    first = len(cluster.told(QueryReply, FLOODER))
    assert first < 10
    cluster.request(1, Query(1, "stale", b"1"), client=OTHER)
    assert len(cluster.told(QueryReply, OTHER)) == 1
    for _ in range(50):
        cluster.step(1)
    assert len(cluster.told(QueryReply, FLOODER)) == first


# --- turns ---------------------------------------------------------------------------------------


def test_others_come_between_and_the_peers_first() -> None:
    cluster = led()
    cluster.request(1, *[StatusRequest(n) for n in range(9000)], client=FLOODER)
    answered = len(cluster.told(StatusReply, FLOODER))
    assert answered < 2100
    question = PreVote(1, 1)
    cluster.step(
        1,
        Burst(
            peers=[(2, cluster.storages[2].incarnation, [question])],
            clients=[(OTHER, [StatusRequest(1)])],
        ),
    )
    assert len(cluster.told(StatusReply, OTHER)) == 1
    assert len(cluster.told(StatusReply, FLOODER)) < answered + 2100
    serve_all(cluster)
    assert len(cluster.told(StatusReply, FLOODER)) == 9000


def test_what_does_not_fit_into_a_clients_queue_is_thrown_away_and_said_so() -> None:
    cluster = led()
    requests = [StatusRequest(n) for n in range(4000)]
    for _ in range(20):
        cluster.step(1, Burst(clients=[(FLOODER, requests)]))
    assert cluster.servers[1].describe().counters["client_requests_waiting"] <= MAX_MESSAGES
    assert cluster.told(Overloaded, FLOODER)[0].retry_after_ms > 0
    cluster.request(1, StatusRequest(1), client=OTHER)
    assert len(cluster.told(StatusReply, OTHER)) == 1


def test_what_waits_for_a_client_that_has_gone_is_dropped() -> None:
    cluster = led()
    cluster.request(1, *[StatusRequest(n) for n in range(9000)], client=FLOODER)
    answered = len(cluster.told(StatusReply, FLOODER))
    cluster.step(1, Burst(gone=[FLOODER]))
    assert serve_all(cluster) == []
    assert len(cluster.told(StatusReply, FLOODER)) == answered


def test_a_frame_of_too_many_messages_is_answered_in_one_word() -> None:
    cluster = led()
    cluster.step(1, Burst(refused=[FLOODER, FLOODER]))
    assert len(cluster.told(Overloaded, FLOODER)) == 1


# --- sessions ------------------------------------------------------------------------------------


def test_a_client_opens_only_so_many_sessions() -> None:
    cluster = led()
    cluster.request(1, *[OpenSession(n) for n in range(1, 1000)], client=FLOODER)
    cluster.stabilize()
    assert len(cluster.told(SessionOpened, FLOODER)) == OPENINGS
    assert len(cluster.told(Overloaded, FLOODER)) > 0
    cluster.pass_time(1.0)
    cluster.request(1, OpenSession(5000), client=FLOODER)
    cluster.stabilize()
    assert len(cluster.told(SessionOpened, FLOODER)) == OPENINGS + 1


def test_who_has_opened_many_sessions_opens_another_every_eighth_of_a_second() -> None:
    """And after a while as many as at first. What it is told to wait is what it has to."""
    openings = Openings()

    def opened(client: bytes, now: float) -> int:
        return next(n for n in range(10_000) if openings.wait(client, now))

    assert opened(FLOODER, 100.0) == OPENINGS
    for now in (100.0, 100.0625):
        assert openings.wait(FLOODER, now) == pytest.approx(100.125 - now)
    assert openings.wait(OTHER, 100.0625) == 0.0
    assert opened(FLOODER, 100.125) == 1
    assert opened(FLOODER, 101.125) == 8
    assert opened(FLOODER, 1000.0) == OPENINGS


def test_of_clients_that_open_sessions_the_last_ones_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "REMEMBERED_CLIENTS", 10)
    openings = Openings()
    for number in range(50):
        for client in (FLOODER, b"%d" % number):
            assert openings.wait(client, 100.0) == 0.0
    assert len(openings._left) == 10
    assert openings._left[FLOODER] == (OPENINGS - 50, 100.0)


def test_who_dials_anew_to_open_sessions_is_bounded_with_all_others() -> None:
    """Two thousand connections a second, each with its 64 openings, kept everybody else waiting."""
    openings = Openings()
    waits = [openings.wait(b"%d" % (n // 64), 100.0) for n in range(10_000)]
    assert waits.count(0.0) == ALL_OPENINGS
    assert 0.0 < waits[-1] < 0.001
    later = [openings.wait(b"later %d" % n, 101.0) for n in range(3000)]
    assert later.count(0.0) == 2000


def test_sessions_never_used_make_room_first_and_those_in_use_never() -> None:
    table = SessionTable(first_agreed({"max_sessions": 3}, {}))
    used = table.open(1, 0, 1)
    assert used is not None
    table.touch(Entry(used, 1, 1, 0, b"x"))
    flood = [table.open(2, index, 1) for index in range(1000)]
    assert None not in flood
    assert table.get(used) is not None
    for number in flood[-2:]:
        assert number is not None
        table.touch(Entry(number, 1, 1, 0, b"x"))
    assert table.open(3, 0, 1) is None
    table.advance(11 * 10**9)
    assert table.open(3, 0, 1) is not None
    assert table.get(used) is None


def test_replies_that_nobody_acknowledges_are_bounded_on_every_server() -> None:
    cluster = led(max_kept_each=10_000)
    session = cluster.open_session(1)
    for seq in range(1, 101):
        cluster.command(1, session, seq, b"1000", client=FLOODER)
        cluster.stabilize()
    cluster.pass_time(0.2)
    for server in cluster.servers.values():
        assert server.application.sessions.kept < 12_000
    refused = cluster.reply_to(100)
    assert refused is not None
    assert refused.status == ReplyStatus.OVERLOADED
    assert retry_after(refused.payload)[0] > 0
    cluster.command(1, session, 100, b"1000", acked=9, client=FLOODER)
    cluster.stabilize()
    accepted = cluster.reply_to(100)
    assert accepted is not None
    assert accepted.status == ReplyStatus.OK


@pytest.mark.parametrize("bound", ["max_kept_each", "max_kept"])
def test_replies_kept_to_later_commands_never_keep_out_an_earlier_one(bound: str) -> None:
    """None of them can be acknowledged before its own: the session would be full for ever."""
    cluster = led(**{bound: 100_000})
    session = cluster.open_session(1)
    for seq in range(2, 10):  # the frame with the first one was lost
        cluster.command(1, session, seq, b"100000")
        cluster.stabilize()
    refused = cluster.reply_to(9)
    assert refused is not None and refused.status == ReplyStatus.OVERLOADED
    cluster.command(1, session, 1, b"10")
    cluster.stabilize()
    first = cluster.reply_to(1)
    assert first is not None and first.status == ReplyStatus.OK
    cluster.command(1, session, 9, b"10", acked=9)
    cluster.stabilize()
    last = cluster.reply_to(9)
    assert last is not None and last.status == ReplyStatus.OK


def test_the_bound_counts_when_a_batch_is_executed_too() -> None:
    cluster = led(max_kept_each=10_000)
    session = cluster.open_session(1)
    commands = [Command(session, seq, 1, 0, b"1000") for seq in range(1, 101)]
    cluster.request(1, *commands, client=FLOODER)
    cluster.stabilize()
    cluster.pass_time(0.2)
    assert max(s.application.sessions.kept for s in cluster.servers.values()) < 12_000
    assert len({tuple(cluster.applied(server)) for server in cluster.ids}) == 1


def test_what_a_leader_keeps_until_it_serves_is_bounded() -> None:
    held = HeldRequests()
    command = Command(1, 1, 0, 0, bytes(1000))
    assert [held.add(b"client", command, 2500) for _ in range(3)] == [True, True, False]
    assert len(held.take()) == 2 and held.add(b"client", command, 2500)


def test_all_sessions_together_are_bounded() -> None:
    agreed = first_agreed({"max_kept": 1_000_000, "max_kept_each": 10_000_000}, {})
    application = Application(Sized(), agreed)
    slot = 0

    def execute(*entries: Entry) -> list[Any]:
        nonlocal slot
        slot += 1
        return application.execute(slot, encode_batch(Batch(1_000_000_000, list(entries))))

    opened = execute(*[Entry(0, n, 0, 0, b"") for n in range(1, 41)])
    sessions = [int.from_bytes(reply.payload, "big") for _, reply in opened]
    for seq in range(1, 30):
        execute(*[Entry(session, seq, 1, 0, b"30000") for session in sessions[1:]])
    assert application.sessions.kept < 40 * 100_000
    ((_, reply),) = execute(Entry(sessions[0], 2, 1, 0, b"10"))  # who has little goes on
    assert reply.status == ReplyStatus.OK


def test_one_slot_replies_only_so_much_and_leaves_the_others_in_peace() -> None:
    application = Application(Sized(), first_agreed({"max_kept_each": 1 << 40}, {}))
    opened = application.execute(
        1, encode_batch(Batch(1_000_000_000, [Entry(0, n, 0, 0, b"") for n in (1, 2)]))
    )
    flooder, other = [int.from_bytes(reply.payload, "big") for _, reply in opened]
    entries = [Entry(flooder, n, 1, 0, b"8000000") for n in range(1, 50)]
    entries.append(Entry(other, 1, 1, 0, b"10"))
    results = application.execute(2, encode_batch(Batch(1_000_000_000, entries)))
    assert sum(len(reply.payload) for _, reply in results) < SLOT_REPLIES + 9_000_000
    assert results[-1][1].status == ReplyStatus.OK
    assert results[-2][1].status == ReplyStatus.OVERLOADED
    again = application.execute(3, encode_batch(Batch(1_000_000_000, [entries[-2]])))
    assert again[0][1].status == ReplyStatus.OK


# --- commands ------------------------------------------------------------------------------------


def test_twenty_thousand_appends_copy_the_value_once() -> None:
    store = KVStore()
    store.apply(encode_operations([Put(b"k", bytes((8 << 20) - 30_000))]))
    store.apply(encode_operations([Append(b"k", b"x")] * 20_000))
    held = store._state.data[b"k"].value
    store.apply(encode_operations([Append(b"k", b"x")]))
    assert store._state.data[b"k"].value is held  # grown in place
    assert store._state.history.bytes < 4 << 20  # the same bytes, not twenty thousand copies
    assert store.query(encode_operations([Get(b"k")]))[-1:] == b"x"


def test_dear_commands_are_spread_over_slots() -> None:
    cluster = led(KVStore)
    session = cluster.open_session(1)
    put = encode_operations([Put(b"k", bytes(8 << 20))])
    cluster.command(1, session, 1, put)
    cluster.stabilize()
    before = cluster.servers[1].last_non_empty()
    get = encode_operations([Get(b"k"), Get(b"k")])
    cluster.request(1, *[Command(session, seq, seq, 0, get) for seq in range(2, 22)])
    cluster.stabilize()
    assert cluster.servers[1].last_non_empty() - before >= 20 * (16 << 20) // (64 << 20)


@pytest.mark.slow
def test_commands_of_many_operations_are_spread_over_slots() -> None:
    cluster = led(KVStore)
    session = cluster.open_session(1)
    before = cluster.servers[1].last_non_empty()
    many = encode_operations([Append(b"k", b"x")] * 20_000)
    cluster.request(1, *[Command(session, seq, 1, 0, many) for seq in range(1, 5)])
    cluster.stabilize()
    assert cluster.servers[1].last_non_empty() - before >= 2


def test_only_so_many_bytes_are_in_flight() -> None:
    cluster = led()
    session = cluster.open_session(1)
    for seq in range(1, 17):
        cluster.request(1, Command(session, seq, 1, 0, b"0" * (1 << 20)))
    flying = sum(len(p2a.value) for p2a in cluster.sent(P2A, 1, 2))
    assert flying <= IN_FLIGHT_BYTES + (1 << 20) + 1000
    cluster.stabilize()
    assert len(cluster.applied(1)) == 16


def test_execute_of_a_command_that_is_too_long_fails_at_once() -> None:
    cluster = led()
    future = cluster.servers[1].on_local(Execute(bytes(34 << 20)))
    with pytest.raises(Exception, match="exceeds"):
        future.get(timeout=0)


# --- peers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["catch-up", "promise"])
def test_a_peer_that_asks_a_thousand_times_is_answered_within_bounds(kind: str) -> None:
    cluster = led(policy="random")
    cluster.isolate(3)
    session = cluster.open_session(1)
    for seq in range(1, 4):
        cluster.command(1, session, seq, b"0" * 1_000_000)
        cluster.stabilize()
    ballot = cluster.servers[2].promised.next_for(3)
    request = CatchUpRequest(2) if kind == "catch-up" else P1A(ballot, 1)
    cluster.drop()
    cluster.hand(2, 3, *[request] * 1000)
    answers = [packet.message for packet in cluster.packets if packet.target == 3]
    assert 1 <= len(answers) <= TRANSFERS_PER_PEER // (1 << 20)
    if kind == "catch-up":
        assert all(isinstance(answer, CatchUp) for answer in answers)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["batch_bytes", "transfer_bytes", "max_command_bytes"])
def test_what_would_not_go_into_a_frame_is_refused(name: str) -> None:
    values: dict[str, Any] = {"cluster": "c", "server": 1, "servers": (1,), name: 34 << 20}
    with pytest.raises(SettingsError, match=name):
        Settings(**values)


def test_a_status_sums_up_nothing() -> None:
    cluster = led()
    session = cluster.open_session(1)
    cluster.command(1, session, 1, b"1000", client=CLIENT)
    cluster.stabilize()
    assert cluster.servers[1].describe().counters["session_reply_bytes"] == 1064


def test_who_is_not_confirmed_answers_no_more_at_once_than_anybody_else() -> None:
    cluster = Cluster(3)
    cluster.start()
    cluster.confirms = False
    cluster.restart(3)
    cluster.servers[3].membership.confirmation.pending = True
    cluster.servers[3]._takes_part = False
    cluster.replies.clear()
    cluster.request(3, *(StatusRequest(n) for n in range(10_000)), client=FLOODER)
    answered = [m for _, _, m in cluster.replies if isinstance(m, StatusReply)]
    assert 0 < len(answered) <= FRAME_BYTES // 2048


def test_what_this_process_executes_does_not_wait_for_the_next_step() -> None:
    slow = {"heartbeat_interval": 0.2, "election_timeout_min": 1.0, "election_timeout_max": 2.0}
    cluster = Cluster(1, options=slow).start()
    cluster.lead(1)
    cluster.clock.now += 0.15
    future = cluster.servers[1].on_local(Execute(b"c"))
    assert future.get(timeout=1.0) == b"c"


@pytest.mark.parametrize("name", ["two\nlines", "\udc80", "x" * 201])
def test_a_clusters_name_is_a_line(name: str) -> None:
    """Directories say in plain text whose they are."""
    with pytest.raises(SettingsError, match="one line of printable text"):
        Settings(cluster=name, server=1, servers=(1,))
