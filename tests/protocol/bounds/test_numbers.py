"""Numbers from the wire: no frame may stop a server, use up the ballots or end the cluster."""

# mypy: disable-error-code=comparison-overlap
# (A step between two looks at a role changes it, which mypy does not know.)

from __future__ import annotations

import math
import random
from typing import Any, get_args

import msgspec
import pytest

from paxon.actors import Ballot
from paxon.actors.limits.bounds import MAX_ROUND_JUMP, MAX_SLOTS_AHEAD, RoundGuard, is_dense
from paxon.actors.members import (
    AskMembers,
    ChangeMembers,
    Member,
    MemberChange,
    Rehearsal,
    Rehearsed,
)
from paxon.actors.messages import (
    P1A,
    P1B,
    P2A,
    P2B,
    Accepted,
    CatchUp,
    CatchUpRequest,
    ChangeSettings,
    ClientMessage,
    Command,
    CommitNote,
    CountAnswer,
    CountQuestion,
    DigestReply,
    DigestRequest,
    Handover,
    Heartbeat,
    HeartbeatReply,
    Introduction,
    Made,
    OpenSession,
    PeerMessage,
    Place,
    PreVote,
    PreVoteReply,
    Renew,
    ReplyStatus,
    Sealed,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotRequest,
    TransferLeader,
    Unwatch,
    Watch,
)
from paxon.transport import Burst
from tests.harness import Cluster, value_of
from tests.messages import beat, promise

TIMES = (0.0, 0.0, 0.1, 0.3, -1.0, 61.0, 1e300, math.nan, math.inf)
EXTREMES = [
    0, 1, -1, 2, 3, 7, 2**20, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40, 2**53,
    2**62 - 1, 2**62, 2**63 - 2, 2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**62), -(2**63),
]  # fmt: skip
"""What msgpack can carry: from -2^63 to 2^64 - 1."""


def running(policy: str = "stable") -> Cluster:
    """Server 1 leads three and has executed a command."""
    cluster = Cluster(3, options={"policy": policy}).start()
    cluster.lead(1)
    cluster.execute(1, cluster.open_session(1), b"a")
    cluster.pass_time(0.2)
    return cluster


def serves(cluster: Cluster) -> None:
    """Everything is well again by itself: a leader, a command, equal logs."""
    session = cluster.told_session()
    for _ in range(400):
        cluster.pass_time(0.1, 0.05)
        leaders = [s for s in cluster.ids if cluster.servers[s].role == "leader"]
        if leaders:
            newest = max(leaders, key=lambda s: cluster.servers[s].promised)
            cluster.command(newest, session, 2, b"at last")
            cluster.pass_time(0.2, 0.05)
        reply = cluster.reply_to(2)
        level = len({s.application.executed for s in cluster.servers.values()}) == 1
        if reply is not None and level:
            break
    assert reply is not None, "nothing is chosen any more"
    assert level, [s.application.executed for s in cluster.servers.values()]
    for server in cluster.ids:
        assert cluster.applied(server)[0] == b"a"
        assert b"at last" in cluster.applied(server)


def promised(cluster: Cluster) -> int:
    return max(server.promised.round for server in cluster.servers.values())


@pytest.mark.parametrize("round_", [2**33, 2**62, 2**63 - 2, 2**63 - 1, 2**64 - 1])
def test_a_p1a_with_an_absurd_round_is_refused(round_: int) -> None:
    """With 2^63 - 2 it once ended a cluster for good: no ballot was left above it."""
    cluster = running("random")
    cluster.hand(1, 3, P1A(Ballot(round_, 3), 1))
    cluster.hand(2, 3, P1A(Ballot(round_, 3), 1))
    assert cluster.sent(P1B) == []
    assert promised(cluster) == 1
    assert cluster.servers[1].role == "leader"
    assert cluster.servers[1].describe().counters["refused_numbers"] == 1
    serves(cluster)


def test_whoever_is_far_behind_in_ballots_comes_nearer_each_second() -> None:
    """A server that slept through more ballots than the bound is not shut out for good."""
    cluster = running("random")
    far = Ballot(3 * MAX_ROUND_JUMP, 2)
    times = 0
    while cluster.servers[3].promised < far:
        cluster.hand(3, 2, beat(far))
        cluster.clock.now += 0.5
        times += 1
    assert times == 6  # steps at 1 s and 2 s, from where it is within the bound
    assert cluster.sent(HeartbeatReply, source=3)[-1].ballot == far


