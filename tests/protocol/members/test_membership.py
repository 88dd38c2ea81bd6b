"""Members change while the cluster serves: each rule of docs/membership.md by its number."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from paxon.actors import Ballot
from paxon.actors.ballot import EPOCH_BITS, NO_BALLOT
from paxon.actors.disk.storage import StorageError
from paxon.actors.log import SlotLog
from paxon.actors.members import ChangeMembers, MemberChange
from paxon.actors.messages import (
    P1A,
    P2A,
    P2B,
    Accepted,
    CatchUp,
    CatchUpRequest,
    CommitNote,
    CountAnswer,
    CountQuestion,
    Heartbeat,
    HeartbeatReply,
    Sealed,
)
from paxon.actors.parts.status import outcome
from paxon.actors.records.candidacy import Candidacy
from paxon.actors.records.changing import Changing, Rehearsing, members_wanted
from paxon.actors.records.configuration import (
    Configuration,
    Member,
    decode_config,
    encode_config,
    is_config,
)
from tests.harness import Cluster, reign_of
from tests.messages import beat, promise

# --- ballots and values --------------------------------------------------------------------------


def test_a_ballot_compares_by_its_epoch_first() -> None:
    first = Ballot.first_of(1)
    assert Ballot(1 << EPOCH_BITS - 1, 7) < first < first.next_for(1) < first.next_for(2)
    assert (first.next_for(2).epoch, str(first.next_for(2)), str(Ballot(2, 1))) == (
        1, "e1:0.2", "2.1",
    )  # fmt: skip
    assert first.next_for(3).next_for(1) == Ballot((1 << EPOCH_BITS) + 1, 1)


def test_a_config_is_no_batch_and_tells_who_leaves() -> None:
    before = Configuration(0, 0, (Member(1, 11), Member(2, 12), Member(3, 13)))
    after = before.followed_by([Member(4, 14), Member(2, 22), Member(1, 11)], 9, 5)
    assert is_config(encode_config(after)) and decode_config(encode_config(after)) == after
    assert (after.epoch, after.sealed_at, after.servers) == (1, 9, (1, 2, 4))
    assert [m.server for m in after.leaving] == [2, 3] and after.removed == (12, 13)
    assert after.votes(2, 22) and not after.votes(2, 12)


def test_a_configuration_remembers_the_last_directories_and_changes() -> None:  # M14, M16
    configuration = Configuration(0, 0, (Member(1, 1), Member(2, 2)))
    for n in range(1, 301):
        configuration = configuration.followed_by([Member(1, 1), Member(2, 1000 + n)], n, n)
    assert configuration.removed == tuple(range(1300 - 256, 1300))
    assert (*configuration.earlier, configuration.request) == tuple(range(300 - 64, 301))


def test_a_change_that_is_forgotten_is_not_called_undone() -> None:  # M16
    """It was done: only that is no longer known."""
    cluster = serving()
    server, ballot = cluster.servers[1], cluster.servers[1].promised
    session = cluster.open_session(1)
    first = cluster.change(1, 1, 2, 3, learners=[4])
    told = []
    for epoch in range(1, 70):
        cluster.pass_time(0.06, step=0.03)
        assert server.configuration.epoch == epoch
        cluster.execute(1, session, b"a", first=epoch)  # its own slot: now it may speak of the past
        told.append(outcome(server, first, ballot)[0])
        cluster.change(1, 1, 2, 3, learners=[4] * (epoch % 2 == 0))
    assert told == ["done"] * 65 + ["unknown"] * 4


def test_a_change_is_rehearsed_by_those_who_are_to_vote() -> None:  # M18
    members = (Member(1, 11), Member(2, 12), Member(3, 13, voter=False))
    assert Changing(members, 7).voters == [1, 2]
    rehearsing = Rehearsing(7, 1, members)
    answers = [(2, 12), (2, 12), (1, 10), (3, 13)]
    assert [rehearsing.hear(*each) for each in answers] == [True, False, False, False]


def test_whose_key_changes_is_heard_by_nobody_until_it_is_restarted() -> None:  # M18
    """A CONFIG that waited for such a vote would seal an epoch that nobody can open."""
    keys = {server: f"{server}" * 40 for server in (1, 2, 3)}
    members = [Member(s, 10 + s, key=keys[s]) for s in (1, 2, 3)]
    fit = {s: 10 + s for s in (1, 2, 3)}

    def wanted(*servers: int, up: tuple[int, ...], known: Mapping[int, str] = keys) -> object:
        asked = tuple(MemberChange("move", s, key=f"{s}" * 39 + "n") for s in servers)
        level = {s: fit[s] for s in up}
        before = Configuration(1, 9, tuple(m for m in members if m.server <= max(up)))
        request = ChangeMembers(7, NO_BALLOT, asked)
        return members_wanted(request, before, up, level, up, keys=known)

    for found, locked_out in (
        (wanted(2, up=(1, 3)), None),
        (wanted(1, up=(1, 2, 3)), None),
        (wanted(1, up=(1,)), None),  # by itself
        (wanted(2, up=(2, 3)), "server 2 would"),
        (wanted(1, up=(1, 2)), "server 1 would"),
        (wanted(1, 2, up=(1, 2, 3)), "servers 1 and 2 would"),
    ):
        if locked_out is None:
            assert isinstance(found, tuple)
        else:
            assert str(found).startswith(f"{locked_out} answer again once restarted with the new")
    assert isinstance(wanted(2, up=(2, 3), known={}), tuple)  # nobody looks at keys here
    after = wanted(2, up=(1, 2, 3))
    assert isinstance(after, tuple)
    changing = Changing(after, 7, keys=keys)
    assert not changing.enough(1, 11, [2])  # it hears 2 by the old key
    assert not changing.enough(2, 12, [1, 3])
    assert not changing.enough(1, 11, [3])
    assert changing.enough(3, 13, [1])


def test_the_log_knows_where_a_config_waits() -> None:
    log = SlotLog()
    value = encode_config(Configuration(1, 2, (Member(1, 1),)))
    log.accept(2, Ballot(1, 1), value)
    assert log.configs == {2}
    log.accept(2, Ballot(2, 1), b"")  # void
    assert log.configs == set()


# --- seal and open -------------------------------------------------------------------------------


def serving(size: int = 5, members: tuple[int, ...] = (1, 2, 3), **options: object) -> Cluster:
    """Server 1 leads; a session is open and a command executed."""
    cluster = Cluster(size, options, members=members).start()
    cluster.lead(1)
    cluster.execute(1, cluster.open_session(1), b"a")
    return cluster


@pytest.mark.parametrize("voters", [(1, 2, 3), (1, 2, 4), (2, 3), (1,), (3, 4, 5), (1, 2, 3, 4, 5)])
def test_any_configuration_may_follow_any_other(voters: tuple[int, ...]) -> None:
    cluster = serving()
    cluster.change(1, *voters)
    cluster.pass_time(1.0)
    assert set(cluster.epochs(1, 2, 3, *voters)) == {1}
    (leader,) = [s for s in cluster.servers if cluster.servers[s].role == "leader"]
    assert leader in voters
    session = cluster.told_session()
    cluster.execute(leader, session, b"b", first=2)
    cluster.pass_time(2.0)
    assert [cluster.servers[s].application.machine.applied for s in voters] == (  # type: ignore[attr-defined]
        [[b"a", b"b"]] * len(voters)
    )


def test_the_leader_goes_on_at_once_if_it_stays() -> None:
    cluster = serving()
    cluster.change(1, 1, 2, 3, 4)
    cluster.stabilize()  # no time passes
    assert cluster.servers[1].role == "leader" and cluster.epochs(1) == [1]


def test_who_knows_the_seal_tells_of_it_again_at_each_heartbeat() -> None:  # M9
    cluster = serving()
    cluster.change(1, 1, 2, 3, 4)
    cluster.deliver(P2A)
    cluster.deliver(P2B)
    for _ in range(3):
        assert cluster.sent(Sealed, 1) and cluster.epochs(1, 2, 3) == [1, 0, 0]
        cluster.drop()
        cluster.clock.now += cluster.servers[1].settings.heartbeat_interval
        cluster.step(1)


def test_leases_of_an_epoch_bind_nobody_in_the_next() -> None:  # M10
    cluster = serving(policy="stable")
    cluster.query(1, 1, "lease")
    cluster.stabilize()
    cluster.pass_time(0.1)
    assert all(cluster.servers[s]._lease_may_hold() for s in (2, 3))
    cluster.change(1, 2, 3)
    cluster.stabilize()  # no time passes
    assert {cluster.servers[s].role for s in (2, 3)} == {"leader", "follower"}
    assert cluster.epochs(2, 3) == [1, 1]


def test_nothing_is_proposed_with_a_config_or_above_it() -> None:  # M5
    cluster = serving()
    session = cluster.told_session()
    cluster.command(1, session, 2, b"b")
    cluster.drop(P2A)
    cluster.change(1, 1, 2, 4)
    assert not cluster.servers[1].log.configs  # b is not chosen yet
    cluster.command(1, session, 3, b"c")
    assert cluster.sent(P2A) == []
    for _ in range(2):  # what was lost is sent again
        cluster.clock.now += 0.11
        cluster.step(1)
    cluster.deliver(P2A)
    cluster.deliver(P2B)
    values = {p2a.value for p2a in cluster.sent(P2A, 1)}
    assert len(values) == 1 and all(map(is_config, values))
    cluster.stabilize()
    cluster.pass_time(0.5)
    assert cluster.reply_to(3) is not None  # what was held is proposed in the next epoch


def test_a_seal_above_a_gap_is_not_known() -> None:  # finding 5
    cluster = serving()
    server, slot = cluster.servers[2], cluster.servers[2].log.last
    after = server.configuration.followed_by([cluster.member(4)], slot + 2, 1)
    ballot = cluster.servers[1].promised
    config, below = encode_config(after), b""
    cluster.hand(2, 1, P2A(ballot, slot + 2, config, slot))
    cluster.hand(2, 1, P2A(ballot, slot + 3, below, slot))  # (nobody does so, but rows may be old)
    server.log.choose(slot + 2)
    server._look_for_seal()  # (as whenever a slot is chosen)
    assert cluster.epochs(2) == [0]
    cluster.hand(2, 1, P2A(ballot, slot + 1, below, slot + 1))
    assert cluster.epochs(2) == [1] and server.log.last == slot + 2


def test_a_seal_is_durable_with_the_prefix_and_what_is_above_it_goes() -> None:  # M2
    cluster = serving()
    cluster.change(1, 1, 2, 4)
    cluster.stabilize()
    for server in (1, 2, 3):
        found = cluster.storages[server].load()
        assert found.configuration is not None and found.configuration.epoch == 1
        assert found.promised.epoch == 1 and found.chosen_to >= found.configuration.sealed_at
    cluster.restart(2)
    assert cluster.epochs(2) == [1]


def test_a_row_of_a_later_epoch_waits_for_the_seal() -> None:  # M3
    cluster = serving()
    last = cluster.servers[3].log.chosen_to
    ballot = Ballot.first_of(1).next_for(4)
    from paxon.actors.messages import Accepted

    cluster.hand(3, 4, CatchUp([Accepted(last + 2, ballot, b"")], last + 2))
    assert cluster.servers[3].log.get(last + 2) is None
    assert cluster.servers[3].promised.epoch == 0


def test_who_is_behind_is_told_of_the_seal_and_of_nothing_else() -> None:  # M4
    cluster = serving()
    cluster.crash(3)
    cluster.change(1, 1, 2, 4)
    cluster.stabilize()
    old = Ballot(7, 3)
    for message in (P1A(old, 1), P2A(old, 9, b"x", 0), beat(old)):
        cluster.hand(2, 3, message)
        told = cluster.drop(source=2, target=3)
        seal = Sealed(0, cluster.servers[2].configuration.sealed_at)
        assert [packet.message for packet in told] == [seal]
    assert cluster.servers[2].promised.epoch == 1


@pytest.mark.parametrize("epoch", [2, 1 << 20])
def test_a_higher_epoch_is_asked_about_and_not_followed(epoch: int) -> None:  # M4
    """However far it is: a server that is up has no other way to hear of those in between."""
    cluster = serving()
    last = cluster.servers[2].log.chosen_to
    higher = Ballot.first_of(epoch).next_for(4)
    for message in (beat(higher, commit=100), Sealed(epoch, last + 90)):
        cluster.hand(2, 4, message)
        cluster.step(2)
        assert cluster.servers[2].promised.epoch == 0
        assert CatchUpRequest(last + 1) in [p.message for p in cluster.drop(source=2, target=4)]


def test_a_removed_servers_p1a_counts_for_nothing() -> None:  # M12
    cluster = serving()
    cluster.change(1, 1, 2, 4)
    cluster.pass_time(1.0)
    before = cluster.servers[2].promised
    cluster.hand(2, 3, P1A(before.next_for(3), 1))
    assert cluster.servers[2].promised == before
    assert not [p for p in cluster.packets if p.source == 2 and p.target == 3]


def test_a_learner_takes_what_is_proposed_and_has_no_vote() -> None:  # M11
    cluster = serving()
    cluster.change(1, 1, 2, 3, learners=[4])
    cluster.pass_time(1.0)
    leader = next(s for s in cluster.servers.values() if s.role == "leader")
    assert leader._all_bits[4] == 0 and leader._majority == 2
    cluster.isolate(*[s for s in (1, 2, 3) if s != leader.settings.server])
    session = cluster.told_session()
    cluster.command(leader.settings.server, session, 2, b"b")
    cluster.stabilize()
    assert cluster.reply_to(2) is None  # the learner's acceptance is not enough
    assert cluster.servers[4].log.last == leader.log.last
    cluster.heal()
    cluster.pass_time(1.0)
    assert cluster.reply_to(2) is not None


def test_a_learner_whose_leader_is_silent_asks_the_others() -> None:
    """It asks for no vote, so that nobody told it either: cut off from its leader it stood still,
    and removed two epochs ago it never found out (M22)."""
    cluster = serving()
    cluster.change(1, 1, 2, 3, learners=[4])
    cluster.stabilize()
    cluster.cut.add(frozenset((1, 4)))
    cluster.command(1, cluster.told_session(), 2, b"b")
    cluster.pass_time(2.0)
    assert cluster.applied(4) == [b"a", b"b"]
    cluster.isolate(4)
    for voters in ((1, 2, 3), (1, 2, 5)):
        cluster.change(1, *voters)
        cluster.pass_time(0.3)
    assert cluster.epochs(1, 4) == [3, 1]
    cluster.heal()
    cluster.pass_time(3.0)
    assert 4 in cluster.retired


def test_a_learner_that_has_answered_is_sent_nothing_again() -> None:
    cluster = serving()
    cluster.change(1, 1, 2, 3, learners=[4])
    cluster.pass_time(1.0)
    leader = next(s.settings.server for s in cluster.servers.values() if s.role == "leader")
    cluster.isolate(*[s for s in (1, 2, 3) if s != leader])
    cluster.command(leader, cluster.told_session(), 2, b"b")
    cluster.stabilize()
    sent = []
    for _ in range(3):
        cluster.clock.now += 0.11
        cluster.step(leader)
        sent += [p.target for p in cluster.packets if isinstance(p.message, P2A)]
        cluster.packets.clear()
    assert sent and 4 not in sent


@pytest.mark.parametrize(
    "value",
    [
        b"\xc1", b"\xc1nonsense", encode_config(Configuration(5, 3, (Member(1, 1),))),
        encode_config(Configuration(1, 99, (Member(1, 1),))),
        encode_config(Configuration(1, 4, ())),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_is_never_accepted(value: bytes) -> None:
    """Chosen, it would stop every server."""
    cluster = serving()
    server, slot = cluster.servers[2], cluster.servers[2].log.last + 1
    ballot = cluster.servers[1].promised
    cluster.hand(2, 1, P2A(ballot, slot, value, slot))
    cluster.hand(2, 1, CatchUp([Accepted(slot, ballot, value)], slot))
    assert server.log.get(slot) is None and cluster.sent(P2B) == []
    cluster.campaign(3)
    accepted = [Accepted(slot, ballot, value)]
    answer = promise(cluster.servers[3].promised, accepted, first_slot=slot, chosen_to=1)
    cluster.hand(3, 1, answer)
    assert cluster.servers[3].role == "candidate"


def test_a_snapshot_brings_the_configuration() -> None:  # M23
    cluster = serving(5, snapshot_slots=3, retain_slots=2)
    cluster.crash(3)
    cluster.change(1, 1, 2, 4)
    cluster.pass_time(0.5)
    leader = next(s.settings.server for s in cluster.servers.values() if s.role == "leader")
    cluster.execute(leader, cluster.told_session(), *[b"%d" % n for n in range(20)], first=2)
    cluster.pass_time(1.0)
    assert cluster.servers[leader].log.discarded > 10
    cluster.start(3)
    cluster.pass_time(3.0)
    assert cluster.epochs(3) == [1] and cluster.retired[3].promised.epoch == 1
    found = cluster.storages[3].crash(keep_pending=False)
    found.condemned = ""
    assert found.load().configuration == cluster.servers[leader].configuration


def test_rows_above_the_seal_are_gone_after_a_restart() -> None:  # M2
    cluster = serving(policy="random")
    session, slot = cluster.told_session(), cluster.servers[2].log.last
    cluster.command(1, session, 2, b"lost")
    cluster.drop(P2A)
    cluster.command(1, session, 3, b"above a hole")
    cluster.deliver(P2A, target=2)
    cluster.packets.clear()
    assert cluster.servers[2].log.last == slot + 2
    cluster.campaign(3)
    cluster.crash(1)
    cluster.crash(2)
    cluster.start(1)  # with neither: what 1 held is reported, and 2's slot is passed over
    cluster.servers.pop(1)
    cluster.packets.clear()
    after = cluster.servers[3].configuration.followed_by([cluster.member(3)], slot + 1, 1)
    ballot = Ballot(9, 3)
    cluster.start(2)
    for storage_row in (slot + 1,):
        cluster.hand(2, 3, P2A(ballot, storage_row, encode_config(after), slot))
        cluster.hand(2, 3, beat(ballot, commit=slot + 1))
    assert cluster.epochs(2) == [1]
    assert [row.slot for row in cluster.storages[2].load().accepted if row.slot > slot + 1] == []


def test_a_seal_that_disks_lack_is_found_after_a_restart() -> None:  # M2
    """A server of an earlier version that took over a snapshot and died left such a directory."""
    cluster = serving(members=(1, 2, 3))
    slot = cluster.servers[1].log.last + 1
    cluster.change(1, 2, 3)
    cluster.deliver(P2A)
    for server in (1, 2, 3):
        cluster.crash(server)
        cluster.storages[server].save_chosen_to(slot, lazily=False)
        cluster.storages[server].commit()
    cluster.packets.clear()
    cluster.start(2, 3)  # whoever else knew is gone
    assert cluster.epochs(2, 3) == [1, 1]
    cluster.pass_time(3.0)
    assert "leader" in {cluster.servers[2].role, cluster.servers[3].role}
    assert cluster.storages[2].load().configuration == cluster.servers[3].configuration
    cluster.restart(2)  # (a CONFIG that is sealed is looked at no more)
    cluster.pass_time(1.0)
    assert cluster.epochs(2, 3) == [1, 1]


def test_who_heard_of_a_later_epoch_does_not_vote() -> None:  # M15, finding 2
    """The members became 2, 4 and 5; 3 slept through it, and 2's directory is from before it."""
    cluster = serving(policy="random")
    copy = cluster.storages[2].duplicate()
    cluster.crash(3)
    cluster.change(1, 2, 4, 5)
    cluster.pass_time(1.0)
    assert set(cluster.epochs(1, 2, 4, 5)) == {1}
    cluster.crash(1)
    cluster.crash(2)
    cluster.start(3)
    cluster.storages[2] = copy
    cluster.confirms = False
    cluster.start(2)
    cluster.deliver(CountQuestion, target=3)
    cluster.hand(2, 4, beat(cluster.servers[4].promised, 9))  # 4 dials 2 all the time
    cluster.deliver(CountAnswer, source=3, target=2)
    cluster.clock.now += 1.0
    cluster.step(2)
    server = cluster.servers[2]
    assert not server.is_voter or not server._takes_part  # 3 alone would have been enough once
    cluster.deliver(CountQuestion, target=4)
    with pytest.raises(StorageError, match="is an old copy"):
        cluster.deliver(CountAnswer, source=4, target=2)


