"""The model of a disk keeps what was synced, and nothing else for sure."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.powercuts.disks import FATES, Disk
from tests.powercuts.recorder import Call, Kind, RecorderError

ROOT = Path("/data")


def call(kind: Kind, path: str, *, inode: int = 0, offset: int = 0, size: int = 0,
         data: bytes = b"", other: str = "", thread: int = 1) -> Call:  # fmt: skip
    return Call(kind, thread, inode, offset, size, str(ROOT / path), str(ROOT / other), data)


def write(offset: int, data: bytes, inode: int = 7) -> Call:
    return call(Kind.WRITE, "f", inode=inode, offset=offset, data=data)


MADE = call(Kind.CREATE, "f", inode=7)
SYNCED = [call(Kind.SYNC_BEGIN, "f", inode=7), call(Kind.SYNC_END, "f", inode=7)]
NAMED = [call(Kind.SYNC_BEGIN, ""), call(Kind.SYNC_END, "")]


def seen(calls: list[Call], tmp_path: Path, fates: tuple[str, ...] = FATES) -> set[bytes | None]:
    """All that is found in the file f after many cuts; None where there is no such file."""
    disk = Disk(ROOT)
    for each in calls:
        disk.do(each)
    found: set[bytes | None] = set()
    for number, fate in enumerate(fates * 30):
        target = tmp_path / str(number)
        disk.write(target, fate, Random(number))
        file = target / "f"
        found.add(file.read_bytes() if file.exists() else None)
    return found


def test_what_is_synced_is_there_in_every_case(tmp_path: Path) -> None:
    assert seen([MADE, write(0, b"old"), *SYNCED, *NAMED], tmp_path) == {b"old"}


def test_a_file_that_is_synced_has_no_name_for_that(tmp_path: Path) -> None:
    assert seen([MADE, write(0, b"old"), *SYNCED], tmp_path) == {b"old", None}


def test_a_name_that_is_synced_has_no_contents_for_that(tmp_path: Path) -> None:
    assert seen([MADE, write(0, b"old"), *NAMED], tmp_path) == {b"", b"old", b"\0\0\0"}


def test_a_sync_covers_what_was_before_its_beginning(tmp_path: Path) -> None:
    begun, ended = SYNCED
    calls = [MADE, *NAMED, write(0, b"old"), begun, write(0, b"new"), ended]
    assert seen(calls, tmp_path) == {b"old", b"new"}


def test_a_sync_that_has_not_ended_covers_nothing(tmp_path: Path) -> None:
    assert b"" in seen([MADE, *NAMED, write(0, b"old"), SYNCED[0]], tmp_path)


def test_two_syncs_at_a_time_cover_no_more_than_each_its_own(tmp_path: Path) -> None:
    other = [call(Kind.SYNC_BEGIN, "", thread=2), call(Kind.SYNC_END, "", thread=2)]
    calls = [NAMED[0], MADE, other[0], other[1], NAMED[1], call(Kind.UNLINK, "f")]
    assert seen(calls, tmp_path) == {b"", None}


def test_sectors_are_lost_each_for_itself(tmp_path: Path) -> None:
    old, new = b"a" * 1536, b"b" * 1536
    calls = [MADE, write(0, old), *SYNCED, *NAMED, write(0, new)]
    found = seen(calls, tmp_path, ("sectors",))
    mixed = b"b" * 512 + b"a" * 512 + b"b" * 512
    assert {old, new, mixed} <= found
    assert all(content and len(set(content[start : start + 512])) == 1
               for content in found for start in (0, 512, 1024))  # fmt: skip


def test_pages_are_not_torn(tmp_path: Path) -> None:
    calls = [MADE, write(0, b"a" * 4096), *SYNCED, *NAMED, write(0, b"b" * 4096)]
    assert seen(calls, tmp_path, ("pages",)) == {b"a" * 4096, b"b" * 4096}


def test_what_was_cut_off_does_not_come_back_beside_what_was_written_then(tmp_path: Path) -> None:
    shorter = call(Kind.TRUNCATE, "f", inode=7, size=0)
    calls = [MADE, write(0, b"a" * 1024), *SYNCED, *NAMED, shorter, write(0, b"b" * 512)]
    assert seen(calls, tmp_path) == {b"a" * 1024, b"", b"\0" * 512, b"b" * 512}


def test_a_rename_has_happened_or_not(tmp_path: Path) -> None:
    made = call(Kind.CREATE, "g", inode=8)
    renamed = call(Kind.RENAME, "g", other="f")
    calls = [MADE, write(0, b"old"), *SYNCED, made, write(0, b"new", 8), *[
        call(kind, "g", inode=8) for kind in (Kind.SYNC_BEGIN, Kind.SYNC_END)], *NAMED, renamed,
    ]  # fmt: skip
    assert seen(calls, tmp_path) == {b"old", b"new"}


def test_an_inode_that_is_used_again_is_another_file(tmp_path: Path) -> None:
    calls = [MADE, write(0, b"old"), *SYNCED, call(Kind.UNLINK, "f"), MADE, *NAMED]
    assert seen(calls, tmp_path) == {b""}


def test_a_file_that_nobody_made_is_an_error() -> None:
    with pytest.raises(RecorderError, match="nobody made"):
        Disk(ROOT).do(write(0, b"x"))
