"""Real processes that die with -9, and disks that are full."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from loguru import logger

from paxon.actors import StorageError
from paxon.actors.disk.sqlite_storage import DiskFullError
from tests.storage.engines import (
    FIRST,
    accept,
    accepted_slots,
    open_sqlite,
    take_snapshot,
    wait_for_snapshot,
)
from tests.storage.processes import FailingDisk, child, line
from tests.waiting import wait_until

MIB = 1 << 20


@pytest.mark.process
def test_whatever_a_commit_returned_for_survives_kill_9(tmp_path: Path) -> None:
    """The same directory, again and again; kills fall into commits, checkpoints and snapshots."""
    directory = tmp_path / "data"
    randomly = random.Random(9)
    snapshots = 0
    for _ in range(8):
        with child("commit_for_ever", directory) as process:
            said = {}
            for _ in range(randomly.randrange(1, 120)):
                what, number = line(process).split()
                said[what] = int(number)
            process.kill()
            assert process.stdout is not None
            for rest in process.stdout.read().splitlines():
                what, number = rest.split()
                said[what] = int(number)
        storage = open_sqlite(directory)
        found = storage.load()
        storage.close()
        snapshots += found.snapshot is not None
        assert found.promised.round == said["promised"]
        slots = [held.slot for held in found.accepted]
        assert slots == list(range(found.discarded + 1, slots[-1] + 1)) if slots else True
        assert max([found.discarded, *slots]) >= said.get("accepted", 0)
        for held in found.accepted:
            assert held.value == b"%d " % held.slot * (held.slot % 500)
    assert snapshots > 0


@pytest.mark.process
def test_a_killed_server_can_be_started_at_once(tmp_path: Path) -> None:
    """The child that takes its snapshot holds no lock, and does not live on for long."""
    directory = tmp_path / "data"
    with child("hang_in_snapshot", directory) as process:
        taker = int(line(process))
        os.kill(taker, 0)
        process.kill()
        process.wait()
        storage = open_sqlite(directory)
        accept(storage, 1)
        storage.commit()
        wait_until(lambda: not alive(taker))
        assert list(directory.glob("*.tmp")) == []
        storage.close()


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.process
def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    with child("hit_a_size_limit", tmp_path / "data") as process:
        said = process.communicate()[0].splitlines()
    assert said[-1].startswith("failed ")
    assert "paxon.db: a file may not grow further: raise this process's limit" in said[-1]
    storage = open_sqlite(tmp_path / "data")
    assert accepted_slots(storage) == list(range(1, len(said)))
    storage.close()


def _raising(number: int) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


FAILURES = {
    "sync 5 paxon.db-wal": "paxon.db: the disk reports an input/output error: check the disk",
    "write 5 paxon.db-wal": "paxon.db: the disk reports an input/output error: check the disk",
    "write 30 paxon.db-wal": "paxon.db: the file system is read-only: mount it writable",
    "write 122 paxon.db-wal": "paxon.db: the quota on this disk is used up: free some space, or",
    "sync 122 paxon.db-wal": "paxon.db: the quota on this disk is used up: free some space, or",
    "write 30 paxon.witness": "the file system is read-only",
    "sync 5 paxon.witness": "the disk reports an input/output error: check the disk",
    "read 5 paxon.db 4096": "the disk reports an input/output error: check the disk",
}
"""What a disk may answer (5 is EIO, 30 EROFS, 122 EDQUOT), and what the storage says of that."""


@pytest.mark.process
@pytest.mark.parametrize("order", FAILURES)
def test_a_disk_that_fails_loses_nothing_that_was_committed(tmp_path: Path, order: str) -> None:
    """One sentence that says what to do; once the disk is well again all is there.

    Nothing is called damaged that cannot be read: whoever believed that would empty the directory.
    """
    directory = tmp_path / "data"
    disk = FailingDisk(directory)
    with child("commit_for_ever", directory, disk.environment) as process:
        said = [line(process) for _ in range(10)]
        disk.fail(order)
        assert process.stdout is not None
        said += process.stdout.read().splitlines()
        assert process.wait() == 0
    *_, last, failed = said
    assert failed.startswith(f"failed {directory}")
    assert FAILURES[order] in failed
    if order.startswith("read"):
        with child("commit_for_ever", directory, disk.environment) as process:
            assert FAILURES[order] in line(process)
    disk.mend()
    storage = open_sqlite(directory)
    found = storage.load()
    storage.close()
    assert found.accepted[-1].slot >= int(last.split()[1])


@pytest.mark.process
def test_a_database_that_could_not_be_made_whole_is_made_anew(tmp_path: Path) -> None:
    """Its first contents were in the log of another name, and it was called damaged for good."""
    disk = FailingDisk(directory := tmp_path / "data")
    disk.fail("read 5 paxon.db.tmp-wal")
    with child("commit_for_ever", directory, disk.environment) as process:
        assert "check the disk" in line(process)
    disk.mend()
    open_sqlite(directory).close()


@pytest.mark.parametrize(
    ("call", "answer", "code", "said"),
    [
        ("access", lambda *_: False, sqlite3.SQLITE_CANTOPEN, "paxon.db: permission is denied"),
        ("access", lambda *_: False, sqlite3.SQLITE_READONLY, "paxon.db: permission is denied"),
        (
            "pwrite",
            _raising(errno.EDQUOT),
            sqlite3.SQLITE_IOERR_WRITE,
            "have it raised and start",
        ),
        (
            "pwrite",
            _raising(errno.EDQUOT),
            sqlite3.SQLITE_IOERR_FSYNC,
            "the quota on this disk is used up",
        ),
        ("open", _raising(errno.EROFS), sqlite3.SQLITE_IOERR, "the file system is read-only"),
        ("open", _raising(errno.EMFILE), sqlite3.SQLITE_READONLY, "Too many open files"),
        ("open", _raising(errno.EISDIR), sqlite3.SQLITE_IOERR, "check the disk"),
    ],
)
def test_what_the_system_said_to_sqlite(
    tmp_path: Path, call: str, answer: Any, code: int, said: str
) -> None:
    storage = open_sqlite(tmp_path / "data")
    error = sqlite3.OperationalError("something")
    error.sqlite_errorcode = code
    with mock.patch.object(os, call, answer):
        words = storage._in_words(error)
    storage.close()
    assert said in str(words)
    # What a sync has refused is not tried again.
    assert isinstance(words, DiskFullError) == (code == sqlite3.SQLITE_IOERR_WRITE)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount)]
    if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("this user may not mount a small file system")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_loses_nothing_that_was_committed(small_disk: Path) -> None:
    storage = open_sqlite(small_disk / "data")
    storage.save_promise(FIRST)
    last = 0
    with pytest.raises(StorageError, match="the disk is full: free some space") as caught:
        while True:
            storage.save_accepted(last + 1, FIRST, b"x" * 100_000)
            storage.commit()
            last += 1
    assert "\n" not in str(caught.value)
    assert last > 10
    storage.close()
    subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
    storage = open_sqlite(small_disk / "data")
    assert accepted_slots(storage) == list(range(1, last + 1))
    storage.save_accepted(last + 1, FIRST, b"y")
    storage.commit()
    storage.close()


@pytest.mark.parametrize("what", ["taken", "received"])
def test_snapshots_make_way_for_a_commit(small_disk: Path, what: str) -> None:
    from tests.storage.engines import info_of

    storage = open_sqlite(small_disk / "data")
    accept(storage, 1)
    storage.commit()
    image = b"x" * (3 * MIB)

    if what == "taken":
        storage.begin_snapshot(1, lambda: [image], lambda _: time.sleep(60))
        wait_until(lambda: any(p.stat().st_size for p in (small_disk / "data").glob("*.tmp")))
    else:
        assert storage.receive_snapshot(info_of(9, image * 2), 0, image) == len(image)
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    for slot in range(2, 100):
        storage.save_accepted(slot, FIRST, b"y" * 100_000)
        storage.commit()
        if not list((small_disk / "data").glob("*.tmp")):
            break
    logger.remove(sink)
    assert any("the disk is full; gave up" in text for text in lines)
    assert not storage.taking_snapshot
    assert storage._logged_bytes == storage._bytes_above(0), "what was tried twice counts once"
    storage.close()
    subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
    storage = open_sqlite(small_disk / "data")
    assert accepted_slots(storage) == list(range(1, slot + 1))
    storage.close()


def test_a_full_disk_at_the_start(small_disk: Path) -> None:
    (small_disk / "other").write_bytes(b"x" * (8 * MIB - 8192))
    with pytest.raises(StorageError, match="the disk is full"):
        open_sqlite(small_disk / "data")
    (small_disk / "other").unlink()
    storage = open_sqlite(small_disk / "data")
    accept(storage, 1)
    storage.commit()
    storage.close()


def test_a_disk_that_is_mounted_read_only(small_disk: Path) -> None:
    storage = open_sqlite(small_disk / "data")
    accept(storage, 1)
    storage.commit()
    storage.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError, match="the file system is read-only: mount it writable"):
        open_sqlite(small_disk / "data")
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    storage = open_sqlite(small_disk / "data")
    assert accepted_slots(storage) == [1]
    storage.close()


@pytest.mark.parametrize("fork", [True, False])
def test_a_snapshot_that_does_not_fit_is_taken_later(small_disk: Path, fork: bool) -> None:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    storage = open_sqlite(small_disk / "data", fork=fork)
    accept(storage, 1)
    storage.commit()
    storage.begin_snapshot(1, lambda: [b"x" * MIB] * 10)
    assert wait_for_snapshot(storage) is None
    logger.remove(sink)
    assert sum("not take a snapshot at slot 1: the disk is full" in text for text in lines) == 1
    assert list((small_disk / "data").glob("*.tmp")) == []
    accept(storage, 2)
    storage.commit()  # service goes on
    take_snapshot(storage, 2)
    storage.commit()
    assert storage.read_snapshot(2, 0, 100) == b"image"
    storage.close()


def test_an_incoming_snapshot_that_does_not_fit(small_disk: Path) -> None:
    from tests.storage.engines import info_of

    storage = open_sqlite(small_disk / "data")
    image = b"x" * (10 * MIB)
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    assert storage.receive_snapshot(info_of(5, image), 0, image[:MIB]) == -1
    logger.remove(sink)
    assert any("snapshot at slot 5: the disk is full" in text for text in lines)
    assert list((small_disk / "data").glob("incoming-*")) == []
    accept(storage, 1)
    storage.commit()  # service goes on
    storage.close()
