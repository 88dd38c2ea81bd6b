"""Somebody asks for other members: M8 and M16 to M22 of docs/membership.md."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import structs

from paxon.actors import Ballot, StorageError
from paxon.actors.members import (
    AskMembers,
    ChangeMembers,
    MemberChange,
    Members,
    Rehearsal,
    Rehearsed,
)
from paxon.actors.messages import (
    P1A,
    P1B,
    P2A,
    P2B,
    CatchUpRequest,
    Heartbeat,
    HeartbeatReply,
    Introduction,
    NotLeader,
    PreVote,
    PreVoteReply,
    QueryReply,
)
from paxon.actors.records.changing import members_after
from paxon.actors.records.configuration import Configuration, Member
from paxon.actors.records.disks import KnownDisks
from paxon.transport import Burst
from tests.harness import Cluster, reign_of

CHANGE = 77
"""The number of the change that is asked for."""


def serving(size: int = 5, members: tuple[int, ...] = (1, 2, 3), **options: object) -> Cluster:
    """Server 1 leads, and everybody has answered it."""
    cluster = Cluster(size, options, members=members).start()
    cluster.lead(1)
    cluster.execute(1, cluster.open_session(1), b"a")
    cluster.pass_time(0.2)
    return cluster


def said(cluster: Cluster) -> Members:
    """The last answer about members."""
    return msgspec.msgpack.decode(cluster.told(QueryReply)[-1].payload, type=Members)


def change(
    cluster: Cluster, server: int, *changes: MemberChange, number: int = CHANGE,
    ballot: Ballot | None = None,
) -> Members:  # fmt: skip
    """Ask a server for a change, by the ballot that it is in; its answer."""
    meant = ballot or cluster.servers[server].promised
    cluster.request(server, ChangeMembers(number, meant, changes))
    return said(cluster)


def ask(cluster: Cluster, server: int, ballot: Ballot, number: int = CHANGE) -> Members:
    cluster.request(server, AskMembers(1, number, ballot))
    return said(cluster)


def rehearse(cluster: Cluster) -> None:
    """All call each other, and tell the leader."""
    for kind in (Rehearsal, Rehearsed, Rehearsed, Rehearsed):
        cluster.deliver(kind)


def add(cluster: Cluster, server: int) -> MemberChange:
    return MemberChange("add", server, cluster.storages[server].incarnation)


def test_a_learner_is_added_and_promoted() -> None:
    cluster = serving()
    assert change(cluster, 1, add(cluster, 4)).outcome == "pending"
    cluster.pass_time(0.5)
    ballot = cluster.servers[1].promised
    now = ask(cluster, 1, Ballot(1, 1))
    assert (now.outcome, now.leads, now.epoch) == ("done", True, 1)
    assert [(m.server, m.voter) for m in now.members][-1] == (4, False)
    assert now.behind.keys() == {2, 3, 4, 5} and now.behind[4] == 0
    assert change(cluster, 1, MemberChange("promote", 4), number=78).outcome == "pending"
    cluster.pass_time(0.5)
    assert ask(cluster, 4, ballot, 78).outcome == "done"
    assert cluster.servers[4].is_voter


def test_anybody_tells_who_the_members_are() -> None:
    cluster = serving()
    for server in (2, 4):
        cluster.request(server, AskMembers(5))
        now = said(cluster)
        assert (now.server, now.leads, now.outcome) == (server, False, "")
        assert [m.server for m in now.members] == [1, 2, 3]
    cluster.request(2, ChangeMembers(CHANGE, Ballot(1, 1), (add(cluster, 4),)))
    assert cluster.told(NotLeader)[-1].leader == 1


# --- how it ended (M16) --------------------------------------------------------------------------


def test_a_change_is_not_done_when_it_is_merely_chosen() -> None:
    """Only once a leader of the next epoch is heard may the old servers be switched off."""
    cluster = serving()
    for server in (4, 5):
        change(cluster, 1, add(cluster, server), number=100 + server)
        cluster.pass_time(0.3)
    ballot = cluster.servers[1].promised
    promote = [MemberChange("promote", s) for s in (4, 5)]
    change(cluster, 1, *promote, *(MemberChange("remove", s) for s in (1, 2, 3)))
    rehearse(cluster)
    cluster.deliver(P2A)
    cluster.drop(P2B, source=4)
    cluster.deliver(P2B)
    assert cluster.epochs(1) == [3]  # chosen, and known as that
    assert ask(cluster, 1, ballot).outcome == "pending"
    cluster.pass_time(1.0)
    assert cluster.epochs(4, 5) == [3, 3]
    assert {ask(cluster, s, ballot).outcome for s in (4, 5)} == {"done"}


def test_who_was_removed_stops_once_it_hears_the_next_leader_and_never_comes_back() -> None:
    """M14, M22: until then it serves the slots up to the seal; its directory says so itself."""
    cluster = serving()
    change(cluster, 1, add(cluster, 4))
    cluster.pass_time(0.3)
    change(cluster, 1, MemberChange("promote", 4), MemberChange("remove", 3), number=78)
    cluster.pass_time(0.3)
    assert list(cluster.retired) == [3]
    storage = cluster.storages[3]
    with pytest.raises(StorageError, match="its data directory is retired and never comes back"):
        cluster.start(3)
    cluster.servers.pop(3)
    again = MemberChange("add", 3, storage.incarnation)
    assert "never comes back" in change(cluster, 1, again, number=79).reason
    assert reign_of(cluster.servers[1]).leaving == set()  # its answer came before its end


def test_who_was_removed_serves_on_until_it_hears_the_next_leader() -> None:  # M22
    cluster = serving()
    change(cluster, 1, add(cluster, 4))
    cluster.pass_time(0.3)
    change(cluster, 1, MemberChange("promote", 4), MemberChange("remove", 3), number=78)
    rehearse(cluster)
    for _ in range(8):
        cluster.drop(Heartbeat, target=3)
        cluster.deliver()
    assert cluster.epochs(3) == [2] and not cluster.retired
    cluster.hand(3, 4, CatchUpRequest(1))
    assert [p for p in cluster.packets if (p.source, p.target) == (3, 4)]  # slots, or a snapshot
    cluster.pass_time(0.5)
    assert list(cluster.retired) == [3]


def test_a_removed_server_that_slept_for_long_retires_when_it_is_back() -> None:
    cluster = serving()
    cluster.crash(3)
    cluster.pass_time(1.0)
    change(cluster, 1, MemberChange("remove", 3))
    cluster.pass_time(0.5)
    for number in (78, 79):
        change(cluster, 1, add(cluster, number - 74), number=number)
        cluster.pass_time(0.5)
    cluster.start(3)
    cluster.pass_time(3.0)
    assert list(cluster.retired) == [3]


def test_an_earlier_change_is_done_as_well() -> None:
    cluster = serving()
    ballot = cluster.servers[1].promised
    change(cluster, 1, add(cluster, 4))
    cluster.pass_time(0.3)
    change(cluster, 1, add(cluster, 5), number=78)
    cluster.pass_time(0.3)
    assert cluster.epochs(1) == [2]
    assert ask(cluster, 1, ballot).outcome == "done"


def test_the_same_request_sent_again_is_the_same_change() -> None:
    cluster = serving()
    ballot = cluster.servers[1].promised
    for _ in range(3):
        assert change(cluster, 1, add(cluster, 4), ballot=ballot).outcome == "pending"
    cluster.pass_time(0.3)
    assert change(cluster, 1, add(cluster, 4), ballot=ballot).outcome == "done"
    assert cluster.epochs(1) == [1]


def test_who_is_refused_once_is_so_for_good_in_that_reign() -> None:
    """Else a copy that comes late would be taken up after the client had its answer."""
    cluster = serving()
    remove = [MemberChange("remove", s) for s in (2, 3)]
    assert change(cluster, 1, *remove, MemberChange("remove", 1)).outcome == "refused"
    for _ in range(2):
        assert change(cluster, 1, add(cluster, 4)).outcome == "refused"
    cluster.pass_time(0.3)
    assert cluster.epochs(1) == [0]


def test_only_a_leader_that_executed_its_own_slot_says_that_a_change_is_not_done() -> None:
    """Finding 1: followers may have executed a slot of a later ballot, and know nothing."""
    cluster = serving(policy="random")
    ballot = cluster.servers[1].promised
    change(cluster, 1, add(cluster, 4))
    rehearse(cluster)
    assert cluster.drop(P2A)  # nobody gets the CONFIG, and its proposer is cut off
    cluster.isolate(1)
    cluster.lead(2)
    cluster.drop(Heartbeat)
    assert ask(cluster, 3, ballot).outcome == "unknown"
    assert ask(cluster, 1, ballot).outcome == "pending"  # (it does not know that it is deposed)
    last = cluster.servers[2].log.last
    first = ask(cluster, 2, ballot)
    assert first.outcome == "unknown" and first.leads
    assert cluster.servers[2].log.last == last + 1  # M8: it wants a slot of its own at once
    cluster.stabilize()
    assert ask(cluster, 2, ballot).outcome == "not done"
    cluster.pass_time(0.1)
    assert cluster.servers[3].application.executed > last
    assert ask(cluster, 3, ballot).outcome == "unknown"
    cluster.heal()
    cluster.pass_time(1.0)
    assert cluster.epochs() == [0] * 5
    assert not any(s.log.configs for s in cluster.servers.values())


def test_a_config_that_was_taken_over_is_not_called_settled() -> None:
    cluster = serving(policy="random")
    ballot = cluster.servers[1].promised
    change(cluster, 1, add(cluster, 4))
    rehearse(cluster)
    cluster.deliver(P2A, target=2)
    cluster.packets.clear()
    cluster.crash(1)
    cluster.campaign(2)
    while cluster.servers[2]._reign is None:
        cluster.deliver()
    cluster.drop(P2A)
    assert reign_of(cluster.servers[2]).sealing
    assert ask(cluster, 2, ballot).outcome == "unknown"
    cluster.pass_time(0.5)
    assert ask(cluster, 3, ballot).outcome == "done"


def test_a_change_meant_for_another_ballot_is_not_taken_up() -> None:
    cluster = serving(policy="random")
    ballot = cluster.servers[1].promised
    cluster.lead(2)
    assert change(cluster, 2, add(cluster, 4), ballot=ballot).outcome == "unknown"
    later = Ballot(99, 2)
    cluster.request(2, ChangeMembers(78, later, (add(cluster, 4),)))
    assert cluster.told(NotLeader)
    cluster.pass_time(0.3)
    assert cluster.epochs(2) == [0]


# --- what is refused (M17) -----------------------------------------------------------------------

BEFORE = Configuration(
    3, 50,
    (
        Member(1, 11, True, "tcp://a:1", "tcp://a:2"),
        Member(2, 12, True, "tcp://b:1"),
        Member(4, 14, False),
    ),
    removed=(13,),
)  # fmt: skip
KEYS = {1: "fffff" * 8}
"""Known to a server by its file."""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ([MemberChange("add", 2, 15)], "server 2 is a member already"),
        ([MemberChange("add", 64, 15)], "ids run from 1 to 63"),
        ([MemberChange("add", 0, 15)], "ids run from 1 to 63"),
        ([MemberChange("promote", 5)], "server 5 is no member; the members are servers 1, 2 and 4"),
        ([MemberChange("remove", 5)], "server 5 is no member"),
        ([MemberChange("promote", 1)], "has a vote already"),
        ([MemberChange("demote", 4)], "has no vote that it could lose"),
        ([MemberChange("add", 5, 13)], "never comes back"),
        ([MemberChange("replace", 1, 13)], "never comes back"),
        ([MemberChange("replace", 1, 12)], "is a member's already"),
        ([MemberChange("add", 5)], "name its data directory"),
        ([MemberChange("add", 5, 15, "tcp://b:1")], "server 2 has the address tcp://b:1 already"),
        ([MemberChange("move", 2, client="tcp://a:2")], "server 1 has the address tcp://a:2"),
        ([MemberChange("add", 5, 15, "tcp://B:01")], "server 2 has the address tcp://B:01 already"),
        (
            [MemberChange("move", 2, peer="tcp://c:1", client="tcp://c:1")],
            "server 2 would have tcp://c:1 for servers and for clients",
        ),
        ([MemberChange("add", 5, 15, "tcp://[0:0::]:1")], "cannot be dialled"),
        ([MemberChange("add", 5, 15, "b:1")], "'b:1' cannot be dialled"),
        ([MemberChange("add", 5, 15, key="x" * 101)], "server 5: a key has 40 characters of Z85"),
        ([MemberChange("move", 2, key="nonsense")], "server 2: a key has 40 characters of Z85"),
        ([MemberChange("move", 2, key="~" * 40)], "server 2: a key is no Z85 text: copy it whole"),
        (
            [MemberChange("move", 2, key="kkkkk" * 8), MemberChange("add", 5, 15, key="kkkkk" * 8)],
            "server 5 would have the key of server 2",
        ),
        ([MemberChange("add", 5, 15, key=KEYS[1])], "server 5 would have the key of server 1"),
        ([MemberChange("remove", 1), MemberChange("remove", 2)], "nobody would have a vote"),
        ([MemberChange("remove", 1), MemberChange("demote", 1)], "server 1 is named twice"),
        ([], "this changes nothing"),
        ([MemberChange("move", 2, peer="tcp://b:1")], "this changes nothing"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(
    changes: list[MemberChange], why: str
) -> None:
    after = members_after(BEFORE, changes, KEYS)
    assert isinstance(after, str) and why in after and "\n" not in after


def test_several_changes_at_once() -> None:
    after = members_after(
        BEFORE,
        [
            MemberChange("promote", 4), MemberChange("remove", 2), MemberChange("add", 5, 15),
            MemberChange("replace", 1, 21, client="tcp://c:2"),
        ],
        KEYS,
    )  # fmt: skip
    assert after == (
        Member(1, 21, True, "tcp://a:1", "tcp://c:2"), Member(4, 14), Member(5, 15, voter=False),
    )  # fmt: skip


def test_who_never_was_there_gets_no_vote() -> None:
    cluster = serving()
    change(cluster, 1, MemberChange("add", 4, 4711))
    cluster.pass_time(0.1)
    now = ask(cluster, 1, Ballot(1, 1))
    assert now.leads and 4 not in now.behind  # nobody waits for it in vain, nor believes it level
    told = change(cluster, 1, MemberChange("promote", 4), number=78)
    assert told.outcome == "refused" and told.reason.startswith("server 4 was not heard of late")


def test_members_that_nobody_hears_are_no_majority() -> None:
    cluster = serving()
    change(cluster, 1, add(cluster, 4))
    cluster.pass_time(0.3)
    cluster.crash(4)
    cluster.crash(3)
    cluster.pass_time(1.0)
    promote = change(cluster, 1, MemberChange("promote", 4), number=78)
    assert promote.outcome == "refused"  # 3 and 4 of the four are silent
    assert promote.reason.startswith("servers 3 and 4 were not heard of late or are far behind")
    assert 4 not in ask(cluster, 1, Ballot(1, 1)).behind
    cluster.start(3)
    cluster.pass_time(1.0)
    promote = change(cluster, 1, MemberChange("promote", 4), number=81)
    assert promote.outcome == "refused"  # a majority of four is there without it
    assert promote.reason.startswith("server 4 was not heard of late or is far behind: it gets")
    cluster.crash(3)
    cluster.pass_time(1.0)
    removal = change(cluster, 1, MemberChange("remove", 2), number=79)
    assert removal.outcome == "refused" and "server 3 was not heard" in removal.reason
    dead = change(cluster, 1, MemberChange("remove", 3), number=80)  # a dead one may go
    assert dead.outcome == "pending"
    cluster.pass_time(0.5)
    assert cluster.servers[1].configuration.voters == (1, 2)


def test_who_leads_just_now_counts_on_those_who_promised_it() -> None:
    """A client asks the next leader at once, and a refusal would be the end of it."""
    cluster = serving(5, (1, 2, 3), policy="random")
    cluster.crash(1)
    cluster.drop()
    cluster.clock.now += 1
    cluster.campaign(2)
    while cluster.servers[2].role != "leader":
        cluster.deliver(P1A)
        cluster.deliver(P1B)
    told = change(cluster, 2, MemberChange("remove", 1))
    assert told.outcome == "pending", told.reason


@pytest.mark.parametrize("limit", ["MOST_BEHIND", "MOST_BYTES_BEHIND"])
def test_a_learner_that_is_far_behind_makes_no_majority(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"paxon.actors.records.reign.{limit}", 1)
    cluster = serving(members=(1,))
    change(cluster, 1, add(cluster, 4))
    cluster.pass_time(0.3)
    cluster.drop()
    cluster.execute(1, cluster.told_session(), b"b", b"c", b"d", first=2)
    reign_of(cluster.servers[1]).followers[4].executed = 2
    told = change(cluster, 1, MemberChange("promote", 4), number=78)
    assert told.outcome == "refused" and "server 4 was not heard of late or is far" in told.reason


def test_a_second_change_waits_for_the_first() -> None:
    cluster = serving()
    change(cluster, 1, add(cluster, 4))
    told = change(cluster, 1, add(cluster, 5), number=78)
    assert told.outcome == "refused" and "another change of the members is under way" in told.reason


def test_the_place_of_one_that_lives_is_not_given_away() -> None:
    cluster = serving()
    replace = MemberChange("replace", 3, 999)
    told = change(cluster, 1, replace)
    assert told.outcome == "refused" and "server 3: its old directory is in use" in told.reason
    cluster.crash(3)
    cluster.pass_time(1.0)
    assert change(cluster, 1, replace, number=78).outcome == "pending"


def test_clients_are_told_where_the_members_are() -> None:
    cluster = serving()
    added = MemberChange("add", 4, cluster.storages[4].incarnation, "tcp://h:1", "tcp://h:2")
    change(cluster, 1, added)
    cluster.pass_time(0.3)
    cluster.open_session(1)
    cluster.request(2, AskMembers(9))
    assert said(cluster).members[-1].client == "tcp://h:2"
    assert cluster.servers[2].places.client_addresses()[4] == "tcp://h:2"


# --- servers that join ---------------------------------------------------------------------------


def joiner(cluster: Cluster, server: int = 4, **options: object) -> None:
    """A server on an empty directory, told to join."""
    cluster.servers.pop(server, None)
    cluster.storages[server] = cluster.new_disk(server)
    cluster.ids = tuple(sorted({*cluster.ids, server}))
    cluster.start(server, join=True, **options)
    cluster.pass_time(1.5)


def test_a_server_joins_fetches_the_log_and_becomes_a_voter() -> None:
    cluster = serving(3)
    joiner(cluster)
    waits = cluster.servers[4]
    assert cluster.applied(4) == [b"a"]
    assert not waits.is_member and waits.role == "follower"
    assert "`paxon member add 4`" in waits.describe().waits_for
    cluster.request(1, AskMembers(3))
    now = said(cluster)
    assert [m.server for m in now.joining] == [4] and now.behind[4] == 0
    added = now.joining[0]
    change(cluster, 1, MemberChange("add", 4, added.incarnation))
    cluster.pass_time(0.5)
    assert waits.is_member and waits.describe().waits_for == ""
    change(cluster, 1, MemberChange("promote", 4), number=78)
    cluster.pass_time(0.5)
    assert waits.is_voter and cluster.epochs() == [2] * 4
    cluster.request(1, AskMembers(3))
    assert said(cluster).joining == ()


def test_one_that_waits_to_join_tells_nobody_old_news_and_never_votes() -> None:
    cluster = serving(3)
    joiner(cluster)
    cluster.query(4, mode="stale")
    assert not cluster.answers() or cluster.told(NotLeader)
    cluster.crash(1)
    cluster.crash(2)
    cluster.pass_time(3.0)  # 3 alone has no majority, whoever waits
    assert cluster.servers[3].role != "leader" and cluster.servers[4].promised == Ballot(0, 0)


def test_who_has_not_stored_which_cluster_it_joins_is_not_offered_yet() -> None:
    """Added, and started again without --join, it once was told that it is no member."""
    cluster = serving(3)
    cluster.ids, cluster.storages[4] = (1, 2, 3, 4), cluster.new_disk(4)
    cluster.start(4, join=True)
    cluster.hand(1, 4, cluster.servers[4].making.introduction(asks=True))
    cluster.drop(Introduction)  # the answer is lost
    cluster.request(1, AskMembers(3))
    assert said(cluster).joining == ()
    cluster.pass_time(1.0)
    cluster.request(1, AskMembers(3))
    assert [m.server for m in said(cluster).joining] == [4]


def test_one_that_waits_to_join_is_so_after_a_restart_as_well() -> None:
    cluster = serving(3)
    joiner(cluster)
    cluster.confirms = False
    cluster.restart(4)  # without being told to join: its directory knows
    cluster.pass_time(1.0)
    assert cluster.servers[4]._takes_part and not cluster.servers[4].is_member
    cluster.request(1, AskMembers(3))
    assert [m.server for m in said(cluster).joining] == [4]


def test_a_server_joins_though_all_who_made_the_cluster_are_gone() -> None:
    cluster = serving(5)
    for number, server in enumerate((4, 5), 80):
        change(cluster, 1, add(cluster, server), number=number)
        cluster.pass_time(0.3)
    ones = [MemberChange("promote", 4), MemberChange("promote", 5)]
    change(cluster, 1, *ones, *(MemberChange("remove", s) for s in (1, 2, 3)), number=90)
    cluster.pass_time(1.0)
    for server in (1, 2, 3):
        cluster.crash(server)
    joiner(cluster, 6)
    assert cluster.applied(6) == [b"a"] and cluster.epochs(6) == [3]
    assert cluster.servers[6].making.joins
    cluster.confirms = False
    cluster.restart(6, join=True)
    cluster.pass_time(2.0)
    assert cluster.servers[6]._takes_part


def test_a_server_joins_in_the_place_of_one_that_lost_its_disk() -> None:  # M19
    cluster = serving(3)
    old = cluster.storages[3].incarnation
    cluster.crash(3)
    cluster.pass_time(1.0)
    joiner(cluster, 3)
    assert cluster.applied(3) == [b"a"] and not cluster.servers[3].is_member
    cluster.request(1, AskMembers(3))
    now = said(cluster)
    (waits,) = now.joining
    assert waits.incarnation != old
    assert change(cluster, 1, MemberChange("replace", 3, waits.incarnation)).outcome == "pending"
    cluster.pass_time(1.0)
    assert cluster.servers[3].is_voter and cluster.epochs() == [1, 1, 1]
    assert cluster.servers[1].configuration.removed == (old,)


def test_a_cluster_that_is_not_there_yet_cannot_be_joined() -> None:
    cluster = Cluster(3, made=False)
    cluster.start(1, 2, servers=(1, 2, 3))
    cluster.start(3, join=True)
    cluster.pass_time(1.0)
    assert "start it without, or once the others have made one" in (
        cluster.servers[1].membership.waits_for
    )
    assert "waits for servers 1 and 2 to tell" in cluster.servers[3].membership.waits_for


# --- rehearsal (M18) -----------------------------------------------------------------------------


def test_members_that_cannot_reach_each_other_are_refused() -> None:
    """A firewall lets the leader through to each of them, and none to another."""
    cluster = serving(6)
    for number, server in enumerate((4, 5, 6), 80):
        change(cluster, 1, add(cluster, server), number=number)
        cluster.pass_time(0.3)
    for one, other in ((4, 5), (5, 6), (4, 6)):
        cluster.cut.add(frozenset((one, other)))
    promote = [MemberChange("promote", s) for s in (4, 5, 6)]
    others = [*promote, *(MemberChange("remove", s) for s in (1, 2, 3))]
    ballot = cluster.servers[1].promised
    assert change(cluster, 1, *others).outcome == "pending"
    cluster.pass_time(1.0)
    refused = ask(cluster, 1, ballot)
    assert refused.outcome == "refused"
    assert refused.reason.startswith("servers 4, 5 and 6 do not reach each other")
    assert cluster.epochs(1) == [3] and cluster.servers[1].role == "leader"
    cluster.heal()
    assert change(cluster, 1, *others, number=90).outcome == "pending"
    cluster.pass_time(1.0)
    assert ask(cluster, 4, ballot, 90).outcome == "done"


def test_members_that_reach_each_other_through_one_alone_are_refused() -> None:
    """Once restarted, each has to be confirmed in every epoch by a majority, itself (M15): all was
    sealed for a new learner, and nobody could open the next epoch (finding 19)."""
    cluster = serving(6, (1, 2, 3, 4, 5))
    for server in cluster.ids:
        cluster.restart(server)
    cluster.pass_time(1.0)
    (hub,) = [s for s in cluster.ids if cluster.servers[s].role == "leader"]
    rest = [server for server in cluster.ids if server != hub]
    cluster.cut |= {frozenset((one, other)) for one in rest for other in rest}
    assert change(cluster, hub, add(cluster, 6)).outcome == "pending"
    cluster.pass_time(1.0)
    assert ask(cluster, hub, cluster.servers[hub].promised).outcome == "refused"
    assert cluster.epochs(hub) == [0] and cluster.servers[hub].role == "leader"


def test_what_is_written_goes_on_while_a_change_is_rehearsed() -> None:
    cluster = serving()
    change(cluster, 1, add(cluster, 4))
    cluster.pass_time(0.3)
    cluster.drop()
    cluster.isolate(4)
    change(cluster, 1, MemberChange("promote", 4), MemberChange("remove", 2), number=78)
    cluster.drop(Rehearsed)
    cluster.drop(Rehearsal)
    assert not reign_of(cluster.servers[1]).holds_back
    cluster.execute(1, cluster.told_session(), b"b", first=2)
    assert cluster.reply_to(2) is not None


@pytest.mark.parametrize("wrong", [{"incarnation": 5}, {"request": 78}, {"chosen_to": -9999}])
def test_only_level_voters_to_be_report_a_rehearsal(wrong: dict[str, int]) -> None:
    cluster = serving()
    change(cluster, 1, add(cluster, 4))
    cluster.drop(Rehearsal)
    cluster.drop(Rehearsed)
    said = Rehearsed(CHANGE, cluster.storages[2].incarnation, False, (2, 3), 3)
    cluster.hand(1, 2, said)  # one of the three: no majority by itself
    said = structs.replace(said, incarnation=cluster.storages[3].incarnation)
    cluster.hand(1, 3, structs.replace(said, **wrong))
    cluster.hand(1, 3, structs.replace(said, heard=(3,)))
    assert not reign_of(cluster.servers[1]).holds_back
    cluster.hand(1, 3, said)
    assert reign_of(cluster.servers[1]).holds_back


def test_the_last_word_of_one_that_was_taken_out_is_not_put_down_to_its_next_directory() -> None:
    """In the burst with which the other was alone it was (members, seed 104380)."""
    disks = KnownDisks()
    disks.join({2: 77}, 0.0)
    disks.note_count(2, 4)
    disks.join({}, 1.0)
    disks.note_count(2, 5)
    disks.join({2: 88}, 2.0)
    assert disks.counts == {2: 0}


def test_what_the_old_directory_of_a_replaced_server_says_counts_for_nothing() -> None:  # M12
    cluster = serving(3)
    old = cluster.storages[3]
    cluster.crash(3)
    cluster.pass_time(1.0)
    joiner(cluster, 3)
    new = cluster.storages[3]
    change(cluster, 1, MemberChange("replace", 3, new.incarnation))
    cluster.pass_time(1.0)
    leader = next(s for s in cluster.ids if cluster.servers[s].role == "leader")
    cluster.isolate(leader)
    cluster.command(leader, cluster.told_session(), 2, b"b")
    cluster.query(leader)
    slot, ballot = cluster.servers[leader].log.last, cluster.servers[leader].promised
    rounds = reign_of(cluster.servers[leader]).rounds
    late = [P2B(ballot, slot, slot), HeartbeatReply(ballot, rounds.last, slot)]
    for message in late:
        cluster.step(leader, Burst(peers=[(3, old.incarnation, [message])]))
    assert cluster.servers[leader].log.chosen_to < slot
    assert rounds.confirmed < rounds.last
    cluster.step(leader, Burst(peers=[(3, new.incarnation, late)]))
    assert cluster.servers[leader].log.chosen_to == slot
    assert rounds.confirmed == rounds.last


def test_one_that_is_to_replace_another_does_not_vote_in_its_name() -> None:
    """It asks nobody for a vote, gives none, and what it accepts counts for nothing."""
    cluster = serving(3)
    cluster.crash(3)
    cluster.pass_time(1.0)
    joiner(cluster, 3)
    cluster.crash(2)
    cluster.pass_time(1.0)
    ballot = cluster.servers[1].promised
    cluster.hand(3, 1, P1A(ballot.next_for(1), 1))
    cluster.hand(3, 1, PreVote(1, 1))
    assert not cluster.sent(P1B) and not any(v.granted for v in cluster.sent(PreVoteReply, 3))
    cluster.pass_time(3.0)
    assert cluster.servers[1].role != "leader" and cluster.servers[3].role == "follower"


# --- addresses (M20) -----------------------------------------------------------------------------


def test_the_configuration_follows_a_member_that_has_moved_once_a_minute() -> None:
    files = {server: f"tcp://h-{server}:1" for server in (1, 2, 3, 4)}
    clients = {server: f"tcp://h-{server}:2" for server in (1, 2, 3, 4)}
    cluster = serving(4, (1, 2, 3), peer_addresses=files, client_addresses=clients)
    added = MemberChange("add", 4, cluster.storages[4].incarnation, files[4], clients[4])
    change(cluster, 1, added)
    cluster.pass_time(0.5)
    assert [m.peer for m in cluster.servers[1].configuration.members] == list(files.values())
    elsewhere = files | {3: "tcp://elsewhere:1"}
    cluster.restart(3, peer_addresses=elsewhere)
    cluster.pass_time(2.0)
    assert cluster.epochs() == [1] * 4  # not at once: addresses may flap
    cluster.pass_time(60.0, 0.05)
    assert cluster.epochs() == [2] * 4
    assert {s.configuration.find(3).peer for s in cluster.servers.values()} == {  # type: ignore[union-attr]
        "tcp://elsewhere:1"
    }
    cluster.pass_time(130.0, 0.05)
    assert cluster.epochs() == [2] * 4


def test_the_first_configuration_has_no_addresses_to_follow() -> None:
    files = {server: f"tcp://h-{server}:1" for server in (1, 2, 3)}
    cluster = serving(3, peer_addresses=files, client_addresses={})
    cluster.pass_time(65.0, 0.05)
    assert cluster.epochs() == [0] * 3
