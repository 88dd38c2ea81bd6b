"""Rule 6, election: when servers try to lead, under each policy, and whom they leave alone."""

# mypy: disable-error-code=comparison-overlap
# (A step between two looks at a role changes it, which mypy does not know.)

from __future__ import annotations

import random
from typing import Any

import pytest

from paxon.actors import Ballot, Settings
from paxon.actors.election import Backoff, ElectionPolicy, Immediate, Stable, make_policy
from paxon.actors.messages import (
    P1A,
    P1B,
    P2A,
    P2B,
    Command,
    CommandReply,
    Heartbeat,
    HeartbeatReply,
    NotLeader,
    PreVote,
    PreVoteReply,
    ReplyStatus,
)
from paxon.transport import Burst
from tests.harness import ADDRESSES, Cluster
from tests.messages import beat

HIGH = Ballot(9, 3)


def settings(**options: Any) -> Settings:
    return Settings(cluster="test", server=1, servers=(1, 2, 3), **options)


def led(policy: str = "stable", size: int = 3, **options: object) -> Cluster:
    """Server 1 leads and has just been heard by all."""
    cluster = Cluster(size, options={"policy": policy, **options}).start()
    cluster.lead(1)
    cluster.pass_time(0.1)
    return cluster


# --- the policies --------------------------------------------------------------------------------


def test_a_policy_is_chosen_by_name() -> None:
    made = {n: type(make_policy(settings(policy=n))) for n in ("stable", "immediate", "random")}
    assert made == {"stable": Stable, "immediate": Immediate, "random": ElectionPolicy}
    assert type(make_policy(settings(policy="backoff"))) is Backoff


@pytest.mark.parametrize("name", ["stable", "immediate", "random", "backoff"])
def test_followers_wait_a_random_time_between_the_limits(name: str) -> None:
    policy = make_policy(settings(policy=name, election_timeout_min=0.3, election_timeout_max=0.5))
    source = random.Random(1)
    drawn = [policy.follower_timeout(source) for _ in range(200)]
    assert 0.3 <= min(drawn) < 0.32
    assert 0.48 < max(drawn) <= 0.5


def test_immediate_goes_back_to_phase_1_at_once_and_random_waits_like_a_follower() -> None:
    source = random.Random(1)
    assert make_policy(settings(policy="immediate")).retry_delay(source) == 0.0
    waits = [make_policy(settings(policy="random")).retry_delay(source) for _ in range(50)]
    assert min(waits) >= 0.3
    assert max(waits) <= 0.5


def test_backoff_is_exponential_with_full_jitter_and_a_cap_and_eases_by_reigns() -> None:
    class Highest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            assert a == 0.0  # full jitter
            return b

    policy = make_policy(settings(policy="backoff", backoff_base=0.01, backoff_cap=0.1))
    source = Highest()
    assert [policy.retry_delay(source) for _ in range(6)] == [0.01, 0.02, 0.04, 0.08, 0.1, 0.1]
    for _ in range(5):
        policy.reigned(0.05)
    assert policy.retry_delay(source) == pytest.approx(0.02)
    for _ in range(4):
        policy.retry_delay(source)
    policy.reigned(0.3)  # nobody tried for longer than anybody waits
    assert policy.retry_delay(source) == pytest.approx(0.01)


def test_a_thousand_preemptions_do_not_overflow() -> None:
    policy = make_policy(settings(policy="backoff"))
    assert all(policy.retry_delay(random.Random(1)) <= 1.0 for _ in range(1000))


# --- followers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["stable", "immediate", "random", "backoff"])
def test_somebody_leads_soon_after_the_start_and_again_after_the_leader_dies(policy: str) -> None:
    cluster = Cluster(3, options={"policy": policy}).start()
    cluster.pass_time(1.5)
    (first,) = [s for s in cluster.ids if cluster.servers[s].role == "leader"]
    cluster.crash(first)
    cluster.pass_time(2.5)
    (second,) = [s for s in cluster.servers if cluster.servers[s].role == "leader"]
    assert second != first


@pytest.mark.parametrize("policy", ["stable", "immediate", "random", "backoff"])
def test_heartbeats_keep_followers_from_trying(policy: str) -> None:
    cluster = led(policy)
    cluster.pass_time(5.0, 0.05)
    rounds = [cluster.servers[s].describe().counters["phase1_rounds"] for s in cluster.ids]
    assert rounds == [1, 0, 0]