def test_who_is_told_how_its_epoch_ends_needs_nobody_else_for_that() -> None:  # M15, finding 21
    """1 must not vote, the other alone is no majority, and whoever knew the seal is gone."""
    cluster = serving(4, policy="random")
    cluster.crash(1)
    cluster.pass_time(2.0)
    (leader,) = [s for s in cluster.servers if cluster.servers[s].role == "leader"]
    other = 5 - leader
    cluster.change(leader, 1, 2, 3, learners=[4])
    cluster.deliver(P2A, target=other)
    cluster.deliver(P2B)
    cluster.packets.clear()
    assert cluster.epochs(leader, other) == [1, 0]
    cluster.confirms = False
    cluster.start(1)
    cluster.step(1)
    cluster.deliver(CountQuestion)
    cluster.deliver(CountAnswer)
    cluster.crash(leader)
    cluster.packets.clear()
    assert cluster.servers[1]._takes_part and not cluster.servers[1].is_voter
    cluster.pass_time(2.0)
    assert cluster.epochs(1, other) == [1, 1]
    assert "leader" in {cluster.servers[1].role, cluster.servers[other].role}


def test_a_directory_from_before_it_had_a_vote_is_asked_about_when_it_gets_one() -> None:  # M15
    """It was of no member when it was copied, and those who made the cluster know of nothing later.

    So they confirm it. Where it has voted since, others have to, before it votes again.
    """
    cluster = serving(6)
    copy = cluster.storages[4].duplicate()
    cluster.isolate(3)
    cluster.change(1, 4, 5, 6)
    cluster.deliver(P2A)
    cluster.deliver(P2B)
    cluster.isolate(2, 3)
    cluster.pass_time(1.0)
    assert cluster.epochs(1, 2, 3, 4, 5, 6) == [1, 0, 0, 1, 1, 1]
    cluster.crash(1)
    cluster.crash(4)
    cluster.storages[4] = copy
    cluster.confirms = False
    cluster.heal()
    cluster.isolate(5, 6)
    cluster.packets.clear()
    cluster.start(4)
    cluster.step(4)
    cluster.deliver(CountQuestion)
    cluster.deliver(CountAnswer)
    cluster.packets.clear()
    server = cluster.servers[4]
    assert server._takes_part and cluster.epochs(4) == [0]
    cluster.heal()
    with pytest.raises(StorageError, match="is an old copy"):
        cluster.pass_time(2.0)
    assert cluster.epochs(4) == [1] and not server.is_voter


