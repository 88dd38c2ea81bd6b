"""Storage on SQLite: one readable file, one synced transaction a burst (docs/design/storage.md)."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from paxon.actors.ballot import ServerId
from paxon.actors.disk.data_directory import (
    APPLICATION_ID,
    DATABASE_NAME,
    FIRST_COMMIT,
    DataDirectory,
    in_words,
    sync_directory,
)
from paxon.actors.disk.room import (
    GROWTH,
    LOG_ROOM,
    PAGE_BYTES,
    Disk,
    allocated_bytes,
    checkpoint_pages,
    later_bytes,
)
from paxon.actors.disk.snapshot_files import SnapshotFiles
from paxon.actors.disk.sqlite_format import (
    LOG_ROWS,
    PUT_ROW,
    SCHEMA,
    Identity,
    inspect,
    read_accepted,
    row_checksum,
)
from paxon.actors.disk.storage import (
    ENOUGH_ROOM,
    NO_ROOM,
    PLENTY,
    REMEDY,
    CorruptStorage,
    Marks,
    Produce,
    Prove,
    Recovered,
    SnapshotInfo,
    Storage,
    StorageError,
)
from paxon.actors.messages import Accepted
from paxon.transport.log import logger

__all__ = ["SqliteStorage"]

DISCARD_ROWS = 128
"""A commit deletes at most so many discarded rows …"""
DISCARD_BYTES = 256 << 10
"""… and stops after so many bytes of values, for deleting walks over each page of a value; or after
four times as many as the commit writes, for the file grows while deleting is the slower …"""
HURRIED = 32
"""… and so many times as much of both where the disk has little room."""

FORCED_CHECKPOINT_PAGES = 2000
"""A commit copies the log into the database by itself if `maintain` is never called."""
BUSY_MS = 5000
"""How long to wait for another program that reads the database, as SQLite's module does."""
LOG_LIMIT_BYTES = 16 << 20
"""The log's file is cut to this size when a huge commit made it larger."""
SPARE_PAGES = 1024
"""So many free pages stay in the file for new rows; more are given back when the server idles."""
VACUUM_PAGES, SHRINK_PAGES = 64, 4096
"""Pages that an idle server gives back in a step, and one whose snapshot finds no room at once."""
DELETING_ROOM = 64 << 10
"""While rows are still to be deleted the log has room for so much: each commit deletes more."""

CHECK_FILES_EVERY = 10
"""An open server looks at every so many tidyings, about once a second, for its own files."""
_CANNOT_WRITE = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
"""SQLite's words for whatever the system said, but for a full disk."""
_LONGEST_NAME = 500
"""Bytes of a database's name: SQLite takes 512, with what it appends for files of its own."""


class DiskFullError(StorageError):
    """A transaction that was rolled back because the disk has no room for it."""