def test_p2as_too_are_a_sign_of_life() -> None:
    cluster = led()
    session = cluster.open_session(1)
    for seq in range(1, 20):
        cluster.clock.now += 0.1
        cluster.command(1, session, seq, b"x")
        cluster.drop(Heartbeat)
        cluster.stabilize()
        for server in (2, 3):
            cluster.step(server)
    assert cluster.sent(PreVote) == []


@pytest.mark.parametrize("policy", ["stable", "random", "backoff"])
def test_a_minority_makes_no_progress_whatever_it_tries_and_the_majority_does(policy: str) -> None:
    cluster = led(policy, 5)
    session = cluster.open_session(1)
    cluster.isolate(1, 2)
    cluster.command(1, session, 1, b"x")
    cluster.pass_time(3.0, 0.05)
    assert [s for s in (1, 2) if cluster.servers[s].role == "leader"] == []
    assert cluster.reply_to(1) is None
    assert len([s for s in (3, 4, 5) if cluster.servers[s].role == "leader"]) == 1


# --- preemption ----------------------------------------------------------------------------------


def test_a_preempted_server_under_stable_waits_for_the_new_leader() -> None:
    cluster = led()
    cluster.clock.now += 0.6
    cluster.hand(1, 3, P1A(HIGH, 1))
    assert cluster.servers[1].role == "follower"
    assert cluster.servers[1].leader == 3
    cluster.drop()
    cluster.clock.now += 0.29
    cluster.step(1)
    assert cluster.packets == []
    cluster.clock.now += 0.25
    cluster.step(1)
    assert cluster.sent(P1A) == []
    assert len(cluster.sent(PreVote)) == 2


def test_a_preempted_server_under_immediate_is_back_in_phase_1_at_once() -> None:
    cluster = led("immediate")
    cluster.hand(1, 3, P1A(HIGH, 1))
    assert {p.ballot for p in cluster.sent(P1A)} == {Ballot(10, 1)}


def test_a_preempted_server_under_backoff_tries_again_within_its_wait() -> None:
    cluster = led("backoff", backoff_base=0.02, backoff_cap=0.02)
    cluster.hand(1, 3, P1A(HIGH, 1))
    cluster.drop()
    assert cluster.servers[1].next_deadline() <= cluster.clock.now + 0.02
    cluster.clock.now += 0.02
    cluster.step(1)
    assert len(cluster.sent(P1A)) == 2


