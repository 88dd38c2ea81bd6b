"""Disk space: the log is bounded, and what was discarded is given back without stalling commits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from paxon.actors import StorageError
from paxon.actors.disk.sqlite_storage import (
    DISCARD_BYTES,
    DISCARD_ROWS,
    LOG_LIMIT_BYTES,
    SPARE_PAGES,
    SqliteStorage,
)
from paxon.actors.messages import Place
from tests.storage.engines import FIRST, MADE, accept, accepted_slots, open_sqlite, take_snapshot

MIB = 1 << 20
FRAME_BYTES = 24 + 4096
"""A page of SQLite's write-ahead log."""


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SqliteStorage]:
    opened = open_sqlite(tmp_path / "data", fork=False)
    yield opened
    opened.close()


def size(directory: Path, name: str) -> int:
    path = directory / "data" / name
    return path.stat().st_size if path.exists() else 0


def fill(storage: SqliteStorage, slots: range, value_bytes: int) -> None:
    storage.save_promise(FIRST)
    for slot in slots:
        storage.save_accepted(slot, FIRST, b"x" * value_bytes)
    storage.commit()


def rows(storage: SqliteStorage) -> int:
    """Those of slots: the last is none's."""
    return int(storage._query("SELECT count(*) - 1 FROM accepted")[0][0])


@pytest.mark.parametrize("maintained", [True, False])
def test_the_write_ahead_log_stays_small(
    storage: SqliteStorage, tmp_path: Path, maintained: bool
) -> None:
    largest = 0
    for slot in range(1, 1000):
        fill(storage, range(slot, slot + 1), 40_000)
        if maintained:
            storage.maintain()
        largest = max(largest, size(tmp_path, "paxon.db-wal"))
    assert largest < LOG_LIMIT_BYTES


@pytest.mark.parametrize("members", [3, 63])
@pytest.mark.parametrize("rows_each", [1, 5])
@pytest.mark.parametrize("value_bytes", [30, 700, 1500, 3000, 8000])
def test_how_long_the_log_is_is_known(
    storage: SqliteStorage, tmp_path: Path, value_bytes: int, rows_each: int, members: int
) -> None:
    """About: it is what says when to copy it, and how long it gets counts where room is little."""
    names = [f"tcp://[2001:db8::{number}]:7111" for number in range(2 * members)]
    known = [Place(n + 1, 1 << 62, 1, *names[2 * n : 2 * n + 2]) for n in range(members)]
    storage.save_places(tuple(known), lazily=False)
    storage.commit()
    before, known_before = size(tmp_path, "paxon.db-wal"), storage._log_pages
    for first in range(1, 20 * rows_each, rows_each):
        fill(storage, range(first, first + rows_each), value_bytes)
    written = (size(tmp_path, "paxon.db-wal") - before) / FRAME_BYTES
    assert 0.4 < written / (storage._log_pages - known_before) < 1.25


def test_a_huge_commit_does_not_leave_a_huge_log(storage: SqliteStorage, tmp_path: Path) -> None:
    fill(storage, range(1, 31), MIB)
    assert size(tmp_path, "paxon.db-wal") > 30 * MIB
    for slot in range(31, 35):
        storage.maintain()
        fill(storage, range(slot, slot + 1), 10)
    assert size(tmp_path, "paxon.db-wal") <= LOG_LIMIT_BYTES


def test_a_commit_deletes_a_bounded_number_of_rows(storage: SqliteStorage) -> None:
    fill(storage, range(1, 1001), 10)
    take_snapshot(storage, 1000)
    storage.commit()
    storage.discard_to(1000)
    before = rows(storage)
    fill(storage, range(1001, 1002), 10)
    assert rows(storage) == before - DISCARD_ROWS + 1


def test_a_commit_deletes_a_bounded_number_of_bytes(storage: SqliteStorage) -> None:
    fill(storage, range(1, 11), DISCARD_BYTES // 2)
    take_snapshot(storage, 10)
    storage.commit()
    storage.discard_to(10)
    fill(storage, range(11, 12), 10)
    assert rows(storage) == 10 - 2 + 1


def test_an_idle_server_gives_the_space_back(storage: SqliteStorage, tmp_path: Path) -> None:
    fill(storage, range(1, 3001), 10_000)
    storage.maintain()
    assert size(tmp_path, "paxon.db") > 28 * MIB
    take_snapshot(storage, 3000)
    storage.commit()
    storage.discard_to(2990)
    storage.commit()
    steps = 0
    while size(tmp_path, "paxon.db") > (SPARE_PAGES + 100) * 4096:
        storage.maintain()
        steps += 1
        assert steps < 1000, "the file does not shrink"
    assert steps > 20, "too much at a step"
    assert accepted_slots(storage) == list(range(2991, 3001))
    commits = storage.count
    for _ in range(5):
        storage.maintain()
    assert storage.count == commits  # nothing is left to do


def test_a_busy_server_leaves_it_to_its_commits(storage: SqliteStorage) -> None:
    fill(storage, range(1, 1001), 10)
    take_snapshot(storage, 1000)
    storage.commit()
    storage.discard_to(1000)
    for slot in range(1001, 1004):
        fill(storage, range(slot, slot + 1), 10)
        before = storage.count
        storage.maintain()
        assert storage.count == before


def test_housekeeping_leaves_collected_writes_alone(storage: SqliteStorage) -> None:
    """They become durable with a commit, never by the way."""
    fill(storage, range(1, 1001), 10)
    take_snapshot(storage, 1000)
    storage.commit()
    storage.discard_to(1000)
    storage.commit()
    storage.maintain()
    storage.save_made(MADE, in_force=True)
    before = storage.count
    for _ in range(5):
        storage.maintain()
    assert storage.count == before
    assert storage.dirty


def test_discarding_goes_on_after_a_restart(storage: SqliteStorage, tmp_path: Path) -> None:
    fill(storage, range(1, 1001), 10)
    take_snapshot(storage, 1000)
    storage.commit()
    storage.discard_to(1000)
    storage.commit()
    storage.close()
    again = open_sqlite(tmp_path / "data", fork=False)
    for _ in range(20):
        again.maintain()
    assert rows(again) == 0
    again.close()


def test_an_error_in_housekeeping_is_final(storage: SqliteStorage) -> None:
    fill(storage, range(1, 2), 5 * MIB)
    assert storage._database is not None
    storage._database.close()  # any error will do (and its log goes with it)
    with pytest.raises(StorageError, match=r"paxon\.db-wal was deleted"):
        storage.maintain()
    accept(storage, 7)
    with pytest.raises(StorageError, match="failed before"):
        storage.commit()
