"""What room the log has left, by what the disk and the database say (docs/design/full-disks.md)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paxon.actors.disk import room
from paxon.actors.disk.data_directory import DATABASE_NAME, WITNESS_NAME
from paxon.actors.disk.room import (
    AMPLE,
    GROWTH,
    LAST_ROOM,
    LOG_ROOM,
    PAGE_BYTES,
    Disk,
    checkpoint_pages,
    later_bytes,
    part_of,
)
from paxon.actors.disk.sqlite_storage import SqliteStorage
from paxon.actors.disk.storage import NO_ROOM
from tests.storage.engines import (
    CLUSTER,
    FIRST,
    accept,
    info_of,
    open_sqlite,
    take_snapshot,
    wait_for_snapshot,
)

MIB = 1 << 20


def test_the_next_snapshot_has_its_room_before_the_log_has_any() -> None:
    assert Disk(41 * MIB, wanted=40 * MIB).room() == 0
    assert Disk(40 * MIB, wanted=40 * MIB).room() == -LOG_ROOM
    each = 1 + GROWTH
    assert Disk(41 * MIB + each, wanted=40 * MIB).room() == 1, "a value makes the next larger"
    assert later_bytes(40, 40, 10, 0) == 10 * GROWTH, "by what is logged"
    assert later_bytes(40, 45, 13, 10) == 3 * GROWTH - 5, "the one under way brings some back"
    assert Disk(41 * MIB + each, wanted=20 * MIB, later=20 * MIB).room() == 1


def test_free_pages_of_the_database_take_what_the_disk_need_not() -> None:
    less = -100 * MIB  # by so much the next snapshot is smaller
    assert Disk(43 * MIB, 40 * MIB, less).room() == MIB, "each value is written twice"
    assert Disk(2 * MIB, later=less, inside=5 * MIB).room() == MIB
    assert Disk(10 * MIB, later=less, inside=5 * MIB).room() == 7 * MIB
    assert Disk(10 * MIB, later=less, growth=4 * MIB, inside=MIB).room() == 3 * MIB
    assert Disk(2 * MIB, inside=2 * MIB).room() == 3 * MIB // (1 + GROWTH)


def test_while_a_snapshot_is_taken_small_values_leave_the_one_after_its_room() -> None:
    """They need none to be accepted. A snapshot ends, so they do not wait for ever."""
    short = Disk(41 * MIB, wanted=20 * MIB, later=20 * MIB + LAST_ROOM + 1)
    assert short.room() < 0
    assert replace(short, is_taken=True).room() == NO_ROOM


def test_promises_and_marks_have_the_last_room_to_themselves() -> None:
    assert Disk(LAST_ROOM).room() == -LAST_ROOM
    assert Disk(LAST_ROOM - 1, inside=MIB).room() == NO_ROOM
    assert Disk(MIB, growth=LAST_ROOM + 1).room() == NO_ROOM


def test_the_less_room_the_sooner_the_log_is_copied_into_the_database() -> None:
    assert Disk(AMPLE).is_ample and not Disk(AMPLE, wanted=1).is_ample
    assert [checkpoint_pages(room) for room in (AMPLE, 4 * MIB, 0, NO_ROOM)] == [1000, 128, 64, 64]


def free(storage: SqliteStorage, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """The disk has so many bytes free from now on, and is ours."""
    monkeypatch.setattr(storage._files.disk, "free_bytes", lambda: size)
    storage._files.disk.filled_by_others = False


@given(st.integers(0, 1000 * MIB), st.lists(st.integers(0, 400 * MIB), min_size=2, max_size=5))
def test_servers_that_share_a_disk_have_a_part_each(free: int, taken: list[int]) -> None:
    pool = free + sum(taken)
    parts = [part_of(pool, own, taken[:n] + taken[n + 1 :]) for n, own in enumerate(taken)]
    equal = {own + part for own, part in zip(taken, parts, strict=True) if part}
    if free < 2 * AMPLE:  # else whoever leaves the others plenty may have the rest
        assert free - len(taken) < sum(parts) <= free
        assert len(equal) <= 1, "whoever may take more ends with as much as the others"


def test_where_all_have_plenty_nobody_is_held_to_a_part() -> None:
    """Else one large state beside the directories of many small ones would be told to make room."""
    assert part_of(10_000 * MIB, 3_000 * MIB, [MIB] * 20) > 4_000 * MIB


def small_disk(place: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """All in `place` is on a disk of so many bytes."""

    def stat(_: object) -> SimpleNamespace:
        files = [path for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
        left = size // PAGE_BYTES - sum(path.stat().st_blocks for path in files) // 8
        return SimpleNamespace(
            f_blocks=size // PAGE_BYTES, f_bavail=left, f_bfree=left, f_frsize=PAGE_BYTES
        )

    monkeypatch.setattr("os.statvfs", stat)
    monkeypatch.setattr("os.fstatvfs", stat)
    monkeypatch.setattr(room, "SURVEY_SECONDS", 0)


def write(storage: SqliteStorage, values: int) -> None:
    """Of 100 kB each."""
    storage.save_promise(FIRST)
    for slot in range(1, values + 1):
        storage.save_accepted(slot, FIRST, bytes(100_000))
    storage.commit()
    storage.maintain()


def test_what_others_beside_it_have_yet_to_take_is_not_a_servers_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three who saw the same free bytes took them three times over, and a full disk stopped two."""
    small_disk(tmp_path, monkeypatch, 30 * MIB)
    (tmp_path / "lost+found" / WITNESS_NAME).mkdir(parents=True)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "here").symlink_to(".")
    first, second, third = (
        SqliteStorage(tmp_path / "here" / f"server-{server}", CLUSTER, server)
        for server in (1, 2, 3)
    )
    first.maintain()
    part = first.room
    assert 2 * MIB < part < (10 * MIB - LOG_ROOM) // (1 + GROWTH)
    write(second, 39)
    first.maintain()
    assert second.room <= 0
    assert first.room == part, "what another has taken of its own part is nothing to it"
    second.begin_snapshot(39, lambda: [bytes(12 * MIB)])
    assert wait_for_snapshot(second) is not None, "a snapshot makes room, so it may take more"
    for storage in (first, second, third):
        storage.close()


