"""Storage that keeps everything in memory: for benches, tests and `durability="memory"`.

What was committed and what only waits for `commit` are kept apart, so that a test can crash it and
find exactly what a synced disk would hold.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable

from paxon.actors.ballot import NO_BALLOT, Ballot, ServerId
from paxon.actors.invariants import invariant
from paxon.actors.messages import Accepted
from paxon.actors.storage import Recovered, SnapshotInfo

__all__ = ["MemoryStorage"]

_KEPT_SNAPSHOTS = 2


class MemoryStorage:
    """The `Storage` contract with nothing on disk."""

    def __init__(
        self, cluster: str = "", server: ServerId = 0, incarnation: int | None = None
    ) -> None:
        self.cluster = cluster
        self.server = server
        self._incarnation = random.getrandbits(63) if incarnation is None else incarnation
        self._durable = Recovered()
        self._rows: dict[int, tuple[Ballot, bytes]] = {}
        self._images: dict[int, tuple[SnapshotInfo, bytes]] = {}
        self._pending: list[Callable[[], None]] = []
        self._dirty = False
        self._taken: tuple[SnapshotInfo, bytes] | None = None
        self._incoming: tuple[SnapshotInfo, bytearray] | None = None
        self._promised = NO_BALLOT
        self.commits = 0

    @property
    def incarnation(self) -> int:
        return self._incarnation

    @property
    def dirty(self) -> bool:
        return self._dirty

    @property
    def snapshot(self) -> SnapshotInfo | None:
        return self._durable.snapshot

    def load(self) -> Recovered:
        found = self._durable
        return Recovered(
            promised=found.promised,
            accepted=[Accepted(s, b, v) for s, (b, v) in sorted(self._rows.items())],
            chosen_to=found.chosen_to,
            discarded=found.discarded,
            snapshot=found.snapshot,
            peers=dict(found.peers),
            voting=found.voting,
        )

    def save_promise(self, ballot: Ballot) -> None:
        invariant(ballot >= self._promised, "the stored promise would fall to %s", ballot)
        self._promised = ballot
        self._later(lambda: setattr(self._durable, "promised", ballot))

    def save_accepted(self, slot: int, ballot: Ballot, value: bytes) -> None:
        self._later(lambda: self._put_row(slot, ballot, value))

    def _put_row(self, slot: int, ballot: Ballot, value: bytes) -> None:
        held = self._rows.get(slot)
        invariant(held is None or held[0] <= ballot, "the ballot of row %d would fall", slot)
        if slot > self._durable.discarded:
            self._rows[slot] = (ballot, value)

    def save_chosen_to(self, slot: int, *, lazily: bool = True) -> None:
        self._later(lambda: setattr(self._durable, "chosen_to", slot), lazily=lazily)

    def save_peer(self, server: ServerId, incarnation: int) -> None:
        self._later(lambda: self._durable.peers.__setitem__(server, incarnation))

    def save_voting(self, voting: bool) -> None:
        self._later(lambda: setattr(self._durable, "voting", voting))

    def discard_to(self, slot: int) -> None:
        self._later(lambda: self._drop_rows(slot), lazily=True)

    def _drop_rows(self, slot: int) -> None:
        for gone in [s for s in self._rows if s <= slot]:
            del self._rows[gone]
        self._durable.discarded = max(self._durable.discarded, slot)

    def _later(self, write: Callable[[], None], *, lazily: bool = False) -> None:
        self._pending.append(write)
        self._dirty = self._dirty or not lazily

    def commit(self) -> None:
        for write in self._pending:
            write()
        self._pending = []
        self._dirty = False
        self.commits += 1

    def crash(self, *, keep_pending: bool) -> MemoryStorage:
        """What a restart finds: all that was committed, with `keep_pending` the rest too."""
        if keep_pending:
            self.commit()
        found = MemoryStorage(self.cluster, self.server, self._incarnation)
        found._durable = self.load()
        found._durable.accepted = []
        found._rows = dict(self._rows)
        found._images = dict(self._images)
        found._promised = self._durable.promised
        return found

    def begin_snapshot(self, slot: int, produce: Callable[[], Iterable[bytes]]) -> None:
        image = b"".join(produce())
        self._taken = (SnapshotInfo(slot, len(image), zlib.crc32(image)), image)

    def poll_snapshot(self) -> SnapshotInfo | None:
        if self._taken is None:
            return None
        info, image = self._taken
        self._taken = None
        self._keep(info, image)
        return info

    def _keep(self, info: SnapshotInfo, image: bytes) -> None:
        self._images[info.slot] = (info, image)
        for slot in sorted(self._images)[:-_KEPT_SNAPSHOTS]:
            del self._images[slot]
        self._durable.snapshot = info

    def read_snapshot(self, slot: int, offset: int, size: int) -> bytes:
        held = self._images.get(slot)
        return b"" if held is None else held[1][offset : offset + size]

    def receive_snapshot(self, info: SnapshotInfo, offset: int, data: bytes) -> int:
        if self._incoming is None or self._incoming[0] != info:
            self._incoming = (info, bytearray())
        held = self._incoming[1]
        if offset == len(held):
            held += data
        return len(held)

    def adopt_snapshot(self, info: SnapshotInfo) -> bool:
        incoming, self._incoming = self._incoming, None
        if incoming is None or incoming[0] != info or zlib.crc32(incoming[1]) != info.checksum:
            return False
        image = bytes(incoming[1])

        def adopt() -> None:
            self._keep(info, image)
            self._drop_rows(info.slot)
            self._durable.chosen_to = max(self._durable.chosen_to, info.slot)

        self._later(adopt)
        return True

    def size_bytes(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing to release; uncommitted writes are lost."""
        self._pending = []
        self._dirty = False
