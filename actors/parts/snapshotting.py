"""Snapshots: taken, kept, and handed from server to server (rules 7 and 8).

A snapshot holds what was chosen and executed long ago: nothing here decides on ballots or slots.
The state of one that has come becomes the server's own in the server (`Host.become`).
"""

from __future__ import annotations

from paxon.actors.ballot import ServerId
from paxon.actors.disk.storage import NO_ROOM, SMALL_VALUE, SnapshotInfo
from paxon.actors.environment import NEVER
from paxon.actors.execution.digests import SnapshotCheck
from paxon.actors.limits.bounds import is_plausible_offer, is_plausible_request
from paxon.actors.messages import (
    DigestReply,
    DigestRequest,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotRequest,
)
from paxon.actors.parts.host import Part
from paxon.actors.records.catching_up import LONGEST_SECONDS, LONGEST_SECONDS_FOR_ROOM, Retry

__all__ = ["Snapshotting"]


class Snapshotting(Part):
    """Takes snapshots, sends pieces of them, and fetches one from another server."""

    # --- taking one ------------------------------------------------------------------------------

    def take_if_due(self) -> None:
        """Take a snapshot when enough was executed since the last, in relation to its size."""
        host, executed = self._host, self._application.executed
        if host.snapshots.is_due(executed, host._storage.durable.snapshot, host.settings):
            self.take()

    def take(self) -> None:
        """Begin one, unless it is no time for that."""
        host, application, now = self._host, self._application, self._outbox.now
        snapshots = host.snapshots
        if host._storage.taking_snapshot or not snapshots.retry.due(now):
            return
        if host.catching_up.fetches_beyond(host.log.chosen_to):
            return  # a newer one is on its way, and the disk need not hold three
        if host._reign is not None:
            host.reception.blame_for_snapshot(host._reign)
        snapshots.executed_bytes = 0
        prove = None if application.machine.snapshots_are_sound else application.prove
        host._storage.begin_snapshot(application.executed, application.image, prove)
        application.chain.pin()
        snapshots.poll_at = snapshots.began_at = now

    def poll(self) -> bool:
        """Look at the one under way; whether it is done, and counts with the next commit."""
        snapshots, turns, now = self._host.snapshots, self._host.reception.turns, self._outbox.now
        info = self._host._storage.poll_snapshot()
        if self._host._storage.taking_snapshot:
            snapshots.poll_at = now + self._host.settings.heartbeat_interval
            return False
        snapshots.poll_at = NEVER
        if turns.blamed:
            turns.snapshot_taken(now - snapshots.began_at, now)
        if info is None:  # it failed (the storage said why), or one received has overtaken it
            self._put_off(snapshots.retry)
            return False
        snapshots.retry.succeeded()
        return True

    def _put_off(self, retry: Retry) -> None:
        """A snapshot without room for it, or that failed otherwise, is tried again later."""
        short = self._host._storage.room <= 0
        retry.failed(self._outbox.now, LONGEST_SECONDS_FOR_ROOM if short else LONGEST_SECONDS)

    def discard(self, executed_by_all: int) -> None:
        """Forget what nobody needs any more: executed by all, or past the retention limit.

        In memory everything that all servers have executed goes. On disk, rows stay until a durable
        snapshot of our own covers them, because a restart replays them. Past the retention limit
        the snapshot's slot is the limit in memory too: a late server gets that snapshot.
        """
        log, settings, executed = self._host.log, self._host.settings, self._application.executed
        target = min(executed_by_all, executed)
        snapshot = self._host._storage.durable.snapshot
        covered = 0 if snapshot is None else min(snapshot.slot, executed)
        if covered > target and (
            len(log) > settings.retain_slots
            or log.value_bytes > settings.retain_bytes
            or self._host._storage.is_tight
        ):
            target = covered
        if target > log.discarded:
            log.discard_to(target)
        if covered:
            self._host._storage.discard_to(min(covered, log.discarded))

    # --- room on the disk (docs/design/full-disks.md) ---------------------------------------------

    def has_room(self, slot: int, value: bytes) -> bool:
        """Whether the disk takes one more value; what is small may take of the last room.

        Where no snapshot makes any, so may what has to be executed next: nothing else does.
        """
        size, storage = len(value), self._host._storage
        if size <= storage.room or (size <= SMALL_VALUE and storage.room > NO_ROOM):
            return True
        is_next = slot == self._host.log.chosen_to + 1
        if is_next and size <= storage.largest and not self.can_make_room():
            return True
        self._counters["without_room"] += 1
        return False

    def can_make_room(self) -> bool:
        """Whether some of the log goes with a snapshot, under way or to come."""
        storage = self._host._storage
        saved = 0 if storage.durable.snapshot is None else storage.durable.snapshot.slot
        return storage.taking_snapshot or self._application.executed > saved

    def look_for_room(self) -> None:
        """Where the log has no room a snapshot lets some go; else others had better lead.

        Meanwhile clients are held back, and others' values are not accepted.
        """
        host, room, reign = self._host, self._host._storage.room, self._host._reign
        if reign is not None and reign.pending.entries and not reign.pending.fits(room):
            host.reception.put_off_waiting(reign)
            host._left_over = True
        if host.snapshots.executed_bytes >= room and self.can_make_room():
            self.take()
        if room <= 0 and reign is not None and not host._storage.taking_snapshot:
            host.hand_over()
            host._left_over = True

    # --- for another server ----------------------------------------------------------------------

    def offer(self, server: ServerId) -> None:
        """It misses slots that are discarded here."""
        host, chain = self._host, self._application.chain
        snapshot, reign = host._storage.durable.snapshot, host._reign
        if snapshot is None or snapshot.slot < host.log.discarded:
            # All had executed these slots, so nobody kept them for a server that lost its disk.
            self.take()
            return
        slot = snapshot.slot
        vouchers = () if reign is None else reign.comparison.vouchers(slot)
        offer = SnapshotOffer(
            slot, snapshot.size, snapshot.checksum, chain.version, chain.at(slot), vouchers
        )
        self._outbox.send(server, offer)

    def on_snapshot_request(self, request: SnapshotRequest, sender: ServerId) -> None:
        """Send the piece asked for."""
        if not is_plausible_request(request):
            self._oddities.malformed(request, sender)
            return
        most = self._host.settings.transfer_bytes
        if not self._outbox.may_transfer(sender, most):
            return
        data = self._host._storage.read_snapshot(request.slot, request.offset, most)
        if data:
            self._outbox.send(sender, SnapshotChunk(request.slot, request.offset, data))
        else:
            self.offer(sender)  # that one is gone; there is a newer one

    # --- from another server ---------------------------------------------------------------------

    def on_snapshot_offer(self, offer: SnapshotOffer, sender: ServerId) -> None:
        """Fetch it piece by piece, from where an earlier transfer of the same one stopped."""
        if not is_plausible_offer(offer):
            self._oddities.malformed(offer, sender)
            return
        if offer.slot <= self._host.log.chosen_to or self._host._reign is not None:
            return  # a leader has in its log what it proposes: nothing may be cut away under it
        late = self._host.catching_up
        if late.incoming is not None and sender != late.source:
            return  # changing over would throw away what has come; only silence makes us do it
        if not late.retry.due(self._outbox.now):
            return  # there was no room for it a moment ago
        info = SnapshotInfo(offer.slot, offer.size, offer.checksum)
        late.begin(info, sender)
        self._check(offer, sender)
        self._receive(info, 0, b"", sender)

    def _check(self, offer: SnapshotOffer, sender: ServerId) -> None:
        """Ask those who have not vouched for a snapshot whether they know another hash for it."""
        late = self._host.catching_up
        if late.check is not None and late.check.offer == offer and late.check.unheard:
            ask = sorted(late.check.unheard)
        else:
            ask = [s for s in self._host._others if s != sender and s not in offer.vouched]
            wait = self._host.settings.election_timeout_min
            late.check = SnapshotCheck(offer, ask, self._outbox.now + wait)
        question = DigestRequest(offer.digest_version, offer.slot, offer.slot, 0, b"")
        for server in ask:
            self._outbox.send(server, question)

    def hear(self, reply: DigestReply, sender: ServerId) -> None:
        """Another server says which hash it knows for the snapshot that is being fetched."""
        check = self._host.catching_up.check
        if check is not None:
            check.heard(sender, reply)
            if check.objections or not check.unheard:
                self.settle()

    def on_snapshot_chunk(self, chunk: SnapshotChunk, sender: ServerId) -> None:
        """Add a piece; with the last one become the state that it describes."""
        late = self._host.catching_up
        info = late.incoming
        if info is None or chunk.slot != info.slot or info.slot <= self._host.log.chosen_to:
            return
        if chunk.offset == late.received:  # else it is a copy, which must not be asked on from
            self._receive(info, chunk.offset, chunk.data, sender)

    def _receive(self, info: SnapshotInfo, offset: int, data: bytes, sender: ServerId) -> None:
        late = self._host.catching_up
        held = self._host._storage.receive_snapshot(info, offset, data)
        if held < 0:
            late.incoming = None
            self._put_off(late.retry)
            return
        grown = held > late.received
        late.received = held
        if held >= info.size:
            self.settle()
        elif grown or not data:  # else it is of another image of that slot: not to be asked on from
            self._outbox.send(sender, SnapshotRequest(info.slot, held))
            late.ask_later(self._outbox.now, self._settings.retransmit_interval)

    def settle(self) -> None:
        """Take it over once whole, unless a voter holds another hash (docs/design/digests.md)."""
        late = self._host.catching_up
        info, check = late.incoming, late.check
        if info is None or not late.is_whole():
            return
        if info.slot <= self._host.log.chosen_to:  # its slots came meanwhile, one by one
            late.give_up()
        elif check is not None and check.objections:
            self._host.comparing.contest(check)
            late.give_up()
            late.ask_later(self._outbox.now, self._settings.retransmit_interval)
        elif check is not None and check.unheard and self._outbox.now < check.until:
            late.ask_at = check.until
        else:
            late.give_up()
            self._host.become(info)
