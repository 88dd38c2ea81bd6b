"""`PaxosServer`: one pykka actor that is acceptor, learner and, while it leads, proposer.

The protocol in one file, in the order in which a command travels: a burst comes in; the acceptor;
getting to lead; leading; reads; clients; the end of an epoch; learning and executing; catching up;
opening; timers. docs/ARCHITECTURE.md has the picture, the rules that are cited here by number, and
what `invariant` asserts throughout; docs/safety.md argues that it is safe. What a server knows is
plain data (actors/records/); what decides nothing on slots stands beside it (actors/parts/).

A handler runs to completion: it changes state, collects what is to be stored and queues what is to
be sent; one flush then writes, syncs and sends what relies on that (actors/actor.py). It never
blocks, starts threads, reads a clock or draws randomness but through what the server was given, and
never sends to itself: what a server tells itself is a method call.

The acceptor's are `promised` (it never falls) and what `log` accepted; the learner's what of `log`
is chosen, and `application`, as of slot `application.executed`; the proposer's `_candidacy` while
it tries to lead and `_reign` while it leads. Stepping down drops these two and nothing else.

Sources: van Renesse & Altinbuken, "Paxos Made Moderately Complex" (PMMC), whose acceptor, leader,
scout and commander are sections of this one class; Ongaro's Raft thesis for pre-votes (§9.6),
reads by one heartbeat round (§6.4) and sessions (§6.3).
"""

from __future__ import annotations

from typing import Literal

from paxon.actors.actor import BurstActor
from paxon.actors.ballot import NO_BALLOT, Ballot, ServerId, in_list
from paxon.actors.disk.storage import SnapshotInfo
from paxon.actors.election import ElectionPolicy, make_policy
from paxon.actors.environment import NEVER, ClientToken, Environment, ServerBurst
from paxon.actors.execution.agreed import Features, first_agreed
from paxon.actors.execution.application import Application, decode_batch, encode_batch
from paxon.actors.execution.state_machine import StateMachine
from paxon.actors.invariants import invariant
from paxon.actors.limits.allowances import CHARGED_BYTES, EXECUTE_SECONDS, IN_FLIGHT_BYTES
from paxon.actors.limits.bounds import (
    MAX_EPOCHS_AHEAD,
    MAX_SLOTS_AHEAD,
    NUMBER_LIMIT,
    RoundGuard,
    is_dense,
    is_plausible_accepted,
)
from paxon.actors.log import Slot, SlotLog, SlotStatus
from paxon.actors.log_time import LogTime
from paxon.actors.messages import (
    CONFIG,
    NO_OP,
    P1A,
    P1B,
    P2A,
    P2B,
    Accepted,
    Batch,
    CatchUp,
    CatchUpRequest,
    ClientMessage,
    Command,
    CommitNote,
    Entry,
    Handover,
    Heartbeat,
    HeartbeatReply,
    Made,
    NotLeader,
    PeerMessage,
    PreVote,
    PreVoteReply,
    Query,
    QueryReply,
    ReplyStatus,
    Sealed,
    StatusReply,
    StatusRequest,
    TransferLeader,
)
from paxon.actors.outbox import in_frames
from paxon.actors.parts.comparing import Comparing
from paxon.actors.parts.embedded import Embedded
from paxon.actors.parts.host import Oddities, handlers
from paxon.actors.parts.membership import Membership
from paxon.actors.parts.reception import Reception
from paxon.actors.parts.snapshotting import Snapshotting
from paxon.actors.parts.status import COUNTERS, Telling, describe
from paxon.actors.parts.watches import Watches
from paxon.actors.records.candidacy import Candidacy
from paxon.actors.records.catching_up import CatchingUp, Snapshots
from paxon.actors.records.changing import Opening
from paxon.actors.records.configuration import (
    Configuration,
    decode_config,
    encode_config,
    is_sound,
    seals_soundly,
)
from paxon.actors.records.following import LARGE_VALUE, Following
from paxon.actors.records.making import Retired
from paxon.actors.records.reads import LONGEST_LEASE, Grants, Rounds, counted, sensible
from paxon.actors.records.reign import Held, HeldRequests, Pending, Reign
from paxon.actors.settings import Settings
from paxon.transport.log import logger

__all__ = ["PaxosServer"]

WATERMARK_DELAY = 1.0
"""Seconds after which the chosen watermark is synced even if nothing else has to be."""
TIDY_INTERVAL = 0.1
"""Seconds between two pieces of a storage's tidying: readers of an idle disk notice each."""


