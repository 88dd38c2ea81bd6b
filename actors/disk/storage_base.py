"""What every storage engine does alike: collect writes and refuse those that would break Paxos."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from zlib import crc32

import msgspec

from paxon.actors.ballot import NO_BALLOT, Ballot, ServerId
from paxon.actors.disk.storage import Recovered, SnapshotInfo, StorageError
from paxon.actors.invariants import invariant
from paxon.actors.messages import Made, Place
from paxon.actors.records.configuration import Configuration

__all__ = ["PLENTY", "CollectingStorage", "Marks"]

PLENTY = 1 << 62
"""More room than any log will take, bytes."""
INTEGER_LIMIT = 1 << 63
"""Numbers on the disk are signed 64-bit integers."""


class Marks(msgspec.Struct):
    """Everything durable of a server except its accepted values and the snapshot's image."""

    promised: Ballot = NO_BALLOT
    chosen_to: int = 0
    discarded: int = 0
    lease: int = 0
    snapshot: SnapshotInfo | None = None
    made: Made | None = None
    in_force: bool = False
    configuration: Configuration | None = None
    places: tuple[Place, ...] = ()
    counts: dict[ServerId, int] = {}
    """Never changed, only replaced: copies share it."""

    def copy(self) -> Marks:
        return msgspec.structs.replace(self)