def test_an_epoch_is_opened_at_once_by_servers_that_were_restarted() -> None:  # M15
    """Each has to be confirmed by the others before it votes there; nobody waits for a timer."""
    cluster = serving(4)
    cluster.confirms = False
    for server in (3, 4, 2, 1):
        cluster.restart(server)
        cluster.pass_time(2.0)
    (leader,) = [s for s in cluster.servers if cluster.servers[s].role == "leader"]
    cluster.change(leader, *sorted({leader, 2, 3, 4}))
    cluster.stabilize()  # no time passes
    assert cluster.servers[leader].role == "leader" and set(cluster.epochs(1, 2, 3, 4)) == {1}
    voters = cluster.servers[leader].configuration.voters
    assert [cluster.servers[s].is_voter for s in voters] == [True] * len(voters)
    gone = next(s for s in voters if s != leader)
    cluster.crash(gone)
    cluster.change(leader, leader, *[s for s in voters if s not in (gone, leader)])
    cluster.stabilize()
    assert cluster.servers[leader].role == "leader" and cluster.epochs(leader) == [2]


def test_who_is_to_open_an_epoch_waits_for_the_leases_of_its_earlier_life() -> None:  # M10
    """What it granted before a restart it cannot tell from what was granted in this epoch.

    (Found by the simulator, seed 20676 of runs about members: the server stopped.)
    """
    cluster = serving(4)
    cluster.change(1, 2, 3, 4)
    cluster.deliver(P2A)
    cluster.deliver(P2B)
    cluster.deliver(CommitNote)
    cluster.packets.clear()
    opener = next(s for s in (2, 3, 4) if cluster.servers[s].role == "follower")
    server = cluster.servers[opener]
    assert server.configuration.epoch == 1 and not server.promised.leader
    server._storage.save_lease(150_000)
    server._commit()
    cluster.restart(opener)
    cluster.packets.clear()
    server = cluster.servers[opener]
    assert server.is_voter and server._lease_may_hold()
    cluster.hand(opener, 1, Sealed(0, server.configuration.sealed_at, start=True))
    assert server.role == "follower"
    cluster.pass_time(2.0)
    assert sum(cluster.servers[s].role == "leader" for s in (2, 3, 4)) == 1


