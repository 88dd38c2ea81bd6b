"""A watch is a read that waits (rule 14): any server answers it from what it has executed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from paxon.actors import Ballot
from paxon.actors.limits.allowances import FRAME_BYTES
from paxon.actors.messages import (
    P2A,
    CatchUp,
    CatchUpRequest,
    Command,
    CommandReply,
    CommitNote,
    Heartbeat,
    HeartbeatReply,
    NotLeader,
    QueryReply,
    ReplyStatus,
    StatusReply,
    StatusRequest,
    Unwatch,
    Watch,
    WatchCheck,
    WatchesHeld,
    retry_after,
    watch_digest,
)
from paxon.actors.parts import watches
from paxon.actors.parts.watches import (
    ALL,
    ANSWERS,
    AT_ONCE,
    EACH,
    FORGOTTEN,
    NEAR,
    OF_LATE,
    QUERY_BYTES,
    SHORT,
)
from paxon.transport import Burst
from tests.harness import CLIENT, Cluster, Register, Wire, reign_of

OTHER = b"another client"


class Watched(Register):
    """A register of which one may ask what came after the first so many commands."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, int] = {}
        self.going_on = False

    def watch(self, number: int, query: bytes) -> bytes | None:
        if query == b"nonsense":
            raise ValueError("no such watch")
        after = int(query)
        if after < len(self.applied):
            return b" ".join(self.applied[after:])
        self.kept[number] = after
        return None

    def unwatch(self, number: int) -> None:
        del self.kept[number]

    def happened(self) -> Iterable[tuple[int, bytes]]:
        due = {n: after for n, after in self.kept.items() if after < len(self.applied)}
        for number, after in due.items():
            del self.kept[number]
            if self.going_on:
                self.kept[number] = len(self.applied)
            yield number, b" ".join(self.applied[after:])

    def keeps(self, number: int) -> bool:
        return number in self.kept

    def watched_through(self) -> bytes:
        return b"%d" % len(self.applied)


def running(size: int = 3, **options: Any) -> tuple[Cluster, int]:
    """Server 1 leads and has executed `a`; and a session."""
    cluster = Cluster(size, machine=Watched, options=options).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.execute(1, session, b"a")
    cluster.pass_time(0.2)
    return cluster, session


def told(cluster: Cluster, watch: int, client: bytes = CLIENT) -> list[tuple[ReplyStatus, bytes]]:
    """What a watch was answered."""
    replies = [reply for reply in cluster.told(QueryReply, client) if reply.id == watch]
    return [(ReplyStatus(reply.status), reply.payload) for reply in replies]


def kept(cluster: Cluster, server: int) -> int:
    """How many watches the state machine of a server keeps; its server has to hold as many."""
    machine = cluster.servers[server].application.machine
    assert isinstance(machine, Watched)
    assert list(machine.kept) == list(cluster.servers[server].watches.held)
    return len(machine.kept)


@pytest.mark.parametrize("server", [1, 2, 3])
def test_what_has_happened_is_answered_at_once_by_any_server(server: int) -> None:
    cluster, _ = running()
    cluster.request(server, Watch(7, b"0"))
    assert told(cluster, 7) == [(ReplyStatus.OK, b"a")]
    assert kept(cluster, server) == 0


@pytest.mark.parametrize("server", [1, 2, 3])
def test_what_has_not_happened_is_waited_for(server: int) -> None:
    cluster, session = running()
    cluster.request(server, Watch(7, b"1"))
    cluster.pass_time(1.0)
    assert told(cluster, 7) == []
    cluster.execute(1, session, b"b", first=2)
    cluster.pass_time(0.2)
    assert told(cluster, 7) == [(ReplyStatus.OK, b"b")]
    cluster.execute(1, session, b"c", first=3)
    cluster.pass_time(0.2)
    assert len(told(cluster, 7)) == 1, "it was answered, and is held no more"


