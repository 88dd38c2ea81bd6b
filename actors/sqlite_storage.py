"""Storage on SQLite: one readable file, one synced transaction a burst (docs/storage.md)."""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from loguru import logger

from paxon.actors.ballot import Ballot, ServerId
from paxon.actors.data_directory import (
    APPLICATION_ID,
    DATABASE_NAME,
    FIRST_COMMIT,
    FORMAT_VERSION,
    DataDirectory,
    in_words,
    sync_directory,
)
from paxon.actors.messages import Accepted
from paxon.actors.snapshot_files import SnapshotFiles
from paxon.actors.storage import CorruptStorage, Recovered, SnapshotInfo, StorageError
from paxon.actors.storage_base import CollectingStorage, Marks
from paxon.actors.write_ahead_log import WriteAheadLog

__all__ = ["SqliteStorage"]

DISCARD_ROWS = 128
"""A commit deletes at most so many discarded rows …"""
DISCARD_BYTES = 256 << 10
"""… and stops after so many bytes of values: deleting walks over each page of a value."""

CHECKPOINT_PAGES = 1000
"""`maintain` copies the log into the database when it has about so many pages (docs/storage.md);"""
FORCED_CHECKPOINT_PAGES = 2000
"""a commit does so itself if `maintain` is never called."""
LOG_LIMIT_BYTES = 16 << 20
"""The log's file is cut to this size when a huge commit made it larger."""
PAGE_BYTES = 4096
SPARE_PAGES = 1024
"""So many free pages stay in the file for new rows; more are given back when the server idles."""
VACUUM_PAGES = 256
"""An idle server gives back this many pages a step."""