def test_two_accidents_far_apart_are_no_insistence() -> None:
    cluster = running("random")
    for _ in range(5):
        cluster.hand(1, 3, P1A(Ballot(2**50, 3), 1))
        cluster.clock.now += 60
    assert cluster.servers[1].promised.round < MAX_ROUND_JUMP


def test_nobody_comes_nearer_to_a_ballot_of_nobody_or_past_the_end_of_numbers() -> None:
    guard, promised = RoundGuard([1, 2, 3]), Ballot(7, 1)
    for teller, ballot in enumerate((Ballot(2**62, 2), Ballot(2**62 - 1, 9), Ballot(2**62 - 1, 2))):
        steps = [guard.step_towards(ballot, promised, teller, 100.0 + n) for n in range(2)]
        nearer = Ballot(7 + MAX_ROUND_JUMP, 2)
        assert steps == [None, nearer if ballot == Ballot(2**62 - 1, 2) else None]
    assert guard.admits(nearer, promised)
    assert not guard.admits(Ballot(nearer.round + 1, 2), promised)


@pytest.mark.parametrize("leader", [0, 9, -1, 2**63, 2**64 - 1])
def test_a_ballot_of_nobody_is_not_adopted(leader: int) -> None:
    cluster = running()
    server = cluster.servers[1]
    cluster.hand(1, 3, HeartbeatReply(Ballot(5, leader), 1, 0))
    cluster.hand(1, 3, P2B(server.promised, 1, 1, Ballot(5, leader)))
    cluster.hand(1, 3, promise(Ballot(5, leader)))
    assert server.promised == Ballot(1, 1)
    serves(cluster)


@pytest.mark.parametrize("slot", [MAX_SLOTS_AHEAD + 3, 2**40, 2**62, 2**63 - 1, 2**64 - 1])
def test_a_slot_far_ahead_is_not_accepted(slot: int) -> None:
    """A later leader would have to fill everything between, one slot after another."""
    cluster = running()
    ballot = cluster.servers[1].promised
    before = cluster.servers[2].log.last
    cluster.hand(2, 1, P2A(ballot, slot, value_of(b"x"), slot - 1))
    assert cluster.sent(P2B, source=2) == []
    assert cluster.servers[2].log.last == before
    cluster.hand(2, 1, CatchUp([Accepted(slot, ballot, value_of(b"x"))], slot))
    assert cluster.servers[2].log.last == before
    serves(cluster)


def test_the_last_slot_within_reach_is_accepted_and_a_leader_fills_the_hole() -> None:
    cluster = running("random")
    server = cluster.servers[2]
    slot = server.log.chosen_to + MAX_SLOTS_AHEAD
    cluster.hand(2, 1, P2A(server.promised, slot, value_of(b"x"), 2))
    assert server.log.last == slot
    cluster.hand(2, 1, P2A(server.promised, slot + 1, value_of(b"x"), 2))
    assert server.log.last == slot


def test_who_heard_of_more_than_a_majority_holds_asks_before_it_leads() -> None:
    cluster = running("random")
    ballot = cluster.servers[1].promised
    cluster.hand(2, 1, beat(ballot, 99, commit=2**62))
    assert cluster.servers[2].is_behind()
    cluster.campaign(2)
    cluster.drop(CatchUpRequest)
    cluster.stabilize()
    assert cluster.servers[2].role != "leader"
    assert cluster.servers[2].describe().counters["commits_denied"] >= 1
    cluster.pass_time(1.0)  # server 1 is asked again, and takes it back
    serves(cluster)


def told_by_one_that_is_gone(*servers: int) -> Cluster:
    """Server 1 tells these of slots that nobody has, in a damaged frame, and never comes back."""
    cluster = running()
    for server in servers:
        cluster.hand(server, 1, beat(cluster.servers[1].promised, 99, commit=50))
    cluster.crash(1)
    cluster.drop()
    cluster.pass_time(5.0)
    return cluster


def test_a_teller_that_never_returns_keeps_back_only_who_heard_it() -> None:
    cluster = told_by_one_that_is_gone(2)
    assert cluster.servers[3].role == "leader"
    assert cluster.servers[2].leader == 3
    session = cluster.open_session(3)
    for seq in range(1, 60):  # past what it told of, server 2 is like any other
        cluster.command(3, session, seq, b"c", acked=seq)
        cluster.stabilize()
    assert not cluster.servers[2].is_behind()
    cluster.restart(1)
    cluster.isolate(3)
    denied = cluster.servers[2].describe().counters["commits_denied"]
    cluster.pass_time(5.0)
    assert "leader" in {cluster.servers[1].role, cluster.servers[2].role}
    assert cluster.servers[2].describe().counters["commits_denied"] == denied


