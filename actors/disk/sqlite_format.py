"""What stands in `paxon.db`: tables, checksums, and the look at all of it before it is believed."""

from __future__ import annotations

import contextlib
import sqlite3
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from paxon.actors.ballot import Ballot, ServerId
from paxon.actors.disk.data_directory import DATABASE_NAME, FORMAT_VERSION
from paxon.actors.disk.storage import REMEDY, CorruptStorage, Marks, SnapshotInfo
from paxon.actors.disk.write_ahead_log import WriteAheadLog
from paxon.actors.messages import Accepted, Made, Place
from paxon.actors.records.configuration import Configuration

__all__ = [
    "SCHEMA", "INSERT_META", "UPDATE_META", "PUT_ACCEPTED", "Identity", "Contents",
    "MetaColumns", "row_checksum", "inspect", "Held", "held_in", "cluster_in", "incarnation_in",
    "read_accepted",
]  # fmt: skip

SCHEMA = """
CREATE TABLE meta (
    format INTEGER NOT NULL,
    cluster TEXT NOT NULL,
    server INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    made TEXT NOT NULL,
    configuration TEXT NOT NULL,
    counts TEXT NOT NULL,
    places TEXT NOT NULL,
    in_force INTEGER NOT NULL,
    commits INTEGER NOT NULL,
    promise_round INTEGER NOT NULL,
    promise_leader INTEGER NOT NULL,
    chosen_to INTEGER NOT NULL,
    discarded INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    snapshot_slot INTEGER NOT NULL,
    snapshot_size INTEGER NOT NULL,
    snapshot_checksum INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    rows_checksum INTEGER NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE TABLE accepted (
    slot INTEGER PRIMARY KEY,
    round INTEGER NOT NULL,
    leader INTEGER NOT NULL,
    value BLOB NOT NULL,
    checksum INTEGER NOT NULL
);
"""
INSERT_META = f"INSERT INTO meta VALUES ({','.join('?' * 21)})"
UPDATE_META = (
    "UPDATE meta SET made=?, configuration=?, counts=?, places=?, in_force=?, commits=?, "
    "promise_round=?, promise_leader=?, chosen_to=?, discarded=?, lease=?, "
    "snapshot_slot=?, snapshot_size=?, snapshot_checksum=?, rows=?, rows_checksum=?, checksum=?"
)
PUT_ACCEPTED = "INSERT OR REPLACE INTO accepted VALUES (?,?,?,?,?)"

_NO_SNAPSHOT = SnapshotInfo(0, 0, 0)
_NUMBERS = struct.Struct("<12q")
_ROW = struct.Struct("<3qL")


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose database it is: the first columns of `meta`."""

    cluster: str
    server: ServerId
    incarnation: int

    def columns(self) -> tuple[int, str, int, int]:
        return (FORMAT_VERSION, self.cluster, self.server, self.incarnation)


@dataclass(slots=True)
class Contents:
    """All that a database holds, checked."""

    marks: Marks
    commits: int
    """The number of the last transaction."""
    rows: int
    """How many rows `accepted` has …"""
    rows_checksum: int
    """… and the sum of their checksums."""
    accepted: list[Accepted] = field(default_factory=list)
    """All rows in the order of slots, those that wait for their deletion too."""


def row_checksum(slot: int, round_: int, leader: int, value_checksum: int) -> int:
    """CRC-32 over a row of `accepted`, in which that of its value stands for the value.

    So one pass over a value does for its row and for the chain of hashes (execution/digests.py).
    """
    return zlib.crc32(_ROW.pack(slot, round_, leader, value_checksum))


class MetaColumns:
    """Makes the columns of `meta` after the identity, with the checksum over all of them.

    What does not change from commit to commit is kept.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._made: Made | None = None
        self._made_column = ""
        self._configuration: Configuration | None = None
        self._configuration_column = ""
        self._places: tuple[Place, ...] | None = None
        self._places_column = ""
        self._text_checksum = 0
        self._counts: dict[ServerId, int] | None = None
        self._counts_column = ""
        self._checksum = 0
        """Of identity and texts together."""

    def make(self, marks: Marks, commits: int, rows: int, rows_checksum: int) -> tuple[Any, ...]:
        if (
            marks.made is not self._made
            or marks.places is not self._places
            or marks.configuration is not self._configuration
        ):
            self._encode_texts(marks)
        if marks.counts is not self._counts:
            self._counts = marks.counts
            self._counts_column = _pairs(marks.counts)
            self._checksum = zlib.crc32(self._counts_column.encode(), self._text_checksum)
        snapshot = marks.snapshot or _NO_SNAPSHOT
        numbers = (
            marks.in_force, commits, marks.promised.round, marks.promised.leader,
            marks.chosen_to, marks.discarded, marks.lease,
            snapshot.slot, snapshot.size, snapshot.checksum, rows, rows_checksum,
        )  # fmt: skip
        checksum = zlib.crc32(_NUMBERS.pack(*numbers), self._checksum)
        return (
            self._made_column, self._configuration_column, self._counts_column,
            self._places_column, *numbers, checksum,
        )  # fmt: skip

    def _encode_texts(self, marks: Marks) -> None:
        """Encode the columns that seldom change."""
        self._made, self._places = marks.made, marks.places
        self._configuration = marks.configuration
        self._made_column = "" if marks.made is None else _encode_made(marks.made)
        self._configuration_column = _encode_configuration(marks.configuration)
        self._places_column = _encode_places(marks.places)
        self._text_checksum = _text_checksum(
            self._identity, self._made_column, self._configuration_column, self._places_column
        )
        self._counts = None


def _pairs(numbers: dict[ServerId, int]) -> str:
    """A number a server, as people can read it: "2=17,3=19"."""
    return ",".join([f"{server}={number}" for server, number in numbers.items()])


