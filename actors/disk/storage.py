"""The storage that a server needs, and what every engine does alike (docs/design/storage.md).

Writes are only collected until `commit`, which makes all of them durable in one synced transaction;
`PaxosServer` sends nothing that relies on them before (rule 10, persist before send). A write that
would break Paxos is refused here, whatever the engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias
from zlib import crc32

import msgspec

from paxon.actors.ballot import NO_BALLOT, Ballot, ServerId
from paxon.actors.invariants import invariant
from paxon.actors.messages import Accepted, Made, Place
from paxon.actors.records.configuration import Configuration

__all__ = [
    "ENOUGH_ROOM", "NO_ROOM", "PLENTY", "REMEDY", "SMALL_VALUE", "CorruptStorage", "Marks",
    "Produce", "Prove", "Recovered", "SnapshotInfo", "Storage", "StorageError",
]  # fmt: skip

PLENTY = 1 << 62
"""As `Storage.room`: more than any log will take, bytes."""
NO_ROOM = -(1 << 62)
"""Likewise: not even for what is small."""
ENOUGH_ROOM = 8 << 20
"""With less than this for the log, bytes, more is made as long as there is a way."""
SMALL_VALUE = 4 << 10
"""Values up to this size, in bytes, have room for as long as the disk is not all but full."""
REMEDY = "empty the directory and start once with --rejoin"
"""The advice about a directory that cannot be believed."""
Produce: TypeAlias = Callable[[], Iterable[bytes]]
"""Yields the pieces of a snapshot's image."""
Prove: TypeAlias = Callable[[bytes], None]
"""Raises if an image must not be kept."""
INTEGER_LIMIT = 1 << 63
"""Numbers on the disk are signed 64-bit integers."""
SLOT_LIMIT = INTEGER_LIMIT - 1
"""Slots are below it: SQLite's last key is that of the marks."""


class StorageError(Exception):
    """The disk or the data directory cannot be used; the text is one sentence for people."""


class CorruptStorage(StorageError):
    """A checksum does not match: what is on the disk is not what was written."""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A durable snapshot: the state after executing `slot`, `size` bytes with CRC-32 `checksum`."""

    slot: int
    size: int
    checksum: int


class Marks(msgspec.Struct):
    """Everything durable of a server except its accepted values and the snapshot's image."""

    promised: Ballot = NO_BALLOT
    chosen_to: int = 0
    """Every slot up to here was known chosen, and its accepted value, if still here, is final."""
    discarded: int = 0
    """Rows up to here were deleted; a snapshot covers them."""
    lease: int = 0
    """Microseconds for which a leader may count on what this server granted at most."""
    snapshot: SnapshotInfo | None = None
    """The newest one."""
    made: Made | None = None
    """Which cluster this directory belongs to, with the incarnation (see `Storage.incarnation`) by
    which each member is known; None if it is fresh."""
    in_force: bool = False
    """Every member is known to have stored `made`."""
    configuration: Configuration | None = None
    """Who decides the slots after the last seal that is known; None: those who made it."""
    places: tuple[Place, ...] = ()
    """Where servers were reached."""
    counts: dict[ServerId, int] = {}
    """The highest commit number that each other server's directory was heard to have. Never
    changed, only replaced: copies share it."""

    def copy(self) -> Marks:
        return msgspec.structs.replace(self)


class Recovered(Marks):
    """Everything that a server finds on its disk when it starts."""

    accepted: list[Accepted] = []
    """In the order of slots, each above `discarded`."""
    stopped_at: int = 0
    """The slot whose execution stopped this server last time; 0 if none did."""