def going_on(size: int = 3, **options: Any) -> tuple[Cluster, int]:
    """As `running`; the state machine keeps what it has answered."""
    cluster, session = running(size, **options)
    for server in cluster.servers.values():
        machine = server.application.machine
        assert isinstance(machine, Watched)
        machine.going_on = True
    return cluster, session


def test_a_watch_goes_on_until_it_has_had_the_answers_that_it_asked_for() -> None:
    cluster, session = going_on()
    cluster.request(2, Watch(6, b"1"), Watch(7, b"1", answers=3))
    for seq, text in enumerate((b"b", b"c", b"d", b"e"), 2):
        cluster.execute(1, session, text, first=seq)
        cluster.pass_time(0.2)
    goes_on = ReplyStatus.GOES_ON
    assert told(cluster, 6) == [(ReplyStatus.OK, b"b")]
    assert told(cluster, 7) == [(goes_on, b"b")]
    assert told(cluster, 8) == [(goes_on, b"c")]
    assert told(cluster, 9) == [(ReplyStatus.OK, b"d")]
    assert kept(cluster, 2) == 0


def test_a_watch_that_was_answered_at_length_has_to_be_asked_for_again() -> None:
    """Else a client that does not read would have much owing."""
    cluster, session = going_on()
    cluster.request(2, Watch(7, b"1", answers=1 << 30))
    cluster.execute(1, session, b"b" * SHORT, first=2)
    cluster.pass_time(0.2)
    assert [status for status, _ in told(cluster, 7)] == [ReplyStatus.OK]
    assert kept(cluster, 2) == 0
    cluster.request(2, Watch(8, b"2", answers=1 << 30))
    for seq in range(3, 3 + 2 * ANSWERS):
        cluster.execute(1, session, b"b", first=seq)
        cluster.pass_time(0.2)
    assert len(cluster.told(QueryReply)) == 1 + ANSWERS, "nor are very many given at once"


def test_answers_are_numbered_and_counted() -> None:
    """So a client finds out that it has missed one."""
    cluster, session = going_on()
    cluster.request(2, Watch(32, b"1", answers=2), Watch(64, b"1", answers=9), Watch(96, b"8"))
    for seq in range(2, 6):
        cluster.request(2, WatchCheck(seq))
        cluster.execute(1, session, b"b", first=seq)
        cluster.pass_time(0.2)
    cluster.request(2, Unwatch([64]), WatchCheck(6), Unwatch([]), WatchCheck(7))
    held = [(reply.held, reply.digest) for reply in cluster.told(WatchesHeld)]
    nexts = [(32, 64, 96), (33, 65, 96), (66, 96), (67, 96), (96,), ()]
    assert held == [(len(ids), watch_digest(ids)) for ids in nexts]
    assert [reply.id for reply in cluster.told(QueryReply)] == [32, 64, 33, 65, 66, 67]


def test_a_number_that_answers_cannot_follow_is_refused() -> None:
    """A reply with a number beyond 64 bits would have stopped the server."""
    cluster, _ = going_on()
    for number in (2**64 - 1, 2**62, -1):
        cluster.request(2, Watch(number, b"1", answers=2))
        assert told(cluster, number) == [(ReplyStatus.INVALID, b"no such number")]
    assert not cluster.servers[2].watches.held


def test_few_of_many_watches_of_a_client_go_on_at_once() -> None:
    """Asking again counts as work; answers that nobody asks for would be had for nothing."""
    cluster, session = going_on()
    watches = [Watch(16 * n, b"1", answers=9) for n in range(1, AT_ONCE + 9)]
    cluster.request(2, *watches)
    cluster.execute(1, session, b"b", first=2)
    cluster.pass_time(0.2)
    statuses = [reply.status for reply in cluster.told(QueryReply)]
    assert statuses == [ReplyStatus.GOES_ON] * AT_ONCE + [ReplyStatus.OK] * 8
    assert len(cluster.servers[2].watches.held) == AT_ONCE