def _from_pairs(column: str) -> dict[ServerId, int]:
    pairs = [pair.split("=") for pair in column.split(",") if pair]
    return {int(server): int(number) for server, number in pairs}


def _text_checksum(identity: Identity, *columns: str) -> int:
    return zlib.crc32(f"{identity.columns()}{''.join(columns)}".encode())


def _encode_made(made: Made) -> str:
    """As JSON, so that people can read it with any tool for SQLite."""
    return msgspec.json.encode(msgspec.structs.asdict(made)).decode()


def _decode_made(text: str) -> Made | None:
    if not text:
        return None
    return msgspec.convert(tuple(msgspec.json.decode(text).values()), Made)


def _encode_configuration(configuration: Configuration | None) -> str:
    return "" if configuration is None else msgspec.json.encode(configuration).decode()


def _decode_configuration(text: str) -> Configuration | None:
    return msgspec.json.decode(text, type=Configuration) if text else None


def _encode_places(places: tuple[Place, ...]) -> str:
    return msgspec.json.encode([msgspec.structs.asdict(place) for place in places]).decode()


def _decode_places(text: str) -> tuple[Place, ...]:
    held = msgspec.json.decode(text) if text else []
    return tuple(msgspec.convert(tuple(each.values()), Place) for each in held)


class Held(msgspec.Struct, frozen=True):
    """A data directory's own record of its cluster."""

    made: Made
    configuration: Configuration
    """Who the members are, as far as it knows."""
    places: tuple[Place, ...]
    """Where they are."""


def _meta_of(directory: Path, columns: str) -> tuple[Any, ...] | None:
    """Columns of `meta`, without opening a directory as its server does; None: unreadable."""
    uri = f"{(directory / DATABASE_NAME).absolute().as_uri()}?mode=ro"
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(uri, uri=True)) as database,
    ):
        found: tuple[Any, ...] | None = database.execute(f"SELECT {columns} FROM meta").fetchone()
        return found
    return None


def held_in(directory: Path) -> Held | None:
    """Which cluster a data directory belongs to.

    None if it belongs to none yet, or is no data directory that this release reads.
    """
    found = _meta_of(directory, "made, configuration, places")
    try:
        made = None if found is None else _decode_made(found[0])
        if found is None or made is None:
            return None
        configuration = _decode_configuration(found[1]) or Configuration.of(made)
        return Held(made, configuration, _decode_places(found[2]))
    except (TypeError, ValueError):
        return None


def incarnation_in(directory: Path) -> int:
    """The number of a data directory, whether it belongs to a cluster yet or not; 0: unknown."""
    found = _meta_of(directory, "incarnation")
    return found[0] if found is not None and isinstance(found[0], int) else 0


def cluster_in(directory: Path) -> str:
    """The name of the cluster that a data directory is of; "" if it is none."""
    found = _meta_of(directory, "cluster")
    return str(found[0]) if found is not None else ""


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
    with contextlib.closing(database):
        # The index is made from the log by the first statement that reads.
        database.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        log.check()
        _check_structure(path, database)
        contents = _read_meta(path, database, identity)
        if contents.commits < witnessed:
            raise CorruptStorage(
                f"{path} ends at commit {contents.commits}, but {witnessed} were synced: its "
                f"write-ahead log is damaged or missing; put it back, or {REMEDY}"
            )
        contents.accepted = read_accepted(path, database, contents.rows, contents.rows_checksum)
    return contents


def _check_structure(path: Path, database: sqlite3.Connection) -> None:
    """Every page is where it belongs (SQLite has no checksums of pages, but it checks the links).

    Rows are safe by their own checksums; this keeps a page from being taken for a free one.
    """
    (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise CorruptStorage(f"{path} is damaged ({verdict.splitlines()[-1]}): {REMEDY}")


def _read_meta(path: Path, database: sqlite3.Connection, identity: Identity) -> Contents:
    found = database.execute("SELECT * FROM meta").fetchall()
    try:
        (row,) = found
        owner, (made_column, configuration, counts, places, *numbers, checksum) = row[:4], row[4:]
        columns = (made_column, configuration, places)
        texts = zlib.crc32(counts.encode(), _text_checksum(identity, *columns))
        whole = zlib.crc32(_NUMBERS.pack(*numbers), texts) == checksum
        whole = whole and owner == identity.columns()
        made = _decode_made(made_column) if whole else None
    except (ValueError, TypeError, AttributeError, struct.error):
        whole = False
    if not whole:
        raise CorruptStorage(
            f"{path}, table meta: the only row is damaged (its checksum is wrong); {REMEDY}"
        )
    in_force, commits, round_, leader, chosen_to, discarded, lease, *rest = numbers
    slot, size, image_checksum, rows, rows_checksum = rest
    marks = Marks(
        promised=Ballot(round_, leader),
        chosen_to=chosen_to,
        discarded=discarded,
        lease=lease,
        snapshot=SnapshotInfo(slot, size, image_checksum) if slot else None,
        made=made,
        in_force=bool(in_force),
        configuration=_decode_configuration(configuration),
        counts=_from_pairs(counts),
        places=_decode_places(places),
    )
    return Contents(marks, commits, rows, rows_checksum)


def read_accepted(
    path: Path, database: sqlite3.Connection, rows: int, rows_checksum: int
) -> list[Accepted]:
    """All rows of `accepted`, checked one by one and as a set. Raises `CorruptStorage`."""
    accepted = []
    total = 0
    for slot, round_, leader, value, checksum in database.execute(
        "SELECT * FROM accepted ORDER BY slot"
    ):
        try:
            whole = row_checksum(slot, round_, leader, zlib.crc32(value)) == checksum
        except (TypeError, struct.error):
            whole = False
        if not whole:
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
