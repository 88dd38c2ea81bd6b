"""Storage that keeps nothing on disk: for tests, benches and durability "memory"."""

from __future__ import annotations

import secrets
import zlib

from paxon.actors.ballot import ServerId
from paxon.actors.disk.storage import Produce, Prove, Recovered, SnapshotInfo, Storage, StorageError
from paxon.actors.messages import Accepted
from paxon.transport.log import logger

__all__ = ["MemoryStorage"]

KEPT_SNAPSHOTS = 2


class MemoryStorage(Storage):
    """The contract of `Storage` in a process's memory; all is lost when the process ends.

    `cluster` and `server` only say whose storage this is. An `incarnation` of None is drawn.
    """

    def __init__(
        self, cluster: str = "memory", server: ServerId = 0, *, incarnation: int | None = None
    ) -> None:
        super().__init__(secrets.randbits(63) if incarnation is None else incarnation)
        self.created = True
        self.cluster = cluster
        self.server = server
        self._accepted: dict[int, Accepted] = {}
        self._images: dict[int, tuple[SnapshotInfo, bytes]] = {}
        """Images by slot: the durable ones, and one that waits for its commit."""
        self._ready: SnapshotInfo | None = None
        self._incoming: SnapshotInfo | None = None
        self._received = bytearray()
        self.stop_note: tuple[int, str] | None = None
        """The slot that stopped its server, and why."""
        self.condemned = ""
        """Why nothing of this counts any more."""

    def close(self) -> None:
        """Lose what was not committed; `load` opens the storage again, as a restart would."""
        super().close()
        self._marks = self.durable.copy()
        self._ballots = {slot: held.ballot for slot, held in self._accepted.items()}
        self._replaced = set()
        self._ready = None
        self._on_committed()

    def load(self) -> Recovered:
        if self.condemned:
            raise StorageError(self.condemned)
        self._unusable = ""
        recovered = self._recovered()
        recovered.stopped_at = 0 if self.stop_note is None else self.stop_note[0]
        recovered.accepted = [self._accepted[slot] for slot in sorted(self._accepted)]
        return recovered

    def maintain(self, *, tidy: bool = True) -> None:
        """There is nothing to do."""

    def size_bytes(self) -> int:
        rows = sum(len(held.value) for held in self._accepted.values())
        return rows + sum(info.size for info, _ in self._images.values()) + len(self._received)

    def _write(self) -> None:
        self.count += 1
        accepted, sealed = self._accepted, self._sealed
        if sealed is not None:
            for slot in [slot for slot in accepted if slot > sealed]:
                del accepted[slot]
        for slot, (ballot, value, _) in self._rows.items():
            accepted[slot] = Accepted(slot, ballot, value)
        discarded = self._marks.discarded
        if discarded > self.durable.discarded:
            for slot in [slot for slot in accepted if slot <= discarded]:
                del accepted[slot]
                self._ballots.pop(slot, None)

    def _on_committed(self) -> None:
        """Keep the durable snapshot and the one before; somebody may still be fetching that."""
        durable = self.durable.snapshot
        last = 0 if durable is None else durable.slot
        kept = sorted(slot for slot in self._images if slot <= last)[-KEPT_SNAPSHOTS:]
        waiting = {info.slot for info in (self._ready, self._marks.snapshot) if info is not None}
        for slot in [slot for slot in self._images if slot not in kept and slot not in waiting]:
            del self._images[slot]

    # --- snapshots -------------------------------------------------------------------------------

    @property
    def taking_snapshot(self) -> bool:
        return self._ready is not None

    def _take(self, slot: int, produce: Produce, prove: Prove | None) -> None:
        """Without proof: there is no copy of the process that it could ruin."""
        try:
            image = b"".join(produce())
        except MemoryError:
            raise
        except BaseException as error:  # the user's snapshot() may raise anything
            logger.warning(
                "server {} could not take a snapshot at slot {}: {}: {}; it goes on and tries "
                "again later", self.server, slot, type(error).__name__, error,
            )  # fmt: skip
            return
        self._ready = SnapshotInfo(slot, len(image), zlib.crc32(image))
        self._images[slot] = (self._ready, image)

    def _taken(self) -> SnapshotInfo | None:
        ready, self._ready = self._ready, None
        return ready

    def read_snapshot(self, slot: int, offset: int, size: int) -> bytes:
        durable = self.durable.snapshot
        held = self._images.get(slot)
        if held is None or durable is None or slot > durable.slot:
            return b""
        return held[1][offset : offset + size]

    def note_stop(self, slot: int, reason: str) -> None:
        self.stop_note = (slot, reason)

    def forget_stop(self) -> None:
        self.stop_note = None

    def condemn(self, reason: str) -> None:
        self.condemned = reason

    def receive_snapshot(self, info: SnapshotInfo, offset: int, data: bytes) -> int:
        if info != self._incoming:
            self._incoming, self._received = info, bytearray()
        if offset == len(self._received) and offset + len(data) <= info.size:
            self._received += data
        return len(self._received)

    def _finish_received(self, info: SnapshotInfo) -> bytes | None:
        image = bytes(self._received) if info == self._incoming else b""
        self._incoming, self._received = None, bytearray()
        if len(image) != info.size or zlib.crc32(image) != info.checksum:
            return None
        self._images[info.slot] = (info, image)
        return image