class PaxosServer(BurstActor):
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
        super().__init__(settings, environment, COUNTERS)
        self._policy = policy if policy is not None else make_policy(settings)
        self._contends = settings.contend and not self._policy.courteous
        # The acceptor.
        self.promised = NO_BALLOT  # the acceptor's ballot (PMMC §2.2)
        self.log = SlotLog()
        self._round_guard = RoundGuard(settings.servers)
        # Following: no promise and no candidacy while a lease that was granted may hold.
        self.leader: ServerId = 0  # as far as this server knows; 0 if nobody leads
        self._grants = Grants()
        self._following = Following(settings)
        # Getting to lead, and leading; each is None at other times.
        self._candidacy: Candidacy | None = None
        self._reign: Reign | None = None
        # Clients.
        self._held = HeldRequests()
        # Learning and executing.
        self.log_time = LogTime()  # as this server knows it (rule 13)
        self.application = Application(machine, first_agreed(settings.agreed_given, machine.limits))
        self._execute_until = NEVER  # no further slot is executed in this step after that time
        self._left_over = False
        """The last step left slots to execute, or replies to send: the next follows at once."""
        self._watermark_at = NEVER
        self._tidy_at = 0.0
        self._stopped_at = 0  # the slot that stopped this server last time, until it is executed
        # Catching up, and snapshots.
        self.catching_up = CatchingUp()
        self.snapshots = Snapshots()
        # The cluster and its members; nothing else goes on before it is in force.
        self._oddities = Oddities(self._counters)
        self.membership = Membership(self)
        self.making = self.membership.making
        self.places = self.membership.places
        self.disks = self.membership.disks
        self._takes_part = False  # in force, and this directory is known to be no old copy
        # Who decides the slots after the last seal in the chosen prefix (docs/membership.md).
        self.configuration = Configuration(0, 0, ())
        self.is_voter = False  # this very directory is one of its voters' …
        self.is_member = False  # … or a learner's
        self._opening: Opening | None = None  # until a leader of the new epoch is heard
        self._retires = False
        self._majority = len(settings.servers)  # (not used before it has joined)
        self._all_bits: dict[ServerId, int] = {}  # voters' bits; learners have none
        self._features = Features(self._others, machine.limits)
        self._log_at = 0.0  # the earliest time at which to log another reign
        # What goes on beside the protocol.
        self.reception = Reception(self)
        self.comparing = Comparing(self)
        self.snapshotting = Snapshotting(self)
        self.watches = Watches(self)
        self.telling = Telling(self)
        self.embedded = Embedded(self)
        self.on_local = self.embedded.on_local
        self._peer_handlers = handlers(PeerMessage, self)
        self._client_handlers = self.reception.timed(handlers(ClientMessage, self))

    @property
    def role(self) -> Literal["leader", "candidate", "follower"]:
        """This server's role beside acceptor and learner."""
        if self._reign is not None:
            return "leader"
        return "follower" if self._candidacy is None else "candidate"

    # === a burst ==================================================================================

    def _handle(self, burst: ServerBurst) -> None:
        self._execute_until = self._now + EXECUTE_SECONDS
        self._left_over = False
        if not self._takes_part:
            self.membership.handle(burst)
            self.telling.tell_status(burst)
            return
        disks = self.disks
        for sender, incarnation, received in burst.peers:
            if disks.incarnations.get(sender) == incarnation:
                disks.heard_at[sender] = self._now
                messages = received
            else:
                messages = self.membership.admit(sender, incarnation, received)
            self._counters["peer_messages_received"] += len(messages)
            for message in messages:
                self._peer_handlers[type(message)](message, sender)
        for server in burst.lost:
            self.on_connection_lost(server)
        if burst.clients or burst.refused or burst.gone or self.reception.turns.waiting:
            self.reception.serve(burst, self._now - self.latencies.burst.total)

    def _before_flush(self) -> None:
        reign = self._reign
        if reign is not None:
            if not (self.log_time.runs or reign.sealing) and self._serves():
                self.log_time.run(self.application.time, self._clock.awake())
                self._plan_chores(reign)
            if self._held.requests and not reign.sealing and self._serves():
                for client, message in self._held.take():
                    self._client_handlers[type(message)](message, client)
            if reign.pending.entries:
                self.latencies.waiting(self._now)
            self._propose_waiting(reign)
            if reign.reads.waiting:
                self._start_read_round(reign)
        elif self._held.requests and self._contends_now() and self._now >= self._following.retry_at:
            self.campaign()

    def _contends_now(self) -> bool:
        """Whether to try to lead for the clients' requests that are held here.

        Not while behind: this server could not lead, and would keep the others from leading.
        """
        return self.is_voter and self.role == "follower" and not self.is_behind()

    def _send_early(self) -> None:
        """P2As rely on the ballot alone, and that was synced before phase 1 began (rule 10)."""
        reign = self._reign
        if reign is None:
            invariant(False, "P2As of a server that does not lead")
            return
        early, self._outbox.early = self._outbox.early, []
        durable = self._storage.durable.promised
        for p2a in early:
            if p2a.ballot != durable:
                invariant(False, "P2A in ballot %s", p2a.ballot)
        for frame in in_frames(early):
            self._counters["p2a_sent"] += reign.thrift.send(self._network, frame, self._clock)
        self.latencies.proposed(early[0].slot, self._clock.monotonic(), reign.pending.entries)

    def _commit(self) -> None:
        """Make all that was collected durable, in one transaction."""
        confirmation, storage = self.membership.confirmation, self._storage
        if confirmation.pending:
            invariant(confirmation.may_store, "stored before the count was confirmed")
        if self.watches.held:
            self.watches.answer_first(synced=False)
        storage.save_counts(self.disks.counts)
        storage.save_chosen_to(self.log.chosen_to)
        storage.commit()
        self._next_count = storage.count + 1
        self._counters["syncs"] += 1
        self._synced = True

    def _after_sync(self) -> None:
        reign = self._reign
        if reign is not None:
            unsynced, reign.unsynced = reign.unsynced, []
            for slot in unsynced:
                self._count_vote(reign, slot, self.settings.server)
        candidacy = self._candidacy
        if candidacy is not None and candidacy.ballot == self._storage.durable.promised:
            candidacy.promised.add(self.settings.server)
            if self.configuration.has_quorum(candidacy.promised):
                self._take_over(candidacy)
        if self._reign is not None:  # what this accepts waits for the next sync, so it comes last
            self._propose_waiting(self._reign)

    def _before_sending(self) -> None:
        if self._storage.durable.promised != self.promised:
            invariant(False, "a promise would leave unsynced")
        if self.watches.held:
            self.watches.answer_first(synced=True)
        reign = self._reign
        if reign is not None:
            if reign.told_commit != self.log.chosen_to:
                self.watches.tell_of_commits(reign)
            if self._outbox.to_all:
                self._send_put_off(reign)  # a heartbeat's commit index covers their slots

    def _after_flush(self) -> None:
        if self.membership.confirmation.pending:
            return  # nothing that was found on the disk may change yet
        if self._retires:
            self.membership.tell_clients(len(self.places.untold))  # perhaps no other server can
            self._outbox.send_replies()
            end = Retired(self.settings.server, self.settings.cluster)
            self._storage.condemn(str(end))
            raise end
        if self.latencies.flying and self._reign is not None:
            self.latencies.chosen(self.log.chosen_to, self._clock)
        tidy = self._now >= self._tidy_at
        self._storage.maintain(tidy=tidy)  # what no message should wait for
        if tidy:  # only then it may have committed something
            self._tidy_at = self._now + TIDY_INTERVAL
            self._next_count = self._storage.count + 1
        if self.log.chosen_to > self.application.executed:
            self._execute(least=1)
            if self.watches.held:
                self.watches.answer_first(synced=True)
            self._left_over = bool(
                self.log.chosen_to > self.application.executed or self._outbox.to_client
            )
        if tidy:
            self.snapshotting.look_for_room()
        took = self._clock.monotonic() - self._now
        if took > self.settings.heartbeat_interval:  # what was sent meanwhile is still to be read
            self._following.was_busy(took)

    # === acceptor (PMMC §2.2) =====================================================================

    def adopt(self, ballot: Ballot) -> None:
        """Promise a higher ballot (rule 1): durably before any reply, and stop leading."""
        was_proposing = self.role != "follower"
        self._promise(ballot)
        self._following.heard_at = -NEVER  # whom we heard does not lead us any more
        self.leader = ballot.leader if ballot.leader != self.settings.server else 0
        if was_proposing:
            self._counters["preemptions"] += 1
            self._step_down()
            self._following.retry_at = self._now + self._policy.retry_delay(self._random)
        self._await_leader()
        if was_proposing and (self._held.requests or not self._contends):
            self._following.election_at = self._following.retry_at  # (else it wants nothing)

    def _follows(self, ballot: Ballot, teller: ServerId) -> bool:
        """Adopt a ballot above the promise that another server told; whether it was adopted.

        One out of bounds is not. If that server keeps telling it, a ballot nearer to it is adopted,
        so that the two meet in the end (limits/bounds.py).
        """
        if ballot.epoch != self.configuration.epoch:
            self._meet_epoch(ballot.epoch, teller)
            return False
        guard = self._round_guard
        if guard.admits(ballot, self.promised):
            self.adopt(ballot)
            return True
        self._oddities.number(teller, "ballot", ballot)
        nearer = guard.step_towards(ballot, self.promised, teller, self._now)
        if nearer is not None:
            self.adopt(nearer)
        return False

    def _promise(self, ballot: Ballot) -> None:
        invariant(self.making.in_force, "a promise before the cluster is in force")
        invariant(ballot > self.promised, "promise %s would not rise to %s", self.promised, ballot)
        self.promised, self._following.heir = ballot, 0
        self._storage.save_promise(ballot)

    def on_p1a(self, p1a: P1A, sender: ServerId) -> None:
        """Promise, and report what was accepted (phase 1)."""
        if p1a.ballot.leader != sender or (p1a.after is not None and p1a.after >= p1a.ballot):
            self._oddities.malformed(p1a, sender)
            return
        if p1a.ballot.epoch != self.configuration.epoch:
            self._meet_epoch(p1a.ballot.epoch, sender)
            return
        if not self.is_voter:
            if self._opening is not None:
                self._opening.asked = p1a, sender
            return
        if p1a.after is not None:
            self._heed_handover(p1a.after)
        # Rule 6: a live leader is not disturbed, and a lease that we granted stands.
        if self._lease_may_hold() or (self._policy.courteous and self._hears_leader()):
            return
        if p1a.ballot > self.promised and not self._follows(p1a.ballot, sender):
            return
        if self._outbox.may_transfer(sender, self.settings.transfer_bytes):
            self._outbox.send(sender, self._p1b(p1a.first_slot, sender))

    def _heed_handover(self, ballot: Ballot) -> None:
        """The reign in `ballot` is over: waive the courtesy and the lease that it is owed (M21).

        What is owed to any other ballot stands, for the message may be old.
        """
        self._grants.waive(ballot)
        if ballot == self.promised:
            self._following.heard_at = -NEVER

    def _p1b(self, first_slot: int, sender: ServerId) -> P1B:
        invariant(not self._lease_may_hold(), "a promise under a lease that was granted here")
        accepted, next_slot = self.log.chunk(
            first_slot, self.log.last, self.settings.transfer_bytes
        )
        return P1B(
            self.promised, first_slot, next_slot, accepted,
            self.log.chosen_to, self.log.discarded, self._count(),
        )  # fmt: skip

    def on_p2a(self, p2a: P2A, sender: ServerId) -> None:
        """Accept if the ballot is the promised one, and answer either way (phase 2)."""
        ballot = p2a.ballot
        if ballot.leader != sender or p2a.slot < 1:
            self._oddities.malformed(p2a, sender)
            return
        if not self.is_member:
            self._note_commit(p2a.commit, ballot, sender)
            return
        if ballot != self.promised:
            if ballot > self.promised:
                if not self._follows(ballot, sender):
                    return
            elif ballot.epoch != self.promised.epoch:
                self._meet_epoch(ballot.epoch, sender)
                return
            else:
                self._counters["p2b_rejected"] += 1
                no = P2B(ballot, p2a.slot, p2a.slot, self.promised, self._count())
                self._outbox.send(sender, no)
                return
        ballot = self.promised  # (the same, as one object for all slots)
        self._heard_from_leader(sender)
        slot, value = p2a.slot, p2a.value
        if len(value) >= LARGE_VALUE:
            self._following.store(len(value))
        if slot - self.log.chosen_to > MAX_SLOTS_AHEAD:
            self._oddities.number(sender, "slot", slot)
            self._note_commit(p2a.commit, ballot, sender)
            return
        if value and value[0] == CONFIG and not seals_soundly(value, slot, ballot.epoch):
            self._oddities.malformed(p2a, sender)
            return
        # A discarded slot's value is chosen, so any later ballot proposes that very value: saying
        # yes without keeping it again tells no lie, and lets a leader that is behind go on.
        count = self._next_count  # (not `_count()`, which would take a call a slot)
        if slot <= self.log.discarded:
            count -= 1  # nothing is stored
        elif len(value) > self._storage.room and not self.snapshotting.has_room(slot, value):
            return  # it comes again, while a majority has none
        else:
            self._accept(slot, ballot, value)
        self._outbox.acknowledge(sender, ballot, slot, count)
        self._note_commit(p2a.commit, ballot, sender)

    def _accept(self, slot: int, ballot: Ballot, value: bytes) -> None:
        if ballot != self.promised:
            invariant(False, "accepting %s under promise %s", ballot, self.promised)
        checksum = self.log.accept(slot, ballot, value)
        self._storage.save_accepted(slot, ballot, value, checksum)

    def on_heartbeat(self, heartbeat: Heartbeat, sender: ServerId) -> None:
        """Follow the leader: adopt its ballot, learn what is chosen, discard what all executed."""
        if heartbeat.ballot.leader != sender or not sensible(heartbeat.lease, heartbeat.drift):
            self._oddities.malformed(heartbeat, sender)
            return
        if heartbeat.ballot > self.promised and not self._follows(heartbeat.ballot, sender):
            return
        if heartbeat.ballot.epoch != self.promised.epoch:
            self._meet_epoch(heartbeat.ballot.epoch, sender)
            return
        if heartbeat.ballot == self.promised:
            self._opening = None
            if self.making.incarnation in self.configuration.removed:
                self._retires = True  # once the leader is answered (M22)
            self.membership.compare_disks(heartbeat)
            if heartbeat.commit >= self.log.discarded:  # (else it may lack slots of a snapshot)
                self.log_time.hear(heartbeat.time, self.application.time, heartbeat.ballot)
            self._heard_from_leader(sender)
            if heartbeat.lease and self.is_member:
                self._grant(heartbeat)
            self._note_commit(heartbeat.commit, heartbeat.ballot, sender)
            self._execute()
            self.snapshotting.discard(min(heartbeat.discard_to, self.application.executed))
        if not self.is_member and not self._retires:
            return  # (it goes by the id of one whose answer would count)
        # A late heartbeat may come from an earlier reign of the leader that we follow now. Each
        # reign numbers its rounds from 1, so that number must not confirm a round of this reign.
        answered = heartbeat.round if heartbeat.ballot == self.promised else 0
        executed, chain = self._executed_durably(), self.application.chain
        reply = HeartbeatReply(
            self.promised, answered, executed, self._features.knows, self._features.limits,
            chain.version, chain.at(executed), self._count(), self.watches.held_of_late(),
            self._storage.room <= 0,
        )  # fmt: skip
        self._outbox.send(sender, reply)

    def _grant(self, heartbeat: Heartbeat) -> None:
        """Grant the lease that a heartbeat asks for, whatever our own settings are."""
        granted = heartbeat.ballot, heartbeat.lease, heartbeat.drift
        to_store = self._grants.grant(*granted, self._now)
        if to_store:  # durable before the reply: a restart has to know of it
            self._storage.save_lease(to_store)

    def _heard_from_leader(self, leader: ServerId) -> None:
        self.leader = leader
        following = self._following
        following.heard_at = self._now
        following.heard_busy = following.busy
        if following.pre_votes:
            following.pre_votes = set()
        if self.is_member:  # (a server that is none asks around, whoever leads)
            following.election_at = self._now + self._policy.follower_timeout(self._random)

    def _await_leader(self) -> None:
        """Nobody leads, or somebody is about to: wait an election timeout before trying."""
        self._following.election_at = self._now + self._policy.follower_timeout(self._random)

    def _lease_may_hold(self) -> bool:
        """Whether some leader may still answer reads by a lease that this server granted."""
        return self._grants.hold(self._now)

    def _led_at(self) -> float:
        """When a leader, perhaps this server, last proved alive, plus the silence excused since."""
        following = self._following
        if self._reign is not None:
            rounds = self._reign.rounds
            return rounds.confirmed_at + following.excused(rounds.confirmed_busy)
        return following.heard_at + following.excused(following.heard_busy)

    def _hears_leader(self) -> bool:
        """Whether a leader, this server included, was alive within the minimum timeout."""
        return self._led_at() > self._now - self.settings.election_timeout_min

    # === getting to lead (PMMC §2.2 scout, §2.3 leader) ===========================================

    def _on_election_timeout(self) -> None:
        if not self.is_voter:  # a learner whose leader is silent may have been removed long ago
            self._await_leader()
            self._ask_around()
            self.membership.ask_who_told()
            return
        if self._policy.courteous and not self._lease_may_hold():
            self._ask_for_pre_votes()
        else:
            self.campaign()

    def on_connection_lost(self, server: ServerId) -> None:
        """The leader's process has died, or the network lost it: no need to wait for the timeout.

        Only a hint. Under `stable` a majority has to have lost it too before a ballot rises, and a
        lease that was granted still runs out first.
        """
        self.places.tell(server, self._now)
        reign = self._reign
        if reign is not None and server in self._others:
            reign.followers[server].lost = True
            if reign.thrift.forget(server):
                self._ask_everyone(reign)  # it will not answer what it was asked
        if (
            self.role == "follower"
            and server in (self.leader, self._following.heir)
            and self.is_member
        ):
            self.leader = self._following.heir = 0
            self._following.heard_at = -NEVER
            # Not at once: the others, whom we have to ask, are noticing it at this moment, too.
            soon = self._now + self._random.uniform(0.1, 1.0) * self.settings.heartbeat_interval
            self._following.election_at = min(self._following.election_at, soon)

    def _ask_for_pre_votes(self) -> None:
        """Raft thesis §9.6: find out, changing no state, whether an election is wanted."""
        self._counters["pre_votes"] += 1
        self.leader = 0
        self._following.round += 1
        self._following.pre_votes = {self.settings.server}
        # If it is asked in vain it is asked again soon: the question disturbs nobody.
        self._following.election_at = self._now + self._random.uniform(0.15, 0.5) * (
            self.settings.election_timeout_min
        )
        if self.configuration.has_quorum(self._following.pre_votes):
            self.campaign()
            return
        epoch = self.configuration.epoch
        question = PreVote(self._following.round, self.log.chosen_to + 1, epoch)
        self._outbox.to_all.append(question)

    def on_pre_vote(self, question: PreVote, sender: ServerId) -> None:
        """Say whether we too have lost the leader, and could bring the sender up."""
        if question.epoch != self.configuration.epoch:
            self._meet_epoch(question.epoch, sender)
            return
        if not self.is_member:
            return  # (nobody is told its count before it is known to be no old copy)
        granted = (
            self.is_voter
            and not self._lease_may_hold()
            and not self._hears_leader()
            and question.first_slot > self.log.discarded
        )
        reply = PreVoteReply(
            question.round, granted, self.log.chosen_to, self.log.discarded,
            self._features.knows, self._features.limits, self._count(),
        )  # fmt: skip
        self._outbox.send(sender, reply)

    def on_pre_vote_reply(self, reply: PreVoteReply, sender: ServerId) -> None:
        """Count a pre-vote; with a majority raise the ballot."""
        self._features.heard(sender, reply.knows, reply.limits)
        self.disks.note_count(sender, reply.count)
        if reply.discarded > self.log.chosen_to:
            # We cannot lead from here.
            self.catching_up.fall_behind(reply.chosen_to, sender, self._now)
        following = self._following
        if reply.round != following.round or not following.pre_votes or self._reign is not None:
            return
        if reply.granted and not self._hears_leader():
            following.pre_votes.add(sender)
            if self.configuration.has_quorum(following.pre_votes):
                self.campaign()

    def campaign(self, *, after: Ballot | None = None) -> None:
        """Start phase 1 in a ballot of our own, above all that we know of.

        Not while a lease that was granted here may hold: our own promise counts like any other.
        `after` is the ballot of a leader that has handed over to us.
        """
        following = self._following
        if self._reign is not None:
            return
        if self._lease_may_hold():
            following.election_at = self._grants.until
            following.retry_at = max(following.retry_at, following.election_at)
            return
        following.pre_votes = set()
        self._promise(self.promised.next_for(self.settings.server))
        invariant(self.is_voter, "a candidacy without a vote")
        self.leader = 0
        self._counters["elections"] += 1
        self._counters["phase1_rounds"] += 1
        self._candidacy = Candidacy(
            self.promised, self.log.chosen_to + 1, self._now + self.settings.p1a_interval, after
        )
        self._await_leader()
        self._outbox.to_all.append(self._candidacy.question())

    def on_p1b(self, p1b: P1B, sender: ServerId) -> None:
        """Count a promise; with a majority take over (PMMC §2.2, scout)."""
        self.disks.note_count(sender, p1b.count)
        if p1b.ballot > self.promised:
            self._follows(p1b.ballot, sender)
            return
        candidacy = self._candidacy
        if candidacy is None or p1b.ballot != candidacy.ballot:
            return
        if p1b.discarded > self.log.chosen_to:
            # What it discarded is chosen, and we do not have it: no no-ops into those slots.
            self._step_down()
            self.catching_up.fall_behind(p1b.chosen_to, sender, self._now)
            return
        if not (is_dense(p1b) and all(map(is_sound, p1b.accepted))):
            self._oddities.malformed(p1b, sender)
            return
        for accepted in p1b.accepted:
            if accepted.slot <= p1b.chosen_to and not self._learn(accepted, sender):
                return
        if self._candidacy is not candidacy:
            return  # a value learned just now has a ballot above ours, which was adopted
        self._execute()
        if candidacy.take(p1b, sender):
            self._outbox.send(sender, candidacy.question(sender))
        elif self.configuration.has_quorum(candidacy.promised):
            self._take_over(candidacy)

    def _take_over(self, candidacy: Candidacy) -> None:
        """Lead: propose again what may have been chosen, no-ops into the holes (rule 3)."""
        invariant(candidacy.ballot == self.promised, "led without own promise")
        self._candidacy = None
        self.reception.turns.let_go(self._now)
        self._execute()
        first, known = self.log.chosen_to + 1, self.catching_up
        reigned = candidacy.report_own(self.log, self.application)
        if reigned > candidacy.ballot:  # by a snapshot that came meanwhile (docs/design/time.md)
            self._step_down()
            return
        values, sealing = candidacy.takeover(first, reigned, known.known_commit)
        # (What is dropped above a CONFIG stays in the log until the seal.)
        end = values[-1][0] if values else self.log.chosen_to
        if known.known_commit > end:  # its teller sends the values, or takes it back
            if self._oddities.first("commits_denied", 100):
                logger.error(known.why_denied(self.settings.server, end))
            self._step_down()
            known.fall_behind(known.known_commit, known.teller, self._now)
            return
        reign = self._reign = Reign(
            self.settings, self.configuration,
            Pending(self.application.machine, self.reception.end_share),
            Rounds(self._now, self._following.busy), self._counters["slots_chosen"], end=end,
            takeover=[each for each in values if self.log.status(each[0]) != "CHOSEN"],
            sealing=sealing, time=self.application.time, now=self._now,
        )  # fmt: skip
        self._opening = None
        self.latencies.reigns()
        known.incoming = None  # a leader takes no snapshot: it proposes again what it lacks
        self.log_time.take_over(self.promised, *candidacy.ballots(first, self.log.highest))
        self.leader = self.settings.server
        self._counters["leaderships"] += 1
        invariant(reign.takeover_end >= known.known_commit, "took over less than is chosen")
        if self._now >= self._log_at:  # (in a duel not every reign is worth a line)
            self._log_at = self._now + 1.0
            logger.info("server {} leads in ballot {}", self.settings.server, self.promised)
        self._beat(reign)

    def _step_down(self, *, keep: bool = False) -> None:
        """Stop leading or trying to; tell the waiting clients where to go, or keep them."""
        keep = keep or self._contends
        clients: dict[ClientToken, None] = {}
        self._candidacy = None
        self._following.pre_votes = set()
        if self._reign is not None:
            self._counters["step_downs"] += 1
            reign, self._reign = self._reign, None
            self._counters["leading_us"] += reign.microseconds(self._now)
            self.log_time.stop()
            if reign.got_something_done(self._counters["slots_chosen"]):
                self._policy.reigned(self._now - reign.rounds.began)
            if keep:
                self._held.add_unfinished(reign)
            clients.update(dict.fromkeys(reign.waiting.values()))
            clients.update((client, None) for client, _ in reign.reads.clear())
            self.embedded.fail_futures(reign)
        self.reception.turns.let_go(self._now)
        if not keep:
            clients.update((client, None) for client, _ in self._held.take())
        for client in clients:
            self._refuse(client)

    # --- handing over (M21, docs/design/elections.md) ---------------------------------------------

    def hand_over(self, to: ServerId = 0) -> ServerId | str:
        """Let another server lead, `to` or the fittest; returns who is to, or why nobody can.

        This reign ends here, for good: nothing is proposed or answered in its ballot any more, and
        no heartbeat sent, whether or not the other server succeeds.
        """
        reign = self._serves()
        if reign is None:
            return f"server {self.settings.server} does not lead, or has only begun to"
        if reign.holds_back:
            return "the members are changing: wait until the next leader has told that it is done"
        heir = reign.heir(to, self.membership.alive(), self.log.chosen_to)
        if isinstance(heir, str):
            return heir
        logger.info("server {} hands over to server {}", self.settings.server, heir)
        self._counters["handovers"] += 1
        self._outbox.send(heir, Handover(self.promised))
        self.leader, self._following.heir = 0, heir
        self._following.heard_at = -NEVER
        self._step_down()
        self._await_leader()
        self._following.retry_at = self._following.election_at
        return heir

    def on_handover(self, handover: Handover, sender: ServerId) -> None:
        """Lead instead of the sender, whose reign has ended."""
        if handover.ballot.leader != sender:
            self._oddities.malformed(handover, sender)
            return
        if handover.ballot != self.promised or self.role != "follower" or not self.is_voter:
            return  # it comes too late
        self._heed_handover(handover.ballot)
        self.campaign(after=handover.ballot)

    def on_transfer_leader(self, request: TransferLeader, client: ClientToken) -> None:
        """Somebody wants another server to lead."""
        if self._reign is None or request.ballot > self.promised:  # (then another leads by now)
            self._refuse(client)
            return
        own = self.settings.server
        if request.ballot < self.promised or request.to == own:  # asked again, maybe
            heir: ServerId | str = own
        elif self._serves() is None:
            self._outbox.put_off(client, request.id, "the leader has only begun to lead")
            return
        else:
            heir = self.hand_over(request.to)
        if isinstance(heir, str):
            self._outbox.refuse(client, request.id, heir, ReplyStatus.FAILED)
        else:
            self._outbox.reply(client, QueryReply(request.id, ReplyStatus.OK, b"%d" % heir))

    # === leading: phase 2 (PMMC §2.3, commander) ==================================================

    def _propose_waiting(self, reign: Reign) -> None:
        """Fill the window: first what was taken over, then all waiting commands, packed."""
        window, pending = self.settings.window, reign.pending
        while len(reign.votes) < window:
            if reign.takeover:
                if reign.votes and reign.bytes_in_flight(self.log) >= IN_FLIGHT_BYTES:
                    return
                if not self.snapshotting.has_room(*reign.takeover[0]):
                    return
                slot, value = reign.takeover.popleft()
                if self.log.status(slot) in ("EMPTY", "ACCEPTED"):  # (else it was learned since)
                    self._propose(reign, slot, value)
            elif reign.holds_back:
                if not reign.sealing and not reign.votes:
                    self._propose_config(reign)
                return
            elif not pending.entries and not reign.chores.wanted:
                return
            elif self.log.chosen_to == reign.takeover_end < reign.next_slot - 1:
                return  # the first batch of a reign has to be chosen before the second is packed
            elif (
                pending.entries
                and not (reign.votes and reign.is_full(self.log, window))
                and not pending.most_are_short
                and (pending.bytes <= self._storage.room or pending.fits(self._storage.room))
            ):
                entries = pending.pack(min(self.settings.batch_bytes, self._storage.room))
                self._propose_batch(reign, entries)
            elif reign.chores.wanted and self._time_is_due(reign):
                self._counters["times_proposed"] += 1
                self._propose_batch(reign, [])
                self._plan_chores(reign)
            else:
                return

    def _propose_batch(self, reign: Reign, entries: list[Entry]) -> None:
        """Propose these commands, after all renewals that wait, at the log's present time."""
        if not self.log_time.runs:
            invariant(False, "a time was stamped before what was taken over is executed")
        slot, chores = reign.next_slot, reign.chores
        if chores.renewals:
            entries = chores.take(slot, self._now) + entries
        batch = Batch(self.log_time.stamp(self._clock.awake()), entries, self.promised)
        chores.stamped, chores.last_slot = batch.time, slot
        reign.batches[slot] = batch
        value = encode_batch(batch)
        if len(value) >= CHARGED_BYTES:
            reign.large_slots[slot] = self._clock.monotonic()
        self._propose(reign, slot, value)
        reign.next_slot += 1

    def _time_is_due(self, reign: Reign) -> bool:
        """Whether a slot is wanted for its time, or for renewals, though no command waits."""
        reign.chores.wanted = False
        self._plan_chores(reign)
        return reign.chores.at <= self._now

    def _plan_chores(self, reign: Reign) -> None:
        """Say when to look again whether something is due, other than a command."""
        if self.log_time.runs:
            reign.chores.plan(self.application, self.log_time, self._now, self._clock.awake())
            if reign.next_slot == reign.takeover_end + 1:  # M8: no older CONFIG may come back there
                reign.chores.at = min(reign.chores.at, reign.own_slot_at)

    def _propose(self, reign: Reign, slot: int, value: bytes) -> None:
        """Queue a P2A; our own acceptance counts once it is synced (rule 10)."""
        ballot, commit = self.promised, self.log.chosen_to
        self._accept(slot, ballot, value)
        reign.votes[slot] = 0
        reign.unsynced.append(slot)
        self._outbox.early.append(P2A(ballot, slot, value, commit))
        reign.told_commit = commit
        if len(value) >= LARGE_VALUE:
            self._following.store(len(value))
        self._counters["slots_proposed"] += 1

    def on_p2b(self, p2b: P2B, sender: ServerId) -> None:
        """Count an acceptance, for exactly the ballot and slots that it names (rule 2)."""
        disks = self.disks
        if disks.counts.get(sender, -1) + 1 == p2b.count:  # the usual case, without a call
            disks.counts[sender] = p2b.count
        else:
            disks.note_count(sender, p2b.count)
        if p2b.promised is not None:
            if p2b.promised > self.promised:
                self._follows(p2b.promised, sender)  # it promised a higher ballot: preempted
            return
        reign = self._reign
        if reign is None or p2b.ballot != self.promised:
            return  # a late vote, for a ballot that we no longer lead
        if p2b.first == p2b.last:
            useful = self._count_vote(reign, p2b.first, sender)
        else:
            useful = False
            for slot in [slot for slot in reign.votes if p2b.first <= slot <= p2b.last]:
                # A plain loop: what may execute a slot is called by Python code alone (recursion).
                useful = self._count_vote(reign, slot, sender) or useful
        if useful and reign.thrift.choosing:
            reign.thrift.count_useful(sender)

    def _count_vote(self, reign: Reign, slot: int, sender: ServerId) -> bool:
        """Count one vote for one slot; False if it had come before, or comes too late to matter."""
        votes = reign.votes.get(slot)
        if votes is None:  # chosen already
            return False
        bit = self._all_bits[sender]
        if not bit:  # a learner
            reign.followers[sender].accepted = slot
            return False
        new = not votes & bit
        votes |= bit
        if votes.bit_count() < self._majority:
            reign.votes[slot] = votes
            return new
        del reign.votes[slot]
        self.log.choose(slot)
        self._counters["slots_chosen"] += 1
        self._execute()
        if self.log.configs:
            self._look_for_seal()
        return new

    def _retransmit_p2as(self, reign: Reign) -> None:
        """Send again what was in flight at the last tick already, to those who have not voted."""
        self._send_put_off(reign)  # these tell a commit index as well
        bits, settings = self._all_bits, self.settings
        for slot, value, silent in reign.unanswered(self.log, bits, settings, self._now):
            p2a = P2A(self.promised, slot, value, self.log.chosen_to)
            for server in silent:
                self._outbox.send(server, p2a)
            self._counters["retransmissions"] += len(silent)

    # --- some get a P2A a little later (docs/thrift.md) ------------------------------------------

    def _send_put_off(self, reign: Reign) -> None:
        self._counters["p2a_sent"] += reign.thrift.send_put_off(
            self._network, self._storage.durable.promised
        )

    def _ask_everyone(self, reign: Reign) -> None:
        """Put nothing off for the spare servers, until the prompt ones are chosen anew."""
        self._send_put_off(reign)
        unconfirmed = reign.thrift.round > reign.rounds.confirmed
        reign.thrift.ask_everyone()
        if unconfirmed:
            self._beat(reign)

    # --- heartbeats ------------------------------------------------------------------------------

    def _beat(self, reign: Reign) -> None:
        """Start a heartbeat round with all: I lead, this is chosen, this may be discarded."""
        reign.heartbeat_at = self._now + self.settings.heartbeat_interval
        self._plan_chores(reign)
        self.membership.check_own_disk()
        self.snapshotting.discard(reign.executed_by_all(self._executed_durably()))
        if reign.changing is not None and not reign.holds_back:
            self.membership.rehearse_change(reign, reign.changing)
        if self._now >= reign.moves_at:
            self.membership.look_for_moves(reign)
        heartbeat = self._begin_round(reign)
        self._outbox.to_all.append(heartbeat)
        for server in reign.leaving:  # until they have heard that the epoch is open
            self._outbox.send(server, heartbeat)
        if self._majority == 1:
            self._confirm_rounds(reign)
        if reign.thrift.count_beat():
            self._send_put_off(reign)
            reign.thrift.ask_everyone()  # as this very round does

    def _begin_round(self, reign: Reign) -> Heartbeat:
        lease = drift = 0.0
        if self._now < reign.rounds.lease_wanted_until:
            lease = min(self.settings.election_timeout_min, LONGEST_LEASE)
            drift = self.settings.max_clock_drift
        number = reign.rounds.begin(self._now, counted(lease, drift), self._following.busy)
        executed = reign.executed_by_all(self._executed_durably())
        return Heartbeat(
            self.promised, number, self.log.chosen_to, executed,
            self.membership.disks_known(), lease, drift,
            self.log_time.now(self._clock.awake()),
        )  # fmt: skip

    def on_heartbeat_reply(self, reply: HeartbeatReply, sender: ServerId) -> None:
        """Count a follower's answer to a round, and note how far it has executed."""
        self.disks.note_count(sender, reply.count)
        if reply.ballot > self.promised:
            self._follows(reply.ballot, sender)
            return
        reign = self._reign
        if reign is None or reply.ballot != self.promised:
            return
        self._features.heard(sender, reply.knows, reply.limits)
        follower = reign.followers[sender]
        follower.executed = max(reply.executed, follower.executed)
        follower.watches, follower.lost = reply.watches, False
        if reign.thrift.holds_watches(sender, reply.watches):
            self._ask_everyone(reign)
        reign.hear_of_room(sender, short=reply.short, majority=self._majority)
        if reign.comparison.heard(
            sender, reply.digest_version, reply.executed, reply.digest, self.application.chain
        ):
            self.comparing.inquire(reply.executed)
        if reply.round > follower.answered:
            if reign.thrift.choosing and reply.round > reign.rounds.confirmed:
                reign.thrift.count_useful(sender)
            follower.answered = min(reply.round, reign.rounds.last)
            self._confirm_rounds(reign)

    def _lose_quorum(self) -> None:
        """Only a minority answers: stop leading, so that clients look elsewhere."""
        logger.info("server {} lost its majority and stops leading", self.settings.server)
        self._step_down()
        self.leader = 0
        self._await_leader()

    # === reads (rule 9) ===========================================================================

    def on_query(self, query: Query, client: ClientToken) -> None:
        """Answer a read, in the way that the client asks for (rule 9)."""
        if query.mode == "stale" and self.is_member:  # (else the state may be ancient, or empty)
            self._answer_query(client, query)
        elif (reign := self._serves()) is None or reign.sealing:
            self._hold_or_refuse(client, query)
        elif query.mode == "lease" and self._lease_holds():
            self._counters["lease_reads"] += 1
            self._answer_query(client, query)
        elif reign.reads.is_full:
            self._outbox.put_off(client, query.id, "too many reads are waiting")
        else:
            reign.reads.add(reign.rounds.last + 1, self.log.chosen_to, client, query)

    def _start_read_round(self, reign: Reign) -> None:
        """One round at a time; the reads that come meanwhile share the next one."""
        if reign.rounds.confirmed == reign.rounds.last and not reign.sealing:
            self._counters["read_rounds"] += 1
            if not reign.thrift.spare:
                self._beat(reign)
                return
            heartbeat = self._begin_round(reign)
            for server in reign.thrift.prompt:
                self._outbox.send(server, heartbeat)
            reign.thrift.expect_round(reign.rounds.last, self._clock.monotonic())

    def _confirm_rounds(self, reign: Reign) -> None:
        """If a majority has replied to another round, answer the reads that waited for it."""
        rounds = reign.rounds
        answered = [f.answered for f in reign.followers.values() if f.voter]
        if not rounds.confirm(answered, self._majority):
            return
        ago = self._clock.monotonic() - rounds.confirmed_at
        self.log_time.confirmed(self._clock.awake(), ago, self.settings.election_timeout_min)
        ready = reign.reads.ready(rounds.confirmed, self.application.executed)
        if ready:
            self.reception.open()
        for client, query in ready:
            if not self.reception.spent:
                self._answer_query(client, query)
            elif not self.reception.turns.add(client, [Query(query.id, "stale", query.query)]):
                # (It was confirmed: from now on any state here is new enough.)
                self._outbox.throw_away(client, "too many reads are waiting")

    def _lease_holds(self) -> bool:
        """Whether this leader may answer reads by the leases that it was granted (reads.py)."""
        return (
            self._reign is not None
            and self.settings.leases
            and not self._reign.sealing
            and self._policy.courteous
            and self._reign.rounds.lease_holds(self._clock.monotonic())
        )

    def _answer_query(self, client: ClientToken, query: Query) -> None:
        time = self.log_time.now(self._clock.awake())
        reply = self.application.query(query.query, time)
        self._counters["queries_answered"] += 1
        self._outbox.reply(client, QueryReply(query.id, reply.status, reply.payload))
        self.reception.count_work(client, len(reply.payload))

    # --- for reads that wait (parts/watches.py) --------------------------------------------------

    def on_commit_note(self, note: CommitNote, sender: ServerId) -> None:
        """Learn a commit index as from a heartbeat (rule 4); it proves nothing else."""
        if note.ballot == self.promised and note.ballot.leader == sender:
            self._note_commit(note.commit, note.ballot, sender)
            self._execute()

    # === clients (rule 5) =========================================================================

    def _serves(self) -> Reign | None:
        """This server's reign, once every slot taken over is executed: its state is current then.

        None while this server does not lead, or has not got so far.
        """
        reign = self._reign
        if reign is None or self.application.executed < reign.takeover_end:
            return None
        return reign

    def on_command(self, command: Command, client: ClientToken) -> None:
        """Propose a command unless it is proposed, chosen or executed already (rule 5)."""
        reign = self._serves()
        if reign is None:
            self._hold_or_refuse(client, command)
            return
        key = (command.session, command.seq)
        waiting = reign.waiting
        if key in waiting:
            waiting[key] = client  # asked again; the answer goes where it was asked last
            return
        refusal = reign.refusal(
            command, self.application, self.settings.max_pending_bytes, self._storage.room
        )
        if refusal is not None:
            if refusal.status == ReplyStatus.OVERLOADED:
                self._counters["overloaded"] += 1
            self.reception.answer_command(client, key, refusal)
            self.reception.count_work(client, len(refusal.payload))
            return
        entry = Entry(command.session, command.seq, command.acked, command.after, command.command)
        waiting[key] = client
        reign.pending.add(entry)

    def _refuse(self, client: ClientToken) -> None:
        """Say who leads, once a burst for each client; nothing is dropped in silence (rule 5)."""
        queued = self._outbox.to_client.setdefault(client, [])
        if not queued or type(queued[-1]) is not NotLeader:
            leader = self.leader if self.leader != self.settings.server else 0
            leader = leader or self._following.heir
            queued.append(self.places.not_leader(leader, 1 + len(self._others)))

    # --- kept until this server serves -----------------------------------------------------------

    def _hold_or_refuse(self, client: ClientToken, message: Held) -> None:
        """A new leader keeps requests until it serves; anyone else points to the leader."""
        waits = self._reign is not None or (self._contends and self.is_voter)
        if self._candidacy is not None and self._candidacy.after is not None:
            waits = True  # it is about to lead
        if not (waits and self._held.add(client, message, self.settings.max_pending_bytes)):
            self._refuse(client)

    # === the end of an epoch, and the next (docs/membership.md) ===================================

    def _propose_config(self, reign: Reign) -> None:
        """All that was proposed is chosen: propose the change, and nothing above it (M5, M6)."""
        changing, reign.changing = reign.changing, None
        if changing is None:
            invariant(False, "nothing to change")
            return
        slot = reign.next_slot
        invariant(slot == self.log.chosen_to + 1, "a CONFIG in slot %d above a hole", slot)
        after = self.configuration.followed_by(changing.members, slot, changing.request)
        reign.sealing = True
        self.log_time.stop()  # nothing can be renewed before the next epoch
        for client, query in reign.reads.later_than(reign.rounds.last):
            self._hold_or_refuse(client, query)
        self._ask_everyone(reign)
        self._propose(reign, slot, encode_config(after))
        reign.next_slot += 1

    def _look_for_seal(self) -> None:
        """The chosen prefix may have grown: its epoch ends with it if a CONFIG is its last slot."""
        slot = min(self.log.configs, default=NUMBER_LIMIT)
        held = self.log.get(slot)
        if slot > self.log.chosen_to or held is None:
            return
        after = decode_config(held.value)
        follows = after.epoch == self.configuration.epoch + 1 and after.sealed_at == slot
        invariant(follows, "slot %d seals epoch %d with %s", slot, self.configuration.epoch, after)
        self._enter(after, slot)

    def _enter(self, configuration: Configuration, slot: int) -> None:
        """Enter an epoch (M2): what the one before left above `slot` goes, and is answered no more.

        What this step had to send in the old epoch is dropped: it would count no more.
        """
        named, reign = 0, self._reign  # `named` is to lead now; 0: this server does not know
        if self.catching_up.named == configuration.epoch:
            named = self.settings.server
        elif reign is not None:
            named = reign.successor(configuration, self.settings.server, self.making.incarnation)
        invariant(not self._outbox.early, "P2As above the seal at %d", slot)
        self._outbox.to_all, self._outbox.to_peer = [], {}
        if reign is not None:  # to those who have accepted the CONFIG this says all they need
            self._outbox.to_all.append(CommitNote(self.promised, slot))
        self._step_down(keep=named == self.settings.server)
        self.log.seal(slot)
        self._opening = None
        self._join(configuration)
        self.promised = Ballot.first_of(configuration.epoch)
        self._storage.save_promise(self.promised)
        self._storage.save_seal(configuration)
        self._grants.forget_all()
        self.leader = 0
        self._following.heard_at = -NEVER
        self.catching_up.forget_leader(self.promised)
        self._opening = Opening(configuration, self.settings.server, named, self._now)
        self._tell_of_seal(self._opening)
        self._await_leader()
        logger.info(
            "server {}: epoch {} of {} begins after slot {}",
            self.settings.server, configuration.epoch, in_list(configuration.servers),
            configuration.sealed_at,
        )  # fmt: skip
        if self.is_voter and self.settings.server == named:
            self.campaign()

    def _tell_of_seal(self, opening: Opening) -> None:
        opening.due = self._now + self.settings.heartbeat_interval
        for server in opening.tell:
            self._outbox.send(server, opening.message(server))

    def on_sealed(self, sealed: Sealed, sender: ServerId) -> None:
        """Another server says where an epoch ended: catch up, and lead the next if asked (M10)."""
        epoch, late = self.configuration.epoch, self.catching_up
        if not 0 < sealed.slot < NUMBER_LIMIT:
            self._oddities.malformed(sealed, sender)
            return
        if sealed.epoch >= epoch:
            late.outsiders.add(sender)
            if sealed.start:
                late.named = sealed.epoch + 1
            if sealed.slot > late.known_commit or not self.is_behind():
                late.fall_behind(sealed.slot, sender, self._now)
        elif sealed.epoch + 1 < epoch:
            self._meet_epoch(sealed.epoch + 1, sender)
        elif self._reign is not None:
            if sender not in self._others:  # it has left, and has not heard that we lead
                self._reign.leaving.add(sender)
        elif sealed.start and not self.promised.leader:
            if self.is_voter:
                self.campaign()
            elif self._opening is not None:
                self._opening.named = self.settings.server

    def _meet_epoch(self, epoch: int, sender: ServerId) -> None:
        """A message of another epoch: tell its sender that it is behind, or ask it (M4)."""
        configuration, late = self.configuration, self.catching_up
        if epoch < configuration.epoch:
            sealed = Sealed(configuration.epoch - 1, configuration.sealed_at)
            self._outbox.send(sender, sealed)
            return
        if epoch - configuration.epoch > MAX_EPOCHS_AHEAD:  # it is asked all the same
            self._oddities.number(sender, "epoch", epoch)
        late.outsiders.add(sender)
        if self._now >= late.meets_at:
            late.meets_at = self._now + self.settings.retransmit_interval
            self._outbox.send(sender, CatchUpRequest(self.log.chosen_to + 1))

    def _ask_around(self) -> None:
        """Ask the others for news: a server that is no member hears nothing unasked."""
        self.membership.introduce(asks=True)
        late = self.catching_up
        late.turn += 1
        peers = (*self._others, *sorted(late.outsiders))
        if peers and not self.is_behind():
            request = CatchUpRequest(self.log.chosen_to + 1)
            self._outbox.send(peers[late.turn % len(peers)], request)

    # === learning what is chosen, and executing it (rule 4) =======================================

    def _note_commit(self, commit: int, ballot: Ballot, sender: ServerId) -> None:
        """A leader says that all up to `commit` is chosen."""
        self.catching_up.note_commit(commit, ballot, sender, self.log)
        if self.log.configs:
            self._look_for_seal()

    def _learn(self, accepted: Accepted, teller: ServerId) -> bool:
        """Learn a value that `teller` knows as chosen; False if it is refused."""
        if not (is_plausible_accepted(accepted, self.log.chosen_to) and is_sound(accepted)):
            self._oddities.number(teller, "slot", accepted.slot)
            return False
        if accepted.ballot.epoch > self.configuration.epoch:
            return False  # the seal before it has to be known first (docs/membership.md, M3)
        # An accepted ballot is never above the promise.
        if accepted.ballot > self.promised and not self._follows(accepted.ballot, teller):
            return False
        held = self.log.learn(accepted.slot, accepted.ballot, accepted.value)
        if held is not None:
            self._storage.save_accepted(accepted.slot, held.ballot, held.value, held.checksum)
            self._look_for_seal()
        return True

    def _execute(self, least: int = 0) -> None:
        """Execute the chosen prefix in order, up to what one step may take; `least` slots at least.

        A follower does so once its acknowledgements are sent: nobody waits for its execution.
        """
        application, log = self.application, self.log
        slot = application.executed + 1
        if slot > log.chosen_to:
            return
        agreed, clock = application.agreed, self._clock
        while slot <= log.chosen_to:
            now = clock.monotonic()
            if least <= 0 and now >= self._execute_until:
                break
            least -= 1
            held = log.get(slot)
            if held is None or not held.chosen:
                invariant(False, "slot %d executed unchosen", slot)
            else:
                self._deliver(slot, held, now)
            slot += 1
        if self._stopped_at and self._stopped_at < slot:
            self._stopped_at = 0
            self._storage.forget_stop()
        if application.agreed is not agreed:
            self.telling.note_settings()
        if log.chosen_to >= self.catching_up.known_commit:
            self.catching_up.patience = 0
        if self._reign is not None and (
            application.timer.due is not None or self._reign.chores.wakeup is not None
        ):
            self._plan_chores(self._reign)
        self._storage.save_chosen_to(log.chosen_to)
        if self._watermark_at == NEVER:
            self._watermark_at = self._now + WATERMARK_DELAY
        if self._takes_part:
            self.snapshotting.take_if_due()

    def _deliver(self, slot: int, held: Slot, now: float) -> None:
        """Execute a slot (`now` is the time), and have the clients answered that wait for it."""
        reign, batch, value = self._reign, None, held.value
        self.snapshots.executed_bytes += len(value)
        if reign is not None:
            # A leader that was behind may learn from others what it is still gathering votes for.
            reign.votes.pop(slot, None)
            batch = reign.batches.pop(slot, None)
        if batch is None and value != NO_OP and value[0] != CONFIG:
            batch = decode_batch(value)
        results = self.application.execute(slot, value, batch, held.checksum)
        self._counters["slots_executed"] += 1
        self._counters["commands_executed"] += len(results)
        if reign is not None and (reign.waiting or reign.futures):
            self.reception.answer(reign, slot, results, now)

    def _executed_durably(self) -> int:
        """How far this server has executed, and would again after a restart without help.

        Others are told this, and discard by it: a slot chosen in memory alone is still needed.
        """
        return min(self.application.executed, self._storage.durable.chosen_to)

    # === catching up (rule 8) =====================================================================

    def is_behind(self) -> bool:
        return self.log.chosen_to < self.catching_up.known_commit

    def _ask_to_catch_up(self) -> None:
        """Ask for the missing slots, or go on with a snapshot; again if no answer comes."""
        late = self.catching_up
        late.ask_later(self._now, self.settings.retransmit_interval)
        if not self.is_behind() or not (self._others or late.outsiders):
            return
        if self._storage.room <= 0 and late.incoming is None and self.snapshotting.can_make_room():
            return  # what is missing comes once it can be kept
        if late.check is not None and late.is_whole():
            # If it were asked for again, it would be offered and checked anew, without end.
            self.snapshotting.settle()  # those who might have objected have had their time
            return
        self._counters["catch_ups"] += 1
        request = late.next_request(self.log.chosen_to, self._others)
        self._outbox.send(late.source, request)

    def on_catch_up_request(self, request: CatchUpRequest, sender: ServerId) -> None:
        """Send chosen values, a bounded chunk of them; a snapshot where the log is cut."""
        if request.first_slot < 1:
            self._oddities.malformed(request, sender)
            return
        if request.first_slot <= self.log.discarded:
            self.snapshotting.offer(sender)
            return
        if not self._outbox.may_transfer(sender, self.settings.transfer_bytes):
            return
        chosen_to = self.log.chosen_to
        accepted, _ = self.log.chunk(request.first_slot, chosen_to, self.settings.transfer_bytes)
        self._outbox.send(sender, CatchUp(accepted, chosen_to))
        if self._candidacy is not None and self._opening is not None:  # it may know the seal now
            self._outbox.send(sender, self._candidacy.question(sender))

    def on_catch_up(self, catch_up: CatchUp, sender: ServerId) -> None:
        """Take over chosen values, execute them, ask for more."""
        before = self.log.chosen_to
        for accepted in catch_up.accepted:
            if not self.snapshotting.has_room(accepted.slot, accepted.value):
                break
            if not self._learn(accepted, sender):
                return
        late = self.catching_up
        late.hear_answer(catch_up.chosen_to, sender, self.log)
        self._look_for_seal()
        self._execute()
        # Only if something was new: if copies were answered, too, they would multiply.
        if self.log.chosen_to > before and self.is_behind():
            late.source = sender
            self._ask_to_catch_up()

    def become(self, info: SnapshotInfo) -> None:
        """Take over the state of a snapshot that has come whole (parts/snapshotting.py)."""
        late = self.catching_up
        late.incoming = None
        late.patience = 0
        image = self._storage.adopt_snapshot(info)
        if image is None:
            logger.warning("a snapshot at slot {} arrived damaged and is fetched again", info.slot)
            return
        # Before it counts: a server that cannot restore it would find nothing else at a restart.
        self.application.restore(image)
        self.log_time.snapshot_came()
        self.log.restart_at(info.slot)
        if self.application.configuration:
            configuration = decode_config(self.application.configuration)
            if configuration.epoch > self.configuration.epoch:
                self._enter(configuration, info.slot)
        late.choose_known(self.log)
        self._look_for_seal()  # of a slot behind it: stored together, or not at all
        self._commit()
        late.retry.succeeded()
        self._counters["snapshots_received"] += 1
        self.snapshots.executed_bytes = 0
        logger.info("server {} took over a snapshot at {}", self.settings.server, info.slot)
        self.telling.warn_of_differences()
        self._execute()
        late.ask_at = self._now

    # === opening: disk, cluster, members (rule 11, docs/design/making-a-cluster.md) ===============

    def _recover(self) -> None:
        """Replay the disk: its snapshot, then the chosen slots after it. Peers have the rest."""
        found = self._storage.load()
        self.promised = found.promised
        self._grants.recover(found.lease, self._now)
        self.membership.recover(found, self._storage)
        invariant(
            found.in_force or found.promised == NO_BALLOT, "promised before a cluster is in force"
        )
        if found.made is not None:
            self.application.begin_with(found.made)
            if found.in_force:
                self._join(found.configuration or Configuration.of(found.made))
        if (info := found.snapshot) is not None:
            self.application.restore(self._storage.read_snapshot(info.slot, 0, info.size))
            self.log.restart_at(info.slot)
        invariant(found.discarded <= self.log.discarded, "slots up to %d are gone", found.discarded)
        self.log.recover(found.accepted, found.chosen_to, self.configuration.sealed_at)
        self.catching_up.known_commit = self.log.chosen_to
        if found.stopped_at:
            self._stopped_at = found.stopped_at
            logger.warning("executing slot {} stopped this server before", found.stopped_at)
        if self.configuration.epoch:  # only another server can tell whether it was opened
            self._opening = Opening(self.configuration, self.settings.server, 0, self._now)
        self.disks.recover(found.counts)
        self.membership.begin_confirmation()
        self._takes_part = found.in_force and not self.membership.confirmation.pending
        self._watermark_at = self._now + WATERMARK_DELAY
        self._execute()
        self.telling.warn_of_differences()
        fresh = found.promised == NO_BALLOT and not found.accepted and found.snapshot is None
        self._on_recovered(fresh=fresh)

    def _on_recovered(self, *, fresh: bool) -> None:
        """Wait before the first candidacy: not as long if this server is fresh."""
        if not fresh:
            self._await_leader()
            return
        soon = self._random.uniform(
            self.settings.heartbeat_interval, self.settings.election_timeout_min
        )
        self._following.election_at = self._now + soon

    def _on_open(self) -> None:
        self._network.ignore(self.reception.turns.ignored)
        self.membership.open()
        self._flush()
        if not self.membership.confirmation.pending:
            self._storage.maintain(tidy=False)

    def close(self) -> None:
        """Release all; whoever still waits for a command's future is told."""
        super().close()
        if self._reign is not None:
            self.embedded.fail_futures(self._reign)

    def _join(self, configuration: Configuration) -> None:
        """These are the members now: majorities, votes and everything else count only them."""
        self.configuration = configuration
        self.membership.join(configuration)
        self.look_for_vote()
        self._others = tuple(self.disks.incarnations)
        self._majority = configuration.majority
        self._all_bits = configuration.bits
        self._features = Features(self._others, self.application.machine.limits)
        self._round_guard = RoundGuard(configuration.voters)

    def look_for_vote(self) -> None:
        """Whether this very directory is a voter's, and known to be no old copy (M15)."""
        before, opening = self.is_voter, self._opening
        part = self.membership.confirmation.part_in(self.configuration, self.making.incarnation)
        self.is_member, self.is_voter = part
        if before and not self.is_voter:  # what it asked for as a voter no longer counts
            self._following.pre_votes = set()
            if self.role != "follower":
                self._step_down()
        elif self.is_voter and not before and opening is not None:  # somebody waits
            if opening.named == self.settings.server and not self.promised.leader:
                self.campaign()
            elif opening.asked is not None:
                self.on_p1a(*opening.asked)

    def come_into_force(self, made: Made) -> None:
        """The cluster is made: from here on this server takes part, if it is one of its members."""
        self._join(Configuration.of(made))
        self._takes_part = not self.membership.confirmation.pending
        self._on_recovered(fresh=True)

    def confirmed(self) -> None:
        """This server's directory is no old copy: from here on it takes part."""
        self._takes_part = self.making.in_force
        self.look_for_vote()
        self._look_for_seal()  # if an earlier version stored a CONFIG without its seal
        self._next_count = self._storage.count + 1
        if self._following.election_at <= self._now:  # it took long: let the others try first
            self._await_leader()
        self.snapshotting.take_if_due()

    # === timers ===================================================================================

    def next_deadline(self) -> float:
        """When to step even if nothing arrives: monotonic seconds."""
        if not self._takes_part:
            return self.membership.ask_at
        if self._left_over:
            return -NEVER
        reign, following = self._reign, self._following
        if reign is not None:
            thrift = reign.thrift
            due = min(
                reign.heartbeat_at, reign.retransmit_at, reign.chores.at, thrift.p2as_due_at,
                thrift.round_due_at,
            )  # fmt: skip
        elif self._candidacy is not None:
            due = min(following.election_at, self._candidacy.ask_again_at)
        elif self._held.requests and self._contends_now():
            due = min(following.election_at, following.retry_at)
        else:
            due = following.election_at
        deadline = min(
            due, self.snapshots.poll_at, self._watermark_at, self._grants.forget_at, self.places.due
        )
        if self._opening is not None:
            deadline = min(deadline, self._opening.due)
        if self.comparing.inquiry is not None:
            deadline = min(deadline, self.comparing.inquiry.until)
        if self.reception.turns.waiting:
            deadline = min(deadline, self.reception.turns.due(self.latencies.burst.total))
        if self.log.chosen_to < self.catching_up.known_commit:
            deadline = min(deadline, self.catching_up.ask_at)
        return self._now if self.places.untold else deadline

    def _on_timers(self) -> None:
        now = self._now
        if not self._takes_part:
            self.membership.on_timer()
            return
        self._on_learner_timers()
        reign = self._reign
        if reign is not None:
            if now - self._led_at() > self.settings.election_timeout_max and self._majority > 1:
                self._lose_quorum()
                return
            if now >= reign.thrift.p2as_due_at:
                self._send_put_off(reign)
            if reign.thrift.finds_late(now, reign.votes, reign.rounds.confirmed):
                self._ask_everyone(reign)
            if now >= reign.chores.at:
                reign.chores.at, reign.chores.wanted = NEVER, True
            if now >= reign.heartbeat_at:
                self._beat(reign)
            if now >= reign.retransmit_at:
                self._retransmit_p2as(reign)
            return
        if now >= self._following.election_at:
            self._on_election_timeout()
        elif self._candidacy is not None and now >= self._candidacy.ask_again_at:
            candidacy = self._candidacy
            candidacy.ask_again_at = now + self.settings.p1a_interval
            for server in [s for s in self._others if s not in candidacy.promised]:
                self._outbox.send(server, candidacy.question(server))

    def _on_learner_timers(self) -> None:
        if self._now >= self._grants.forget_at:
            self._storage.save_lease(self._grants.forget())
        if self._now >= self.snapshots.poll_at and self.snapshotting.poll():
            self._counters["snapshots_taken"] += 1
            self._commit()
            self.snapshotting.discard(self.log.discarded)
            if self._storage.room <= 0:
                self._commit()  # the log cannot wait for the next
        self.comparing.on_timer()
        if self._opening is not None and self._now >= self._opening.due:
            self._tell_of_seal(self._opening)
        if self.places.untold or self._now >= self.places.due:
            self.membership.on_places_timer()
        if self.is_behind() and self._now >= self.catching_up.ask_at:
            self._ask_to_catch_up()
        if self._now >= self._watermark_at:
            self._watermark_at = NEVER
            self._storage.save_chosen_to(self.log.chosen_to, lazily=False)

    # === introspection ============================================================================

    def status(self, slot: int) -> SlotStatus:
        """EMPTY, ACCEPTED, CHOSEN or CLEARED (discarded)."""
        return self.log.status(slot)

    def command(self, slot: int) -> bytes | None:
        """The value in `slot`; None if it is empty or cleared."""
        return self.log.command(slot)

    def first_non_cleared(self) -> int:
        """The first slot not discarded."""
        return self.log.discarded + 1

    def last_non_empty(self) -> int:
        """The highest slot in which anything was accepted; 0 if there is none."""
        return self.log.last

    def describe(self, request: StatusRequest = StatusRequest(0)) -> StatusReply:  # noqa: B008
        """This server's state now, as `paxon status` shows it."""
        return describe(self, request)

    def _bound_to_log(self) -> dict[str, object]:
        return {"ballot": str(self.promised), "slot": self.application.executed}