class CollectingStorage(ABC):
    """Collects the writes between two commits and holds what a disk must never be told.

    `_durable` is what is on the disk, `_marks` and `_rows` are what the next commit makes of it.
    An engine writes them in `_write` and looks after the snapshots' images.
    """

    def __init__(self, incarnation: int) -> None:
        self._incarnation = incarnation
        self._created = False
        self._durable = Marks()
        self._marks = Marks()
        self._rows: dict[int, tuple[Ballot, bytes, int]] = {}
        """Collected accepted values by slot, with their CRC-32; the last write to a slot wins."""
        self._ballots: dict[int, Ballot] = {}
        """The ballot of each row on the disk or collected."""
        self._replaced: set[int] = set()
        """Slots whose row is on the disk and is written again."""
        self._sealed: int | None = None
        """Rows on the disk above this slot go with the next commit, before any is written."""
        self.dirty = False
        """Whether something was collected that a message may rely on. (No property: each step asks
        several times.)"""
        self._lazy = False
        self.room = PLENTY
        """Bytes of values that may still be accepted. (No property: each slot takes from it.)"""
        self._unusable = ""
        """Why nothing can be committed any more: closed, or a commit failed."""
        self.commits = 0
        """Transactions since the storage was opened."""

    # --- collecting ------------------------------------------------------------------------------

    @property
    def incarnation(self) -> int:
        return self._incarnation

    @property
    def created(self) -> bool:
        return self._created

    @property
    def moved(self) -> bool:
        return False

    @property
    def is_tight(self) -> bool:
        return False

    @property
    @abstractmethod
    def count(self) -> int:
        """The number of the last durable commit."""

    @property
    def snapshot(self) -> SnapshotInfo | None:
        return self._durable.snapshot

    def save_promise(self, ballot: Ballot) -> None:
        promised = self._marks.promised
        invariant(ballot >= promised, "the promise %s would fall to %s", promised, ballot)
        invariant(ballot.round < INTEGER_LIMIT, "the ballot's round is beyond 63 bits: %s", ballot)
        if ballot != promised:
            self._marks.promised = ballot
            self.dirty = True

    def save_accepted(
        self, slot: int, ballot: Ballot, value: bytes, checksum: int | None = None
    ) -> None:
        held = self._ballots.get(slot)
        if held is not None and slot not in self._rows:
            self._replaced.add(slot)
        if held is not None and held is not ballot:
            invariant(ballot >= held, "slot %d: ballot %s would fall to %s", slot, held, ballot)
        marks = self._marks
        if not marks.discarded < slot < INTEGER_LIMIT or ballot > marks.promised:
            invariant(slot > marks.discarded, "slot %d accepted after its discarding", slot)
            invariant(slot < INTEGER_LIMIT, "slot %d is beyond 63 bits", slot)
            invariant(False, "slot %d accepted in %s, above the promise", slot, ballot)
        self._ballots[slot] = ballot
        self._rows[slot] = (ballot, value, crc32(value) if checksum is None else checksum)
        self.room -= len(value)
        self.dirty = True

    def save_chosen_to(self, slot: int, *, lazily: bool = True) -> None:
        if slot > self._marks.chosen_to:
            self._marks.chosen_to = slot
            self._lazy = True
        if not lazily and self._marks.chosen_to > self._durable.chosen_to:
            self.dirty = True

    def save_made(self, made: Made, *, in_force: bool) -> None:
        marks = self._marks
        held = marks.made
        if held is not None:
            invariant(held == made, "the directory of %s would change over to %s", held, made)
        invariant(in_force or not marks.in_force, "cluster %s would cease to be in force", held)
        invariant(0 < made.identity < INTEGER_LIMIT, "identity %d", made.identity)
        if (held, marks.in_force) != (made, in_force):
            marks.made, marks.in_force = made, in_force
            self.dirty = True

    def save_seal(self, configuration: Configuration) -> None:
        marks, slot = self._marks, configuration.sealed_at
        held = 0 if marks.configuration is None else marks.configuration.epoch
        invariant(configuration.epoch > held, "epoch %d after %d", configuration.epoch, held)
        marks.configuration = configuration
        marks.chosen_to = max(marks.chosen_to, slot)
        for gone in [above for above in self._ballots if above > slot]:
            del self._ballots[gone]
            self._rows.pop(gone, None)
            self._replaced.discard(gone)
        self._sealed = slot if self._sealed is None else min(slot, self._sealed)
        self.dirty = True

    def save_counts(self, counts: Mapping[ServerId, int]) -> None:
        if counts != self._marks.counts:
            self._marks.counts = dict(counts)
            self._lazy = True

    def save_places(self, places: tuple[Place, ...], *, lazily: bool) -> None:
        if places != self._marks.places:
            self._marks.places = places
            self._lazy = True
        if not lazily and self._marks.places != self._durable.places:
            self.dirty = True

    def save_lease(self, microseconds: int) -> None:
        longer = microseconds > self._marks.lease
        self._lazy = self._lazy or microseconds != self._marks.lease
        self.dirty = self.dirty or longer
        self._marks.lease = microseconds

    def discard_to(self, slot: int) -> None:
        if slot <= self._marks.discarded:
            return
        durable = self._durable.snapshot
        invariant(
            durable is not None and slot <= durable.slot,
            "slots up to %d discarded, but the durable snapshot is %s", slot, durable,
        )  # fmt: skip
        self._marks.discarded = slot
        self._lazy = True

    # --- committing ------------------------------------------------------------------------------

    def commit(self) -> None:
        if self._unusable:
            raise StorageError(self._unusable)
        if not self.dirty and not self._lazy:
            return
        try:
            self._write()
            self.commits += 1
            self._durable = self._marks.copy()
            self._rows = {}
            self._replaced = set()
            self._sealed = None
            self.dirty = self._lazy = False
            self._on_committed()
        except StorageError as error:
            self._fail(error)
            raise

    def _fail(self, error: StorageError) -> None:
        """Commit nothing more: what a failed sync has left on the disk is unknown."""
        self._unusable = f"the storage failed before, start the server again ({error})"

    @abstractmethod
    def _write(self) -> None:
        """Make `_marks`, `_sealed` and `_rows` durable, all or nothing. Raises `StorageError`.

        Rows up to `_marks.discarded` may be among them and go like those written before.
        """

    @abstractmethod
    def _on_committed(self) -> None:
        """What was collected is durable now."""

    def close(self) -> None:
        self._unusable = self._unusable or "the storage is closed"
        self._rows, self._sealed = {}, None
        self.dirty = self._lazy = False

    # --- snapshots -------------------------------------------------------------------------------

    @property
    @abstractmethod
    def taking_snapshot(self) -> bool:
        """Whether a snapshot begun is still under way or waits for `poll_snapshot`."""

    def begin_snapshot(
        self,
        slot: int,
        produce: Callable[[], Iterable[bytes]],
        prove: Callable[[bytes], None] | None = None,
    ) -> None:
        newest = self._marks.snapshot
        invariant(not self.taking_snapshot, "a second snapshot is begun, at slot %d", slot)
        invariant(
            newest is None or slot >= newest.slot,
            "a snapshot at slot %d would be older than %s", slot, newest,
        )  # fmt: skip
        self._take(slot, produce, prove)

    @abstractmethod
    def _take(
        self,
        slot: int,
        produce: Callable[[], Iterable[bytes]],
        prove: Callable[[bytes], None] | None,
    ) -> None:
        """Begin to write the image."""

    def poll_snapshot(self) -> SnapshotInfo | None:
        info = self._taken()
        newest = self._marks.snapshot
        if info is None or (newest is not None and info.slot < newest.slot):
            return None  # an adopted snapshot has overtaken it
        if info != newest:
            self._marks.snapshot = info
            self.dirty = True
        return info

    @abstractmethod
    def _taken(self) -> SnapshotInfo | None:
        """The snapshot whose image became durable since the last call, if any."""

    def adopt_snapshot(self, info: SnapshotInfo) -> bool:
        newest = self._marks.snapshot
        invariant(newest is None or info.slot > newest.slot, "adopting %s over %s", info, newest)
        if not self._finish_received(info):
            return False
        marks = self._marks
        marks.snapshot = info
        marks.discarded = max(marks.discarded, info.slot)
        marks.chosen_to = max(marks.chosen_to, info.slot)
        self.dirty = True
        return True

    @abstractmethod
    def _finish_received(self, info: SnapshotInfo) -> bool:
        """Make the received image a durable one; False, and gone, if its checksum is wrong."""

    def _recovered(self) -> Recovered:
        """The marks as found on the disk; the engine adds accepted values."""
        marks = self._durable
        return Recovered(
            promised=marks.promised,
            chosen_to=marks.chosen_to,
            discarded=marks.discarded,
            snapshot=marks.snapshot,
            made=marks.made,
            in_force=marks.in_force,
            configuration=marks.configuration,
            counts=dict(marks.counts),
            places=marks.places,
            lease=marks.lease,
        )