_SCHEMA = """
CREATE TABLE meta (
    format INTEGER NOT NULL,
    cluster TEXT NOT NULL,
    server INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    peers TEXT NOT NULL,
    commits INTEGER NOT NULL,
    promise_round INTEGER NOT NULL,
    promise_leader INTEGER NOT NULL,
    chosen_to INTEGER NOT NULL,
    discarded INTEGER NOT NULL,
    voting INTEGER NOT NULL,
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
_UPDATE_META = (
    "UPDATE meta SET peers=?, commits=?, promise_round=?, promise_leader=?, chosen_to=?, "
    "discarded=?, voting=?, snapshot_slot=?, snapshot_size=?, snapshot_checksum=?, rows=?, "
    "rows_checksum=?, checksum=?"
)
_INSERT_META = f"INSERT INTO meta VALUES ({','.join('?' * 17)})"
_PUT_ACCEPTED = "INSERT OR REPLACE INTO accepted VALUES (?,?,?,?,?)"

_NUMBERS = struct.Struct("<11q")
_BALLOT_OF_SLOT = struct.Struct("<3q")


def _row_checksum(slot: int, round_: int, leader: int, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(_BALLOT_OF_SLOT.pack(slot, round_, leader)))


class SqliteStorage(CollectingStorage):
    """The durable state of one server in a directory of its own.

    Raises `StorageError` if the directory cannot be this server's, `CorruptStorage` if what is
    there is not what was written.
    """

    def __init__(
        self,
        directory: str | Path,
        cluster: str,
        server: ServerId,
        durable: bool = True,
        *,
        fork: bool = True,
    ) -> None:
        """`durable=False` leaves out the syncs; `fork=False` takes snapshots at once."""
        self._directory = DataDirectory(Path(directory), cluster, server)
        super().__init__(self._directory.incarnation)
        self._database: sqlite3.Connection | None = None
        self._durable_syncs = durable
        self._row_count = 0
        self._rows_checksum = 0
        self._discarding = False
        self._sequence = 0
        self._log_pages = 0
        """About how many pages were added to the write-ahead log since the last checkpoint."""
        self._seen_commits = -1
        """`commits` at the last `maintain`: a server without a new one since is idle."""
        self._spare = True
        """Whether the file may hold more free pages than it should."""
        self._found: list[Accepted] | None = []
        self._files = SnapshotFiles(
            self._directory.path, cluster, server, fork=fork, lock=self._directory.lock
        )
        if not durable:
            logger.warning(
                "server {} does not sync its disk (durable=False): what was acknowledged may be "
                "lost in a power failure; use this for tests and benches only",
                server,
            )
        try:
            self._open()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise self._in_words(error) from error
        except BaseException:
            self.close()
            raise

    # --- opening ---------------------------------------------------------------------------------

    def _open(self) -> None:
        if not self._directory.exists:
            self._create()
        log = WriteAheadLog(self._directory.database)
        database = self._connect(self._directory.database)
        self._check_log(log)
        self._check_structure()
        self._read_meta()
        if self._sequence < self._directory.commits:
            raise CorruptStorage(
                f"{self._name()} ends at commit {self._sequence}, but {self._directory.commits} "
                f"were synced: its write-ahead log is damaged or missing; put it back, or empty "
                f"the directory and start once with --rejoin"
            )
        self._found = self._read_accepted()
        self._files.recover(self._durable.snapshot)
        # What a crashed server wrote last may be in the cache only; now it is in the database.
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._directory.witness(self._sequence)
        self._directory.sync_witness()

    def _connect(self, path: Path) -> sqlite3.Connection:
        # The server's one thread uses it, though another may close it.
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database = database
        synchronous = "FULL" if self._durable_syncs else "OFF"
        database.execute(f"PRAGMA synchronous={synchronous}")
        # Checkpoints are ours to time, and their errors ours to see: SQLite's own hide them.
        database.execute("PRAGMA wal_autocheckpoint=0").fetchall()
        database.execute(f"PRAGMA journal_size_limit={LOG_LIMIT_BYTES}").fetchall()
        return database

    def _create(self) -> None:
        """Make the database under another name: a crash leaves none or a whole one."""
        temporary = self._directory.path / (DATABASE_NAME + ".tmp")
        for suffix in ("", "-wal", "-shm", "-journal"):
            temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)
        self._directory.create_witness(secrets.randbits(63))
        self._incarnation = self._directory.incarnation
        database = sqlite3.connect(temporary, isolation_level=None)
        with contextlib.closing(database):
            temporary.chmod(0o600)
            database.execute(f"PRAGMA page_size={PAGE_BYTES}")
            database.execute("PRAGMA auto_vacuum=INCREMENTAL")
            database.execute(f"PRAGMA application_id={APPLICATION_ID}")
            database.execute("PRAGMA synchronous=FULL")
            database.execute("PRAGMA journal_mode=WAL").fetchall()
            row = self._meta_row(Marks(), FIRST_COMMIT)
            database.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}")
            database.execute(_INSERT_META, (*self._identity(), *row))
            database.execute("COMMIT")
        temporary.rename(self._directory.database)
        sync_directory(self._directory.path)

    def _identity(self) -> tuple[int, str, int, int]:
        directory = self._directory
        return (FORMAT_VERSION, directory.cluster, directory.server, directory.incarnation)

    def _meta_row(self, marks: Marks, commits: int) -> tuple[Any, ...]:
        """The columns of `meta` after the identity, with the checksum over all of them."""
        peers = ",".join(f"{server}={marks.peers[server]}" for server in sorted(marks.peers))
        snapshot = marks.snapshot or SnapshotInfo(0, 0, 0)
        numbers = (
            commits, marks.promised.round, marks.promised.leader, marks.chosen_to,
            marks.discarded, int(marks.voting), snapshot.slot, snapshot.size, snapshot.checksum,
            self._row_count, self._rows_checksum,
        )  # fmt: skip
        return (peers, *numbers, self._meta_checksum(peers, numbers))

    def _meta_checksum(self, peers: str, numbers: tuple[Any, ...]) -> int:
        text = zlib.crc32(f"{self._identity()}{peers}".encode())
        return zlib.crc32(_NUMBERS.pack(*numbers), text)

    # --- checking what is there ------------------------------------------------------------------

    def _check_log(self, log: WriteAheadLog) -> None:
        _, frames, _ = self._query("PRAGMA wal_checkpoint(PASSIVE)")[0]
        log.check(frames)

    def _check_structure(self) -> None:
        """Every page is where it belongs (SQLite checks no checksums, but all the links)."""
        verdict = self._query("PRAGMA quick_check(1)")
        if verdict != [("ok",)]:
            raise CorruptStorage(
                f"{self._name()} is damaged ({str(verdict[0][0]).splitlines()[-1]}): empty the "
                f"directory and start once with --rejoin"
            )

    def _read_meta(self) -> None:
        rows = self._query("SELECT * FROM meta")
        try:
            (row,) = rows
            format_, cluster, server, incarnation, peers, *numbers, checksum = row
            whole = (
                format_,
                cluster,
                server,
                incarnation,
            ) == self._identity() and self._meta_checksum(peers, tuple(numbers)) == checksum
        except (ValueError, TypeError, struct.error):
            whole = False
        if not whole:
            raise CorruptStorage(self._damaged("meta", "the only row"))
        commits, round_, leader, chosen_to, discarded, voting, *rest = numbers
        slot, size, image_checksum, self._row_count, self._rows_checksum = rest
        self._sequence = commits
        pairs = [pair.split("=") for pair in peers.split(",") if pair]
        self._durable = Marks(
            promised=Ballot(round_, leader),
            chosen_to=chosen_to,
            discarded=discarded,
            voting=bool(voting),
            snapshot=SnapshotInfo(slot, size, image_checksum) if slot else None,
            peers={int(server): int(incarnation) for server, incarnation in pairs},
        )
        self._marks = self._durable.copy()

    def _read_accepted(self) -> list[Accepted]:
        """All rows, checked one by one and as a set; those discarded are left out."""
        accepted = []
        count = total = 0
        discarded = self._durable.discarded
        for slot, round_, leader, value, checksum in self._query_rows():
            try:
                whole = _row_checksum(slot, round_, leader, value) == checksum
            except (TypeError, struct.error):
                whole = False
            if not whole:
                raise CorruptStorage(self._damaged("accepted", f"the row of slot {slot}"))
            count += 1
            total += checksum
            ballot = Ballot(round_, leader)
            self._ballots[slot] = ballot
            if slot > discarded:
                accepted.append(Accepted(slot, ballot, value))
            else:
                self._discarding = True
        if (count, total) != (self._row_count, self._rows_checksum):
            raise CorruptStorage(
                f"{self._name()}, table accepted: {count} rows are there that do not add up to "
                f"the {self._row_count} written; empty the directory and start once with --rejoin"
            )
        return accepted

    def _query_rows(self) -> Iterable[tuple[Any, ...]]:
        assert self._database is not None
        return self._database.execute("SELECT * FROM accepted ORDER BY slot")

    def _query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        assert self._database is not None
        return self._database.execute(statement, parameters).fetchall()

    def load(self) -> Recovered:
        recovered = self._recovered()
        self._files.verify(self._durable.snapshot)
        if self._found is None:
            self._found = self._read_accepted()
        recovered.accepted, self._found = self._found, None
        return recovered

    # --- committing ------------------------------------------------------------------------------

    def _write(self) -> None:
        discarding = self._discarding or self._marks.discarded > self._durable.discarded
        self._transact(self._write_rows if self._rows else None, discarding=discarding)
        if self._log_pages >= FORCED_CHECKPOINT_PAGES:
            self._checkpoint()

    def _transact(
        self, write: Callable[[sqlite3.Connection], None] | None, *, discarding: bool
    ) -> None:
        """One synced transaction, which always writes `meta` with a new commit number."""
        database = self._database
        assert database is not None
        sequence = self._sequence + 1
        self._found = None
        try:
            database.execute("BEGIN IMMEDIATE")
            if write is not None:
                write(database)
            if discarding:
                self._delete_rows(database)
            database.execute(_UPDATE_META, self._meta_row(self._marks, sequence))
            database.execute("COMMIT")
            self._sequence = sequence
            self._directory.witness(sequence)
        except (sqlite3.Error, OSError) as error:
            with contextlib.suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise self._in_words(error) from error
        self._log_pages += 4

    def _checkpoint(self) -> None:
        """Copy the log into the database, which lets the log begin anew."""
        try:
            self._query("PRAGMA wal_checkpoint(PASSIVE)")
            self._directory.sync_witness()
        except (sqlite3.Error, OSError) as error:
            raise self._in_words(error) from error
        self._log_pages = 0

    def _write_rows(self, database: sqlite3.Connection) -> None:
        for slot in self._replaced:
            self._rows_checksum -= self._query("SELECT checksum FROM accepted WHERE slot=?", slot)[
                0
            ][0]
        rows = []
        total = size = 0
        for slot, (ballot, value) in self._rows.items():
            checksum = _row_checksum(slot, ballot.round, ballot.leader, value)
            total += checksum
            size += len(value)
            rows.append((slot, ballot.round, ballot.leader, value, checksum))
        database.executemany(_PUT_ACCEPTED, rows)
        self._log_pages += size // PAGE_BYTES
        self._row_count += len(rows) - len(self._replaced)
        self._rows_checksum += total

    def _delete_rows(self, database: sqlite3.Connection) -> None:
        """Delete a bounded number of discarded rows; the next commits delete more."""
        oldest = self._query(
            "SELECT slot, checksum, length(value) FROM accepted WHERE slot<=? "
            "ORDER BY slot LIMIT ?", self._marks.discarded, DISCARD_ROWS,
        )  # fmt: skip
        last = count = size = total = 0
        for slot, checksum, length in oldest:
            last = slot
            count += 1
            total += checksum
            size += length
            self._ballots.pop(slot, None)
            if size >= DISCARD_BYTES:
                break
        self._discarding = count == DISCARD_ROWS or size >= DISCARD_BYTES
        if count:
            database.execute("DELETE FROM accepted WHERE slot<=?", (last,))
            self._row_count -= count
            self._rows_checksum -= total
            self._log_pages += 4
            self._spare = True

    def _on_committed(self) -> None:
        durable = self._durable.snapshot
        if durable is not None:
            try:
                self._files.keep(durable)
            except OSError as error:
                raise self._in_words(error) from error

    # --- housekeeping ----------------------------------------------------------------------------

    def maintain(self) -> None:
        if self._unusable:
            return
        idle = self.commits == self._seen_commits
        self._seen_commits = self.commits
        try:
            if self._log_pages >= CHECKPOINT_PAGES:
                self._checkpoint()
            elif idle and self._discarding and not self._dirty and not self._lazy:
                self._transact(None, discarding=True)
            elif idle and self._spare:
                self._give_back()
        except StorageError as error:
            self._fail(error)
            raise

    def _give_back(self) -> None:
        """Shrink the file by a few pages if it has many free ones."""
        try:
            free = self._query("PRAGMA freelist_count")[0][0]
            self._spare = free > SPARE_PAGES
            if self._spare:
                pages = min(VACUUM_PAGES, free - SPARE_PAGES)
                assert self._database is not None
                # It takes one step a page, and `execute` would take the first alone.
                self._database.executescript(f"PRAGMA incremental_vacuum({pages})")
                self._log_pages += 2 * pages
        except sqlite3.Error as error:
            raise self._in_words(error) from error
        if not self._spare and self._log_pages:
            self._checkpoint()  # the file shrinks only now

    # --- snapshots -------------------------------------------------------------------------------

    @property
    def taking_snapshot(self) -> bool:
        return self._files.taking

    @property
    def snapshot_failures(self) -> int:
        """How many snapshots could not be taken since the start."""
        return self._files.failures

    def _take(self, slot: int, produce: Callable[[], Iterable[bytes]]) -> None:
        newest = self._marks.snapshot
        if newest is not None and slot == newest.slot:
            self._files.repeat(newest)
        else:
            self._files.take(slot, produce)

    def _taken(self) -> SnapshotInfo | None:
        return self._files.taken()

    def read_snapshot(self, slot: int, offset: int, size: int) -> bytes:
        return self._files.read(slot, offset, size)

    def receive_snapshot(self, info: SnapshotInfo, offset: int, data: bytes) -> int:
        return self._files.receive(info, offset, data)

    def _finish_received(self, info: SnapshotInfo) -> bool:
        return self._files.finish(info)

    # --- the rest --------------------------------------------------------------------------------

    def size_bytes(self) -> int:
        total = 0
        for entry in self._directory.path.iterdir():
            with contextlib.suppress(FileNotFoundError):  # a snapshot's child renames its file
                total += entry.stat().st_blocks * 512
        return total

    def close(self) -> None:
        super().close()
        self._files.close()
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):  # all that counts is synced already
                database.close()
        self._directory.close()

    def _name(self) -> str:
        return str(self._directory.database)

    def _damaged(self, table: str, row: str) -> str:
        return (
            f"{self._name()}, table {table}: {row} is damaged (its checksum is wrong); empty the "
            f"directory and start once with --rejoin"
        )

    def _in_words(self, error: sqlite3.Error | OSError) -> StorageError:
        """An error of SQLite or of the operating system as one of ours."""
        if isinstance(error, OSError):
            return StorageError(f"{self._name()}: {in_words(error)}")
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return StorageError(
                f"{self._name()}: the disk is full: free some space and start the server again"
            )
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return CorruptStorage(
                f"{self._name()} is damaged ({error}): empty the directory and start once with "
                f"--rejoin"
            )
        return StorageError(f"{self._name()} cannot be used ({error}): check the disk")