def test_where_a_majority_heard_it_a_restart_forgets_it() -> None:
    cluster = told_by_one_that_is_gone(2, 3)
    assert {cluster.servers[server].role for server in (2, 3)} <= {"follower", "candidate"}
    cluster.restart(2)
    cluster.pass_time(5.0)
    assert cluster.servers[2].role == "leader"


def test_who_told_of_a_commit_index_takes_it_back() -> None:
    cluster = running()
    ballot = cluster.servers[1].promised
    cluster.hand(2, 1, beat(ballot, 99, commit=2**62))
    cluster.pass_time(1.0)
    assert not cluster.servers[2].is_behind()


def told_too_much(cluster: Cluster, count: int) -> CountQuestion:
    """The leader, 1, was told so high a count of 2's; what 2 says to that, not delivered."""
    cluster.hand(1, 2, HeartbeatReply(cluster.servers[1].promised, 0, 0, count=count))
    assert cluster.servers[1].disks.counts[2] == count
    for _ in range(100):
        cluster.clock.now += 0.02
        for server in cluster.ids:
            cluster.step(server)
        denials = [
            packet for packet in cluster.packets
            if isinstance(packet.message, CountQuestion) and packet.message.denies
            and (packet.source, packet.target) == (2, 1)
        ]  # fmt: skip
        if denials:
            cluster.packets.remove(denials[0])
            assert isinstance(denials[0].message, CountQuestion)
            return denials[0].message
        cluster.deliver()
    raise AssertionError("server 2 denies nothing")


def test_a_count_that_was_never_told_is_denied() -> None:
    cluster = running()
    bogus = cluster.storages[2].count + 1000
    denial = told_too_much(cluster, bogus)
    assert (denial.denies, denial.count) == (bogus, cluster.storages[2].count)
    cluster.hand(1, 2, denial)
    assert cluster.servers[1].disks.counts[2] == denial.count


def test_a_count_that_somebody_hears_of_after_its_answer_is_denied_as_well() -> None:
    """Else it remembers what never was, and 2 would be refused on its newest directory."""
    cluster = running()
    bogus = cluster.storages[2].count + 1000
    cluster.hand(1, 2, HeartbeatReply(cluster.servers[1].promised, 0, 0, count=bogus))
    cluster.clock.now += 0.06
    cluster.step(1)
    late = [packet for packet in cluster.packets if packet.target == 3]
    cluster.drop(target=3)
    cluster.stabilize()  # 2 is told, asks, and denies what server 1 remembers
    assert cluster.servers[1].disks.counts[2] < bogus
    cluster.packets += late
    cluster.stabilize()
    assert cluster.servers[3].disks.counts[2] == bogus
    cluster.pass_time(3.0)
    assert cluster.servers[3].disks.counts[2] <= cluster.storages[2].count


def test_a_learner_is_told_as_well_that_a_count_was_never_told() -> None:
    """It takes along what it remembers: with a vote it would have 2's newest directory refused."""
    cluster = Cluster(4, members=(1, 2, 3)).start()
    leader = cluster.lead(1)
    cluster.change(1, 1, 2, 3, learners=[4])
    cluster.pass_time(0.5)
    bogus = cluster.storages[2].count + 1000
    cluster.hand(1, 2, HeartbeatReply(leader.promised, 0, 0, count=bogus))
    cluster.pass_time(3.0)
    cluster.change(1, 1, 2, 3, 4)
    cluster.pass_time(0.5)
    assert cluster.epochs() == [2, 2, 2, 2]
    cluster.confirms = False
    cluster.restart(2)
    cluster.pass_time(0.5)
    assert cluster.servers[2].is_voter


def test_a_denial_that_comes_late_lowers_no_newer_count() -> None:
    """Lowered, an old copy of 2's directory would be confirmed, and vote without its votes."""
    cluster = running()
    bogus = cluster.storages[2].count + 5
    denial = told_too_much(cluster, bogus)
    for count in (bogus + 1, bogus + 700):  # told by now, in good order
        cluster.hand(1, 2, HeartbeatReply(cluster.servers[1].promised, 0, 0, count=count))
        cluster.hand(1, 2, denial)
        assert cluster.servers[1].disks.counts[2] == count
    again = told_too_much(cluster, bogus + 2000)
    for late in (denial, msgspec.structs.replace(again, life=denial.life)):
        cluster.hand(1, 2, late)
        assert cluster.servers[1].disks.counts[2] == bogus + 2000


