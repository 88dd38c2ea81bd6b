"""The contents of `paxon.db`: tables, checksums, and the check of all of it at the start.

That begins with the write-ahead log, which SQLite cuts silently where it is damaged: it replays the
log up to the first frame whose checksum is wrong and forgets the rest, because a torn last write
looks like that. So does a flipped byte in the middle of synced transactions.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from paxon.actors.ballot import Ballot, ServerId
from paxon.actors.disk.data_directory import DATABASE_NAME, FORMAT_VERSION, WITNESS_NAME, is_there
from paxon.actors.disk.storage import (
    REMEDY,
    SLOT_LIMIT,
    CorruptStorage,
    Marks,
    StorageError,
)
from paxon.actors.messages import Accepted, Made, Place
from paxon.actors.records.configuration import Configuration

__all__ = [
    "SCHEMA", "LOG_ROWS", "PUT_ROW", "Identity", "Contents", "row_checksum", "inspect", "Held",
    "held_in", "read_accepted",
]  # fmt: skip

_META_SLOT = SLOT_LIMIT
"""The last row is that of no slot: it says all that is not in the others."""
SCHEMA = """
CREATE TABLE accepted (
    slot INTEGER PRIMARY KEY,
    round INTEGER NOT NULL,
    leader INTEGER NOT NULL,
    value BLOB NOT NULL,
    checksum INTEGER NOT NULL
);
"""
_GET_META = f"SELECT * FROM accepted WHERE slot={_META_SLOT}"
PUT_ROW = "INSERT OR REPLACE INTO accepted VALUES (?,?,?,?,?)"
LOG_ROWS = f"accepted WHERE slot<{_META_SLOT}"
"""The rows of slots."""

_ROW = struct.Struct("<3qL")
_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_INDEX_HEADER_BYTES = 48
_LAST_FRAME_OFFSET = 16
_encoder = msgspec.json.Encoder()
MAGIC_LITTLE_ENDIAN = 0x377F0682
MAGIC_BIG_ENDIAN = 0x377F0683


class _Meta(msgspec.Struct):
    """The last row's value, as JSON, so that people can read it, too."""

    format: int
    cluster: str
    server: ServerId
    incarnation: int
    marks: Marks
    commits: int
    rows: int
    rows_checksum: int


class Identity:
    """Whose database it is."""

    def __init__(self, cluster: str, server: ServerId, incarnation: int) -> None:
        self._meta = _Meta(FORMAT_VERSION, cluster, server, incarnation, Marks(), 0, 0, 0)

    def row(
        self, marks: Marks, commits: int, rows: int, rows_checksum: int
    ) -> tuple[int, int, int, bytes, int]:
        """The last row. It is on the page of the newest ones: a small commit writes no other."""
        meta = self._meta
        meta.marks, meta.commits = marks, commits
        meta.rows, meta.rows_checksum = rows, rows_checksum
        text = _encoder.encode(meta)
        return _META_SLOT, 0, 0, text, row_checksum(_META_SLOT, 0, 0, zlib.crc32(text))

    def owns(self, meta: _Meta) -> bool:
        """Whether this was written to the same directory, in the same format."""
        own = self._meta
        return (meta.format, meta.cluster, meta.server, meta.incarnation) == (
            own.format, own.cluster, own.server, own.incarnation,
        )  # fmt: skip


@dataclass(slots=True)
class Contents:
    """All that a database holds, checked."""

    marks: Marks
    commits: int
    """The number of the last transaction."""
    rows: int
    rows_checksum: int
    """How many rows `accepted` has for slots, and the sum of their checksums."""
    accepted: list[Accepted] = field(default_factory=list)
    """All rows in the order of slots, those that wait for their deletion too."""


def row_checksum(slot: int, round_: int, leader: int, value_checksum: int) -> int:
    """CRC-32 over a row of `accepted`, in which that of its value stands for the value.

    So one pass over a value does for its row and for the chain of hashes (execution/digests.py).
    """
    return zlib.crc32(_ROW.pack(slot, round_, leader, value_checksum))