def test_a_watch_that_the_machine_keeps_no_longer_has_ended() -> None:
    """Whatever it asked for, a client waits in vain for more."""
    cluster, session = running()
    cluster.request(2, Watch(7, b"1", answers=9))
    cluster.execute(1, session, b"b", first=2)
    cluster.pass_time(0.2)
    assert told(cluster, 7) == [(ReplyStatus.OK, b"b")]
    assert kept(cluster, 2) == 0


def test_an_answer_does_not_overtake_what_was_said_before_it() -> None:
    """A watch that ends with it would be counted as held."""
    cluster, session = going_on(1, window=1, batch_bytes=1)
    cluster.request(1, Watch(6, b"1", answers=2))
    before = len(cluster.replies)
    two = [Command(session, seq, 0, 0, b"b") for seq in (2, 3)]
    cluster.step(1, Burst(clients=[(CLIENT, [WatchCheck(1), *two])]))
    cluster.pass_time(0.1)
    kinds = [type(r) for _, _, r in cluster.replies[before:] if not isinstance(r, CommandReply)]
    assert kinds == [WatchesHeld, QueryReply, QueryReply]
    assert [told(cluster, n) for n in (6, 7)] == [
        [(ReplyStatus.GOES_ON, b"b")], [(ReplyStatus.OK, b"b")]
    ]  # fmt: skip


def test_an_answer_leaves_only_when_the_value_is_chosen() -> None:
    """What a leader has merely proposed nobody may see."""
    cluster, session = running()
    cluster.request(1, Watch(7, b"1"))
    cluster.isolate(1)
    cluster.command(1, session, 2, b"b")
    cluster.step(1)
    assert told(cluster, 7) == []


def test_a_watch_is_answered_before_the_sync_of_what_came_with_the_news() -> None:
    """What is executed is durable at a majority: this server's own copy is not waited for."""
    cluster, session = running()
    cluster.request(2, Watch(7, b"1"))
    cluster.command(1, session, 2, b"b")
    [p2a] = cluster.sent(P2A, target=2)
    cluster.drop(P2A, target=2)
    cluster.deliver(P2A, target=3)
    cluster.deliver()
    server, seen = cluster.servers[2], list[list[tuple[ReplyStatus, bytes]]]()
    commit = server._storage.commit

    def watched_commit() -> None:
        seen.append(told(cluster, 7))
        assert not cluster.told(StatusReply), "all else waits for the sync"
        commit()

    server._storage.commit = watched_commit  # type: ignore[method-assign]
    note = CommitNote(p2a.ballot, p2a.slot)
    leader = cluster.storages[1].incarnation
    cluster.step(
        2, Burst(peers=[(1, leader, [p2a, note])], clients=[(CLIENT, [StatusRequest(9)])])
    )  # fmt: skip
    assert seen == [[(ReplyStatus.OK, b"b")]]
    assert [reply.id for reply in cluster.told(StatusReply)] == [9]
    assert len(told(cluster, 7)) == 1


def test_all_watches_hear_of_one_command() -> None:
    cluster, session = running()
    cluster.request(2, *(Watch(n, b"1") for n in range(1000)))
    cluster.request(2, *(Watch(n, b"1") for n in range(1000)), client=OTHER)
    assert kept(cluster, 2) == 2000
    cluster.execute(1, session, b"b", first=2)
    cluster.pass_time(0.2)
    for client in (CLIENT, OTHER):
        assert all(told(cluster, n, client) == [(ReplyStatus.OK, b"b")] for n in range(1000))


