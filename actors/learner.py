"""The learner's half of `PaxosServer`: what is chosen, executing it, catching up, discarding.

Split off for reading in a sitting only: there is one server class, and this is part of it. What
belongs to whom is said at the head of actors/server.py.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

from paxon.actors.agreed import differences
from paxon.actors.ballot import NO_BALLOT, Ballot, ServerId
from paxon.actors.bounds import (
    MAX_SLOTS_AHEAD,
    is_plausible_accepted,
    is_plausible_offer,
    is_plausible_request,
)
from paxon.actors.environment import Environment, ServerBurst
from paxon.actors.features import Features
from paxon.actors.introspection import Introspection
from paxon.actors.invariants import invariant
from paxon.actors.leases import Grants
from paxon.actors.membership import NEVER
from paxon.actors.messages import (
    Accepted,
    CatchUp,
    CatchUpRequest,
    DigestReply,
    DigestRequest,
    Made,
    SlotRequest,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotRequest,
    StatusRequest,
)
from paxon.actors.retry import Retry, snapshot_growth
from paxon.actors.settings import Settings
from paxon.actors.state_machine import StateMachine
from paxon.actors.storage import SnapshotInfo
from paxon.transport.log import logger

__all__ = ["Learner"]

WATERMARK_DELAY = 1.0
"""Seconds after which the chosen watermark is synced even if nothing else has to be."""
MOST_PATIENCE = 5
"""A silent sender of a snapshot is waited for at most so many doublings longer."""


class Learner(Introspection):
    """Knows and executes what is chosen."""

    def __init__(self, settings: Settings, machine: StateMachine, environment: Environment) -> None:
        super().__init__(settings, machine, environment)
        self._language = machine.language
        self.role: Literal["leader", "candidate", "follower"] = "follower"
        self._leading_since = 0.0
        self.leader: ServerId = 0
        """Who leads, as far as this server knows; 0 if nobody."""
        self._features = Features(self._others, machine.limits)
        self._warned_of: list[str] = []
        """How this server's own settings differ from what is agreed, as it was said last."""
        self._known_commit = 0
        """The highest commit index heard of from anyone: what to catch up to."""
        self._leader_commit = 0
        self._leader_commit_ballot = NO_BALLOT
        """The highest ballot in which a leader spoke here, and the commit index that it told."""
        self._heard_at = -NEVER
        self._busy = self._heard_busy = 0.0
        """Seconds that long steps have taken so far; and until the leader was heard last."""
        self._grants = Grants()
        """No promise and no candidacy while they hold: a leader may answer reads by a lease."""
        self._commit_teller: ServerId = 0
        """Who told of `_known_commit`."""
        self._catch_up_from: ServerId = 0
        self._catch_up_asked: ServerId = 0
        """Whom we asked last."""
        self._catch_up_turn = 0
        """Counts through the servers when whoever should know does not answer."""
        self._catch_up_at = 0.0
        self._catch_up_progress = (-1, -1)
        self._patience = 0
        """How often a snapshot's transfer was given up for silence: each time twice as late."""
        self._incoming: SnapshotInfo | None = None
        self._incoming_bytes = 0
        self._executed_bytes = 0
        self._stopped_at = 0
        """The slot whose execution stopped this server last time, until it has been executed."""
        self._snapshot_poll_at = NEVER
        self._snapshot_retry = Retry()
        """For a snapshot that could not be taken …"""
        self._incoming_retry = Retry()
        """… or not be received, for want of disk or descriptors."""
        self._watermark_at = NEVER
        self._peer_handlers.update(
            {
                CatchUpRequest: self.on_catch_up_request,
                CatchUp: self.on_catch_up,
                SnapshotOffer: self.on_snapshot_offer,
                SnapshotRequest: self.on_snapshot_request,
                SnapshotChunk: self.on_snapshot_chunk,
                DigestRequest: self.on_digest_request,
                DigestReply: self.on_digest_reply,
            }
        )
        self._client_handlers.update(
            {
                StatusRequest: self.on_status_request,
                SlotRequest: self.on_slot_request,
            }
        )

    # --- a burst ---------------------------------------------------------------------------------

    def _handle(self, burst: ServerBurst) -> None:
        if not self._in_force:
            self._handle_before(burst)
            return
        if self._confirmation.pending:
            self._handle_unconfirmed(burst)
            return
        for sender, incarnation, received in burst.peers:
            known = self._peers.get(sender) == incarnation
            if known:
                self._heard_from[sender] = self._now
                messages = received
            else:
                messages = self._admit(sender, incarnation, received)
            self._counters["peer_messages_received"] += len(messages)
            for message in messages:
                self._peer_handlers[type(message)](message, sender)
        for server in burst.lost:
            self.on_connection_lost(server)
        if burst.clients or burst.refused or self._turns.waiting:
            self._serve_clients(burst)

    def _after_flush(self) -> None:
        if self.log.chosen_to > self.application.executed:
            self._execute(least=1)
            self._left_over = bool(
                self.log.chosen_to > self.application.executed or self._to_client
            )

    # --- learning what is chosen (rule 4) --------------------------------------------------------

    def _note_commit(self, commit: int, ballot: Ballot, sender: ServerId) -> None:
        """A leader says that all up to `commit` is chosen.

        Only what was accepted here in that very ballot is known to be the chosen value; anything
        else has to be asked for.
        """
        if commit - self.log.chosen_to > MAX_SLOTS_AHEAD:
            pass  # nothing is accepted here so far ahead that could be chosen by it
        elif ballot > self._leader_commit_ballot:
            self._leader_commit_ballot = ballot
            self._leader_commit = commit
        elif ballot == self._leader_commit_ballot and commit > self._leader_commit:
            self._leader_commit = commit
        if self.log.chosen_to < commit or self.log.chosen_to < self._leader_commit:
            self._hear_of_commit(commit, sender)
            self._choose_known()
            if self.log.chosen_to < self._known_commit and self._incoming is None:
                self._catch_up_from = sender

    def _hear_of_commit(self, commit: int, teller: ServerId) -> None:
        """Somebody says that all up to `commit` is chosen: what to catch up to."""
        if commit > self._known_commit:
            self._known_commit = commit
            self._commit_teller = teller

    def _misses_chosen(self, held_to: int) -> bool:
        """Whether more was called chosen than a majority's promises hold.

        Then a frame was damaged, or disks that voted came back without their votes
        (docs/old-copies.md). The promises cannot tell which. To lead would choose anew what may
        have been acknowledged, so whoever told of it is asked: it sends the values, or takes it
        back.
        """
        if self._known_commit <= held_to:
            return False
        if self._counters["commits_denied"] % 100 == 0:
            logger.error(
                "server {} does not lead: server {} told that all up to slot {} is chosen, but a "
                "majority holds nothing beyond {}: a frame was damaged, or disks have lost what "
                "they held; server {} is asked again",
                self.settings.server, self._commit_teller, self._known_commit, held_to,
                self._commit_teller,
            )  # fmt: skip
        self._counters["commits_denied"] += 1
        return True

    def _choose_known(self) -> None:
        """Choose what was accepted here in the very ballot of the leader that told the index.

        An index told in another ballot, or by a server that does not lead, must not be mixed in: a
        slot below it may have been chosen in a later ballot than the one accepted here.
        """
        log = self.log
        while log.chosen_to < self._leader_commit:
            slot = log.chosen_to + 1
            held = log.get(slot)
            if held is None or held.ballot != self._leader_commit_ballot:
                break
            log.choose(slot)
        self._storage.save_chosen_to(log.chosen_to)

    def _join(self, made: Made) -> None:
        super()._join(made)
        self._features = Features(self._others, self.application.machine.limits)

    def _execute_chosen(self) -> None:
        """Execute what is chosen and was not executed when it became so.

        A follower does so after its acknowledgements are sent: no one waits for its execution.
        """
        if self.log.chosen_to > self.application.executed:
            self._execute()

    def _learn(self, accepted: Accepted, teller: ServerId) -> bool:
        """Another server knows this value as chosen; False if its numbers are out of bounds."""
        if not is_plausible_accepted(accepted, self.log.chosen_to):
            self._refuse_number(teller, "slot", accepted.slot)
            return False
        # An accepted ballot is never above the promise.
        if accepted.ballot > self.promised and not self._follows(accepted.ballot, teller):
            return False
        if not self.log.learn(accepted.slot, accepted.ballot, accepted.value):
            return True
        held = self.log.get(accepted.slot)
        invariant(held is not None, "slot %d vanished", accepted.slot)
        if held is not None:
            self._storage.save_accepted(accepted.slot, held.ballot, held.value)
        return True

    def _execute(self, least: int = 0) -> None:
        """Execute the chosen prefix, in order; or, if that takes long, as much as this step may."""
        application = self.application
        agreed = application.agreed
        while application.executed < self.log.chosen_to:
            if least <= 0 and self._clock.monotonic() >= self._execute_until:
                break
            least -= 1
            slot = application.executed + 1
            held = self.log.get(slot)
            invariant(held is not None and held.chosen, "slot %d executed unchosen", slot)
            if held is not None:
                self._executed_bytes += len(held.value)
                self._deliver(slot, held.value)
        if 0 < self._stopped_at <= application.executed:
            self._stopped_at = 0
            self._storage.forget_stop()
        if application.agreed is not agreed:
            logger.info(
                "server {}: settings were changed in slot {}",
                self.settings.server, application.agreed.changed_at,
            )  # fmt: skip
            self._warn_of_differences()
        if not self._is_behind():
            self._patience = 0
        self._storage.save_chosen_to(self.log.chosen_to)
        if self._watermark_at == NEVER:
            self._watermark_at = self._now + WATERMARK_DELAY
        self._maybe_snapshot()

    def _executed_durably(self) -> int:
        """How far this server has executed and would again after a restart, by itself.

        What others hear, and discard by: a slot that only memory knows as chosen is still needed.
        """
        return min(self.application.executed, self._durable_chosen_to)

    @abstractmethod
    def on_connection_lost(self, server: ServerId) -> None:
        """The connection to a server has just ended."""

    @abstractmethod
    def adopt(self, ballot: Ballot) -> None:
        """Promise a higher ballot."""

    @abstractmethod
    def _follows(self, ballot: Ballot, teller: ServerId) -> bool:
        """Adopt a higher ballot that another server told of, if it is within bounds."""

    @abstractmethod
    def _deliver(self, slot: int, value: bytes) -> None:
        """Execute one slot and answer whoever waits for it."""

    # --- catching up (rule 8) --------------------------------------------------------------------

    def _is_behind(self) -> bool:
        return self.log.chosen_to < self._known_commit

    def _fall_behind(self, commit: int, server: ServerId) -> None:
        """`server` has discarded what we miss: get it before anything else."""
        self._hear_of_commit(commit, server)
        if self._incoming is None:  # else the transfer under way goes on
            self._catch_up_from = server
            self._catch_up_at = self._now

    def _ask_to_catch_up(self) -> None:
        """Ask for the missing slots, or go on with a snapshot; again if no answer comes."""
        self._catch_up_at = self._now + self._catch_up_interval()
        peers = self._others
        if not self._is_behind() or not peers:
            return
        if self._snapshot_check is not None and self._has_whole_image():
            # Asked for again it would be offered in other words, and checked anew, without end.
            self._snapshot_settled()  # whoever might have objected has had its time
            return
        self._counters["catch_ups"] += 1
        progress = (self.log.chosen_to, self._incoming_bytes)
        silent = progress == self._catch_up_progress and self._catch_up_from == self._catch_up_asked
        if silent or self._catch_up_from not in peers:
            # Somebody else may know (a snapshot starts over from what is held). The leader's next
            # heartbeat names the leader again: so it is asked in between, every other time.
            self._catch_up_turn += 1
            self._catch_up_from = peers[self._catch_up_turn % len(peers)]
            if self._incoming is not None:
                self._incoming = None
                self._patience = min(self._patience + 1, MOST_PATIENCE)
        self._catch_up_progress = progress
        self._catch_up_asked = self._catch_up_from
        if self._incoming is not None and self._incoming.slot > self.log.chosen_to:
            request = SnapshotRequest(self._incoming.slot, self._incoming_bytes)
            self._send(self._catch_up_from, request)
            return
        self._send(self._catch_up_from, CatchUpRequest(self.log.chosen_to + 1))

    def _catch_up_interval(self) -> float:
        """Seconds of silence after which somebody else is asked.

        Longer after a snapshot's transfer was given up: on a slow network its pieces take longer
        than any fixed time, and going from server to server each would begin anew.
        """
        patience = self._patience if self._incoming is not None else 0
        return 2 * self.settings.retransmit_interval * (1 << patience)

    def on_catch_up_request(self, request: CatchUpRequest, sender: ServerId) -> None:
        """Send chosen values, a bounded chunk of them; a snapshot where the log is cut."""
        if request.first_slot < 1:
            self._malformed(request, sender)
            return
        if request.first_slot <= self.log.discarded:
            self._offer_snapshot(sender)
            return
        if not self._may_transfer(sender, self.settings.transfer_bytes):
            return
        accepted: list[Accepted] = []
        size = 0
        for slot in range(request.first_slot, self.log.chosen_to + 1):
            held = self.log.get(slot)
            if held is None or size >= self.settings.transfer_bytes:
                break
            accepted.append(Accepted(slot, held.ballot, held.value))
            size += len(held.value) + 16
        self._send(sender, CatchUp(accepted, self.log.chosen_to))

    def on_catch_up(self, catch_up: CatchUp, sender: ServerId) -> None:
        """Take over chosen values, execute them, ask for more."""
        before = self.log.chosen_to
        for accepted in catch_up.accepted:
            if not self._learn(accepted, sender):
                return
        if sender == self._commit_teller and catch_up.chosen_to < self._known_commit:
            # Who told of more says that there is not: an old answer, or that frame was damaged.
            self._known_commit = max(catch_up.chosen_to, self.log.chosen_to)
        self._hear_of_commit(catch_up.chosen_to, sender)
        self._choose_known()
        self._execute_chosen()
        # Only for what is new: were copies answered too, each would bring ever more of them.
        if self.log.chosen_to > before and self._is_behind():
            self._catch_up_from = sender
            self._ask_to_catch_up()

    def _offer_snapshot(self, server: ServerId) -> None:
        snapshot = self._storage.snapshot
        if snapshot is None or snapshot.slot < self.log.discarded:
            # All had executed these slots, so nobody kept them for a server that lost its disk.
            self._begin_snapshot()
            return
        chain, slot = self.application.chain, snapshot.slot
        offer = SnapshotOffer(
            slot, snapshot.size, snapshot.checksum,
            chain.version, chain.at(slot), self._comparison.vouchers(slot),
        )  # fmt: skip
        self._send(server, offer)

    def on_snapshot_offer(self, offer: SnapshotOffer, sender: ServerId) -> None:
        """Fetch it piece by piece, from where an earlier transfer of the same one stopped."""
        if not is_plausible_offer(offer):
            self._malformed(offer, sender)
            return
        if offer.slot <= self.log.chosen_to or self.role == "leader":
            return  # a leader has in its log what it proposes: nothing may be cut away under it
        if self._incoming is not None and sender != self._catch_up_from:
            return  # changing over would throw away what has come; only silence makes us do it
        if not self._incoming_retry.due(self._now):
            return  # there was no room for it a moment ago
        self._incoming = SnapshotInfo(offer.slot, offer.size, offer.checksum)
        self._catch_up_from = sender
        self._hear_of_commit(offer.slot, sender)
        self._check_snapshot(offer, sender)
        self._receive_piece(self._incoming, 0, b"", sender)

    def on_snapshot_request(self, request: SnapshotRequest, sender: ServerId) -> None:
        if not is_plausible_request(request):
            self._malformed(request, sender)
            return
        if not self._may_transfer(sender, self.settings.transfer_bytes):
            return
        data = self._storage.read_snapshot(
            request.slot, request.offset, self.settings.transfer_bytes
        )
        if data:
            self._send(sender, SnapshotChunk(request.slot, request.offset, data))
        else:
            self._offer_snapshot(sender)  # that one is gone; there is a newer one

    def on_snapshot_chunk(self, chunk: SnapshotChunk, sender: ServerId) -> None:
        """Add a piece; with the last one become the state that it describes."""
        info = self._incoming
        if info is None or chunk.slot != info.slot or info.slot <= self.log.chosen_to:
            return
        if chunk.offset == self._incoming_bytes:  # else a copy, which must not be asked on from
            self._receive_piece(info, chunk.offset, chunk.data, sender)

    def _receive_piece(
        self, info: SnapshotInfo, offset: int, data: bytes, sender: ServerId
    ) -> None:
        held = self._storage.receive_snapshot(info, offset, data)
        if held < 0:
            self._incoming = None
            self._incoming_retry.failed(self._now)
            return
        grown = held > self._incoming_bytes
        self._incoming_bytes = held
        if held >= info.size:
            self._adopt_if_uncontested(info)
            return
        if grown or not data:  # else it is of another image of that slot: not to be asked on from
            self._send(sender, SnapshotRequest(info.slot, held))
            self._catch_up_at = self._now + self._catch_up_interval()

    def _adopt_if_uncontested(self, info: SnapshotInfo) -> None:
        """Only while no voter that answers holds another hash for its slot (docs/digests.md)."""
        check = self._snapshot_check
        if info.slot <= self.log.chosen_to:  # its slots came meanwhile, one by one
            self._incoming = self._snapshot_check = None
        elif self._snapshot_is_contested():
            self._incoming = None
            self._snapshot_check = None
            self._catch_up_at = self._now + self._catch_up_interval()
        elif check is not None and check.unheard and self._now < check.until:
            self._catch_up_at = check.until
        else:
            self._snapshot_check = None
            self._adopt_snapshot(info)

    def _has_whole_image(self) -> bool:
        """Whether all of the snapshot has come, and it has not been taken over yet."""
        return self._incoming is not None and self._incoming_bytes >= self._incoming.size

    def _snapshot_settled(self) -> None:
        if self._incoming is not None and self._has_whole_image():
            self._adopt_if_uncontested(self._incoming)

    def _adopt_snapshot(self, info: SnapshotInfo) -> None:
        self._incoming = None
        self._patience = 0
        if not self._storage.adopt_snapshot(info):
            logger.warning("a snapshot at slot {} arrived damaged and is fetched again", info.slot)
            return
        # Before it counts: whoever cannot restore it would find nothing else at a restart.
        self.application.restore(self._storage.adopted_image(info))
        self._commit()
        self._incoming_retry.succeeded()
        self._counters["snapshots_received"] += 1
        self.log.restart_at(info.slot)
        # Synced above: else the others would hear of it only after the next commit, if any.
        self._durable_chosen_to = max(self._durable_chosen_to, info.slot)
        self._executed_bytes = 0
        logger.info("server {} took over a snapshot at {}", self.settings.server, info.slot)
        self._warn_of_differences()
        self._choose_known()
        self._execute_chosen()
        self._catch_up_at = self._now

    # --- snapshots and discarding (rule 7) -------------------------------------------------------

    def _maybe_snapshot(self) -> None:
        """Take a snapshot when enough was executed since the last, in relation to its size."""
        if self._confirmation.pending:
            return  # it is taken once that is over
        snapshot = self._storage.snapshot
        size, since = (0, 0) if snapshot is None else (snapshot.size, snapshot.slot)
        growth = snapshot_growth(size, self.settings.snapshot_bytes)
        slots = self.application.executed - since
        if (
            self._executed_bytes >= self.settings.snapshot_bytes * growth
            or slots >= self.settings.snapshot_slots * growth
        ):
            self._begin_snapshot()

    def _begin_snapshot(self) -> None:
        if self._storage.taking_snapshot or not self._snapshot_retry.due(self._now):
            return
        if self._incoming is not None and self._incoming.slot > self.log.chosen_to:
            return  # a newer one is on its way, and the disk need not hold three
        self._executed_bytes = 0
        application = self.application
        prove = application.prove if application.proves_images else None
        self._storage.begin_snapshot(application.executed, application.image, prove)
        application.chain.pin()
        self._snapshot_poll_at = self._now

    def _poll_snapshot(self) -> None:
        info = self._storage.poll_snapshot()
        if self._storage.taking_snapshot:
            self._snapshot_poll_at = self._now + self.settings.heartbeat_interval
            return
        self._snapshot_poll_at = NEVER
        if info is None:  # it failed (the storage said why), or one received has overtaken it
            self._snapshot_retry.failed(self._now)
            return
        self._snapshot_retry.succeeded()
        self._counters["snapshots_taken"] += 1
        self._commit()
        self._discard(self.log.discarded)

    def _discard(self, executed_by_all: int) -> None:
        """Forget what nobody needs any more: executed by all, or past the retention limit.

        In memory everything that all servers have executed goes. On disk, rows stay until a durable
        snapshot of our own covers them, for a restart replays them. Past the retention limit the
        snapshot's slot is the limit in memory too: a late server gets that snapshot.
        """
        target = min(executed_by_all, self.application.executed)
        snapshot = self._storage.snapshot
        covered = 0 if snapshot is None else min(snapshot.slot, self.application.executed)
        settings = self.settings
        if len(self.log) > settings.retain_slots or self.log.value_bytes > settings.retain_bytes:
            target = max(target, covered)
        if target > self.log.discarded:
            self.log.discard_to(target)
        if covered:
            self._storage.discard_to(min(covered, self.log.discarded))

    # --- timers ----------------------------------------------------------------------------------

    def _learner_deadline(self) -> float:
        if not self._in_force:
            return self._introduce_at
        if self._left_over:
            return -NEVER
        deadline = min(
            self._snapshot_poll_at, self._watermark_at, self._grants.forget_at,
            self._inquiry_deadline(),
        )  # fmt: skip
        if self._turns.waiting:
            deadline = min(deadline, self._turns.due())
        return min(deadline, self._catch_up_at) if self._is_behind() else deadline

    def _on_learner_timers(self) -> None:
        if not self._in_force:
            if self._now >= self._introduce_at:
                self._on_making_timer()
            return
        if self._now >= self._grants.forget_at:
            self._storage.save_lease(self._grants.forget())
        if self._now >= self._snapshot_poll_at:
            self._poll_snapshot()
        self._on_inquiry_timer()
        if self._is_behind() and self._now >= self._catch_up_at:
            self._ask_to_catch_up()
        if self._now >= self._watermark_at:
            self._watermark_at = NEVER
            if self._durable_chosen_to < self.log.chosen_to:
                self._storage.save_chosen_to(self.log.chosen_to, lazily=False)

    # --- recovery --------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Replay the disk: snapshot, then the chosen slots after it; the rest comes from peers."""
        found = self._storage.load()
        self.promised = self._durable_promise = found.promised
        self.voting = found.voting
        self._grants.recover(found.lease, self._now)
        self.making.recover(
            self._storage.incarnation, found.made,
            in_force=found.in_force, rejoin=self.settings.rejoin,
        )  # fmt: skip
        invariant(
            found.in_force or found.promised == NO_BALLOT, "promised before a cluster is in force"
        )
        if found.made is not None:
            self._agree(found.made)
            if found.in_force:
                self._join(found.made)
        if found.snapshot is not None:
            info = found.snapshot
            self.application.restore(self._storage.read_snapshot(info.slot, 0, info.size))
            self.log.restart_at(info.slot)
        invariant(found.discarded <= self.log.discarded, "slots up to %d are gone", found.discarded)
        for accepted in found.accepted:
            if accepted.slot > self.log.discarded:
                self.log.accept(accepted.slot, accepted.ballot, accepted.value)
        for slot in range(self.log.chosen_to + 1, found.chosen_to + 1):
            if self.log.get(slot) is None:
                break
            self.log.choose(slot)
        self._known_commit = self._durable_chosen_to = self.log.chosen_to
        if found.stopped_at:
            self._stopped_at = found.stopped_at
            logger.warning("executing slot {} stopped this server before", found.stopped_at)
        self._counts = dict.fromkeys(self._others, 0) | found.counts
        self._begin_confirmation(in_force=found.in_force)
        self._execute()
        self._warn_of_differences()
        fresh = found.promised == NO_BALLOT and not found.accepted and found.snapshot is None
        self._on_recovered(fresh=fresh)

    def _warn_of_differences(self) -> None:
        """Say which of the settings given to this server count for nothing (rule 15)."""
        found = differences(self.application.agreed, self.settings.agreed_given)
        if found and found != self._warned_of:
            logger.warning(
                "server {}: {}: the agreed value stays; to change it for all servers use "
                "`paxon settings set`",
                self.settings.server, ", ".join(found),
            )  # fmt: skip
        self._warned_of = found

    # --- replies and introspection ---------------------------------------------------------------