def test_a_promise_with_a_hole_out_of_bounds_is_ignored() -> None:
    cluster = Cluster(3, options={"policy": "random"}).start()
    cluster.campaign(1)
    ballot = cluster.servers[1].promised
    for slot in (0, -5, MAX_SLOTS_AHEAD + 1, 2**40, 2**64 - 1):
        far = [Accepted(slot, Ballot(0, 1), b"")]
        cluster.hand(1, 2, promise(ballot, far))
        cluster.hand(1, 2, promise(ballot, far, next_slot=max(slot, 1)))
    assert cluster.servers[1].role == "candidate"
    assert cluster.servers[1].describe().counters["malformed_messages"] == 10
    cluster.stabilize()
    assert cluster.servers[1].role == "leader"
    assert cluster.servers[1].log.last == 0


@pytest.mark.parametrize(
    ("slots", "next_slot", "dense"),
    [
        ([], 0, True),
        ([10, 11, 50], 0, True),
        ([10, 11, 11], 0, False),
        ([10, 12, 11], 0, False),
        ([9], 0, False),
        ([9 + MAX_SLOTS_AHEAD], 0, True),
        ([10 + MAX_SLOTS_AHEAD], 0, False),
        ([10], 11, True),
        ([10], 10, False),
        ([10], 10 + MAX_SLOTS_AHEAD, True),
        ([10], 11 + MAX_SLOTS_AHEAD, False),
    ],
)
def test_a_promise_goes_on_from_what_was_asked_for_and_what_is_discarded(
    slots: list[int], next_slot: int, dense: bool
) -> None:
    """Whichever reaches further."""
    accepted = [Accepted(slot, Ballot(0, 1), b"") for slot in slots]
    for first_slot, discarded in ((10, 3), (4, 9)):
        p1b = promise(
            Ballot(1, 1), accepted, first_slot=first_slot, next_slot=next_slot, discarded=discarded
        )
        assert is_dense(p1b) == dense


@pytest.mark.parametrize("field", ["slot", "offset"])
@pytest.mark.parametrize("value", [-1, 2**62, 2**63, 2**64 - 1])
def test_a_request_for_an_impossible_piece_of_a_snapshot_is_ignored(field: str, value: int) -> None:
    cluster = running()
    request = msgspec.structs.replace(SnapshotRequest(1, 0), **{field: value})
    cluster.hand(1, 2, request)
    assert cluster.packets == []
    assert cluster.servers[1].describe().counters["malformed_messages"] == 1


# --- everything at once ---------------------------------------------------------------------------