def test_a_watch_that_comes_with_news_for_others_keeps_it_from_nobody() -> None:
    cluster, session = running()
    cluster.request(2, Watch(7, b"1"))
    cluster.command(1, session, 2, b"b")
    cluster.deliver(P2A)
    cluster.deliver()
    note = CommitNote(cluster.servers[1].promised, cluster.servers[1].log.chosen_to)
    leader = cluster.storages[1].incarnation
    cluster.step(2, Burst(peers=[(1, leader, [note])], clients=[(OTHER, [Watch(8, b"2")])]))
    assert told(cluster, 7) == [(ReplyStatus.OK, b"b")]
    assert told(cluster, 8, OTHER) == []


def test_a_server_with_watches_hears_of_a_commit_at_once() -> None:
    """Else its clients would hear of it with the next heartbeat, 25 ms later."""
    cluster, session = running()
    cluster.request(2, Watch(7, b"1"))
    cluster.pass_time(0.2)  # a heartbeat's reply says that server 2 holds watches
    cluster.command(1, session, 2, b"b")
    cluster.deliver(P2A)
    cluster.deliver()
    assert cluster.sent(CommitNote, target=2)
    assert not cluster.sent(CommitNote, target=3), "which holds none"
    cluster.deliver(CommitNote)
    assert told(cluster, 7) == [(ReplyStatus.OK, b"b")]


