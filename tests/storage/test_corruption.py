"""A flipped byte anywhere is refused or without effect, never served."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from paxon.actors import CorruptStorage, StorageError
from paxon.actors.disk.sqlite_format import held_in
from paxon.actors.disk.storage import Recovered
from tests.storage.engines import (
    MADE,
    SECOND,
    SqliteEngine,
    accept,
    copy_disk,
    open_sqlite,
    take_snapshot,
)

FRAME_BYTES = 24 + 4096
LOG_HEADER_BYTES = 32
FLIPS = 120
"""Random places in each file; the headers are flipped byte by byte besides."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk as kill -9 leaves it: much in the database, much in its log, a snapshot, a discard."""
    engine = SqliteEngine(tmp_path_factory.mktemp("disk"))
    storage = engine.storage
    accept(storage, *range(1, 301))
    storage.save_made(MADE, in_force=True)
    storage.commit()
    take_snapshot(storage, 200, b"the state" * 500)
    storage.commit()
    storage.discard_to(100)
    storage = engine.restart()
    for slot in range(301, 331):
        accept(storage, slot, slot - 20, ballot=SECOND)
        storage.save_accepted(slot + 100, SECOND, b"large" * 2000)
        storage.save_chosen_to(slot)
        storage.commit()
        storage.maintain()  # as a server does, after each burst
    target = tmp_path_factory.mktemp("killed") / "disk"
    copy_disk(engine.directory, target)
    storage.close()
    return target


def look(directory: Path) -> tuple[Recovered, bytes]:
    """All that a server would believe."""
    storage = open_sqlite(directory)
    try:
        found = storage.load()
        image = storage.read_snapshot(200, 0, 1 << 20)
        assert storage.incarnation
        return found, image
    finally:
        storage.close()


def begin(directory: Path) -> None:
    """What a server does once it takes part."""
    storage = open_sqlite(directory)
    storage.maintain()
    storage.close()


def damaged(killed: Path, target: Path, name: str, offset: int, mask: int) -> Path:
    copy_disk(killed, target)
    path = target / name
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)
    return target


def places(killed: Path, name: str) -> Iterator[tuple[int, int]]:
    size = (killed / name).stat().st_size
    randomly = random.Random(name)
    headers = 110 if name in ("paxon.db", "paxon.witness") else 60
    for offset in range(min(headers, size)):
        yield offset, randomly.choice([1, 0x80, 0xFF])
    for _ in range(FLIPS):
        yield randomly.randrange(size), 1 << randomly.randrange(8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["paxon.db", "paxon.db-wal", "paxon.witness", "snapshot-200.paxon"]
)
def test_a_flipped_bit(killed: Path, tmp_path: Path, name: str) -> None:
    copy_disk(killed, tmp_path / "whole")
    whole = look(tmp_path / "whole")
    refused = 0
    for number, (offset, mask) in enumerate(places(killed, name)):
        directory = damaged(killed, tmp_path / str(number), name, offset, mask)
        try:
            found = look(directory)
        except StorageError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert found == whole, f"byte {offset} of {name} flipped by {mask} was served"
    assert refused > 20  # the rest has no effect: free space, and pages that the log replaces


def test_a_flipped_bit_in_the_schema(tmp_path: Path) -> None:
    """SQLite, and Python's module, have many words for it, some of which quote what they found."""
    engine = SqliteEngine(tmp_path)
    engine.storage.close()
    path = engine.directory / "paxon.db"
    whole = path.read_bytes()
    assert held_in(engine.directory) is None  # it belongs to no cluster yet
    table = whole.index(b"tableacc")
    for offset in (47, *range(table, table + 189, 9)):  # the first is the number of SQLite's format
        for mask in (1, 0x80, 0x3F):
            data = bytearray(whole)
            data[offset] ^= mask
            path.write_bytes(data)
            with pytest.raises(StorageError, match=r"^[^\n]*damaged[^\n]*$"):
                open_sqlite(engine.directory).close()
            held_in(engine.directory)


def test_row_and_table_are_named(killed: Path, tmp_path: Path) -> None:
    data = (killed / "paxon.db").read_bytes()
    offset = data.index(b"150 in 1.1")
    directory = damaged(killed, tmp_path / "disk", "paxon.db", offset, 1)
    with pytest.raises(CorruptStorage, match=r"paxon.db, table accepted: the row of slot 150"):
        look(directory)