class _Fuzz:
    """Makes messages with extreme numbers in some of their fields, the rest being plausible."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)

    def number(self, plausible: int) -> int:
        roll = self.random.random()
        if roll < 0.4:
            return plausible
        if roll < 0.5:
            return plausible + self.random.choice((-1, 1, 2))
        if roll < 0.6:
            return plausible + MAX_ROUND_JUMP + self.random.choice((-1, 1, 2))
        return self.random.choice(EXTREMES)

    def ballot(self, sender: int) -> Ballot:
        now = self.cluster.servers[self.random.choice(self.cluster.ids)].promised
        leader = sender if self.random.random() < 0.7 else self.number(now.leader)
        # (A value in a live leader's own ballot is a lie in range, which no bound tells apart.)
        round_ = self.number(now.round)
        return Ballot(round_, leader)

    def accepted(self, sender: int, about: int) -> list[Accepted]:
        return [
            Accepted(self._free(self.number(about)), self.ballot(sender), b"")
            for _ in range(self.random.randrange(3))
        ]

    def _free(self, slot: int) -> int:
        """Not a slot that is in use: another value for it is a lie, whatever its number."""
        last = max(s.log.last for s in self.cluster.servers.values())
        return slot if slot > last + 50 or slot < 1 else last + 50

    def message(self, sender: int, target: int, kind: type) -> PeerMessage:
        server = self.cluster.servers[sender]
        near, n = server.log.chosen_to, self.number
        flag = self.random.random() < 0.5
        ballot = self.ballot(sender)
        made: dict[type, Any] = {
            P1A: lambda: P1A(
                ballot, n(near),
                self.random.choice((None, self.ballot(sender), self.ballot(target))),
            ),
            P1B: lambda: P1B(
                ballot, n(near + 1), self.random.choice((0, n(near))),
                self.accepted(sender, near), min(n(near), near), n(near), n(9),
            ),
            P2A: lambda: P2A(ballot, self._free(n(near)), b"", n(near)),
            P2B: lambda: P2B(
                ballot, self._free(n(near)), n(near), self.ballot(sender) if flag else None, n(9)
            ),
            Heartbeat: lambda: Heartbeat(
                ballot, n(1), n(near), n(near), [(n(target), n(5), n(9))],
                self.random.choice(TIMES), self.random.choice(TIMES),
            ),
            HeartbeatReply: lambda: HeartbeatReply(ballot, n(10**6), n(near), n(9)),
            PreVote: lambda: PreVote(n(1), n(near)),
            PreVoteReply: lambda: PreVoteReply(n(10**6), flag, n(near), n(near), n(9)),
            CatchUpRequest: lambda: CatchUpRequest(n(near)),
            CatchUp: lambda: CatchUp([], n(near)),
            SnapshotOffer: lambda: SnapshotOffer(n(near), n(100) or 1, n(7)),
            SnapshotRequest: lambda: SnapshotRequest(n(near), n(0)),
            SnapshotChunk: lambda: SnapshotChunk(n(near), n(0), b"x" * 10),
            DigestRequest: lambda: DigestRequest(n(1), n(near), n(near), n(near), b"x" * 16),
            DigestReply: lambda: DigestReply(n(1), n(near), b"x" * 32, True),
            Introduction: lambda: Introduction(
                n(1), n(1), flag, "test", (1, n(2)),
                Made(n(1), "test", ((1, n(1)), (n(2), n(2))), b"nonsense"), flag,
                (Place(n(sender), n(5), n(2), "tcp://h:1", "tcp://h:*"),), joins=flag,
                rejoins=flag, chosen_to=n(near),
            ),
            CountQuestion: lambda: CountQuestion(n(5), n(5), n(5), self.random.choice((0, n(5)))),
            CountAnswer: lambda: CountAnswer(n(5), n(5), n(5)),
            CommitNote: lambda: CommitNote(ballot, n(near)),
            Sealed: lambda: Sealed(n(1), n(near), flag),
            Handover: lambda: Handover(ballot),
            Rehearsal: lambda: Rehearsal(n(1), (Member(n(2), n(5), flag, "tcp://h:*"),)),
            Rehearsed: lambda: Rehearsed(n(1), n(5), flag, (n(2),), n(near)),
        }  # fmt: skip
        return made[kind]()  # type: ignore[no-any-return]


@pytest.mark.parametrize("policy", ["stable", "random"])
@pytest.mark.parametrize("kind", get_args(PeerMessage), ids=lambda kind: kind.__name__)
def test_extreme_numbers_in_every_message_between_servers(kind: type, policy: str) -> None:
    """No server stops, no promise jumps, and the cluster chooses as before."""
    for seed in range(12):
        cluster = running(policy)
        fuzz = _Fuzz(cluster, seed)
        for _ in range(40):
            sender, target = fuzz.random.sample(cluster.ids, 2)
            before = cluster.servers[target].promised.round
            cluster.hand(target, sender, fuzz.message(sender, target, kind))
            assert cluster.servers[target].promised.round - before <= MAX_ROUND_JUMP
            if fuzz.random.random() < 0.2:
                cluster.pass_time(0.1, 0.05)
        assert all(len(server.log) < 200 for server in cluster.servers.values())
        serves(cluster)


@pytest.mark.parametrize("kind", get_args(PeerMessage), ids=lambda kind: kind.__name__)
def test_whatever_a_server_sends_that_nobody_knows(kind: type) -> None:
    """Who names the cluster may speak, though it is no member (M13): it stops nobody."""
    stranger = 9
    for seed in range(4):
        cluster = running()
        fuzz = _Fuzz(cluster, seed)
        for _ in range(20):
            sender, target = fuzz.random.sample(cluster.ids, 2)
            message = fuzz.message(sender, target, kind)
            if isinstance(message, Introduction):
                place = Place(stranger, 5, 1, "tcp://h:1", "tcp://h:2")
                message = msgspec.structs.replace(message, places=(place,))
            before = cluster.servers[target].promised.round
            cluster.step(target, Burst(peers=[(stranger, 5, [message])]))
            assert cluster.servers[target].promised.round - before <= MAX_ROUND_JUMP
            cluster.step(target, Burst(lost=[stranger]))
        serves(cluster)


@pytest.mark.parametrize("kind", get_args(ClientMessage), ids=lambda kind: kind.__name__)
def test_extreme_numbers_in_every_clients_message(kind: type) -> None:
    cluster = running()
    session = cluster.told_session()
    random_ = random.Random(1)
    fields = [f for f in msgspec.structs.fields(kind) if f.type is int]
    for _ in range(300):
        values: dict[str, Any] = {f.name: random_.choice(EXTREMES) for f in fields}
        if "session" in values and random_.random() < 0.7:
            values["session"] = session
        if kind in (Command, Renew):
            values["command"] = b"c"
        elif kind is ChangeSettings:
            values["values"] = {"session_ttl": random_.choice(EXTREMES), "max_sessions": 2}
        elif kind is TransferLeader:
            values["ballot"] = Ballot(random_.choice(EXTREMES), random_.choice((0, 1, 2, 2**63)))
        elif kind in (ChangeMembers, AskMembers):
            values["ballot"] = Ballot(random_.choice(EXTREMES), random_.choice((0, 1, 2, 2**63)))
            if kind is ChangeMembers:
                one = MemberChange("add", random_.choice(EXTREMES), random_.choice(EXTREMES))
                values["changes"] = (one,) * random_.randint(0, 2)
        elif kind is Watch:
            values["query"] = b"0"
        elif kind is Unwatch:
            values["ids"] = [random_.choice(EXTREMES) for _ in range(3)]
        elif "mode" in kind.__struct_fields__:  # type: ignore[attr-defined]
            values |= {"mode": "linearizable", "query": b""}
        elif "values" in kind.__struct_fields__:  # type: ignore[attr-defined]
            values["values"] = {}
        cluster.request(1, kind(**values))
        cluster.stabilize()
    cluster.request(1, OpenSession(77))
    cluster.pass_time(0.2)
    session = cluster.told_session()
    cluster.command(1, session, 1, b"end", client=b"other")
    cluster.pass_time(0.2)
    assert all(cluster.applied(s)[-1] == b"end" for s in cluster.ids)


@pytest.mark.parametrize(
    ("seq", "acked", "after"),
    [(2**62, 2**62, 0), (2**64 - 1, 2**64 - 1, 0), (5, -1, 0), (5, 1, -1), (5, 6, 0), (5, 1, 5)],
)
def test_a_command_with_impossible_numbers_stays_out_of_the_log(
    seq: int, acked: int, after: int
) -> None:
    cluster = running()
    before = cluster.servers[1].log.last
    cluster.request(1, Command(cluster.told_session(), seq, acked, after, b"x"))
    reply = cluster.reply_to(seq)
    assert reply is not None
    assert reply.status == ReplyStatus.INVALID
    assert cluster.servers[1].log.last == before


@pytest.mark.parametrize("nonce", [-1, -(2**63), 2**63, 2**64 - 1])
def test_a_nonce_that_does_not_fit_is_refused(nonce: int) -> None:
    cluster = running()
    before = cluster.servers[1].log.last
    cluster.request(1, OpenSession(nonce))
    assert cluster.servers[1].log.last == before
    assert cluster.reply_to(nonce) is not None


def test_whose_ballots_are_followed_says_the_directory_and_no_file() -> None:
    cluster = Cluster(3)
    cluster.start(1, servers=(1, 2))
    cluster.start(2, 3)
    cluster.lead(3)
    assert cluster.servers[1].leader == 3
    assert cluster.servers[1].promised.leader == 3


def test_what_a_server_says_to_know_of_its_disk_is_on_it() -> None:
    """A transfer with a number out of bounds in it ends early, after what came before that."""
    cluster = Cluster(3).start()
    ballot = cluster.lead(1).promised
    first = Accepted(1, ballot, value_of(b"c"))
    far = Accepted(2 * MAX_SLOTS_AHEAD, ballot, value_of(b"c"))
    cluster.hand(2, 1, CatchUp([first, far], 1))
    server = cluster.servers[2]
    assert server.log.chosen_to == server._storage.durable.chosen_to == 1
    assert cluster.storages[2].crash(keep_pending=False).load().chosen_to == 1