def test_who_heard_of_a_later_epoch_accepts_nothing_either() -> None:  # M15
    """A later promise may be forgotten with the rest: what it accepts would count in its ballot."""
    cluster = serving()
    server, ballot = cluster.servers[2], cluster.servers[1].promised
    server.membership.confirmation.hear_of_epoch(1, 4)
    server.look_for_vote()
    cluster.hand(2, 1, P2A(ballot, server.log.last + 1, b"", 0), Heartbeat(ballot, 9, 0, 0))
    assert cluster.sent(P2B, 2) == [] and cluster.sent(HeartbeatReply, 2) == []


def test_a_server_that_slept_is_confirmed_by_those_who_are_left() -> None:  # M15, finding 3
    cluster = serving()
    cluster.crash(3)
    cluster.change(1, 3, 4, 5)
    cluster.pass_time(1.0)
    cluster.crash(1)
    cluster.crash(2)
    cluster.confirms = False
    cluster.start(3)  # it knows 1 and 2 alone, which are gone for good
    cluster.pass_time(3.0)
    assert cluster.epochs(3) == [1] and cluster.servers[3].promised.epoch == 1
    cluster.restart(3)
    assert cluster.epochs(3) == [1]


# --- taking over ---------------------------------------------------------------------------------

CONFIG_AT_2 = encode_config(Configuration(1, 2, (Member(1, 1),)))