def test_the_marks_are_checked(killed: Path, tmp_path: Path) -> None:
    """Change a member's incarnation in each copy of the page that holds it."""
    copy_disk(killed, tmp_path / "disk")
    begin(tmp_path / "disk")
    path = tmp_path / "disk" / "paxon.db"
    data = path.read_bytes()
    assert data.count(b"[3,7]") == 1
    path.write_bytes(data.replace(b"[3,7]", b"[3,8]"))
    with pytest.raises(CorruptStorage, match="the last row, which holds the marks"):
        look(tmp_path / "disk")


def test_a_row_that_vanished(killed: Path, tmp_path: Path) -> None:
    """Every row left is in order, yet one is missing: the sum over all rows tells."""
    import sqlite3

    copy_disk(killed, tmp_path / "disk")
    database = sqlite3.connect(tmp_path / "disk" / "paxon.db")
    database.execute("DELETE FROM accepted WHERE slot=250")
    database.commit()
    database.close()
    with pytest.raises(CorruptStorage, match="do not add up"):
        look(tmp_path / "disk")


def page(data: bytearray, number: int) -> bytearray:
    return data[(number - 1) * 4096 : number * 4096]


def test_a_page_in_use_that_is_listed_as_free(tmp_path: Path) -> None:
    """No row is wrong yet, but the next commit would overwrite some."""
    engine = SqliteEngine(tmp_path)
    storage = engine.storage
    accept(storage, *range(1, 301))
    take_snapshot(storage, 300)
    storage.commit()
    storage.discard_to(250)
    storage.commit()
    for _ in range(3):
        storage.maintain()
    storage.close()
    path = engine.directory / "paxon.db"
    data = bytearray(path.read_bytes())
    trunk = struct.unpack_from(">I", data, 32)[0]
    (count,) = struct.unpack_from(">I", data, (trunk - 1) * 4096 + 4)
    free = {trunk, *struct.unpack_from(f">{count}I", data, (trunk - 1) * 4096 + 8)}
    found = [number for number in range(1, 301) if b"290 in 1.1" in page(data, number)]
    used = next(number for number in found if number not in free)
    assert count > 0
    struct.pack_into(">I", data, (trunk - 1) * 4096 + 8, used)
    path.write_bytes(data)
    with pytest.raises(CorruptStorage, match=r"paxon.db is damaged"):
        look(engine.directory)


def test_a_refused_disk_stays_as_it_was(killed: Path, tmp_path: Path) -> None:
    directory = damaged(killed, tmp_path / "disk", "paxon.db-wal", 90_000, 1)
    names = ("paxon.db", "paxon.db-wal", "paxon.witness", "snapshot-200.paxon")
    before = [(directory / name).read_bytes() for name in names]
    with pytest.raises(CorruptStorage):
        look(directory)
    assert before == [(directory / name).read_bytes() for name in names]


# --- the write-ahead log, which SQLite cuts silently ---------------------------------------------


def frame_ends(log: bytes) -> list[int]:
    """The frames, from 0, that end a transaction."""
    frames = (len(log) - LOG_HEADER_BYTES) // FRAME_BYTES
    starts = (LOG_HEADER_BYTES + number * FRAME_BYTES for number in range(frames))
    return [n for n, at in enumerate(starts) if struct.unpack_from(">I", log, at + 4)[0]]


def forget_witness(directory: Path, commits: int) -> None:
    """A power failure: the witness's last writes had not reached the disk."""
    import zlib

    path = directory / "paxon.witness"
    head = path.read_bytes().partition(b"commits ")[0] + b"commits %020d\n" % commits
    path.write_bytes(head + b"checksum %08x\n" % zlib.crc32(head))


def witnessed(directory: Path) -> int:
    return int((directory / "paxon.witness").read_bytes().split(b"commits ")[1][:20])


def test_a_log_that_lost_its_end(killed: Path, tmp_path: Path) -> None:
    """Each cut at a frame's border looks whole to SQLite; the witness knows better."""
    log = (killed / "paxon.db-wal").read_bytes()
    frames = (len(log) - LOG_HEADER_BYTES) // FRAME_BYTES
    assert frames > 100
    for number, kept in enumerate([*range(0, frames, 17), frames - 1]):
        directory = tmp_path / str(number)
        copy_disk(killed, directory)
        (directory / "paxon.db-wal").write_bytes(log[: LOG_HEADER_BYTES + kept * FRAME_BYTES])
        with pytest.raises(CorruptStorage, match="ends at commit"):
            look(directory)