class Held(msgspec.Struct, frozen=True):
    """A data directory's own record of its cluster."""

    made: Made
    configuration: Configuration
    """Who the members are, as far as it knows."""
    places: tuple[Place, ...]
    """Where they are."""


def held_in(directory: Path) -> Held | None:
    """Which cluster a data directory belongs to, without opening it as its server does.

    None if it belongs to none yet, or is no data directory that this release reads.
    """
    uri = f"{(directory / DATABASE_NAME).absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
            ((*_, text, _),) = database.execute(_GET_META)
        marks = msgspec.json.decode(text, type=_Meta).marks
    except (sqlite3.Error, TypeError, ValueError, msgspec.DecodeError):
        return None
    made = marks.made
    if made is None:
        return None
    return Held(made, marks.configuration or Configuration.of(made), marks.places)


def inspect(path: Path, identity: Identity, witnessed: int) -> Contents:
    """Read and check a whole database and its log, changing neither.

    A connection that may write would, when closed, copy what it takes for the log's valid part
    into the database and delete the log: after that nothing would tell that anything was lost.
    `witnessed` is the number of commits that were surely synced. Raises `CorruptStorage` or
    `sqlite3.Error`.
    """
    log = WriteAheadLog(path)
    database = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None
    )
    with contextlib.closing(database), _damage_told(path):
        # The index is made from the log by the first statement that reads.
        schema = database.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()
        log.check()
        if schema[:1] != [("table", "accepted", "accepted", SCHEMA.strip(" ;\n"))]:
            raise CorruptStorage(f"{path} is damaged (its schema is another): {REMEDY}")
        if others := [f"{kind} {name!r}" for kind, name, *_ in schema[1:]]:
            # (With a view, for one, SQLite leaves out a part of the check below.)
            raise StorageError(
                f"{path} has what Paxon did not make, {', '.join(others)}: drop that with sqlite3"
            )
        _check_structure(path, database)
        contents = _read_meta(path, database, identity)
        if contents.commits < witnessed:
            raise CorruptStorage(
                f"{path} ends at commit {contents.commits}, but {witnessed} were synced: its "
                f"write-ahead log is damaged or missing; put it back, or {REMEDY}"
            )
        contents.accepted = read_accepted(path, database, contents.rows, contents.rows_checksum)
    return contents


@contextlib.contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """What a damaged schema makes SQLite and its module say, which is no word of damage.

    The module takes names and messages for UTF-8, and what it cannot read of them is its own error.
    """
    try:
        yield
    except (sqlite3.Error, UnicodeError) as error:
        if getattr(error, "sqlite_errorcode", 0) not in (0, sqlite3.SQLITE_ERROR):
            raise
        raise CorruptStorage(f"{path} is damaged (its schema cannot be read): {REMEDY}") from error


