"""The disks that a power cut may leave, rebuilt from recorded calls (docs/checks/power-cuts.md).

The model is the weakest that a POSIX file system may be taken for:

- A file's contents are durable once a sync of that file has ended, as they were when it began.
  After that each sector may be as it was then or as any later call left it, whatever became of the
  other sectors: writes are lost, kept, torn, and reach the disk in any order. So does the size
  that writes give a file. Only setting the size (`ftruncate`) keeps its place among the writes: no
  file system brings back what a file held before it was cut, beside what was written to it after.
- A name (made, renamed, removed) is durable once a sync of its directory has ended. After that each
  of the later changes may be there or not, each for itself. Syncing a file does not make its name
  durable. A rename is atomic: it has happened or not.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.powercuts.recorder import Call, Kind, RecorderError

__all__ = ["Disk", "FATES", "Fate"]

Edit = tuple[int, bytes | None]
"""What a call did to a file: bytes at an offset; with None, the size becomes that offset."""

FATES = ("lost", "kept", "first", "torn", "sectors", "pages", "mixed")
"""What becomes of what was not synced:

lost, kept: all of it; first: in each file and directory some of the first calls; torn: the same,
and of the next call some sectors; sectors, pages: each of 512 or 4,096 bytes for itself, and each
name; mixed: another of these for each file and directory."""

Fate = str

SECTOR, PAGE = 512, 4096


@dataclass(slots=True)
class File:
    """A file: what is durable of it, and what was done since."""

    durable: bytearray = field(default_factory=bytearray)
    edits: list[Edit] = field(default_factory=list)
    size: int = 0
    before: int = 0
    """How many edits are durable already."""

    def write(self, offset: int, data: bytes) -> None:
        self.edits.append((offset, data))
        self.size = max(self.size, offset + len(data))

    def truncate(self, size: int) -> None:
        self.edits.append((size, None))
        self.size = size

    def sync(self, through: int) -> None:
        """So many of all edits are durable now."""
        fresh = max(0, through - self.before)
        for edit in self.edits[:fresh]:
            _apply(self.durable, edit)
        del self.edits[:fresh]
        self.before += fresh

    def after_cut(self, fate: Fate, random: Random) -> bytes:
        """What may be in the file after a cut."""
        content = bytearray(self.durable)
        edits = self.edits
        if fate in ("lost", "kept") or not edits:
            kept = len(edits) if fate == "kept" else 0
        elif fate in ("first", "torn"):
            kept = random.randint(0, len(edits))
        else:
            return self._in_pieces(content, SECTOR if fate == "sectors" else PAGE, random)
        for edit in edits[:kept]:
            _apply(content, edit)
        if fate == "torn" and kept < len(edits):
            offset, data = edits[kept]
            for start, piece in _pieces(offset, data or b"", SECTOR):
                if random.random() < 0.5:
                    _apply(content, (start, piece))
        return bytes(content)

    def _in_pieces(self, content: bytearray, size: int, random: Random) -> bytes:
        """Each piece as it was at a time of its own since the last sync, and so is the size."""
        edits = self.edits[: self._barrier(random)]
        last = len(edits)
        times: dict[int, int] = {}
        share = random.choice((0.2, 0.5, 0.8))
        length = len(content)
        length_at = random.randint(0, last)
        for number, (offset, data) in enumerate(edits, 1):
            if data is None:
                length = offset
                _apply(content, (offset, None))
                continue
            if number <= length_at:
                length = max(length, offset + len(data))
            for start, piece in _pieces(offset, data, size):
                place = start // size
                if number <= times.setdefault(place, self._time(last, share, random)):
                    _apply(content, (start, piece))
        if len(content) < length:
            content.extend(bytes(length - len(content)))
        return bytes(content[:length])

    def _barrier(self, random: Random) -> int:
        """Before which change of size the disk stood still; all edits, if before none."""
        sizes = [number for number, (_, data) in enumerate(self.edits) if data is None]
        return random.choice([*sizes, len(self.edits)])

    def _time(self, last: int, share: float, random: Random) -> int:
        """After how many edits a piece was written last: often all or none of them."""
        if random.random() < 0.3:
            return random.randint(0, last)
        return last if random.random() < share else 0


def _apply(content: bytearray, edit: Edit) -> None:
    offset, data = edit
    if data is None:
        if offset < len(content):
            del content[offset:]
        else:
            content.extend(bytes(offset - len(content)))
        return
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _pieces(offset: int, data: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    start = offset
    end = offset + len(data)
    while start < end:
        stop = min(end, (start // size + 1) * size)
        yield start, data[start - offset : stop - offset]
        start = stop


Names = dict[str, "File | Directory"]
Change = Callable[[Names], None]


@dataclass(slots=True)
class Directory:
    """A directory: its durable names, those of now, and the changes in between."""

    durable: Names = field(default_factory=dict)
    now: Names = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    before: int = 0
    """How many changes are durable already."""

    def change(self, change: Change) -> None:
        change(self.now)
        self.changes.append(change)

    def sync(self, through: int) -> None:
        """So many of all changes are durable now."""
        fresh = max(0, through - self.before)
        for change in self.changes[:fresh]:
            change(self.durable)
        del self.changes[:fresh]
        self.before += fresh

    def after_cut(self, fate: Fate, random: Random) -> Names:
        names = dict(self.durable)
        changes = self.changes
        if fate in ("sectors", "pages"):
            chosen = [change for change in changes if random.random() < 0.5]
        elif fate in ("first", "torn"):
            chosen = changes[: random.randint(0, len(changes))]
        else:
            chosen = changes if fate == "kept" else []
        for change in chosen:
            change(names)
        return names


class Disk:
    """A disk while calls are made on it, from an empty directory on."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._top = Directory()
        self._files: dict[int, File] = {}
        """By inode; one that is used again is another file's from its creation on."""
        self._syncs: dict[tuple[int, str], int] = {}
        """How much each sync under way covers, by thread and name."""

    @classmethod
    def of(cls, root: Path) -> Disk:
        """A disk on which all that is below `root` now is durable."""
        disk = cls(root)
        disk._load(root, disk._top)
        return disk

    def _load(self, path: Path, directory: Directory) -> None:
        for entry in path.iterdir():
            if entry.is_dir():
                inside = Directory()
                self._load(entry, inside)
                directory.durable[entry.name] = inside
            else:
                content = bytearray(entry.read_bytes())
                file = self._files[entry.stat().st_ino] = File(content, size=len(content))
                directory.durable[entry.name] = file
        directory.now.update(directory.durable)

    def do(self, call: Call) -> None:
        """One more call was made."""
        match call.kind:
            case Kind.CREATE:
                made = self._files[call.inode] = File()
                self._name(call.path, made)
            case Kind.MKDIR:
                self._name(call.path, Directory())
            case Kind.WRITE:
                self._file(call).write(call.offset, call.data)
            case Kind.TRUNCATE:
                self._file(call).truncate(call.size)
            case Kind.ALLOCATE:
                file = self._file(call)
                if call.offset + call.size > file.size:
                    file.truncate(call.offset + call.size)
            case Kind.SYNC_BEGIN:
                self._syncs[call.thread, call.path] = self._to_sync(call)
            case Kind.SYNC_END:
                self._end_sync(call, self._syncs.pop((call.thread, call.path)))
            case Kind.RENAME:
                self._rename(call.path, call.other)
            case Kind.UNLINK:
                directory, name = self._place(call.path)
                directory.change(lambda names: _remove(names, name))
            case Kind.MARK | Kind.UNKNOWN:
                pass

    def _to_sync(self, call: Call) -> int:
        synced = self._file(call) if call.inode else self._directory(call.path)
        return synced.before + (
            len(synced.edits) if isinstance(synced, File) else len(synced.changes)
        )

    def _end_sync(self, call: Call, through: int) -> None:
        if call.inode:
            self._file(call).sync(through)
        else:
            self._directory(call.path).sync(through)

    def _file(self, call: Call) -> File:
        if call.inode not in self._files:
            raise RecorderError(f"{call.kind.name} of {call.path}, which nobody made")
        return self._files[call.inode]

    def _directory(self, path: str) -> Directory:
        directory = self._top
        for part in Path(path).relative_to(self._root).parts:
            found = directory.now.get(part)
            if not isinstance(found, Directory):
                raise RecorderError(f"{path}: no such directory was made")
            directory = found
        return directory

    def _place(self, path: str) -> tuple[Directory, str]:
        return self._directory(str(Path(path).parent)), Path(path).name

    def _name(self, path: str, held: File | Directory) -> None:
        directory, name = self._place(path)
        directory.change(lambda names: names.__setitem__(name, held))

    def _rename(self, old: str, new: str) -> None:
        directory, before = self._place(old)
        target, after = self._place(new)
        if target is not directory:
            raise RecorderError(f"{old} goes to another directory: teach tests/powercuts/disks.py")
        held = directory.now[before]

        def change(names: Names) -> None:
            names.pop(before, None)
            names[after] = held

        directory.change(change)

    # --- after the cut ---------------------------------------------------------------------------

    def write(self, target: Path, fate: Fate, random: Random) -> None:
        """Write one of the disks that a cut now may leave into the new directory `target`."""
        self._write(self._top, target, fate, random)

    def _write(self, directory: Directory, target: Path, fate: Fate, random: Random) -> None:
        def drawn() -> Fate:
            return random.choice(FATES[:-1]) if fate == "mixed" else fate

        target.mkdir()
        for name, held in directory.after_cut(drawn(), random).items():
            if isinstance(held, Directory):
                self._write(held, target / name, fate, random)
            elif not name.endswith("-shm"):
                # (SQLite makes that one anew; a cut leaves anything in it.)
                (target / name).write_bytes(held.after_cut(drawn(), random))

    @property
    def unsynced(self) -> int:
        """How many edits and changes a cut now may undo."""
        return len(self._top.changes) + sum(len(file.edits) for file in self._files.values())


def _remove(names: Names, name: str) -> None:
    names.pop(name, None)


def draw_cuts(calls: Iterable[Call], number: int, random: Random) -> list[int]:
    """Positions in the log to cut at, in order: evenly over all calls, each with some chance.

    Half of them fall right behind a mark, where a promise has just been given.
    """
    recorded = list(calls)
    marks = [at + 1 for at, call in enumerate(recorded) if call.kind is Kind.MARK]
    chosen: list[int] = []
    for _ in range(number):
        after_mark = marks and random.random() < 0.5
        at = random.choice(marks) if after_mark else random.randint(0, len(recorded))
        bisect.insort(chosen, at)
    return chosen