def test_a_log_that_is_gone(killed: Path, tmp_path: Path) -> None:
    copy_disk(killed, tmp_path / "disk")
    (tmp_path / "disk" / "paxon.db-wal").unlink()
    with pytest.raises(CorruptStorage, match="write-ahead log is damaged or missing"):
        look(tmp_path / "disk")


def test_a_damaged_middle_is_found_without_the_witness(killed: Path, tmp_path: Path) -> None:
    """After a power failure too: transactions that lie behind the damage were synced once."""
    ends = frame_ends((killed / "paxon.db-wal").read_bytes())
    for number, frame in enumerate([0, ends[3], ends[10] + 1, ends[-3]]):
        offset = LOG_HEADER_BYTES + frame * FRAME_BYTES + 200
        directory = damaged(killed, tmp_path / str(number), "paxon.db-wal", offset, 1)
        forget_witness(directory, 2)
        for _ in range(2):  # a second look finds it too: the first has destroyed no evidence
            with pytest.raises(CorruptStorage, match=r"paxon.db-wal is damaged after frame"):
                look(directory)


@pytest.mark.parametrize("offset", [0, 9, 17, 30])
def test_a_damaged_log_header_is_found_without_the_witness(
    killed: Path, tmp_path: Path, offset: int
) -> None:
    """SQLite would take the whole log for an empty one."""
    directory = damaged(killed, tmp_path / "disk", "paxon.db-wal", offset, 4)
    forget_witness(directory, 2)
    with pytest.raises(CorruptStorage, match=r"paxon.db-wal has a damaged header"):
        look(directory)


def test_a_torn_last_transaction_is_no_damage(killed: Path, tmp_path: Path) -> None:
    """A power failure in a commit that never returned: its frames are there in part."""
    log = (killed / "paxon.db-wal").read_bytes()
    ends = frame_ends(log)
    copy_disk(killed, tmp_path / "whole")
    whole, _ = look(tmp_path / "whole")
    for number, frame in enumerate(range(ends[-2] + 1, ends[-1] + 1)):
        offset = LOG_HEADER_BYTES + frame * FRAME_BYTES + 2000
        directory = damaged(killed, tmp_path / str(number), "paxon.db-wal", offset, 0xFF)
        forget_witness(directory, witnessed(killed) - 1)
        found, _ = look(directory)
        assert found.chosen_to == whole.chosen_to - 1
        assert found.accepted[-1].slot == whole.accepted[-1].slot - 1


def test_the_witness_may_lag_but_not_lead(killed: Path, tmp_path: Path) -> None:
    commits = witnessed(killed)
    copy_disk(killed, tmp_path / "lags")
    forget_witness(tmp_path / "lags", 2)
    begin(tmp_path / "lags")
    assert witnessed(tmp_path / "lags") == commits  # it has caught up
    copy_disk(killed, tmp_path / "leads")
    forget_witness(tmp_path / "leads", commits + 1)
    with pytest.raises(CorruptStorage, match=f"ends at commit {commits}, but {commits + 1} were"):
        look(tmp_path / "leads")


def test_a_log_header_of_zeros_is_an_empty_log(killed: Path, tmp_path: Path) -> None:
    copy_disk(killed, tmp_path / "disk")
    begin(tmp_path / "disk")  # puts the log into the database
    (tmp_path / "disk" / "paxon.db-wal").write_bytes(bytes(LOG_HEADER_BYTES))
    look(tmp_path / "disk")


def test_an_error_while_committing_is_final(tmp_path: Path) -> None:
    """After a failed sync nobody knows what is on the disk: only a restart finds out."""
    engine = SqliteEngine(tmp_path)
    storage = engine.storage
    accept(storage, 1)
    storage.commit()
    database = storage._database
    assert database is not None
    database.execute("DROP TABLE accepted")  # any error will do
    accept(storage, 2)
    with pytest.raises(StorageError, match="cannot be used"):
        storage.commit()
    with pytest.raises(StorageError, match="failed before, start the server again"):
        storage.commit()
