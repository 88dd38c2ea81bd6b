"""Cuts the power of a recorded storage at many moments, and restarts it on what that leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from paxon.actors import Ballot, StorageError
from paxon.actors.disk.sqlite_storage import SqliteStorage
from tests.powercuts.child import describe, image
from tests.powercuts.disks import FATES, Disk, Fate, draw_cuts
from tests.powercuts.recorder import Call, Kind, Recorder
from tests.storage.engines import open_sqlite

__all__ = ["Hunt", "hunt", "room"]

ROOT = Path(__file__).parents[2]


CUT_TWICE = 8
"""On so many disks of each seed the power is cut once more, while a storage starts on them."""


@dataclass(slots=True)
class Hunt:
    """What came of the cuts."""

    calls: int = 0
    disks: int = 0
    """Rebuilt and restarted on."""
    broken: str = ""
    """The first promise that a disk did not keep: what, and which disk."""
    fates: dict[str, int] = field(default_factory=dict)


@contextmanager
def room() -> Iterator[Path]:
    """A directory for disks, in memory where there is such a place: theirs are not our syncs."""
    shared = Path("/dev/shm")
    place = shared if os.access(shared, os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="paxon-power-cuts-", dir=place))
    try:
        yield path.resolve()
    finally:
        shutil.rmtree(path, ignore_errors=True)


def record(recorder: Recorder, *arguments: str) -> list[Call]:
    """Run a recorded process of child.py to its end; its calls."""
    command = [sys.executable, "-m", "tests.powercuts.child", *arguments]
    environment = os.environ | recorder.environment
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    recorder.close()
    assert done.returncode == 0, done.stderr
    return list(recorder.calls())


def hunt(seed: int, disks: int, bug: str = "") -> Hunt:
    """Record, cut, restart on so many disks; stops at the first that breaks a promise."""
    with room() as place:
        return _Hunter(seed, bug, place).run(disks)


class _Hunter:
    def __init__(self, seed: int, bug: str, place: Path) -> None:
        self.seed = seed
        self.bug = bug
        self.place = place
        self.random = Random(f"cuts {seed}")
        self.found = Hunt()
        self.kept: list[_Promised] = []
        """What was promised on each of the disks on which the power is cut again."""

    def run(self, disks: int) -> Hunt:
        recorder = Recorder(self.place / "recorded", self.place)
        calls = record(recorder, str(self.seed), self.bug, str(recorder.root / "made" / "data"))
        self.found.calls = len(calls)
        promised = _Promised()
        again = set(self.random.sample(range(disks), min(CUT_TWICE, disks)))
        disk, done = Disk(recorder.root), 0
        for number, cut in enumerate(draw_cuts(calls, disks, self.random)):
            for call in calls[done:cut]:
                disk.do(call)
                promised.note(call)
            done = cut
            left = self.place / "left"
            fate = self._write(disk, left)
            directory = left / "made" / "data"
            if number in again and promised.number:
                shutil.copytree(directory, self.place / "again" / str(len(self.kept)))
                self.kept.append(promised.copy())
            self._look(
                left / "made" / "data", promised, f"cut after call {cut} of {len(calls)}", fate
            )
            if self.found.broken:
                return self.found
            shutil.rmtree(left)
        if self.kept:
            self._cut_again()
        return self.found

    def _write(self, disk: Disk, left: Path) -> Fate:
        fate = self.random.choice(FATES)
        disk.write(left, fate, self.random)
        self.found.fates[fate] = self.found.fates.get(fate, 0) + 1
        return fate

    def _look(self, directory: Path, promised: _Promised, where: str, fate: Fate) -> None:
        self.found.disks += 1
        problem = restart(directory, promised, self.random)
        if problem:
            self.found.broken = (
                f"{problem} (seed {self.seed}, {where}, what was not synced: {fate}; commit "
                f"{promised.number} has returned)"
            )

    def _cut_again(self) -> None:
        """The power comes back, and goes again while the storage starts."""
        work = self.place / "second"
        work.mkdir()
        root = self.place / "again"
        first = Disk.of(root)
        names = [str(root / str(number)) for number in range(len(self.kept))]
        recorder = Recorder(root, work)
        calls = record(recorder, "restart", self.bug, *names)
        self.found.calls += len(calls)
        done = 0
        for cut in draw_cuts(calls, CUT_TWICE, self.random):
            for call in calls[done:cut]:
                first.do(call)
            done = cut
            left = self.place / "left again"
            fate = self._write(first, left)
            for number, promised in enumerate(self.kept):
                where = f"cut again after call {cut} of {len(calls)} of the restarts"
                self._look(left / str(number), promised, where, fate)
                if self.found.broken:
                    return
            shutil.rmtree(left)


class _Promised:
    """What the recorded process may rely on at a moment, from its marks."""

    def __init__(self) -> None:
        self.number = 0
        """Of the last commit that has returned; 0 before the first."""
        self.states: dict[int, str] = {}
        """What each commit begun has to make of the disk, from the last that returned on."""

    def copy(self) -> _Promised:
        copied = _Promised()
        copied.number, copied.states = self.number, dict(self.states)
        return copied

    def note(self, call: Call) -> None:
        if call.kind is not Kind.MARK:
            return
        mark = json.loads(call.data)
        if mark["what"] == "begins":
            self.states[mark["number"]] = mark["state"]
            return
        self.number = mark["number"]
        self.states = {n: s for n, s in self.states.items() if n >= self.number}


def restart(directory: Path, promised: _Promised, random: Random) -> str:
    """Start on what is left; the promise that is not kept, or an empty text."""
    if promised.number and not directory.exists():
        return "the data directory is gone"
    try:
        storage = open_sqlite(directory)
        found = storage.load()
    except StorageError as error:
        return f"refused: {error}"
    try:
        rows = [(held.slot, held.ballot, held.value) for held in found.accepted]
        state = describe(storage.durable, rows)
        if promised.number and state not in promised.states.values():
            expected = " or ".join(promised.states.values())
            return f"the disk says {state}, it must say {expected}"
        if found.snapshot is not None:
            info = found.snapshot
            if storage.read_snapshot(info.slot, 0, info.size) != b"".join(image(info.slot)):
                return f"the snapshot at {info.slot} is another one"
        covered = 0 if found.snapshot is None else found.snapshot.slot
        if found.discarded > covered:
            return f"discarded up to {found.discarded}, the snapshot covers {covered}"
        if random.random() < 0.3:
            return _go_on(directory, storage, Ballot(found.promised.round + 1, 1))
        return ""
    finally:
        storage.close()


def _go_on(directory: Path, storage: SqliteStorage, ballot: Ballot) -> str:
    """What is left has to be good for the next commit, too."""
    storage.save_promise(ballot)
    slot = max(
        [storage._marks.discarded, *(held.slot for held in storage.load().accepted)]
    ) + 1  # fmt: skip
    storage.save_accepted(slot, ballot, b"after the cut")
    storage.commit()
    storage.close()
    again = open_sqlite(directory)
    try:
        found = again.load()
        kept = any(held.value == b"after the cut" for held in found.accepted)
        return "" if found.promised == ballot and kept else "what came after the cut is lost"
    except StorageError as error:
        return f"refused after another commit: {error}"
    finally:
        again.close()
