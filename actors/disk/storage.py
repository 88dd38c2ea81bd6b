"""What a server needs of its disk: the narrow `Storage` interface (docs/storage.md).

Writes are only collected until `commit`, which makes all of them durable in one synced transaction;
`PaxosServer` sends nothing that relies on them before (rule 10, persist before send).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from paxon.actors.ballot import NO_BALLOT, Ballot, ServerId
from paxon.actors.messages import Accepted, Made, Place
from paxon.actors.records.configuration import Configuration

__all__ = [
    "ENOUGH_ROOM",
    "NO_ROOM",
    "SMALL_VALUE",
    "CorruptStorage",
    "Recovered",
    "SnapshotInfo",
    "Storage",
    "StorageError",
]

NO_ROOM = -(1 << 62)
"""As `Storage.room`: not even for what is small."""
ENOUGH_ROOM = 8 << 20
"""With less than this for the log, bytes, more is made as long as there is a way."""
SMALL_VALUE = 4 << 10
"""Values up to this size, in bytes, have room for as long as the disk is not all but full."""


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


@dataclass(slots=True)
class Recovered:
    """What a server finds on its disk when it starts."""

    promised: Ballot = NO_BALLOT
    accepted: list[Accepted] = field(default_factory=list)
    """In the order of slots, each above `discarded`."""
    chosen_to: int = 0
    """Every slot up to here was known chosen, and its accepted value, if still here, is final."""
    discarded: int = 0
    """Rows up to here were deleted; a snapshot covers them."""
    snapshot: SnapshotInfo | None = None
    made: Made | None = None
    """Which cluster this directory belongs to, with the incarnation (see `Storage.incarnation`) by
    which each member is known; None if it is fresh."""
    in_force: bool = False
    """Every member is known to have stored `made`."""
    configuration: Configuration | None = None
    """Who decides the slots after the last seal that is known; None: those who made it."""
    lease: int = 0
    """Microseconds for which a leader may count on what this server granted at most."""
    counts: dict[ServerId, int] = field(default_factory=dict)
    """The highest commit number that each other server's directory was heard to have."""
    places: tuple[Place, ...] = ()
    """Where servers were reached."""
    stopped_at: int = 0
    """The slot whose execution stopped this server last time; 0 if none did."""


