"""The parts of a simulated machine that a server is handed: store, disk, clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from paxon.actors import Ballot, ServerId
from paxon.actors.disk.storage import (
    NO_ROOM,
    PLENTY,
    Marks,
    Produce,
    Prove,
    Recovered,
    SnapshotInfo,
)
from paxon.actors.execution.agreed import encode_agreed
from paxon.actors.execution.application import Application, Executed
from paxon.actors.messages import Batch, Made, Place
from paxon.actors.records.configuration import Configuration
from paxon.kvstore.store.operations import decode_results, is_refusal
from paxon.kvstore.store.store import KVStore
from tests.books.store import StoreBooks
from tests.disks import MemoryDisk
from tests.invariants import ClusterWatch
from tests.predicates import InvariantBroken

__all__ = ["SimulatedClock", "SimulatedCrash", "SimulatedDisk", "WatchedStore", "tap"]


class SimulatedCrash(BaseException):
    """The process dies here and now. No handler of the server's may catch it."""


class WatchedStore(KVStore):
    """The store itself; remembers which commands it was told to carry out."""

    def __init__(self) -> None:
        super().__init__()
        self.applied: list[bytes] = []
        self.books: StoreBooks | None = None
        self._replaced = False
        """It has just become what a snapshot holds."""

    def restore(self, snapshot: bytes) -> None:
        super().restore(snapshot)
        self._replaced = True

    def happened(self) -> list[tuple[int, bytes]]:
        """See that nothing was taken from a watch that waits here."""
        replaced, self._replaced = self._replaced, False
        kept, seen = dict(self._watches._kept), self._watches._seen
        answers = super().happened()
        for number, answer in answers if self.books is not None and not replaced else ():
            if number in kept and is_refusal(decode_results(answer)[0]):
                assert self.books is not None
                try:
                    self.books.cut_off(max(kept[number].after, seen), held=True)
                except InvariantBroken as broken:  # here a server would only complain of it
                    self.books.broken = broken
        return answers

    def apply(self, command: bytes) -> bytes:
        self.applied.append(command)
        return super().apply(command)


def tap(application: Application, server: ServerId, watch: ClusterWatch) -> None:
    """Tell `watch` of everything that a server executes, images and restores."""
    execute, restore, image = application.execute, application.restore, application.image
    store = application.machine
    assert isinstance(store, WatchedStore)
    store.books = watch.books

    def watched_execute(
        slot: int, value: bytes, batch: Batch | None = None, checksum: int | None = None
    ) -> list[Executed]:
        store.applied = []
        results = execute(slot, value, batch, checksum)
        watch.on_execute(server, slot, value, results, store.applied)
        if watch.books is not None:
            watch.books.on_execute(slot, value, results, store.applied)
        watch.on_agreed(server, slot, encode_agreed(application.agreed))
        return results

    def watched_restore(data: bytes) -> None:
        restore(data)
        watch.on_restore(server, application.executed, application.digest())
        watch.on_agreed(server, application.executed, encode_agreed(application.agreed))

    def watched_image() -> Iterable[bytes]:
        watch.on_snapshot_taken(server, application.executed, application.digest())
        return image()

    for name, function in (
        ("execute", watched_execute), ("restore", watched_restore), ("image", watched_image),
    ):  # fmt: skip
        setattr(application, name, function)


class SimulatedClock:
    """A server's two clocks: they run at a rate that may change; the wall clock may jump."""

    __slots__ = (
        "_counted", "_elapsed", "_now", "_since", "_slept", "origin", "rate", "wall_offset",
    )  # fmt: skip

    def __init__(
        self, now: Callable[[], float], elapsed: Callable[[], float], origin: float, rate: float
    ) -> None:
        self._now = now
        self._elapsed = elapsed
        self._since = self._counted = 0.0
        """When the rate changed last, and what the clock had counted by then."""
        self._slept = 0.0
        self.origin = origin
        self.rate = rate
        self.wall_offset = 1_600_000_000.0

    def age(self) -> float:
        """What the clock has counted since the run began: no reboot sets that back."""
        return self._counted + (self._now() + self._elapsed() - self._since) * self.rate

    def monotonic(self) -> float:
        return self.origin + self.age()

    def awake(self) -> int:
        return int((self.age() - self._slept) * 1e9)

    def wall(self) -> float:
        return self.monotonic() + self.wall_offset

    def when(self, local: float) -> float:
        """The simulated time at which the monotonic clock has passed `local`."""
        return self._since + (local - self.origin - self._counted) / self.rate + 1e-7

    def run_at(self, rate: float) -> None:
        """From now on the clock counts so many seconds in a second."""
        self._counted, self._since = self.age(), self._now() + self._elapsed()
        self.rate = rate

    def sleep_through(self, seconds: float) -> None:
        """The machine was suspended for so long: one clock ran on, the other stood still."""
        self._slept += seconds * self.rate


