"""`PaxosServer`: one pykka actor that is acceptor, learner and, while it leads, proposer.

THEORY OF OPERATION

A server handles *bursts*. `step` runs the handler of each message of a burst to completion, in
order; handlers change state, collect what is to be stored, and queue what is to be sent; then one
flush (actors/lifecycle.py) writes all of it in one synced transaction and only then sends. A
handler never blocks, sleeps, starts threads, reads a clock or draws randomness but through what the
server was given, and never sends to itself: what a server tells itself is a method call.

Which state belongs to which role:

- acceptor: `promised` (an acceptor's ballot never falls) and the accepted values in `log`;
- learner: what of `log` is chosen, `application` (the user's state machine and the sessions, as of
  slot `application.executed`), and `_known_commit`, the highest commit index heard of;
- proposer: `role`, `_candidacy` while trying to lead; while leading `_next_slot`, `_votes` (slots
  in flight), `_pending` (commands waiting for a slot), `_waiting` (clients waiting for replies),
  `_reads`, and what followers report in `_executed_by` and `_confirmed_by`.

Stepping down drops the proposer's state and nothing else. What must hold throughout is asserted
with `invariant` here, in the log and in the storage, and watched from outside by the simulator:
the promise never falls; one ballot proposes one value a slot; a chosen value never changes; slots
are executed in order, each command at most once; nothing is discarded before it is executed by all
or covered by a durable snapshot; nothing leaves that relies on what is not synced.

Sources: van Renesse & Altinbuken, "Paxos Made Moderately Complex" (PMMC), whose acceptor, leader,
scout and commander are sections of this one class; Ongaro's Raft thesis for pre-votes (§9.6),
reads by one heartbeat round (§6.4) and sessions (§6.3).
"""

from __future__ import annotations

from collections import deque

from paxon.actors.ballot import Ballot, ServerId
from paxon.actors.bounds import MAX_SLOTS_AHEAD, RoundGuard, is_dense
from paxon.actors.election import ElectionPolicy
from paxon.actors.environment import Environment
from paxon.actors.invariants import invariant
from paxon.actors.leases import sensible
from paxon.actors.membership import NEVER
from paxon.actors.messages import (
    P1A,
    P1B,
    P2A,
    P2B,
    Accepted,
    Heartbeat,
    HeartbeatReply,
    Made,
    PreVote,
    PreVoteReply,
)
from paxon.actors.phase1 import Candidacy
from paxon.actors.proposer import Proposer
from paxon.actors.settings import Settings
from paxon.actors.state_machine import StateMachine
from paxon.transport.log import logger

__all__ = ["PaxosServer"]

EXCUSED = 4
"""A silence is excused by this server's own long steps up to so many election timeouts."""