def reported(*rows: tuple[int, Ballot, bytes]) -> Candidacy:
    from paxon.actors.messages import Accepted

    candidacy = Candidacy(Ballot(9, 1), 1)
    for slot, ballot, value in rows:
        candidacy.report(Accepted(slot, ballot, value))
    return candidacy


def test_a_config_below_a_row_of_a_higher_ballot_is_void() -> None:  # M7
    rows = (2, Ballot(1, 1), CONFIG_AT_2), (3, Ballot(2, 2), b"v")
    assert reported(*rows).takeover(1, NO_BALLOT, 0) == ([(1, b""), (2, b""), (3, b"v")], False)


def test_what_is_reported_above_a_config_is_dropped_if_its_ballots_are_lower() -> None:  # M7
    rows = (2, Ballot(2, 1), CONFIG_AT_2), (3, Ballot(1, 2), b"v")
    assert reported(*rows).takeover(1, NO_BALLOT, 0) == ([(1, b""), (2, CONFIG_AT_2)], True)


def test_rows_of_another_epoch_are_not_looked_at() -> None:
    rows = (2, Ballot(2, 1), CONFIG_AT_2), (3, Ballot.first_of(1).next_for(2), b"v")
    assert reported(*rows).takeover(1, NO_BALLOT, 0) == ([(1, b""), (2, CONFIG_AT_2)], True)