def test_no_note_is_sent_where_a_p2a_tells_of_the_commit() -> None:
    cluster, session = running()
    cluster.request(2, Watch(7, b"1"))
    cluster.pass_time(0.2)
    for seq in range(2, 2 + 3 * cluster.servers[1].settings.window):
        cluster.command(1, session, seq, b"b")
    cluster.deliver(P2A)
    votes = cluster.packets
    cluster.packets = []
    for packet in votes[: len(votes) // 2]:
        incarnation = cluster.storages[packet.source].incarnation
        cluster.step(1, Burst(peers=[(packet.source, incarnation, [packet.message])]))
        if cluster.sent(P2A):
            assert not cluster.sent(CommitNote)
            break
    else:
        raise AssertionError("nothing more was proposed")


def test_who_lacks_the_slot_that_a_thrifty_leader_puts_off_gets_it_before_the_note() -> None:
    cluster, session = running(thrifty_delay=0.01)
    for server in (2, 3):
        cluster.request(server, Watch(7, b"39"))
    cluster.pass_time(0.2)
    for seq in range(2, 40):
        cluster.execute(1, session, b"b", first=seq)
    cluster.pass_time(0.2)
    assert reign_of(cluster.servers[1]).thrift.spare
    cluster.command(1, session, 40, b"last")
    arrived = []
    while cluster.packets:
        arrived += cluster.deliver()
    assert not [p for p in arrived if isinstance(p.message, CatchUpRequest | CatchUp)]
    assert told(cluster, 7) == 2 * [(ReplyStatus.OK, b"last")]


def test_a_note_counts_only_in_the_ballot_that_it_names() -> None:
    """What was accepted in another ballot may be another value (rule 4)."""
    cluster, session = running()
    cluster.request(2, Watch(7, b"1"))
    cluster.command(1, session, 2, b"b")
    cluster.deliver(P2A, target=2)
    ballot = cluster.servers[1].promised
    slot = cluster.servers[2].log.last
    for wrong in (Ballot(ballot.round - 1, 2), Ballot(ballot.round, 3)):
        cluster.hand(2, 3, CommitNote(wrong, slot))
    cluster.hand(2, 3, CommitNote(ballot, slot))  # it is not server 3's ballot
    assert told(cluster, 7) == []
    cluster.hand(2, 1, CommitNote(ballot, slot))
    cluster.step(2)
    assert told(cluster, 7) == [(ReplyStatus.OK, b"b")]


def test_a_leader_leaves_a_crowd_that_could_ask_elsewhere_to_others() -> None:
    cluster, _ = running()
    for server in (1, 2):
        near = server == 1
        cluster.request(server, *(Watch(n, b"1", near=near) for n in range(NEAR)))
        assert kept(cluster, server) == NEAR
        cluster.request(server, Watch(1000 + server, b"1", near=near))
    assert told(cluster, 1001) == [(ReplyStatus.NOT_CURRENT, b"")], "the leader has enough"
    assert kept(cluster, 2) == NEAR + 1
    cluster.request(1, Watch(1003, b"1"))
    assert told(cluster, 1003) == [], "who has nowhere else to go is not sent away"
    assert kept(cluster, 1) == NEAR + 1


def test_a_watch_that_is_meant_for_the_leader_is_sent_there() -> None:
    cluster, _ = running()
    before = len(cluster.replies)
    cluster.request(2, Watch(7, b"1", near=True))
    named, answer = (reply for _, _, reply in cluster.replies[before:])
    assert isinstance(named, NotLeader)
    assert named.leader == 1
    assert answer == QueryReply(7, ReplyStatus.NOT_CURRENT, b"")
    assert kept(cluster, 2) == 0
    cluster.request(1, Watch(8, b"1", near=True))
    assert kept(cluster, 1) == 1, "who leads takes it"


def test_a_server_that_took_over_a_snapshot_answers_each_watch_from_its_own_position() -> None:
    cluster, session = running(snapshot_slots=2, retain_slots=2)
    cluster.request(3, Watch(7, b"1"), Watch(8, b"3"), Watch(9, b"99"))
    cluster.isolate(3)
    for seq in range(2, 12):
        cluster.execute(1, session, b"x", first=seq)
    while not cluster.servers[1].log.discarded:  # time stands: server 3 misses no leader
        for server in cluster.ids:
            cluster.step(server)
        cluster.stabilize()
        cluster.execute(1, session, b"x", first=(seq := seq + 1))
        cluster.clock.now += 0.001
    cluster.heal()
    cluster.pass_time(0.3)
    assert cluster.servers[3].describe().counters["snapshots_received"] == 1
    count = len(cluster.applied(3))
    assert told(cluster, 7) == [(ReplyStatus.OK, b" ".join((count - 1) * [b"x"]))]
    assert told(cluster, 8) == [(ReplyStatus.OK, b" ".join((count - 3) * [b"x"]))]
    assert kept(cluster, 3) == 1


def test_a_watch_with_the_number_of_another_takes_its_place() -> None:
    cluster, session = running()
    cluster.request(2, Watch(7, b"1"), Watch(7, b"2"))
    assert kept(cluster, 2) == 1
    cluster.execute(1, session, b"b", first=2)
    cluster.pass_time(0.2)
    assert told(cluster, 7) == []
    cluster.execute(1, session, b"c", first=3)
    cluster.pass_time(0.2)
    assert told(cluster, 7) == [(ReplyStatus.OK, b"c")]


def test_what_nobody_wants_any_more_is_forgotten() -> None:
    cluster, session = running()
    cluster.request(2, Watch(7, b"1"), Watch(8, b"1"))
    cluster.request(2, Unwatch([7, 7, 99]))
    cluster.request(2, Unwatch([8]), client=OTHER)  # not its own
    assert kept(cluster, 2) == 1
    cluster.execute(1, session, b"b", first=2)
    cluster.pass_time(0.2)
    assert told(cluster, 7) == []
    assert told(cluster, 8) == [(ReplyStatus.OK, b"b")]


def test_a_client_learns_what_is_held_and_how_far_it_is_complete() -> None:
    cluster, session = running()
    cluster.request(2, Watch(7, b"5"), Watch(8, b"6"))
    cluster.request(2, WatchCheck(1))
    cluster.request(2, WatchCheck(1), client=OTHER)
    cluster.execute(1, session, b"b", first=2)
    cluster.pass_time(0.2)
    cluster.request(2, WatchCheck(2))
    both = watch_digest((7, 8))
    held = [WatchesHeld(n, 2, b"%d" % n, digest=both) for n in (1, 2)]
    assert cluster.told(WatchesHeld) == held
    assert cluster.told(WatchesHeld, OTHER) == [WatchesHeld(1, 0, b"1")]


def test_what_happened_is_answered_before_it_is_said_how_far_all_is_complete() -> None:
    """A client that took the second for the first would skip an event."""
    cluster, session = running()
    cluster.request(1, Watch(7, b"1"))
    cluster.command(1, session, 2, b"b")
    cluster.deliver(P2A)
    votes = [
        (p.source, cluster.storages[p.source].incarnation, [p.message]) for p in cluster.packets
    ]
    cluster.packets = []
    cluster.step(1, Burst(peers=votes, clients=[(CLIENT, [WatchCheck(1)])]))
    cluster.pass_time(0.1)
    kinds = [type(r) for _, _, r in cluster.replies if isinstance(r, QueryReply | WatchesHeld)]
    assert kinds == [QueryReply, WatchesHeld]
    assert cluster.told(WatchesHeld)[0].through == b"2"


def test_a_client_of_which_nothing_is_heard_is_forgotten() -> None:
    cluster, _ = running()
    cluster.request(2, Watch(7, b"1"))
    cluster.request(2, Watch(7, b"1"), client=OTHER)
    for _ in range(5):
        cluster.pass_time(FORGOTTEN / 4, 0.1)
        cluster.request(2, WatchCheck(1), client=OTHER)
    assert kept(cluster, 2) == 1
    assert cluster.told(WatchesHeld, OTHER)[-1].held == 1


def test_a_client_whose_connection_ended_is_forgotten_at_once() -> None:
    cluster, _ = running()
    cluster.request(2, Watch(7, b"1"))
    cluster.step(2, Burst(gone=[CLIENT]))
    assert kept(cluster, 2) == 0


def test_watches_are_bounded_for_each_client_and_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (EACH, ALL) == (20_000, 200_000)
    monkeypatch.setattr(watches, "EACH", 3)
    monkeypatch.setattr(watches, "ALL", 5)
    cluster, _ = running()
    cluster.request(2, *(Watch(n, b"1") for n in range(4)))
    cluster.request(2, *(Watch(n, b"1") for n in range(3)), client=OTHER)
    assert kept(cluster, 2) == 5
    assert [status for status, _ in told(cluster, 3)] == [ReplyStatus.OVERLOADED]
    assert [status for status, _ in told(cluster, 2, OTHER)] == [ReplyStatus.OVERLOADED]
    cluster.request(2, Watch(9, b"9" * (QUERY_BYTES + 1)), client=OTHER)
    ((status, payload),) = told(cluster, 9, OTHER)
    assert status == ReplyStatus.OVERLOADED
    assert "bytes" in retry_after(payload)[1]


def test_their_bytes_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "HELD_BYTES", 400)  # and a quarter of that for each client
    cluster, _ = running()
    cluster.request(2, *(Watch(n, b"%040d" % 5) for n in range(3)))
    assert kept(cluster, 2) == 2
    cluster.request(2, Unwatch([0]), Watch(5, b"%040d" % 5), Watch(5, b"%041d" % 5))
    assert kept(cluster, 2) == 2
    for number in range(9):
        cluster.request(2, Watch(1, b"%050d" % 5), client=b"%d" % number)
    assert kept(cluster, 2) == 2 + 6  # (81 bytes and six times 50)