@pytest.mark.parametrize("beside", ["another cluster", "an old copy", "a link", "a damaged one"])
def test_what_is_no_other_servers_of_the_cluster_has_no_part(
    beside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not about to take anything."""
    small_disk(tmp_path, monkeypatch, 30 * MIB)
    storage = SqliteStorage(tmp_path / "server-1", CLUSTER, 1)
    if beside == "a link":
        (tmp_path / "server-2").symlink_to(tmp_path / "server-1")
    else:
        cluster, server = ("another", 2) if beside == "another cluster" else (CLUSTER, 1)
        SqliteStorage(tmp_path / "beside", cluster, server).close()
    if beside == "a damaged one":
        (tmp_path / "beside" / WITNESS_NAME).write_bytes(b"?")
    storage.maintain()
    assert storage.room > (28 * MIB - LOG_ROOM) // (1 + GROWTH)
    storage.close()


def test_an_engine_tells_its_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_sqlite(tmp_path)
    free(storage, monkeypatch, 1 << 40)
    storage.maintain()
    assert storage.room == ((1 << 40) - LOG_ROOM) // (1 + GROWTH)
    storage.save_promise(FIRST)
    storage.save_accepted(1, FIRST, bytes(MIB))
    assert storage.room == ((1 << 40) - LOG_ROOM) // (1 + GROWTH) - MIB
    free(storage, monkeypatch, (1 + GROWTH) * 2 * MIB)
    storage.commit()
    storage.maintain()
    assert MIB // 2 < storage.room < 2 * MIB - MIB * GROWTH // (1 + GROWTH)
    free(storage, monkeypatch, MIB)
    storage.maintain()
    assert storage.room <= 0
    free(storage, monkeypatch, 0)
    storage.maintain()
    assert storage.room == NO_ROOM
    storage.close()


def test_little_room_makes_the_write_ahead_log_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_sqlite(tmp_path)
    for slot in range(1, 40):
        storage.save_promise(FIRST)
        storage.save_accepted(slot, FIRST, bytes(50_000))
        storage.commit()
    log = tmp_path / f"{DATABASE_NAME}-wal"
    assert log.stat().st_size > 40 * 50_000
    free(storage, monkeypatch, 4 * MIB)
    storage.maintain()
    storage.maintain()
    assert log.stat().st_size == 0
    storage.close()


@pytest.mark.parametrize("what", ["taken", "received"])
def test_a_snapshot_without_room_gets_what_the_database_does_not_need(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_sqlite(tmp_path)
    storage.save_promise(FIRST)
    for slot in range(1, 60):
        storage.save_accepted(slot, FIRST, bytes(100_000))
    storage.commit()
    take_snapshot(storage, 59)
    storage.commit()
    storage.discard_to(59)
    free(storage, monkeypatch, 40 * MIB)
    for _ in range(3):
        accept(storage, 60)
        storage.commit()
        storage.maintain()
    database = tmp_path / DATABASE_NAME
    before = database.stat().st_size
    assert before > 59 * 100_000
    monkeypatch.setattr(storage._files.disk, "free_bytes", lambda: before - database.stat().st_size)
    if what == "taken":
        take_snapshot(storage, 60)
    else:
        storage.receive_snapshot(info_of(60, b"another's"), 0, b"")
    assert before - 2 * MIB < database.stat().st_size < before - LOG_ROOM, "no more than is missing"
    storage.commit()
    storage.close()


def test_a_database_larger_than_it_needs_to_be_does_not_keep_the_log_from_its_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server with nothing new to take a snapshot of would never get any."""
    storage = open_sqlite(tmp_path)
    storage.save_promise(FIRST)
    for slot in range(1, 100):
        storage.save_accepted(slot, FIRST, bytes(100_000))
    storage.commit()
    take_snapshot(storage, 99)
    storage.commit()
    storage.discard_to(99)
    disk = 12 * MIB  # beside everything else on it

    def left() -> int:
        return disk - sum(path.stat().st_blocks * 512 for path in tmp_path.glob("paxon.db*"))

    monkeypatch.setattr(storage._files.disk, "free_bytes", left)
    storage._files.disk.filled_by_others = False
    monkeypatch.setattr(storage._files, "next_bytes", lambda: 3 * MIB)
    storage.commit()
    for _ in range(20):
        storage.maintain()
    assert storage.room > (disk - 3 * MIB - 2 * LOG_ROOM) // (1 + GROWTH)
    storage.close()


def test_rows_that_are_to_be_deleted_leave_some_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go quickly, whether or not anybody writes."""
    storage = open_sqlite(tmp_path)
    storage.save_promise(FIRST)
    for slot in range(1, 10_000):
        storage.save_accepted(slot, FIRST, b"value")
    storage.commit()
    take_snapshot(storage, 9_999)
    storage.commit()
    free(storage, monkeypatch, LOG_ROOM - 1)
    storage.maintain()
    assert NO_ROOM < storage.room < 0
    storage.discard_to(9_999)
    storage.commit()
    assert storage.room > 0
    for _ in range(3):
        storage.maintain()
    assert storage.room < 0, "all of them are gone"
    storage.close()


def test_a_file_system_that_tells_no_sizes_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.statvfs", lambda _: SimpleNamespace(f_blocks=0, f_bavail=0, f_frsize=1))
    storage = open_sqlite(tmp_path)
    assert storage.room > AMPLE and not storage.is_tight
    storage.close()


def test_what_is_discarded_goes_though_nobody_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While clients are held back nothing else may have to be stored."""
    storage = open_sqlite(tmp_path)
    storage.save_promise(FIRST)
    for slot in range(1, 200):
        storage.save_accepted(slot, FIRST, bytes(100_000))
    storage.commit()
    take_snapshot(storage, 199)
    storage.commit()
    free(storage, monkeypatch, 2 * MIB)
    storage.maintain()
    storage.discard_to(199)
    storage.save_chosen_to(199)
    for _ in range(10):
        storage.maintain()
    storage.close()
    assert open_sqlite(tmp_path)._row_count == 0


def test_where_somebody_else_has_filled_the_disk_nobody_is_held_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_disk(tmp_path, monkeypatch, 30 * MIB)
    (tmp_path / "ballast").write_bytes(bytes(29 * MIB))
    storage = open_sqlite(tmp_path / "server-1")
    storage.maintain()
    assert storage.room > AMPLE
    storage.close()