@pytest.fixture
def reigns(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The length of each reign that counts as one under `backoff`."""
    told: list[float] = []
    monkeypatch.setattr(Backoff, "reigned", lambda self, seconds: told.append(seconds))
    return told


def test_a_reign_in_which_nothing_was_chosen_eases_no_backoff(reigns: list[float]) -> None:
    """Else two that win in turns, each for too short a time, would never wait for longer."""
    cluster = Cluster(3, options={"policy": "backoff"}).start()
    cluster.accepted(1, Ballot(1, 3), slot_1=b"x")
    cluster.restart(1)
    for server in (1, 2, 1, 2):
        cluster.campaign(server)
        cluster.deliver(P1A)
        cluster.deliver(P1B)
        assert cluster.servers[server].role == "leader"
        assert cluster.sent(P2A, server)  # still under way when the other deposes it
    assert cluster.servers[1].describe().counters["preemptions"] == 2
    assert reigns == []


def test_a_reign_in_which_a_slot_was_chosen_eases_backoff(reigns: list[float]) -> None:
    cluster = Cluster(3, options={"policy": "backoff"}).start()
    cluster.accepted(1, Ballot(1, 3), slot_1=b"x")
    cluster.restart(1)
    cluster.campaign(1)
    for kind in (P1A, P1B, P2A, P2B):
        cluster.deliver(kind)
    assert cluster.servers[1].log.chosen_to == 1
    cluster.clock.now += 0.25
    cluster.hand(1, 3, P1A(HIGH, 1))
    assert reigns == [pytest.approx(0.25)]


def test_a_reign_without_anything_to_choose_counts_once_it_is_confirmed(
    reigns: list[float],
) -> None:
    cluster = Cluster(3, options={"policy": "backoff"}).start()
    cluster.campaign(1)
    cluster.deliver(P1A)
    cluster.deliver(P1B)
    cluster.hand(1, 3, P1A(Ballot(5, 3), 1))
    assert reigns == []
    cluster.lead(1)
    cluster.hand(1, 3, P1A(HIGH, 1))
    assert len(reigns) == 1


# --- the two courtesies of `stable` --------------------------------------------------------------


def test_who_hears_a_live_leader_ignores_a_candidate() -> None:
    """It neither adopts the ballot nor answers, the leader itself included."""
    cluster = led()
    promised = cluster.servers[2].promised
    for server in (1, 2):
        cluster.hand(server, 3, P1A(HIGH, 1))
        assert cluster.servers[server].promised == promised
    assert cluster.packets == []
    assert cluster.servers[1].role == "leader"


def test_the_candidate_is_answered_once_the_leader_has_been_silent_for_the_minimum() -> None:
    cluster = led()
    cluster.isolate(1)
    last = cluster.clock.now
    cluster.hand(2, 1, beat(cluster.servers[1].promised, 100))
    cluster.drop()
    cluster.clock.now = last + 0.299
    cluster.hand(2, 3, P1A(HIGH, 1))
    assert cluster.sent(P1B) == []
    cluster.clock.now = last + 0.301
    cluster.hand(2, 3, P1A(HIGH, 1))
    assert [p.ballot for p in cluster.sent(P1B)] == [HIGH]


@pytest.mark.parametrize("policy", ["immediate", "random", "backoff"])
def test_the_classic_policies_have_no_courtesies(policy: str) -> None:
    cluster = led(policy)
    cluster.hand(2, 3, P1A(HIGH, 1))
    assert cluster.servers[2].promised == HIGH
    assert len(cluster.sent(P1B)) == 1
    cluster.drop()
    cluster.clock.now += 0.6
    cluster.step(3)
    assert cluster.sent(PreVote) == []
    assert len(cluster.sent(P1A, source=3)) == 2


def test_a_would_be_candidate_asks_before_it_raises_its_ballot() -> None:
    cluster = led()
    cluster.isolate(3)
    promised = cluster.servers[3].promised
    cluster.pass_time(3.0, 0.02)
    assert cluster.servers[3].promised == promised
    assert cluster.servers[3].describe().counters["pre_votes"] > 3


def test_asking_changes_no_state() -> None:
    cluster = led()
    cluster.clock.now += 0.6
    for server in (1, 2):
        cluster.step(server)
    before = [(s.promised, s.role, s._following.election_at) for s in cluster.servers.values()]
    for server in (1, 2):
        cluster.hand(server, 3, PreVote(1, 1))
    after = [(s.promised, s.role, s._following.election_at) for s in cluster.servers.values()]
    assert before == after
    assert not any(storage.dirty for storage in cluster.storages.values())


def test_a_server_back_from_a_partition_does_not_disturb_a_healthy_cluster() -> None:
    cluster = led()
    session = cluster.open_session(1)
    cluster.isolate(3)
    cluster.pass_time(2.0, 0.02)
    cluster.execute(1, session, b"a")
    cluster.heal()
    cluster.pass_time(1.0, 0.02)
    assert cluster.servers[1].role == "leader"
    assert cluster.servers[1].describe().counters["step_downs"] == 0
    assert cluster.applied(3) == [b"a"]
    assert cluster.servers[3].leader == 1


def test_a_partial_partition_does_not_depose_the_leader() -> None:
    """1 and 3 cannot talk, 2 hears both: 3 stays without a leader, but disturbs nobody."""
    cluster = led()
    session = cluster.open_session(1)
    cluster.cut.add(frozenset((1, 3)))
    for seq in range(1, 20):
        cluster.command(1, session, seq, b"x")
        cluster.pass_time(0.2, 0.02)
    assert cluster.servers[1].role == "leader"
    assert cluster.servers[1].describe().counters["step_downs"] == 0
    assert len(cluster.applied(1)) == 19


def test_pre_votes_of_less_than_a_majority_and_of_earlier_rounds_do_not_count() -> None:
    cluster = led(size=5)
    cluster.crash(1)
    cluster.clock.now += 0.6
    cluster.step(2)
    round_now = cluster.sent(PreVote, source=2)[0].round
    cluster.drop()

    def grant(server: int, round_number: int, granted: bool = True) -> None:
        cluster.hand(2, server, PreVoteReply(round_number, granted, 0, 0))

    grant(3, round_now)
    grant(3, round_now)
    grant(4, round_now - 1)
    grant(5, round_now, granted=False)
    assert cluster.servers[2].role == "follower"
    assert cluster.servers[2].promised != HIGH
    grant(4, round_now)
    assert cluster.servers[2].role == "candidate"


def test_who_hears_the_leader_again_stops_asking() -> None:
    cluster = led()
    cluster.isolate(1)
    cluster.clock.now += 0.6
    cluster.step(2)
    round_now = cluster.sent(PreVote, source=2)[0].round
    cluster.heal()
    cluster.hand(2, 1, beat(cluster.servers[1].promised, 100))
    cluster.hand(2, 3, PreVoteReply(round_now, True, 0, 0))
    assert cluster.servers[2].role == "follower"


def test_no_pre_vote_for_one_who_lacks_what_we_have_discarded() -> None:
    """It could not lead: it would find the slots gone."""
    cluster = led()
    session = cluster.open_session(1)
    cluster.execute(1, session, b"a", b"b")
    cluster.pass_time(2.0)
    assert cluster.servers[2].first_non_cleared() == 4
    cluster.crash(1)
    cluster.clock.now += 0.6
    cluster.hand(2, 3, PreVote(1, 3))
    cluster.hand(2, 3, PreVote(2, 4))
    assert [r.granted for r in cluster.sent(PreVoteReply)] == [False, True]


def test_one_that_lacks_discarded_slots_learns_so_from_the_answer_and_catches_up() -> None:
    cluster = led()
    cluster.clock.now += 0.6
    cluster.step(3)
    question = cluster.sent(PreVote, source=3)[0]
    cluster.hand(3, 2, PreVoteReply(question.round, False, 20, 12))
    assert cluster.servers[3].is_behind()


# --- leases and restarts -------------------------------------------------------------------------


def grant(cluster: Cluster, server: int, lease: float, drift: float = 0.05) -> None:
    """Have a server grant a lease to server 1, which leads; nothing else is heard of it."""
    cluster.hand(server, 1, beat(cluster.servers[1].promised, 100, lease=lease, drift=drift))
    cluster.drop()


def test_a_restarted_server_withholds_its_promise_for_the_longest_lease() -> None:
    cluster = led()
    grant(cluster, 2, 0.3, 0.1)
    server = cluster.restart(2)
    start = cluster.clock.now
    cluster.clock.now = start + 0.32
    cluster.hand(2, 3, P1A(HIGH, 1))
    cluster.hand(2, 3, PreVote(7, 1))
    assert cluster.sent(P1B) == []
    assert [r.granted for r in cluster.sent(PreVoteReply)] == [False]
    assert server.promised != HIGH
    cluster.clock.now = start + 0.34
    cluster.hand(2, 3, P1A(HIGH, 1))
    assert [p.ballot for p in cluster.sent(P1B)] == [HIGH]


def test_a_restarted_server_withholds_its_promise_from_itself_too() -> None:
    cluster = led(election_timeout_min=0.3, election_timeout_max=0.3)
    grant(cluster, 2, 0.3, 0.4)
    server = cluster.restart(2)
    start = cluster.clock.now
    while cluster.clock.now < start + 0.41:
        cluster.clock.now += 0.01
        cluster.step(2)
        assert cluster.sent(PreVote) == []
    cluster.clock.now = start + 0.43
    cluster.step(2)
    assert server.role == "follower"
    assert cluster.sent(PreVote) != []


def test_a_new_server_has_nothing_to_withhold() -> None:
    cluster = Cluster(3).start()
    cluster.hand(2, 3, P1A(HIGH, 1))
    assert [p.ballot for p in cluster.sent(P1B)] == [HIGH]


def test_a_granted_lease_holds_back_promises_even_if_the_connection_broke() -> None:
    """A broken connection is a hint that the leader died; a lease is a promise to it."""
    cluster = led()
    ballot = cluster.servers[1].promised
    cluster.hand(2, 1, beat(ballot, 100, lease=0.3, drift=0.05))
    granted = cluster.clock.now
    cluster.drop()
    cluster.step(2, Burst(lost=[1]))
    cluster.clock.now = granted + 0.29
    cluster.hand(2, 3, P1A(HIGH, 1))
    cluster.step(2)
    assert cluster.packets == []
    cluster.clock.now = granted + 0.31
    cluster.hand(2, 3, P1A(HIGH, 1))
    assert len(cluster.sent(P1B)) == 1


def test_a_broken_connection_to_the_leader_starts_the_question_at_once() -> None:
    cluster = led()
    for server in (2, 3):
        cluster.step(server, Burst(lost=[1]))
    cluster.crash(1)
    cluster.pass_time(0.06)
    assert sorted(cluster.servers[s].role for s in (2, 3)) == ["follower", "leader"]


def test_a_broken_connection_to_a_leader_that_others_hear_deposes_nobody() -> None:
    cluster = led()
    cluster.step(2, Burst(lost=[1]))
    cluster.pass_time(1.0)
    assert cluster.servers[1].role == "leader"
    assert cluster.servers[1].describe().counters["step_downs"] == 0


# --- check quorum --------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["stable", "random"])
def test_a_leader_that_no_majority_answers_steps_down(policy: str) -> None:
    cluster = led(policy, 5)
    session = cluster.open_session(1)
    cluster.isolate(1, 2)
    cluster.command(1, session, 1, b"x")
    cluster.pass_time(0.45)
    assert cluster.servers[1].role == "leader"
    cluster.pass_time(0.15)
    assert cluster.servers[1].role != "leader"
    assert cluster.told(NotLeader)[-1].leader in (0, 2)


def test_a_leader_that_a_majority_answers_goes_on() -> None:
    cluster = led(size=5)
    cluster.isolate(4, 5)
    cluster.pass_time(3.0, 0.02)
    assert cluster.servers[1].role == "leader"


def test_old_replies_do_not_keep_a_leader_going() -> None:
    """Replies to a round that was confirmed long ago say nothing about now."""
    cluster = led()
    server = cluster.servers[1]
    cluster.isolate(1)
    for _ in range(60):
        cluster.clock.now += 0.01
        for peer in (2, 3):
            cluster.hand(1, peer, HeartbeatReply(server.promised, 1, 0))
    assert server.role != "leader"


# --- contention mode (for the benches) -----------------------------------------------------------


@pytest.mark.parametrize("policy", ["random", "backoff"])
def test_in_contention_mode_a_server_leads_for_the_command_that_it_gets(policy: str) -> None:
    cluster = led(policy, contend=True)
    session = cluster.open_session(1)
    cluster.command(2, session, 1, b"x")
    assert cluster.servers[2].role == "candidate"
    cluster.stabilize()
    assert cluster.servers[2].role == "leader"
    assert cluster.told(CommandReply) == [CommandReply(session, 1, ReplyStatus.OK, b"x")]


def test_in_contention_mode_a_preempted_command_is_kept_and_executed_once() -> None:
    cluster = led("backoff", contend=True)
    session = cluster.open_session(1)
    cluster.command(1, session, 1, b"x")
    cluster.drop(P2A)
    cluster.command(2, session, 2, b"y")  # preempts server 1, which keeps its client's command
    cluster.deliver(P1A)
    assert cluster.servers[1].role == "follower"
    cluster.pass_time(1.0)
    assert sorted(cluster.applied(3)) == [b"x", b"y"]
    assert {r.seq for r in cluster.told(CommandReply)} == {1, 2}
    assert cluster.told(NotLeader) == []


def test_in_contention_mode_one_that_is_deposed_with_nothing_to_do_leaves_the_other_alone() -> None:
    cluster = led("backoff", contend=True)
    session = cluster.open_session(1)
    cluster.command(2, session, 1, b"x")
    cluster.drop(Heartbeat)
    cluster.deliver(P1A, target=1)
    deposed = cluster.servers[1]
    assert deposed.role == "follower"
    assert deposed.next_deadline() >= cluster.clock.now + deposed.settings.election_timeout_min


def test_contention_mode_does_nothing_under_stable() -> None:
    cluster = led("stable", contend=True)
    session = cluster.open_session(1)
    cluster.request(2, Command(session, 1, 1, 0, b"x"))
    assert cluster.told(NotLeader) == [NotLeader(1, "tcp://server-1", 3, ADDRESSES)]
    assert cluster.sent(P1A) == []


def test_a_minute_under_load_elects_nobody() -> None:
    """Snapshots, discarding, sessions that come and go, bursts and silence: one reign."""
    cluster = Cluster(3, options={"snapshot_slots": 100, "retain_slots": 50})
    cluster.start().lead(1)
    ballot = cluster.servers[1].promised
    counted = ("elections", "pre_votes", "step_downs", "preemptions", "retransmissions")
    before = [[cluster.servers[s].describe().counters[c] for c in counted] for s in cluster.ids]
    for turn in range(60):
        session = cluster.open_session(1)
        for seq in range(1, 21):
            burst = [Command(session, seq * 3 + n, 1, 0, b"c") for n in range(3)]
            cluster.request(1, *burst)
            cluster.pass_time(0.01 if turn % 3 else 0.04)
        cluster.pass_time(0.8 if turn % 3 else 0.2, step=0.05)
    after = [[cluster.servers[s].describe().counters[c] for c in counted] for s in cluster.ids]
    assert after == before
    assert {server.promised for server in cluster.servers.values()} == {ballot}
    assert all(s.describe().counters["snapshots_taken"] >= 5 for s in cluster.servers.values())
