"""Both engines behind one handle, so that each test of the contract runs on both."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path
from typing import Any, Protocol

from msgspec.structs import replace

from paxon.actors import Ballot
from paxon.actors.disk.sqlite_storage import SqliteStorage
from paxon.actors.disk.storage import Recovered, SnapshotInfo, Storage
from paxon.actors.messages import Made
from tests.disks import MemoryDisk
from tests.waiting import wait_until

CLUSTER = "test"
SERVER = 1
MADE = Made(1 << 62, CLUSTER, ((1, 5), (2, (1 << 63) - 1), (3, 7)), b"agreed")
"""A cluster that a directory belongs to."""
FIRST = Ballot(1, 1)
SECOND = Ballot(2, 3)


class Engine(Protocol):
    """One server's storage that can be closed or crashed and opened again."""

    @property
    def storage(self) -> Storage: ...

    def restart(self) -> Storage:
        """Close in order, open again."""

    def crash(self) -> Storage:
        """Die between two steps: exactly what was not committed is lost."""


class MemoryEngine:
    def __init__(self) -> None:
        self.storage = MemoryDisk(CLUSTER, SERVER)

    def restart(self) -> MemoryDisk:
        self.storage.close()
        return self.crash()

    def crash(self) -> MemoryDisk:
        self.storage = self.storage.crash(keep_pending=False)
        return self.storage


class SqliteEngine:
    def __init__(self, directory: Path, **options: Any) -> None:
        self._root = directory
        self._options = {"fork": False, **options}
        self._generation = 0
        self.storage = self._open()

    @property
    def directory(self) -> Path:
        return self._root / f"disk-{self._generation}"

    def _open(self) -> SqliteStorage:
        return open_sqlite(self.directory, **self._options)

    def restart(self) -> SqliteStorage:
        self.storage.close()
        self.storage = self._open()
        return self.storage

    def crash(self) -> SqliteStorage:
        """Go on with a copy of the files as they are while the storage is open."""
        image = self.directory
        self._generation += 1
        copy_disk(image, self.directory)
        self.storage.close()
        self.storage = self._open()
        return self.storage


def open_sqlite(directory: Path, **options: Any) -> SqliteStorage:
    return SqliteStorage(directory, CLUSTER, SERVER, **options)


def copy_disk(source: Path, target: Path) -> None:
    """What a killed process leaves; SQLite's shared memory file is no part of the disk."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*-shm"))


def accept(storage: Storage, *slots: int, ballot: Ballot = FIRST) -> None:
    """Promise `ballot` and accept a value that names its slot and ballot in each slot."""
    storage.save_promise(ballot)
    for slot in slots:
        storage.save_accepted(slot, ballot, value(slot, ballot))


def value(slot: int, ballot: Ballot = FIRST) -> bytes:
    return f"{slot} in {ballot} ".encode() * (slot % 7 + 1)


def accepted_slots(storage: Storage) -> list[int]:
    return [accepted.slot for accepted in storage.load().accepted]


def take_snapshot(storage: Storage, slot: int, image: bytes = b"image") -> SnapshotInfo:
    """Take a snapshot and wait for it; not committed."""
    storage.begin_snapshot(slot, lambda: [image[:2], image[2:]])
    info = wait_for_snapshot(storage)
    assert info is not None
    return info


def wait_for_snapshot(storage: Storage) -> SnapshotInfo | None:
    """Poll until the snapshot under way is done or has failed."""
    found: list[SnapshotInfo] = []

    def done() -> bool:
        info = storage.poll_snapshot()
        if info is not None:
            found.append(info)
        return not storage.taking_snapshot

    wait_until(done)
    return found[0] if found else None


def info_of(slot: int, image: bytes) -> SnapshotInfo:
    return SnapshotInfo(slot, len(image), zlib.crc32(image))


def without_rows(recovered: Recovered) -> Recovered:
    return replace(recovered, accepted=[])