class DiskWorld(Protocol):
    """What a disk asks of the world around it."""

    def on_sync(self) -> None:
        """A transaction is being synced: takes time; may raise `StorageError`."""

    def on_snapshot_begun(self) -> None:
        """A snapshot starts to be written."""

    def snapshot_ready(self) -> bool:
        """Whether the snapshot under way has become durable."""

    @property
    def room(self) -> int:
        """Bytes that the log may still take."""

    def crash_point(self, disk: SimulatedDisk) -> str:
        """Where in the next sync the process dies, "before" or "after"; "" if it does not."""

    @property
    def bad_snapshots(self) -> str:
        """What goes wrong with snapshots just now; "" if nothing does."""


class SimulatedDisk:
    """`MemoryDisk` that can crash, be full, slow, and is watched from outside."""

    def __init__(
        self, cluster: str, server: ServerId, incarnation: int, world: DiskWorld,
        watch: ClusterWatch,
    ) -> None:  # fmt: skip
        self._inner = MemoryDisk(cluster, server, incarnation=incarnation)
        self.incarnation = incarnation
        self.moved = False
        """Whether it was put back from a copy."""
        self._server = server
        self._world = world
        self._watch = watch
        self._promise: Ballot | None = None
        self._made: tuple[Made, bool] | None = None
        self._rows: list[tuple[int, Ballot, bytes]] = []
        self._seals: list[Configuration] = []
        self._lazy: list[tuple[Callable[[ServerId, int], None], int]] = []

    def belong_to(self, world: DiskWorld, watch: ClusterWatch) -> None:
        """It is in another machine from now on."""
        self._world, self._watch = world, watch

    @property
    def created(self) -> bool:
        return self._inner.created

    @property
    def count(self) -> int:
        return self._inner.count

    @property
    def epoch(self) -> int:
        """The one after the last seal that is durable here."""
        configuration = self._inner.durable.configuration
        return 0 if configuration is None else configuration.epoch

    @property
    def dirty(self) -> bool:
        return self._inner.dirty

    @property
    def durable(self) -> Marks:
        return self._inner.durable

    @property
    def taking_snapshot(self) -> bool:
        return self._inner.taking_snapshot

    def load(self) -> Recovered:
        return self._inner.load()

    def save_made(self, made: Made, *, in_force: bool) -> None:
        self._made = (made, in_force)
        self._inner.save_made(made, in_force=in_force)

    def save_seal(self, configuration: Configuration) -> None:
        self._rows = [row for row in self._rows if row[0] <= configuration.sealed_at]
        self._seals.append(configuration)
        self._inner.save_seal(configuration)

    def save_counts(self, counts: Mapping[ServerId, int]) -> None:
        self._inner.save_counts(counts)

    def save_places(self, places: tuple[Place, ...], *, lazily: bool) -> None:
        self._inner.save_places(places, lazily=lazily)

    def save_lease(self, microseconds: int) -> None:
        self._inner.save_lease(microseconds)

    def save_promise(self, ballot: Ballot) -> None:
        self._promise = ballot
        self._inner.save_promise(ballot)

    def save_accepted(
        self, slot: int, ballot: Ballot, value: bytes, checksum: int | None = None
    ) -> None:
        self._rows.append((slot, ballot, value))
        self._inner.save_accepted(slot, ballot, value, checksum)

    def save_chosen_to(self, slot: int, *, lazily: bool = True) -> None:
        self._lazy.append((self._watch.on_chosen_durable, slot))
        self._inner.save_chosen_to(slot, lazily=lazily)

    def discard_to(self, slot: int) -> None:
        self._lazy.append((self._watch.on_rows_discarded, slot))
        self._inner.discard_to(slot)

    def commit(self) -> None:
        point = self._world.crash_point(self)
        if point == "before":
            raise SimulatedCrash
        self._world.on_sync()
        count = self._inner.count
        self._inner.commit()
        if self._inner.count > count:
            self._watch.on_commit(self._server, self._inner.count)
        self._tell_watch()
        if point == "after":
            raise SimulatedCrash

    def _tell_watch(self) -> None:
        watch, server = self._watch, self._server
        if self._made is not None:
            made, in_force = self._made
            watch.on_made_durable(server, self.incarnation, made, in_force=in_force)
            self._made = None
        for configuration in self._seals:
            watch.on_seal_durable(server, configuration)
            rows = self._inner._accepted.values()
            watch.on_rows_kept(server, [
                (row.slot, row.ballot) for row in rows
                if row.slot > configuration.sealed_at and row.ballot.epoch < configuration.epoch
            ])  # fmt: skip
        if self._promise is not None:
            watch.on_first_promise(server, self.incarnation)
            watch.on_promise_durable(server, self._promise)
            self._promise = None
        for slot, ballot, value in self._rows:
            watch.on_row_durable(server, slot, ballot, value)
        for tell, number in self._lazy:
            tell(server, number)
        if self._seals:
            watch.after_seal(server)
        self._rows.clear()
        self._lazy.clear()
        self._seals.clear()

    def copy(self) -> SimulatedDisk:
        """A copy of what is durable, for putting it back later."""
        found = SimulatedDisk(
            self._inner.cluster, self._server, self.incarnation, self._world, self._watch
        )
        found._inner = self._inner.duplicate()
        found.moved = True
        return found

    def remembers(self) -> dict[ServerId, tuple[int, int]]:
        """Per other server by which directory, and how many commits of it, it is known here."""
        marks = self._inner.durable
        if marks.made is None:
            return {}
        members = (marks.configuration or Configuration.of(marks.made)).incarnations
        return {s: (number, marks.counts.get(s, 0)) for s, number in members.items()}

    def crash(self) -> None:
        """Lose exactly what was not synced."""
        self._promise = self._made = None
        self._rows.clear()
        self._seals.clear()
        self._lazy.clear()
        self._inner = self._inner.crash()

    def begin_snapshot(self, slot: int, produce: Produce, prove: Prove | None = None) -> None:
        self._inner.begin_snapshot(slot, produce, prove)
        self._world.on_snapshot_begun()

    def poll_snapshot(self) -> SnapshotInfo | None:
        if not self._world.snapshot_ready():
            return None
        if self._world.bad_snapshots == "unwritten":
            ready, self._inner._ready = self._inner._ready, None  # (its image is never read)
            return None if ready is not None else self._inner.poll_snapshot()
        info = self._inner.poll_snapshot()
        if info is not None:
            self._lazy.append((self._watch.on_snapshot_durable, info.slot))
        return info

    def read_snapshot(self, slot: int, offset: int, size: int) -> bytes:
        return self._inner.read_snapshot(slot, offset, size)

    def receive_snapshot(self, info: SnapshotInfo, offset: int, data: bytes) -> int:
        trouble = self._world.bad_snapshots
        if trouble == "no room":
            self._inner._incoming = None
            return -1
        if trouble == "damaged" and data:
            data = bytes((data[0] ^ 1,)) + data[1:]
        return self._inner.receive_snapshot(info, offset, data)

    def adopt_snapshot(self, info: SnapshotInfo) -> bytes | None:
        image = self._inner.adopt_snapshot(info)
        if image is not None:
            self._lazy.append((self._watch.on_snapshot_durable, info.slot))
        return image

    def note_stop(self, slot: int, reason: str) -> None:
        self._inner.note_stop(slot, reason)

    def condemn(self, reason: str) -> None:
        self._inner.condemn(reason)

    def forget_stop(self) -> None:
        self._inner.forget_stop()

    def maintain(self, *, tidy: bool = True) -> None:
        self._inner.maintain(tidy=tidy)

    @property
    def is_tight(self) -> bool:
        return False

    @property
    def room(self) -> int:
        return self._world.room - sum(len(value) for _, _, value in self._rows)

    @property
    def largest(self) -> int:
        return NO_ROOM if self._world.room == NO_ROOM else PLENTY

    def size_bytes(self) -> int:
        return 0

    def close(self) -> None:
        self._inner.close()