def test_who_takes_a_config_over_serves_nothing() -> None:  # M6
    cluster = serving(policy="random")
    cluster.change(1, 3, 4, 5)
    cluster.deliver(P2A, target=2)
    cluster.packets.clear()
    cluster.crash(1)
    cluster.campaign(2)
    cluster.deliver(P1A, target=3)
    cluster.deliver(source=3, target=2)
    assert cluster.servers[2].role == "leader" and reign_of(cluster.servers[2]).sealing
    cluster.query(2, 77)
    cluster.deliver(Heartbeat)
    cluster.deliver(source=3, target=2)
    assert [answer.id for answer in cluster.answers()] == []
    cluster.start(1)
    cluster.pass_time(3.0)
    assert set(cluster.epochs()) == {1}


def test_no_read_waits_for_a_round_that_begins_after_the_proposal() -> None:  # M6
    cluster = serving()
    cluster.change(1, 1, 2, 4)
    assert reign_of(cluster.servers[1]).sealing
    cluster.query(1, 5)
    assert not reign_of(cluster.servers[1]).reads.waiting
    cluster.stabilize()  # it is answered in the next epoch
    assert [answer.id for answer in cluster.answers()] == [5]


def test_a_read_that_waits_for_a_later_round_waits_for_the_next_epoch() -> None:  # M6
    cluster = serving()
    reign = reign_of(cluster.servers[1])
    cluster.query(1, 5)
    cluster.query(1, 6)  # for the round after the one that has begun
    begun = reign.rounds.last
    assert sorted(number > begun for number, *_ in reign.reads.waiting) == [False, True]
    cluster.change(1, 1, 2, 4)
    assert [number > begun for number, *_ in reign.reads.waiting] == [False]
    cluster.stabilize()
    assert sorted(answer.id for answer in cluster.answers()) == [5, 6]