class PaxosServer(Proposer):
    """A server of a Paxon cluster: `PaxosServer.start(settings, machine, environment)`.

    `paxon.kvstore.start_server` makes the real environment for embedders.
    """

    def __init__(
        self,
        settings: Settings,
        machine: StateMachine,
        environment: Environment,
        policy: ElectionPolicy | None = None,
    ) -> None:
        super().__init__(settings, machine, environment, policy)
        self._election_at = 0.0
        self._retry_at = 0.0
        self._log_at = 0.0
        self._pre_vote_round = 0
        self._pre_votes: set[ServerId] = set()
        self._candidacy: Candidacy | None = None
        self._rejoin_said = ""
        self._round_guard = RoundGuard(settings.servers)
        self._peer_handlers.update(
            {
                P1A: self.on_p1a,
                P1B: self.on_p1b,
                P2A: self.on_p2a,
                Heartbeat: self.on_heartbeat,
                PreVote: self.on_pre_vote,
                PreVoteReply: self.on_pre_vote_reply,
            }
        )

    def _join(self, made: Made) -> None:
        super()._join(made)
        self._round_guard = RoundGuard(made.servers)

    # === acceptor (PMMC §2.2) ====================================================================

    def adopt(self, ballot: Ballot) -> None:
        """Promise a higher ballot (rule 1): durably before any reply, and stop leading."""
        was_proposing = self.role != "follower"
        self._promise(ballot)
        self._heard_at = -NEVER  # whom we heard does not lead us any more
        # Our own ballot comes back to us when our lost disk had promised it (docs/rejoin.md): we
        # did not run phase 1 in it, so whatever we lead or try to lead ends as with any other.
        self.leader = ballot.leader if ballot.leader != self.settings.server else 0
        if was_proposing:
            self._counters["preemptions"] += 1
            self._step_down()
            self._retry_at = self._now + self._policy.retry_delay(self._random)
            self._election_at = self._retry_at
        else:
            self._election_at = self._now + self._policy.follower_timeout(self._random)

    def _follows(self, ballot: Ballot, teller: ServerId) -> bool:
        """Adopt a ballot above the promise, told by another server, unless it is out of bounds.

        One that is goes unanswered. Whoever insists on it is come nearer to (actors/bounds.py).
        """
        guard = self._round_guard
        if guard.admits(ballot, self.promised):
            self.adopt(ballot)
            return True
        self._refuse_number(teller, "ballot", ballot)
        nearer = guard.step_towards(ballot, self.promised, teller, self._now)
        if nearer is not None:
            self.adopt(nearer)
        return False

    def _promise(self, ballot: Ballot) -> None:
        invariant(self._in_force, "a promise before the cluster is in force")
        invariant(ballot > self.promised, "promise %s would not rise to %s", self.promised, ballot)
        self.promised = ballot
        self._storage.save_promise(ballot)

    def on_p1a(self, p1a: P1A, sender: ServerId) -> None:
        """Promise, and report what was accepted (phase 1)."""
        if p1a.ballot.leader != sender:
            self._malformed(p1a, sender)
            return
        if not self.voting:
            return
        if p1a.forced and p1a.ballot > self.promised:
            # A rejoining ends our following, or leading. A lease that we granted is waited for.
            if self._refuses_rejoin(sender, self._peers[sender]):
                return
            if not self._follows(p1a.ballot, sender):
                return
            self._make_way()
        # Rule 6: a live leader is not disturbed, and a lease that we granted stands.
        if self._lease_may_hold() or (self._policy.courteous and self._hears_leader()):
            return
        if p1a.ballot > self.promised and not self._follows(p1a.ballot, sender):
            return
        if self._may_transfer(sender, self.settings.transfer_bytes):
            self._send(sender, self._p1b(p1a.first_slot))

    def _make_way(self) -> None:
        """Who rejoins needs the promise of all, and of some only once their leases have run out.

        A leader that was deposed for it must not be back before that: it would be so each time.
        """
        self._election_at += self.settings.election_timeout_min
        self._retry_at = max(self._retry_at, self._election_at)

    def _p1b(self, first_slot: int) -> P1B:
        invariant(not self._lease_may_hold(), "a promise under a lease that was granted here")
        accepted: list[Accepted] = []
        size = 0
        next_slot = 0
        for value in self.log.accepted_from(first_slot):
            if size >= self.settings.transfer_bytes:
                next_slot = value.slot
                break
            accepted.append(value)
            size += len(value.value) + 16
        return P1B(
            self.promised, first_slot, next_slot, accepted,
            self.log.chosen_to, self.application.executed, self.log.discarded, self._count(),
        )  # fmt: skip

    def on_p2a(self, p2a: P2A, sender: ServerId) -> None:
        """Accept if the ballot is the promised one, and answer either way (phase 2)."""
        ballot = p2a.ballot
        if ballot.leader != sender or p2a.slot < 1:
            self._malformed(p2a, sender)
            return
        if not self.voting:
            self._note_commit(p2a.commit, ballot, sender)
            return
        if ballot < self.promised:
            self._counters["p2b_rejected"] += 1
            self._send(sender, P2B(ballot, p2a.slot, p2a.slot, self.promised, self._count()))
            return
        if ballot > self.promised and not self._follows(ballot, sender):
            return
        self._heard_from_leader(sender)
        if p2a.slot - self.log.chosen_to > MAX_SLOTS_AHEAD:
            self._refuse_number(sender, "slot", p2a.slot)
            self._note_commit(p2a.commit, ballot, sender)
            return
        # A discarded slot's value is chosen, so any later ballot proposes that very value: saying
        # yes without keeping it again tells no lie, and lets a leader that is behind go on.
        if p2a.slot > self.log.discarded:
            self._accept(p2a.slot, ballot, p2a.value)
        self._acknowledge(sender, ballot, p2a.slot)
        self._note_commit(p2a.commit, ballot, sender)

    def _accept(self, slot: int, ballot: Ballot, value: bytes) -> None:
        invariant(ballot == self.promised, "accepting %s under promise %s", ballot, self.promised)
        self.log.accept(slot, ballot, value)
        self._storage.save_accepted(slot, ballot, value)

    def _acknowledge(self, leader: ServerId, ballot: Ballot, slot: int) -> None:
        """Queue a P2B; a run of slots in one ballot becomes one P2B for the range."""
        # (Not `_count()`, which would take a call a slot: only a discarded slot is not stored.)
        count = self._next_count - (slot <= self.log.discarded)
        queued = self._to_peer.setdefault(leader, [])
        if queued:
            last = queued[-1]
            if (
                type(last) is P2B
                and last.last + 1 == slot
                and last.ballot == ballot
                and last.promised is None
            ):
                queued[-1] = P2B(ballot, last.first, slot, None, count)
                return
        queued.append(P2B(ballot, slot, slot, None, count))

    def _lease_may_hold(self) -> bool:
        """Whether some leader may still answer reads by a lease that this server granted."""
        return self._grants.hold(self._now)

    def _hears_leader(self) -> bool:
        """Whether a leader, this server included, was alive within the minimum timeout."""
        recent = self._now - self.settings.election_timeout_min
        if self.role == "leader":
            return self._confirmed_at + self._excused(self._confirmed_busy) > recent
        return self._heard_at + self._excused(self._heard_busy) > recent

    def _excused(self, busy_before: float) -> float:
        """Seconds by which a silence seems longer than it is; `busy_before` is of its beginning.

        Whoever was busy could not listen, and nobody was heard meanwhile, alive or not. Else
        servers that store several megabytes at the same time would take each other for dead. Not
        for ever: somebody may really be dead, and this server be kept busy by its clients.
        """
        return min(self._busy - busy_before, EXCUSED * self.settings.election_timeout_max)

    def _was_busy(self, seconds: float) -> None:
        before = self._excused(self._heard_busy)
        self._busy += seconds
        self._election_at += self._excused(self._heard_busy) - before

    # === proposer: getting to lead (PMMC §2.2 scout, §2.3 leader) =================================

    def _on_election_timeout(self) -> None:
        if not self.voting:
            self._rejoin()
            return
        if self._lease_may_hold():  # our own promise counts like any other's
            self._election_at = self._grants.until
            return
        if self._policy.courteous:
            self._ask_for_pre_votes()
        else:
            self.campaign()

    def _ask_for_pre_votes(self) -> None:
        """Raft thesis §9.6: find out, changing no state, whether an election is wanted."""
        self._counters["pre_votes"] += 1
        self.leader = 0
        self._pre_vote_round += 1
        self._pre_votes = {self.settings.server}
        # Whoever asks in vain asks again soon: the question disturbs nobody.
        self._election_at = self._now + self._random.uniform(0.15, 0.5) * (
            self.settings.election_timeout_min
        )
        if self._has_quorum(self._pre_votes):
            self.campaign()
            return
        question = PreVote(self._pre_vote_round, self.promised, self.log.chosen_to + 1)
        self._to_all.append(question)

    def on_pre_vote(self, question: PreVote, sender: ServerId) -> None:
        """Say whether we too have lost the leader, and could bring the sender up."""
        granted = (
            self.voting
            and not self._lease_may_hold()
            and not self._hears_leader()
            and question.first_slot > self.log.discarded
        )
        reply = PreVoteReply(
            question.round, granted, self.promised, self.log.chosen_to, self.log.discarded,
            self._features.knows, self._features.limits, self._count(),
        )  # fmt: skip
        self._send(sender, reply)

    def on_pre_vote_reply(self, reply: PreVoteReply, sender: ServerId) -> None:
        """Count a pre-vote; with a majority raise the ballot."""
        self._features.heard(sender, reply.knows, reply.limits)
        self._note_count(sender, reply.count)
        if reply.discarded > self.log.chosen_to:
            self._fall_behind(reply.chosen_to, sender)  # we cannot lead from here
        if reply.round != self._pre_vote_round or not self._pre_votes or self.role == "leader":
            return
        if reply.granted and not self._hears_leader():
            self._pre_votes.add(sender)
            if self._has_quorum(self._pre_votes):
                self.campaign()

    def campaign(self, *, forced: bool = False) -> None:
        """Start phase 1 in a ballot of our own above all that we know of."""
        if self.role == "leader":
            return
        # Who rejoins has granted nothing that counts: it answers no heartbeat.
        invariant(forced or not self._lease_may_hold(), "a candidacy under a lease granted here")
        self._pre_votes = set()
        self._promise(self.promised.next_for(self.settings.server))
        self.leader = 0
        self.role = "candidate"
        self._counters["elections"] += 1
        self._counters["phase1_rounds"] += 1
        self._candidacy = Candidacy(self.promised, self.log.chosen_to + 1)
        self._election_at = self._now + self._policy.follower_timeout(self._random)
        if forced:  # answered only once the leases that were granted have run out
            self._election_at += self.settings.election_timeout_min
        self._retransmit_at = self._now + self._phase1_interval()
        self._to_all.append(P1A(self.promised, self._candidacy.first_slot, forced))

    def _phase1_interval(self) -> float:
        """Ask again often enough to be heard before others try to lead, seconds."""
        return min(self.settings.retransmit_interval, self.settings.election_timeout_min / 3)

    def _rejoin(self) -> None:
        """Get the vote back after a lost disk (docs/rejoin.md).

        What this disk promised and accepted is unknown, so it must count for no ballot that it may
        have voted in. It catches up, then runs phase 1 in a ballot above all, in which *all* the
        others must promise: they know of every value that the lost disk helped to choose, none of
        them helps a lower ballot any more, and none counts a promise of the lost disk any more.
        Leading in that ballot it proposes those values again, and from there on its vote counts
        like any other's.
        """
        self._election_at = self._now + self._policy.follower_timeout(self._random)
        if not self._is_behind():
            self.campaign(forced=True)
        standing = self.rejoining()
        if standing != self._rejoin_said:
            self._rejoin_said = standing
            logger.info("server {} rejoins: it {}", self.settings.server, standing)

    def on_connection_lost(self, server: ServerId) -> None:
        """The leader's process has died, or the network lost it: no need to wait for the timeout.

        Only a hint. Under `stable` a majority has to have lost it too before a ballot rises, and a
        lease that was granted still runs out first.
        """
        if server in self._others and self._thrift.forget(server):
            self._ask_everyone()  # it will not answer what it was asked
        if self.role == "follower" and server == self.leader and self.voting:
            self.leader = 0
            self._heard_at = -NEVER
            # Not at once: the others, whom we have to ask, notice it in these moments too.
            soon = self._now + self._random.uniform(0.1, 1.0) * self.settings.heartbeat_interval
            self._election_at = min(self._election_at, soon)

    def _has_quorum(self, servers: set[ServerId]) -> bool:
        return len(servers) >= self._majority

    def on_p1b(self, p1b: P1B, sender: ServerId) -> None:
        """Count a promise; with a majority take over (PMMC §2.2, scout)."""
        self._note_count(sender, p1b.count)
        if p1b.ballot > self.promised:
            self._follows(p1b.ballot, sender)
            return
        candidacy = self._candidacy
        if candidacy is None or p1b.ballot != candidacy.ballot:
            return
        if p1b.discarded > self.log.chosen_to:
            # What it discarded is chosen, and we do not have it: no no-ops into those slots.
            self._step_down()
            self._fall_behind(p1b.chosen_to, sender)
            return
        if not is_dense(p1b):
            self._malformed(p1b, sender)
            return
        for accepted in p1b.accepted:
            if accepted.slot <= p1b.chosen_to and not self._learn(accepted, sender):
                return
        if self._candidacy is not candidacy:
            return  # one of these was accepted in a ballot above ours: it is adopted now
        self._execute_chosen()
        more = candidacy.take(p1b, sender)
        if more:
            self._send(sender, P1A(candidacy.ballot, more, not self.voting))
        elif self.voting and self._has_quorum(candidacy.promised):
            self._take_over(candidacy)
        elif len(candidacy.promised) == len(self._others):
            # Rejoining takes all the others: whoever still counts a promise of the lost disk for
            # some ballot of its own has to give that up first (docs/rejoin.md).
            self._take_over(candidacy)

    def _take_over(self, candidacy: Candidacy) -> None:
        """Lead: propose again what may have been chosen, no-ops into the holes (rule 3)."""
        invariant(candidacy.ballot == self.promised, "led without own promise")
        self._candidacy = None
        self._reset_proposer()
        self._execute_chosen()
        for accepted in self.log.accepted_from(self.log.chosen_to + 1):
            candidacy.report(accepted)
        if self._misses_chosen(max(self.log.last, candidacy.last)):
            self._step_down()
            self._fall_behind(self._known_commit, self._commit_teller)
            return
        self.role = "leader"
        self._incoming = None  # what it lacks of the chosen slots it proposes again
        self.leader = self.settings.server
        self._counters["leaderships"] += 1
        self._leading_since = self._now
        first = self.log.chosen_to + 1
        self._takeover = deque(
            (slot, value)
            for slot, value in candidacy.values(first)
            if self.log.status(slot) != "CHOSEN"
        )
        self._takeover_end = max(self.log.last, self._takeover[-1][0] if self._takeover else 0)
        invariant(self._takeover_end >= self._known_commit, "took over less than is chosen")
        self._next_slot = self._takeover_end + 1
        if not self.voting:
            self._vote_again()
        self._time_base = self.application.sessions.time - self._now
        self._confirmed_at = self._now  # the promises: a majority was alive just now
        self._confirmed_busy = self._busy
        self._retransmit_at = self._now + self.settings.retransmit_interval
        if self._now >= self._log_at:  # in a duel of leaders not each of them is news
            self._log_at = self._now + 1.0
            logger.info("server {} leads in ballot {}", self.settings.server, self.promised)
        self._beat()

    def _vote_again(self) -> None:
        """A majority of the others has promised: take part again (docs/rejoin.md).

        What the lost disk may have helped to choose is accepted at once and in the same
        transaction, not as the window comes to it: the next candidate may ask before that.
        """
        self.voting = True
        self._storage.save_voting(True)
        for slot, value in self._takeover:
            self._accept(slot, self.promised, value)

    def _step_down(self) -> None:
        """Stop leading or trying to; tell the waiting clients where to go."""
        if self.role == "leader":
            self._counters["step_downs"] += 1
            self._counters["leading_us"] += self._leading_us()
            if self._got_something_done():
                self._policy.reigned(self._now - self._leading_since)
        self.role = "follower"
        self._candidacy = None
        self._pre_votes = set()
        if self._contends:
            self._hold_again()
        clients = dict.fromkeys(self._waiting.values())
        clients.update((client, None) for client, _ in self._reads.clear())
        self._fail_futures()
        self._reset_proposer()
        if not self._contends:
            for client, _ in self._held:
                clients[client] = None
            self._held, self._held_bytes = [], 0
        for client in clients:
            self._refuse(client)

    def _got_something_done(self) -> bool:
        """Whether this reign chose a slot, or had none to choose and a majority confirmed it."""
        chosen = self._counters["slots_chosen"] > self._chosen_before
        return chosen or (self._confirmed > 0 and not self._votes)

    # === proposer: phase 2 (PMMC §2.3, commander) =================================================

    def _before_flush(self) -> None:
        if self.role == "leader":
            self._release_held()
            self._propose_waiting()
            self._start_read_round()
        elif self._contends_now() and self._now >= self._retry_at:
            if self._lease_may_hold():  # our policy is another than the leader's
                self._retry_at = self._grants.until
            else:
                self.campaign()

    def _contends_now(self) -> bool:
        """Whether to try to lead for the clients' requests held here (none where none contend).

        Not while behind: such a server could not lead, and would keep the others from it.
        """
        return (
            bool(self._held)
            and self._in_force
            and self.role == "follower"
            and not self._is_behind()
        )

    def _after_sync(self) -> None:
        unsynced, self._unsynced = self._unsynced, []
        for slot in unsynced:
            self._count_vote(slot, self.settings.server)
        candidacy = self._candidacy
        if candidacy is not None and candidacy.ballot == self._durable_promise and self.voting:
            candidacy.promised.add(self.settings.server)
            if self._has_quorum(candidacy.promised):
                self._take_over(candidacy)
        if self.role == "leader":
            self._propose_waiting()  # what this accepts waits for the next sync, so it comes last

    # === proposer: heartbeats and reads ==========================================================

    def on_heartbeat(self, heartbeat: Heartbeat, sender: ServerId) -> None:
        """Follow the leader: adopt its ballot, learn what is chosen, discard what all executed."""
        if heartbeat.ballot.leader != sender or not sensible(heartbeat.lease, heartbeat.drift):
            self._malformed(heartbeat, sender)
            return
        if heartbeat.ballot > self.promised and not self._follows(heartbeat.ballot, sender):
            return
        if heartbeat.ballot == self.promised:
            self._compare_disks(heartbeat.incarnations, heartbeat.alive)
            self._heard_from_leader(sender)
            if heartbeat.lease and self.voting:
                self._grant(heartbeat)
            self._note_commit(heartbeat.commit, heartbeat.ballot, sender)
            self._execute_chosen()
            self._discard(min(heartbeat.discard_to, self.application.executed))
        if not self.voting:
            return  # a reply confirms a leader's reads, and who lost its promise cannot vouch
        # A late heartbeat of an earlier reign may be of the very leader that we have promised now,
        # and rounds are numbered anew in each: its number must confirm none of this reign's.
        answered = heartbeat.round if heartbeat.ballot == self.promised else 0
        executed, chain = self._executed_durably(), self.application.chain
        reply = HeartbeatReply(
            self.promised, answered, executed, self.log.last,
            self._features.knows, self._features.limits, chain.version, chain.at(executed),
            self._count(),
        )  # fmt: skip
        self._send(sender, reply)

    def _grant(self, heartbeat: Heartbeat) -> None:
        """Grant the lease that a heartbeat asks for, whatever our own settings are."""
        to_store = self._grants.grant(heartbeat.lease, heartbeat.drift, self._now)
        if to_store:  # durable before the reply: a restart has to know of it
            self._storage.save_lease(to_store)

    def _heard_from_leader(self, leader: ServerId) -> None:
        self.leader = leader
        self._heard_at = self._now
        self._heard_busy = self._busy
        self._pre_votes = set()
        if self.voting:  # a rejoining server waits for no leader to fail
            self._election_at = self._now + self._policy.follower_timeout(self._random)

    # === clients =================================================================================

    # === timers ==================================================================================

    def next_deadline(self) -> float:
        """When to step even if nothing arrives: monotonic seconds."""
        if self._confirmation.pending and self._in_force:
            return self._confirmation.ask_at
        deadline = self._learner_deadline()
        if not self._in_force:
            return deadline
        if self.role == "leader":
            thrift = self._thrift
            return min(
                deadline, self._heartbeat_at, self._retransmit_at,
                thrift.p2as_due_at, thrift.round_due_at,
            )  # fmt: skip
        if self.role == "candidate":
            return min(deadline, self._election_at, self._retransmit_at)
        if self._contends_now():
            return min(deadline, self._election_at, self._retry_at)
        return min(deadline, self._election_at)

    def _on_timers(self) -> None:
        now = self._now
        if self._confirmation.pending and self._in_force:
            self._ask_for_confirmation()
            return
        self._on_learner_timers()
        if not self._in_force:
            return
        if self.role == "leader":
            silence = now - self._confirmed_at - self._excused(self._confirmed_busy)
            if silence > self.settings.election_timeout_max:
                self._lose_quorum()
                return
            self._on_thrift_timers()
            if now >= self._heartbeat_at:
                self._beat()
            if now >= self._retransmit_at:
                self._retransmit_later()
                self._retransmit_p2as()
            return
        if now >= self._election_at:
            self._on_election_timeout()
        elif self._candidacy is not None and now >= self._retransmit_at:
            self._retransmit_at = now + self._phase1_interval()
            self._retransmit_p1as(self._candidacy)

    def _lose_quorum(self) -> None:
        """Nobody but a minority answers: stop, so that clients look elsewhere."""
        logger.info("server {} lost its majority and stops leading", self.settings.server)
        self._step_down()
        self.leader = 0
        self._election_at = self._now + self._policy.follower_timeout(self._random)

    def _retransmit_p1as(self, candidacy: Candidacy) -> None:
        for server in self._others:
            if server not in candidacy.promised:
                first = candidacy.next_chunk(server)
                self._send(server, P1A(candidacy.ballot, first, not self.voting))

    def _on_confirmed(self) -> None:
        if self._election_at <= self._now:  # it took long: the others should come first
            self._election_at = self._now + self._policy.follower_timeout(self._random)

    def _on_recovered(self, *, fresh: bool) -> None:
        """Restarted (or new): never propose in an old ballot; wait before the first candidacy."""
        settings = self.settings
        if fresh:
            delay = self._random.uniform(settings.heartbeat_interval, settings.election_timeout_min)
        else:
            delay = self._policy.follower_timeout(self._random)
        self._election_at = self._now + delay