class SqliteStorage(Storage):
    """The durable state of one server in a directory of its own.

    Raises `StorageError` if the directory cannot be this server's, `CorruptStorage` if what is
    there is not what was written.
    """

    def __init__(
        self,
        directory: str | Path,
        cluster: str,
        server: ServerId,
        *,
        fork: bool = True,
        condemned_too: bool = False,
    ) -> None:
        """`fork=False` takes snapshots at once.

        `condemned_too` opens a directory that is retired or has diverged as well.
        """
        self._directory = DataDirectory(
            Path(directory), cluster, server, condemned_too=condemned_too
        )
        super().__init__(self._directory.incarnation)
        self._database: sqlite3.Connection | None = None
        self._cursor: sqlite3.Cursor | None = None
        """Of all commits: making one for each statement would cost as much as the statement."""
        self._row_count = 0
        self._rows_checksum = 0
        self._discarding = False
        self._log_pages = 0
        """About how many pages were added to the write-ahead log since the last checkpoint."""
        self._ample = True
        """Whether the disk has so much room that it need not be looked at closely …"""
        self._look_below = self.room
        """… until this is all the room that is left."""
        self._checkpoint_at = checkpoint_pages(self.room)
        """At how many pages `maintain` copies the write-ahead log into the database."""
        self._surplus = 0
        """Bytes of the database's free pages that had better be given back to the disk."""
        self._logged_bytes = 0
        """Bytes of the values of all rows above the durable snapshot's slot."""
        self._coming = self._covered_bytes = 0
        """The slot of the snapshot under way (0: none), and what it covers of `_logged_bytes`."""
        self._tidyings = 0
        self._tidied = -1
        """`count` after it tidied last: a server without a new commit since is idle."""
        self._spare = True
        """Whether the file may hold more free pages than it should."""
        self._found: list[Accepted] | None = []
        self._size_bytes = 0
        """What the directory took when it was last looked at."""
        self._files = SnapshotFiles(
            self._directory.path, cluster, server, fork=fork, lock=self._directory.lock
        )
        try:
            self._open()
        except (sqlite3.Error, OSError, CorruptStorage) as error:
            words = self._in_words(error)
            self.close()
            raise words from error
        except BaseException:
            self.close()
            raise

    # --- opening ---------------------------------------------------------------------------------

    def _open(self) -> None:
        directory = self._directory
        if not directory.exists:
            self._create()
        identity = Identity(directory.cluster, directory.server, directory.incarnation)
        self._identity = identity
        contents = inspect(directory.database, identity, directory.commits)
        self.durable = contents.marks
        self._marks = contents.marks.copy()
        self.count, self.moved = contents.commits, directory.moved
        directory.remember_files(DATABASE_NAME)
        self._row_count = contents.rows
        self._rows_checksum = contents.rows_checksum
        self._ballots = {held.slot: held.ballot for held in contents.accepted}
        self._found = self._kept_rows(contents.accepted)
        self._discarding = len(self._found) < contents.rows
        self._files.recover(self.durable.snapshot)
        saved = 0 if self.durable.snapshot is None else self.durable.snapshot.slot
        self._logged_bytes = sum(len(h.value) for h in contents.accepted if h.slot > saved)
        self._look_for_room()
        if self.created:
            self._begin()

    def _begin(self) -> None:
        """Change what was found, for the first time: only once this server may."""
        if self._database is not None:
            return
        directory = self._directory
        directory.check_files()
        with self._in_our_words():
            database = self._connect(directory.database)
            # What a crashed server wrote last may be in the cache only; now it is in the database.
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            directory.take_over()
            directory.witness(self.count)
            directory.sync_witness()
            directory.check_files()
            directory.remember_files()
            self._files.tidy(self.durable.snapshot)

    def _kept_rows(self, accepted: list[Accepted]) -> list[Accepted]:
        """Those that do not merely wait for their deletion."""
        return [held for held in accepted if held.slot > self.durable.discarded]

    def _connect(self, path: Path) -> sqlite3.Connection:
        # The server's one thread uses it, though another may close it.
        database = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",  # never make one
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        self._database = database
        self._cursor = database.cursor()
        database.execute("PRAGMA synchronous=FULL")
        # Debian's default overwrites what is deleted with zeros: a log's worth of writing again.
        database.execute("PRAGMA secure_delete=OFF").fetchall()
        # Checkpoints are ours to time, and their errors ours to see: SQLite's own hide them.
        database.execute("PRAGMA wal_autocheckpoint=0").fetchall()
        # A transaction may need a descriptor for a temporary file when there is none left.
        database.execute("PRAGMA temp_store=MEMORY").fetchall()
        database.execute(f"PRAGMA journal_size_limit={LOG_LIMIT_BYTES}").fetchall()
        return database

    def _create(self) -> None:
        """Make the database under another name: a crash leaves none or a whole one."""
        temporary = self._directory.path / (DATABASE_NAME + ".tmp")
        for suffix in ("", "-wal", "-shm", "-journal"):
            temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)
        self.created = True
        self.incarnation = self._directory.incarnation = secrets.randbits(63)
        identity = Identity(self._directory.cluster, self._directory.server, self.incarnation)
        database = sqlite3.connect(temporary, isolation_level=None)
        with contextlib.closing(database):
            temporary.chmod(0o600)
            database.execute(f"PRAGMA page_size={PAGE_BYTES}")
            database.execute("PRAGMA auto_vacuum=INCREMENTAL")
            database.execute(f"PRAGMA application_id={APPLICATION_ID}")
            database.execute("PRAGMA synchronous=FULL")
            database.execute("PRAGMA journal_mode=WAL").fetchall()
            database.executescript(f"BEGIN IMMEDIATE;{SCHEMA}")
            database.execute(PUT_ROW, identity.row(Marks(), FIRST_COMMIT, 0, 0))
            database.execute("COMMIT")
            # Closing would do that, too, and hide an error: what is in the log is not renamed.
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._directory.create_witness(self.incarnation, temporary)
        temporary.rename(self._directory.database)
        sync_directory(self._directory.path)

    def _query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        assert self._database is not None
        return self._database.execute(statement, parameters).fetchall()

    def load(self) -> Recovered:
        recovered = self._recovered()
        recovered.stopped_at = self._directory.stopped_at()
        with self._in_our_words():
            self._files.verify(self.durable.snapshot)
        if self._found is None:
            if not self._unusable:
                self._begin()
            assert self._database is not None
            with self._in_our_words():
                rows = read_accepted(
                    self._directory.database, self._database, self._row_count, self._rows_checksum
                )
            recovered.accepted = self._kept_rows(rows)
        else:
            recovered.accepted, self._found = self._found, None
        return recovered

    # --- committing ------------------------------------------------------------------------------

    def _write(self) -> None:
        if self._database is None:
            self._begin()
        if self._log_pages >= FORCED_CHECKPOINT_PAGES:
            self._checkpoint()
        discarding = self._discarding or self._marks.discarded > self.durable.discarded
        self._transact(discarding=discarding)
        if self._files.taking:
            self._files.beside(sum(len(value) for _, value, _ in self._rows.values()))

    def _transact(self, *, discarding: bool, again: bool = False) -> None:
        """One synced transaction, which always writes the last row with a new commit number.

        It is tried once more if snapshots can make room for it.
        """
        before = (  # what writing it changes before it is known to succeed
            self._row_count, self._rows_checksum, self._log_pages, self._discarding,
            self._logged_bytes,
        )  # fmt: skip
        cursor = self._cursor
        assert cursor is not None
        count = self.count + 1
        self._found = None
        try:
            cursor.execute("BEGIN IMMEDIATE")
            rows = self._new_rows(cursor)
            if discarding:
                cursor.executemany(PUT_ROW, rows)
                rows = []
                self._delete_rows(cursor)
            meta = self._identity.row(self._marks, count, self._row_count, self._rows_checksum)
            rows.append(meta)
            cursor.executemany(PUT_ROW, rows)
            cursor.execute("COMMIT")
            self.count = count
        except (sqlite3.Error, OSError) as error:
            with contextlib.suppress(sqlite3.Error):
                cursor.execute("ROLLBACK")
            failure = self._in_words(error)
            # Rolled back as a whole, and nothing of it was synced.
            if again or not isinstance(failure, DiskFullError) or not self._files.make_room():
                raise failure from error
            (
                self._row_count, self._rows_checksum, self._log_pages, self._discarding,
                self._logged_bytes,
            ) = before  # fmt: skip
            logger.warning(
                "server {}: the disk is full; gave up what a snapshot under way or an old one "
                "took, for the log comes first: free some space",
                self._directory.server,
            )
            self._transact(discarding=discarding, again=True)
            return
        self._log_pages += 2 + 3 * (len(meta[3]) // PAGE_BYTES)  # (with pages that it gave back)

    def _checkpoint(self) -> None:
        """Copy the log into the database, which lets the log begin anew."""
        with self._in_our_words():
            self._directory.witness(self.count)
            ((_, pages, copied),) = self._query("PRAGMA wal_checkpoint(PASSIVE)")
            if not self._ample and pages == copied:  # what the log's file takes is needed
                self._query("PRAGMA busy_timeout=0")  # whoever reads is not waited for
                self._query("PRAGMA wal_checkpoint(TRUNCATE)")
                self._query(f"PRAGMA busy_timeout={BUSY_MS}")
            self._directory.sync_witness()
        self._log_pages = 0

    def _new_rows(self, cursor: sqlite3.Cursor) -> list[tuple[int, int, int, bytes, int]]:
        """What was collected, counted; what it replaces is uncounted, or deleted already."""
        if self._sealed is not None:  # what an epoch has left above its seal goes
            self._uncount(">", self._sealed)
            cursor.execute(f"DELETE FROM {LOG_ROWS} AND slot>?", (self._sealed,))
        for slot in self._replaced:
            self._uncount("=", slot)
        rows = []
        total = size = 0
        for slot, (ballot, value, inner) in self._rows.items():
            checksum = row_checksum(slot, ballot.round, ballot.leader, inner)
            total += checksum
            size += len(value)
            rows.append((slot, ballot.round, ballot.leader, value, checksum))
        self._logged_bytes += size
        # What does not fit before the last row has its page and those beside it shared out anew.
        self._log_pages += size // PAGE_BYTES + min(size // 512, 5)
        self._row_count += len(rows)
        self._rows_checksum += total
        return rows

    def _uncount(self, compared: str, slot: int) -> None:
        """The rows whose slots compare so with this one are to go, or be written anew."""
        ((count, total, size),) = self._query(
            "SELECT count(*), coalesce(sum(checksum), 0), coalesce(sum(length(value)), 0) "
            f"FROM {LOG_ROWS} AND slot{compared}?", slot,
        )  # fmt: skip
        self._row_count -= count
        self._rows_checksum -= total
        self._logged_bytes -= size

    def _delete_rows(self, cursor: sqlite3.Cursor) -> None:
        """Delete a bounded number of discarded rows; the next commits delete more."""
        hurry = 1 if self._ample else HURRIED
        rows, least = DISCARD_ROWS * hurry, DISCARD_BYTES * hurry
        enough = max(least, 4 * sum(len(value) for _, value, _ in self._rows.values()))
        oldest = self._query(
            "SELECT slot, checksum, length(value) FROM accepted WHERE slot<=? "
            "ORDER BY slot LIMIT ?", self._marks.discarded, rows,
        )  # fmt: skip
        last = count = size = total = 0
        for slot, checksum, length in oldest:
            last = slot
            count += 1
            total += checksum
            size += length
            self._ballots.pop(slot, None)
            if size >= enough:
                break
        self._discarding = count == rows or size >= enough
        if count:
            cursor.execute("DELETE FROM accepted WHERE slot<=?", (last,))
            self._row_count -= count
            self._rows_checksum -= total
            self._log_pages += 6
            self._spare = True

    def _on_committed(self) -> None:
        durable = self.durable.snapshot
        if durable is not None and durable.slot != self._files.current:
            with self._in_our_words():
                self._files.keep(durable)
                self._logged_bytes = self._bytes_above(durable.slot)
            self._look_for_room()
        elif self.room < self._look_below:
            self._look_for_room()

    def _bytes_above(self, slot: int) -> int:
        """Of values in the log."""
        ((size,),) = self._query(
            f"SELECT coalesce(sum(length(value)), 0) FROM {LOG_ROWS} AND slot>?", slot
        )
        return int(size)

    # --- housekeeping ----------------------------------------------------------------------------

    def maintain(self, *, tidy: bool = True) -> None:
        if self._unusable:
            return
        if self._database is None:
            self._begin()
        try:
            if self._log_pages >= self._checkpoint_at:
                self._checkpoint()
            if tidy:
                self._tidy()
                self._look_for_room()
                self._make_room()
            if self._directory.commits != self.count:
                self._directory.witness(self.count)
        except (StorageError, OSError) as error:
            words = self._in_words(error)
            self._fail(words)
            raise words from error

    def _tidy(self) -> None:
        """Now and then: look at the files and, if nobody is kept waiting, at what they take."""
        idle = self.count == self._tidied
        self._tidyings += 1
        if self._tidyings % CHECK_FILES_EVERY == 0:
            self._directory.check_files()
            self._files.forget_old()
        discards = self._discarding or self._marks.discarded > self.durable.discarded
        if discards and not self.dirty and self._lazy and not self._ample:
            self.commit()  # the next may not come before there is room
        elif self._discarding and not self.dirty and not self._lazy and (idle or not self._ample):
            self._transact(discarding=True)
        elif idle and self._spare:
            self._give_back()
        self._tidied = self.count

    def _give_back(self) -> None:
        """Shrink the file by a few pages if it has many free ones."""
        with self._in_our_words():
            free = self._free_pages()
            self._spare = free > SPARE_PAGES
            if self._spare:
                pages = min(VACUUM_PAGES, free - SPARE_PAGES)
                assert self._database is not None
                # It takes one step a page, and `execute` would take the first alone.
                self._database.executescript(f"PRAGMA incremental_vacuum({pages})")
                self._log_pages += 2 * pages
        if not self._spare and self._log_pages:
            self._checkpoint()  # the file shrinks only now

    # --- room ------------------------------------------------------------------------------------

    def _look_for_room(self) -> None:
        """How much the log may still take (docs/design/full-disks.md)."""
        free = self._files.disk.free_bytes()
        if free is None:  # (no descriptor, for one)
            return
        disk = Disk(free, *self._spoken_for(), self._files.taking)
        self._ample = disk.is_ample
        self._surplus = 0
        if not self._ample and self._database is not None:
            with self._in_our_words():
                pages, inside = self._query("PRAGMA page_count")[0][0], self._free_pages()
                growth = pages * PAGE_BYTES - self._directory.database.stat().st_size
            disk = replace(disk, growth=max(0, growth), inside=inside * PAGE_BYTES)
            self._surplus = disk.surplus()
        self.room, self.largest = disk.room(), disk.largest()
        if not self._ample and not self._files.taking and self._files.disk.filled_by_others:
            self.room = PLENTY  # holding clients back would help nobody
        if self.room > NO_ROOM and self._discarding:
            self.room = max(self.room, DELETING_ROOM)
        collected = sum(len(value) for _, value, _ in self._rows.values())
        self.room, self.largest = self.room - collected, self.largest - collected
        self._checkpoint_at = checkpoint_pages(self.room)
        # Each tenth of a second it is looked at anyway (`maintain`); in between after much alone.
        self._look_below = self.room // 2 if self._ample else PLENTY

    def _spoken_for(self) -> tuple[int, int]:
        """`Disk.wanted` and `Disk.later`."""
        last = self._files.next_bytes()
        slot, size, wanted = self._files.coming() or (0, last, last)
        if slot != self._coming:
            self._coming, self._covered_bytes = slot, 0
            if slot:
                with self._in_our_words():
                    self._covered_bytes = self._logged_bytes - self._bytes_above(slot)
        return wanted, later_bytes(last, size, self._logged_bytes, self._covered_bytes)

    def _make_room(self) -> None:
        """Give the disk what the database's file and its log do not need, if the log needs it.

        Else a server that has nothing to take a snapshot of would wait for room for ever.
        """
        if self._ample or self.room >= ENOUGH_ROOM or self._files.taking or self._discarding:
            return
        log = self._directory.database.with_name(f"{DATABASE_NAME}-wal")
        if self._surplus >= LOG_ROOM or allocated_bytes(log.stat()) >= LOG_ROOM:
            self._shrink(self._surplus)
            self._look_for_room()

    def _free_pages(self) -> int:
        return int(self._query("PRAGMA freelist_count")[0][0])

    def _free(self, size: int) -> None:
        """Have the disk's room for a snapshot as far as the database does not need it."""
        free, wanted = self._files.disk.free_bytes(), size + LOG_ROOM
        if free is not None and free < wanted:
            self._shrink(wanted - free + PAGE_BYTES)

    def _shrink(self, missing: int) -> None:
        """Give back space that the database and its log do not need, for a snapshot."""
        assert self._database is not None
        with self._in_our_words():
            pages = min(self._free_pages(), SHRINK_PAGES, missing // PAGE_BYTES)
            self._checkpoint()
            while pages > 0:
                self._database.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
                self._checkpoint()
                pages -= VACUUM_PAGES

    # --- snapshots -------------------------------------------------------------------------------

    @property
    def taking_snapshot(self) -> bool:
        return self._files.taking

    def _take(self, slot: int, produce: Produce, prove: Prove | None) -> None:
        self._begin()
        growth = GROWTH * self._logged_bytes
        self._free(self._files.next_bytes() + growth)
        self._files.take(slot, produce, prove, growth=growth)
        self._look_for_room()

    def _taken(self) -> SnapshotInfo | None:
        return self._files.taken()

    def read_snapshot(self, slot: int, offset: int, size: int) -> bytes:
        with self._in_our_words():
            return self._files.read(slot, offset, size)

    def receive_snapshot(self, info: SnapshotInfo, offset: int, data: bytes) -> int:
        self._begin()
        if not data:  # it begins
            self._free(info.size)
        return self._files.receive(info, offset, data)

    def _finish_received(self, info: SnapshotInfo) -> bytes | None:
        with self._in_our_words():
            return self._files.finish(info)

    # --- what stopped its server -----------------------------------------------------------------

    def note_stop(self, slot: int, reason: str) -> None:
        self._directory.note_stop(slot, reason)

    def forget_stop(self) -> None:
        self._directory.forget_stop()

    def condemn(self, reason: str) -> None:
        self._directory.condemn(reason)

    # --- the rest --------------------------------------------------------------------------------

    @property
    def is_tight(self) -> bool:
        return not self._ample or self._files.is_tight()

    def size_bytes(self) -> int:
        total = 0
        try:
            for entry in self._directory.path.iterdir():
                with contextlib.suppress(FileNotFoundError):  # a snapshot's child renames its file
                    total += entry.stat().st_blocks * 512
        except OSError:  # no descriptor is left, for one: what it was before is near enough
            return self._size_bytes
        self._size_bytes = total
        return total

    def close(self) -> None:
        super().close()
        self._files.close()
        database, cursor = self._database, self._cursor
        self._database = self._cursor = None
        for handle in (cursor, database):  # with a statement open, the file would stay open
            if handle is not None:
                with contextlib.suppress(sqlite3.Error):  # all that counts is synced already
                    handle.close()
        self._directory.close()

    @contextlib.contextmanager
    def _in_our_words(self) -> Iterator[None]:
        """A server that cannot read its log or snapshot any more cannot start again either."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise self._in_words(error) from error

    def _in_words(self, error: sqlite3.Error | OSError | StorageError) -> StorageError:
        """An error of SQLite or of the operating system as one of ours."""
        if isinstance(error, OSError):
            return StorageError(f"{self._directory.path}: {in_words(error)}")
        whole_code = getattr(error, "sqlite_errorcode", 0)
        code = whole_code & 0xFF
        refused = self._directory.unwritable() if code in _CANNOT_WRITE else None
        damaged = code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        damaged = damaged and self._directory.database.exists()  # else it is only being made
        if (damaged or isinstance(error, CorruptStorage)) and (
            words := self._directory.unreadable()
        ):
            return StorageError(words)
        if isinstance(error, StorageError):
            return error
        with contextlib.suppress(OSError):
            if gone := self._directory.missing_file():
                return StorageError(gone)
        # (SQLite's word for a quota. What a sync has refused is not tried again.)
        if code == sqlite3.SQLITE_FULL or (
            whole_code == sqlite3.SQLITE_IOERR_WRITE
            and refused is not None
            and refused.errno in (errno.ENOSPC, errno.EDQUOT)
        ):
            full = refused or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return DiskFullError(
                f"{self._directory.database}: {in_words(full)} and start the server again"
            )
        if refused is not None:
            return StorageError(
                f"{refused.filename or self._directory.database}: {in_words(refused)}"
            )
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StorageError(
                f"{self._directory.database} is locked by another program, such as a shell of "
                "SQLite that writes: end that, and start the server again"
            )
        if damaged:
            said = str(error).splitlines()[0]  # what was found is quoted, ends of lines and all
            return CorruptStorage(f"{self._directory.database} is damaged ({said}): {REMEDY}")
        if len(os.fsencode(self._directory.database.absolute())) > _LONGEST_NAME:
            return StorageError(
                f"{self._directory.database}: SQLite takes names of at most {_LONGEST_NAME} bytes: "
                "choose a directory with a shorter one"
            )
        return StorageError(f"{self._directory.database} cannot be used ({error}): check the disk")