class Storage(Protocol):
    """Durable state of one server, used by one thread; writes between two `commit`s are atomic."""

    @property
    def incarnation(self) -> int:
        """Random 63-bit number drawn when the data directory was made: which disk this is."""

    @property
    def created(self) -> bool:
        """Whether this object made the directory: nothing can be missing in it then."""

    @property
    def moved(self) -> bool:
        """Whether the database is another file than was written last: put back, or copied."""

    @property
    def count(self) -> int:
        """The number of the last durable commit: each has the next one. Never falls."""

    @property
    def room(self) -> int:
        """Bytes of values that may be accepted before something has to go (docs/full-disks.md).

        At 0 or below only small ones, at `NO_ROOM` none. Each `save_accepted` takes from it, and
        `commit` and `maintain` look at the disk anew.
        """

    @property
    def dirty(self) -> bool:
        """Whether anything waits for `commit` that must be durable before it is relied on."""

    def load(self) -> Recovered:
        """All that is on disk. Raises `CorruptStorage` if any checksum is wrong.

        Opening and loading change nothing that was found: the first commit, snapshot or `maintain`
        does.
        """

    def save_promise(self, ballot: Ballot) -> None: ...

    def save_accepted(
        self, slot: int, ballot: Ballot, value: bytes, checksum: int | None = None
    ) -> None:
        """Remember a value; `checksum` is its CRC-32 if that is at hand."""

    def save_chosen_to(self, slot: int, *, lazily: bool = True) -> None:
        """Remember; lazily means with the next commit, without making the storage dirty."""

    def save_made(self, made: Made, *, in_force: bool) -> None:
        """Belong to a cluster, or know one of its members by another directory from now on.

        A directory never changes its cluster, and none that is in force ceases to be.
        """

    def save_seal(self, configuration: Configuration) -> None:
        """An epoch has ended where `configuration` says, and that slot is known as chosen.

        In the same transaction all rows above it go that were collected or stored before this.
        """

    def save_counts(self, counts: Mapping[ServerId, int]) -> None:
        """Remember others' counts with the next commit, without making the storage dirty."""

    def save_places(self, places: tuple[Place, ...], *, lazily: bool) -> None:
        """Remember where servers are; lazily means without making the storage dirty."""

    def discard_to(self, slot: int) -> None:
        """Delete accepted rows up to `slot` lazily, with the next commit.

        The caller guarantees that a durable snapshot covers them.
        """

    def save_lease(self, microseconds: int) -> None:
        """Remember the longest lease granted; a shorter one than known with any later commit."""

    def commit(self) -> None:
        """Make all collected writes durable (synced) in one transaction.

        Raises `StorageError`, after which nothing of the transaction counts and the server stops.
        """

    # Snapshots: at most one being taken and one being received at a time.

    def begin_snapshot(
        self,
        slot: int,
        produce: Callable[[], Iterable[bytes]],
        prove: Callable[[bytes], None] | None = None,
    ) -> None:
        """Start to save the state after `slot`; `produce` yields the image's pieces.

        `produce` sees the state as it is now, whatever is executed later: it runs in a forked
        child, or at once. In a child `prove`, if given, gets the image as it was written, and by
        raising keeps it from being kept; it may ruin the child's state. What either raises is
        logged as a snapshot that failed.
        """

    def poll_snapshot(self) -> SnapshotInfo | None:
        """The snapshot whose image became durable since the last call, if any. Never blocks.

        It counts, and is `snapshot`, after the next `commit`.
        """

    @property
    def taking_snapshot(self) -> bool:
        """Whether what `begin_snapshot` began is under way, or done and not yet polled.

        False after a `poll_snapshot` that returned None: it failed (disk full, child killed; that
        is logged) or an adopted snapshot overtook it, and another may be begun.
        """

    @property
    def snapshot(self) -> SnapshotInfo | None:
        """The newest durable snapshot."""

    def read_snapshot(self, slot: int, offset: int, size: int) -> bytes:
        """Bytes of the durable snapshot at `slot`; b"" if it is no longer kept or past its end."""

    def receive_snapshot(self, info: SnapshotInfo, offset: int, data: bytes) -> int:
        """Append a piece of another server's snapshot; returns how many bytes are held now.

        -1: none, for want of disk or descriptors, which is logged; try again later.

        A piece of another snapshot than the one under way starts afresh; one at another offset than
        what is held is ignored.
        """

    def adopt_snapshot(self, info: SnapshotInfo) -> bool:
        """Make the fully received snapshot this server's durable one (synced, with `commit`).

        False, and all of it thrown away, if its checksum is wrong.
        """

    def adopted_image(self, info: SnapshotInfo) -> bytes:
        """All of the snapshot that `adopt_snapshot` has just taken, though it is not committed."""

    # What stopped this server.

    def note_stop(self, slot: int, reason: str) -> None:
        """Name the slot whose execution stopped this server, durably: see `paxon recover`."""

    def forget_stop(self) -> None:
        """That slot could be executed since: the note is history."""

    def condemn(self, reason: str) -> None:
        """Mark all of this as wrong, durably: it is refused from now on, with this sentence."""

    def maintain(self, *, tidy: bool = True) -> None:
        """A bounded piece of housekeeping that no commit should wait for; cheap if none is due.

        Called after what a burst had to send is sent, and by idle servers now and then. With `tidy`
        and no commit since it was given last, also what takes some milliseconds and can wait for
        ever. Raises `StorageError` like `commit`.
        """

    @property
    def is_tight(self) -> bool:
        """Whether the disk has so little room that nothing should be kept which could go."""

    def size_bytes(self) -> int:
        """What the data directory takes on disk, in bytes."""

    def close(self) -> None:
        """Release everything; safe to call twice. Uncommitted writes are lost."""