class Storage(ABC):
    """Durable state of one server, used by one thread; writes between two `commit`s are atomic.

    `durable` is what is on the disk, `_marks` and `_rows` are what the next commit makes of it. An
    engine writes them in `_write` and looks after the snapshots' images.
    """

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        """Random 63-bit number drawn when the data directory was made: which disk this is."""
        self.created = False
        """Whether this object made the directory: nothing can be missing in it then."""
        self.moved = False
        """Whether the database is another file than was written last: put back, or copied."""
        self.count = 0
        """The number of the last durable commit: each has the next one. Never falls."""
        self.durable = Marks()
        """As far as a restart replays by itself: what others may rely on."""
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
        """Whether anything waits for `commit` that must be durable before it is relied on. (No
        property: each step asks several times.)"""
        self._lazy = False
        self.room = PLENTY
        """Bytes of values that may be accepted before something has to go
        (docs/design/full-disks.md). At 0 or below only small ones, at `NO_ROOM` none. Each
        `save_accepted` takes from it, and `commit` and `maintain` look at the disk anew."""
        self.largest = PLENTY
        """Bytes of the largest value that the disk itself takes, whatever it is promised to."""
        self._unusable = ""
        """Why nothing can be committed any more: closed, or a commit failed."""

    @abstractmethod
    def load(self) -> Recovered:
        """All that is on disk. Raises `CorruptStorage` if any checksum is wrong.

        Opening and loading change nothing that was found: the first commit, snapshot or `maintain`
        does.
        """

    def _recovered(self) -> Recovered:
        """The marks as found on the disk; the engine adds accepted values."""
        return Recovered(**msgspec.structs.asdict(self.durable))

    # --- collecting ------------------------------------------------------------------------------

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
        """Remember a value; `checksum` is its CRC-32 if that is at hand."""
        held = self._ballots.get(slot)
        if held is not None:
            if slot not in self._rows:
                self._replaced.add(slot)
            invariant(ballot >= held, "slot %d: ballot %s would fall to %s", slot, held, ballot)
        marks = self._marks
        if not marks.discarded < slot < SLOT_LIMIT or ballot > marks.promised:
            invariant(slot > marks.discarded, "slot %d accepted after its discarding", slot)
            invariant(slot < SLOT_LIMIT, "slot %d is beyond 63 bits", slot)
            invariant(False, "slot %d accepted in %s, above the promise", slot, ballot)
        self._ballots[slot] = ballot
        self._rows[slot] = (ballot, value, crc32(value) if checksum is None else checksum)
        size = len(value)
        self.room -= size
        self.largest -= size
        self.dirty = True

    def save_chosen_to(self, slot: int, *, lazily: bool = True) -> None:
        """Remember; lazily means with the next commit, without making the storage dirty."""
        if slot > self._marks.chosen_to:
            self._marks.chosen_to = slot
            self._lazy = True
        if not lazily and self._marks.chosen_to > self.durable.chosen_to:
            self.dirty = True

    def save_made(self, made: Made, *, in_force: bool) -> None:
        """Belong to a cluster, or know that it is in force.

        A directory never changes its cluster, and none that is in force ceases to be.
        """
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
        """An epoch has ended where `configuration` says, and that slot is known as chosen.

        In the same transaction all rows above it go that were collected or stored before this.
        """
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
        """Remember others' counts with the next commit, without making the storage dirty."""
        if counts != self._marks.counts:
            self._marks.counts = dict(counts)
            self._lazy = True

    def save_places(self, places: tuple[Place, ...], *, lazily: bool) -> None:
        """Remember where servers are; lazily means without making the storage dirty."""
        if places != self._marks.places:
            self._marks.places = places
            self._lazy = True
        if not lazily and self._marks.places != self.durable.places:
            self.dirty = True

    def save_lease(self, microseconds: int) -> None:
        """Remember the longest lease granted; a shorter one than known with any later commit."""
        longer = microseconds > self._marks.lease
        self._lazy = self._lazy or microseconds != self._marks.lease
        self.dirty = self.dirty or longer
        self._marks.lease = microseconds

    def discard_to(self, slot: int) -> None:
        """Delete accepted rows up to `slot` lazily, with the next commit.

        The caller guarantees that a durable snapshot covers them.
        """
        if slot <= self._marks.discarded:
            return
        durable = self.durable.snapshot
        invariant(
            durable is not None and slot <= durable.slot,
            "slots up to %d discarded, but the durable snapshot is %s", slot, durable,
        )  # fmt: skip
        self._marks.discarded = slot
        self._lazy = True

    # --- committing ------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make all collected writes durable (synced) in one transaction.

        Raises `StorageError`, after which nothing of the transaction counts and the server stops.
        """
        if self._unusable:
            raise StorageError(self._unusable)
        if not self.dirty and not self._lazy:
            return
        try:
            self._write()
            self.durable = self._marks.copy()
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
        """Make `_marks`, `_sealed` and `_rows` durable, all or nothing, and raise `count`.

        Raises `StorageError`. Rows up to `_marks.discarded` may be among them and go like those
        written before.
        """

    @abstractmethod
    def _on_committed(self) -> None:
        """All that was collected is durable now."""

    @abstractmethod
    def maintain(self, *, tidy: bool = True) -> None:
        """A bounded piece of housekeeping that no commit should wait for; cheap if none is due.

        Called after what a burst had to send is sent, and by idle servers now and then. With `tidy`
        and no commit since it was given last, also what takes some milliseconds and can wait for
        ever. Raises `StorageError` like `commit`.
        """

    @property
    def is_tight(self) -> bool:
        """Whether the disk has so little room that nothing should be kept which could go."""
        return False

    @abstractmethod
    def size_bytes(self) -> int:
        """Bytes that the data directory takes on disk."""

    def close(self) -> None:
        """Release everything; safe to call twice. Uncommitted writes are lost."""
        self._unusable = self._unusable or "the storage is closed"
        self._rows, self._sealed = {}, None
        self.dirty = self._lazy = False

    # --- snapshots: at most one being taken and one being received at a time ---------------------

    @property
    @abstractmethod
    def taking_snapshot(self) -> bool:
        """Whether what `begin_snapshot` began is under way, or done and not yet polled.

        False after a `poll_snapshot` that returned None: it failed (disk full, child killed; that
        is logged) or an adopted snapshot overtook it, and another may be begun.
        """

    def begin_snapshot(self, slot: int, produce: Produce, prove: Prove | None = None) -> None:
        """Start to save the state after `slot`; `produce` yields the image's pieces.

        `produce` sees the state as it is now, whatever is executed later: it runs in a forked
        child, or at once. In a child `prove`, if given, gets the image as it was written, and by
        raising keeps it from being kept; it may ruin the child's state. What either raises is
        logged as a snapshot that failed.
        """
        newest = self._marks.snapshot
        invariant(not self.taking_snapshot, "a second snapshot is begun, at slot %d", slot)
        invariant(
            newest is None or slot > newest.slot,
            "a snapshot at slot %d would be no newer than %s", slot, newest,
        )  # fmt: skip
        self._take(slot, produce, prove)

    @abstractmethod
    def _take(self, slot: int, produce: Produce, prove: Prove | None) -> None:
        """Begin to write the image."""

    def poll_snapshot(self) -> SnapshotInfo | None:
        """The snapshot whose image became durable since the last call, if any. Never blocks.

        It counts, and is `durable.snapshot`, after the next `commit`.
        """
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

    @abstractmethod
    def read_snapshot(self, slot: int, offset: int, size: int) -> bytes:
        """Bytes of the durable snapshot at `slot`; b"" if it is no longer kept or past its end."""

    @abstractmethod
    def receive_snapshot(self, info: SnapshotInfo, offset: int, data: bytes) -> int:
        """Append a piece of another server's snapshot; returns how many bytes are held now.

        -1: none, for want of disk or descriptors, which is logged; try again later.

        A piece of another snapshot than the one under way starts afresh; one at another offset than
        what is held is ignored.
        """

    def adopt_snapshot(self, info: SnapshotInfo) -> bytes | None:
        """Make the fully received snapshot this server's durable one (synced, with `commit`).

        Its image; or None, and all of it thrown away, if its checksum is wrong.
        """
        newest = self._marks.snapshot
        invariant(newest is None or info.slot > newest.slot, "adopting %s over %s", info, newest)
        image = self._finish_received(info)
        if image is None:
            return None
        marks = self._marks
        marks.snapshot = info
        marks.discarded = max(marks.discarded, info.slot)
        marks.chosen_to = max(marks.chosen_to, info.slot)
        self.dirty = True
        return image

    @abstractmethod
    def _finish_received(self, info: SnapshotInfo) -> bytes | None:
        """Make the received image a durable one; None, and gone, if its checksum is wrong."""

    # --- what stopped this server ----------------------------------------------------------------

    @abstractmethod
    def note_stop(self, slot: int, reason: str) -> None:
        """Name the slot whose execution stopped this server, durably: see `paxon recover`."""

    @abstractmethod
    def forget_stop(self) -> None:
        """That slot could be executed since: the note is history."""

    @abstractmethod
    def condemn(self, reason: str) -> None:
        """Mark all of this as wrong, durably: it is refused from now on, with this sentence."""