# --- a slot of its own ---------------------------------------------------------------------------


def idle(seconds: float) -> Cluster:
    """A leader that nobody asks for anything, for so long."""
    cluster = Cluster(3).start()
    cluster.lead(1)
    cluster.pass_time(seconds, 0.05)
    return cluster


def test_a_leader_with_nothing_to_do_has_a_slot_of_its_own_chosen() -> None:  # M8
    assert idle(9.5).servers[1].log.chosen_to == 0
    assert idle(11.0).servers[1].log.chosen_to == 1
    assert idle(25.0).servers[1].log.chosen_to == 1  # one is enough


def test_nothing_is_proposed_above_a_config_that_was_taken_over() -> None:  # M8
    cluster = serving(policy="random")
    cluster.change(1, 3, 4, 5)
    cluster.deliver(P2A, target=2)
    cluster.packets.clear()
    cluster.crash(1)
    cluster.campaign(2)
    cluster.deliver(P1A, target=3)
    cluster.deliver(source=3, target=2)
    reign = reign_of(cluster.servers[2])
    assert reign.holds_back and reign.own_slot_at == float("inf")
    cluster.command(2, cluster.told_session(), 2, b"b")
    assert all(is_config(p2a.value) for p2a in cluster.sent(P2A, 2) if p2a.slot > 2)