def test_a_client_that_does_not_read_is_told_to_ask_again() -> None:
    """Else its answers would fill the server's memory. It asks from where it was: none is lost."""

    class Full(Wire):
        def congested(self, client: bytes) -> bool:
            return client == CLIENT

    cluster = Cluster(machine=Watched, wire=Full).start()
    cluster.lead(1)
    session = cluster.open_session(1, client=OTHER)
    cluster.request(2, Watch(7, b"0"))
    cluster.request(2, Watch(7, b"0"), client=OTHER)
    cluster.pass_time(0.1)
    cluster.command(1, session, 1, b"a", client=OTHER)
    cluster.pass_time(0.2)
    assert told(cluster, 7, OTHER) == [(ReplyStatus.OK, b"a")]
    assert [status for status, _ in told(cluster, 7)] == [ReplyStatus.OVERLOADED]


def test_one_step_tells_a_client_no_more_than_fits_into_a_frame() -> None:
    """What is beyond that it asks for again, from where it was; others are told all the same."""
    cluster, session = going_on()
    long = b"b" * (FRAME_BYTES // 8)
    cluster.request(2, *(Watch(16 * n, b"1", answers=9) for n in range(1, 11)))
    cluster.request(2, Watch(7, b"1"), client=OTHER)
    cluster.execute(1, session, long, first=2)
    cluster.pass_time(0.2)
    statuses = [reply.status for reply in cluster.told(QueryReply)]
    assert statuses == [ReplyStatus.OK] * 8 + [ReplyStatus.OVERLOADED] * 2
    assert told(cluster, 7, OTHER) == [(ReplyStatus.OK, long)]
    assert kept(cluster, 2) == 0


def test_a_machine_that_fails_at_watches_stops_nobody() -> None:
    class Failing(Watched):
        def happened(self) -> Iterable[tuple[int, bytes]]:
            raise RuntimeError("a bug")

    cluster = Cluster(machine=Failing).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.request(1, Watch(6, b"nonsense"), Watch(7, b"0"))
    assert told(cluster, 6) == [(ReplyStatus.FAILED, b"ValueError: no such watch")]
    cluster.execute(1, session, b"a")
    assert told(cluster, 7) == [(ReplyStatus.NOT_CURRENT, b"")]
    assert cluster.applied(1) == [b"a"]


def test_an_answer_to_a_watch_that_has_ended_since_is_nobodys() -> None:
    """The store looks before it compacts; its client may let go in the same step."""

    class Early(Watched):
        def happened(self) -> Iterable[tuple[int, bytes]]:
            return [(number, b"x") for number in (1, 2) if self.applied]

        def unwatch(self, number: int) -> None:
            pass

    cluster = Cluster(machine=Early).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.request(1, Watch(6, b"0"), Watch(7, b"0"), Unwatch([6]))
    cluster.execute(1, session, b"a")
    assert [told(cluster, n) for n in (6, 7)] == [[], [(ReplyStatus.OK, b"x")]]


def test_a_machine_without_watches_says_so() -> None:
    cluster = Cluster().start()
    cluster.lead(1)
    cluster.pass_time(0.1)
    cluster.request(1, Watch(7, b"0"))
    ((status, payload),) = told(cluster, 7)
    assert status == ReplyStatus.FAILED
    assert b"Register holds no watches" in payload


def test_followers_say_whether_they_hold_watches() -> None:
    cluster, _ = running()
    cluster.request(2, Watch(7, b"1"))
    cluster.clock.now += 0.1
    cluster.step(1)
    cluster.deliver(Heartbeat)
    assert [r.watches for r in cluster.sent(HeartbeatReply, source=2)] == [True]
    assert [r.watches for r in cluster.sent(HeartbeatReply, source=3)] == [False]


def test_a_follower_hears_of_commits_still_while_its_watch_is_asked_for_again() -> None:
    """Else the next event would come with a heartbeat, up to 50 ms late."""
    cluster, session = running()
    cluster.request(2, Watch(7, b"1"))
    cluster.execute(1, session, b"b", first=2)
    cluster.pass_time(0.2)
    assert kept(cluster, 2) == 0, "it was answered, and its client has not asked again"

    def flags() -> list[bool]:
        cluster.clock.now += 0.06
        cluster.step(1)
        cluster.deliver(Heartbeat)
        replies = cluster.sent(HeartbeatReply, source=2)
        cluster.deliver()
        return [reply.watches for reply in replies]

    assert flags() == [True]
    cluster.pass_time(OF_LATE)
    assert flags() == [False]