def _check_structure(path: Path, database: sqlite3.Connection) -> None:
    """Every page is where it belongs (SQLite has no checksums of pages, but it checks the links).

    Rows are safe by their own checksums; this keeps a page from being taken for a free one.
    """
    (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise CorruptStorage(f"{path} is damaged ({verdict.splitlines()[-1]}): {REMEDY}")


def _read_meta(path: Path, database: sqlite3.Connection, identity: Identity) -> Contents:
    found = database.execute(_GET_META).fetchall()
    if not found or not _is_whole_row(*found[0]):
        raise CorruptStorage(
            f"{path}, table accepted: the last row, which holds the marks, is damaged (its "
            f"checksum is wrong); {REMEDY}"
        )
    meta = msgspec.json.decode(found[0][3], type=_Meta)
    if not identity.owns(meta):
        raise CorruptStorage(
            f"{path} and {WITNESS_NAME} are of two directories: put together what belongs "
            f"together, or {REMEDY}"
        )
    return Contents(meta.marks, meta.commits, meta.rows, meta.rows_checksum)


def _is_whole_row(slot: Any, round_: Any, leader: Any, value: Any, checksum: Any) -> bool:
    """Whether a row's checksum is right, whatever its columns are by now."""
    try:
        return bool(row_checksum(slot, round_, leader, zlib.crc32(value)) == checksum)
    except (TypeError, struct.error):
        return False


def read_accepted(
    path: Path, database: sqlite3.Connection, rows: int, rows_checksum: int
) -> list[Accepted]:
    """All rows of slots, checked one by one and as a set. Raises `CorruptStorage`."""
    accepted = []
    total = 0
    for row in database.execute(f"SELECT * FROM {LOG_ROWS} ORDER BY slot"):
        slot, round_, leader, value, checksum = row
        if not _is_whole_row(*row):
            raise CorruptStorage(
                f"{path}, table accepted: the row of slot {slot} is damaged (its checksum is "
                f"wrong); {REMEDY}"
            )
        total += checksum
        accepted.append(Accepted(slot, Ballot(round_, leader), value))
    if (len(accepted), total) != (rows, rows_checksum):
        raise CorruptStorage(
            f"{path}, table accepted: {len(accepted)} rows are there that do not add up to the "
            f"{rows} written; {REMEDY}"
        )
    return accepted


class WriteAheadLog:
    """The contents of a database's log, as found before the database is opened."""

    def __init__(self, database: Path) -> None:
        self.path = database.with_name(database.name + "-wal")
        self._index = database.with_name(database.name + "-shm")
        self._commit_frames: list[int] = []
        """Numbers, from 1, of the frames of the current log that end a transaction."""
        if is_there(self.path):
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._scan(descriptor)
            finally:
                os.close(descriptor)

    def _scan(self, descriptor: int) -> None:
        head = os.pread(descriptor, _HEADER.size, 0)
        size = os.fstat(descriptor).st_size
        if size == 0:
            return
        if len(head) < _HEADER.size or not _is_whole(head):
            if any(head) or any(os.pread(descriptor, _FRAME.size, _HEADER.size)):
                raise CorruptStorage(
                    f"{self.path} has a damaged header: put the file back as it was, or {REMEDY}"
                )
            return  # all zeros: made, and never written to
        _, _, page_bytes, _, *salts, _, _ = _HEADER.unpack(head)
        frame_bytes = _FRAME.size + page_bytes
        for number in range(1, (size - _HEADER.size) // frame_bytes + 1):
            offset = _HEADER.size + (number - 1) * frame_bytes
            _, ends, *found, _, _ = _FRAME.unpack(os.pread(descriptor, _FRAME.size, offset))
            if found == salts and ends:
                self._commit_frames.append(number)

    def check(self) -> None:
        """Once SQLite has read the log: is anything synced behind what it takes for valid?

        A crash tears only the last transaction, whose frames lie in any mixture on the disk. So at
        most one end of a transaction may lie behind. Raises `CorruptStorage`.
        """
        if not self._commit_frames:
            return
        with self._index.open("rb") as file:
            # The index header of SQLite's documented format: the last valid frame, native order.
            (valid,) = struct.unpack_from("=I", file.read(_INDEX_HEADER_BYTES), _LAST_FRAME_OFFSET)
        behind = [number for number in self._commit_frames if number > valid]
        if len(behind) > 1:
            raise CorruptStorage(
                f"{self.path} is damaged after frame {valid}, {len(behind)} transactions before "
                f"its end: put the file back as it was, or {REMEDY}"
            )


def _is_whole(head: bytes) -> bool:
    """Whether the header's checksum is right: SQLite ignores a log whose header is damaged."""
    magic, *_, first, second = _HEADER.unpack(head)
    if magic not in (MAGIC_LITTLE_ENDIAN, MAGIC_BIG_ENDIAN):
        return False
    words = struct.unpack(("<" if magic == MAGIC_LITTLE_ENDIAN else ">") + "6I", head[:24])
    a = b = 0
    for i in range(0, 6, 2):
        a = (a + words[i] + b) & 0xFFFFFFFF
        b = (b + words[i + 1] + a) & 0xFFFFFFFF
    return (a, b) == (first, second)
