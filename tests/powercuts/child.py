"""Recorded processes with a real storage: `python -m tests.powercuts.child SEED BUG DIRECTORY …`.

With the seed "restart" it only starts on each directory. Else what it does is drawn from the seed:
promises, accepted values, discards, checkpoints, snapshots taken and received, restarts. Before
each commit it marks what the commit will have made of the disk, and after it that the commit has
returned; so whoever reads the log knows at each point what must be there.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from random import Random
from types import ModuleType

from loguru import logger

from paxon.actors import Ballot
from paxon.actors.disk import room as room_module
from paxon.actors.disk import snapshot_files as snapshot_files_module
from paxon.actors.disk import sqlite_storage as sqlite_storage_module
from paxon.actors.disk.sqlite_storage import SqliteStorage
from paxon.actors.disk.storage import Marks, SnapshotInfo
from tests.powercuts.planted import by_name
from tests.powercuts.recorder import mark, open_log
from tests.storage.engines import MADE, open_sqlite, wait_for_snapshot

__all__ = ["describe", "image", "main"]

STEPS = 70

SMALLER: dict[ModuleType, dict[str, int | float]] = {
    sqlite_storage_module: {
        "FORCED_CHECKPOINT_PAGES": 150, "LOG_LIMIT_BYTES": 64 << 10,
        "SPARE_PAGES": 4, "VACUUM_PAGES": 8, "DISCARD_ROWS": 6, "DISCARD_BYTES": 16 << 10,
    },
    room_module: {"FEWEST_PAGES": 60, "MOST_PAGES": 60},
    snapshot_files_module: {
        "PIECE_BYTES": 3000, "SYNC_BYTES": 6000, "RECEIVED_SYNC_BYTES": 6000,
        "LONGEST_REST": 0.0,
    },
}  # fmt: skip
"""What happens once in thousands of commits happens once in some here."""


def image(slot: int) -> list[bytes]:
    """The state after a slot: the same in every process, of another size for each."""
    return [b"state %d, piece %d " % (slot, piece) * 30 for piece in range(slot % 23 + 1)]


def image_info(slot: int) -> SnapshotInfo:
    whole = b"".join(image(slot))
    return SnapshotInfo(slot, len(whole), zlib.crc32(whole))


def value(slot: int, ballot: Ballot) -> bytes:
    return b"%d in %d " % (slot, ballot.round) * (1 + slot * 7919 % 400)


Rows = Iterable[tuple[int, Ballot, bytes]]


def describe(marks: Marks, rows: Rows) -> str:
    """All that a disk says of a server, to be compared."""
    fields = {
        name: dict(sorted(held.items())) if isinstance(held, dict) else held
        for name in Marks.__struct_fields__
        for held in (getattr(marks, name),)
    }
    kept = sorted((slot, str(ballot), value) for slot, ballot, value in rows)
    return f"{fields} {len(kept)} rows {zlib.crc32(repr(kept).encode()):08x}"


class Process:
    """Uses one storage after the other on the same directory, and marks what it is about to do."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.random = Random(f"power cut {seed}")
        self.directory = directory
        self.log = open_log()
        self.rows: dict[int, tuple[Ballot, bytes]] = {}
        self.number = 0
        self.storage = self._open()

    def _open(self) -> SqliteStorage:
        return open_sqlite(self.directory, fork=self.random.random() < 0.5)

    def state(self) -> str:
        marks = self.storage._marks
        rows = [(s, b, v) for s, (b, v) in self.rows.items() if s > marks.discarded]
        return describe(marks, rows)

    def mark(self, what: str, **more: object) -> None:
        mark(self.log, json.dumps({"what": what, **more}))

    def commit(self) -> None:
        self.number += 1
        self.mark("begins", number=self.number, state=self.state())
        self.storage.commit()
        self.mark("committed", number=self.number)

    # --- what it may do --------------------------------------------------------------------------

    def promise(self) -> None:
        now = self.storage._marks.promised
        self.storage.save_promise(Ballot(now.round + 1, self.random.randint(1, 3)))

    def accept(self) -> None:
        marks = self.storage._marks
        if not marks.promised.round:
            self.promise()
        first = max([marks.discarded, *self.rows]) + 1
        if self.random.random() < 0.3:  # again, in the ballot of now
            first = max(marks.discarded + 1, first - self.random.randint(1, 4))
        for slot in range(first, first + self.random.choice((1, 1, 3, 10))):
            ballot = marks.promised
            self.rows[slot] = (ballot, value(slot, ballot))
            self.storage.save_accepted(slot, *self.rows[slot])

    def choose(self) -> None:
        last = max(self.rows, default=0)
        now = self.storage._marks.chosen_to
        if last > now:
            self.storage.save_chosen_to(self.random.randint(now, last))

    def know(self) -> None:
        known = self.storage._marks.made is not None
        self.storage.save_made(MADE, in_force=known)

    def snapshot(self) -> None:
        slot = self.storage._marks.chosen_to
        newest = self.storage.durable.snapshot
        if slot == 0 or self.storage.taking_snapshot or (newest and newest.slot >= slot):
            return
        self.storage.begin_snapshot(slot, partial(image, slot))
        if self.random.random() < 0.5:  # goes on while it is being written
            self.accept()
            self.commit()
        wait_for_snapshot(self.storage)
        self.commit()
        if self.random.random() < 0.8:
            self.storage.discard_to(max(0, slot - self.random.choice((0, 0, 5))))

    def receive(self) -> None:
        """Another server's snapshot comes in pieces, sometimes with a restart in between."""
        marks = self.storage._marks
        slot = max([marks.discarded, marks.chosen_to, *self.rows]) + self.random.randint(1, 30)
        info, whole = image_info(slot), b"".join(image(slot))
        held = self.storage.receive_snapshot(info, 0, b"")
        while held < info.size:
            size = self.random.choice((400, 2000, 5000))
            held = self.storage.receive_snapshot(info, held, whole[held : held + size])
            if self.random.random() < 0.05:
                self.restart()
                held = self.storage.receive_snapshot(info, 0, b"")
        assert self.storage.adopt_snapshot(info)
        self.commit()
        self.rows = {s: row for s, row in self.rows.items() if s > slot}

    def restart(self) -> None:
        """Close and open again: what was not committed is gone."""
        self.storage.close()
        self.storage = self._open()
        found = self.storage.load()
        self.rows = {held.slot: (held.ballot, held.value) for held in found.accepted}
        self.number += 1
        self.mark("begins", number=self.number, state=self.state())

    def step(self) -> None:
        things = (
            [self.accept] * 8 + [self.promise] * 2 + [self.choose] * 4 + [self.know]
            + [self.snapshot] * 2 + [self.receive, self.restart]
        )  # fmt: skip
        for _ in range(self.random.randint(1, 3)):
            self.random.choice(things)()
        self.commit()
        for _ in range(self.random.choice((0, 1, 1, 4))):
            self.storage.maintain()


def main() -> None:
    seed, bug, *directories = sys.argv[1:]
    logger.remove()
    for module, constants in SMALLER.items():
        for name, number in constants.items():
            setattr(module, name, number)
    if bug:
        by_name(bug).plant()
    if seed == "restart":
        for directory in directories:
            storage = open_sqlite(Path(directory))
            storage.load()
            storage.close()
        return
    process = Process(int(seed), Path(directories[0]))
    for _ in range(STEPS):
        process.step()
    process.storage.close()


if __name__ == "__main__":
    main()
