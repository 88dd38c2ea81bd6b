"""A server's data directory: whose it is, who holds it, and how far it was ever synced."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import zlib
from pathlib import Path
from typing import NamedTuple

from paxon.actors.ballot import ServerId
from paxon.actors.disk.storage import REMEDY, CorruptStorage, StorageError
from paxon.transport import closed_here, keep_from_forks
from paxon.transport.log import logger

__all__ = [
    "DataDirectory", "in_words", "is_there", "make_directory", "owner_of", "replace_file",
    "sync_directory",
]  # fmt: skip

FORMAT_VERSION = 11
"""Rises with what is stored, and what executing it comes to (tests/objects/test_outcomes.py)."""
DATABASE_NAME = "paxon.db"
LOCK_NAME = "paxon.lock"
WITNESS_NAME = "paxon.witness"
STOPPED_NAME = "paxon.stopped"
"""Names the slot whose execution stopped this server, and why, in plain text."""
APPLICATION_ID = 0x5041584F
"""Marks the file as Paxon's in SQLite's header ("PAXO")."""
CONDEMNED_NAME = "paxon.diverged"
"""Says why nothing in this directory counts any more (docs/design/digests.md)."""
READ_BYTES = 1 << 20
FIRST_COMMIT = 1
"""The number of the commit with which a database is made."""

_FORMAT = re.compile(rb"paxon data directory\nformat (\d{1,9})\n")
_WITNESS = re.compile(
    rb"paxon data directory\nformat (?P<format>\d+)\ncluster (?P<cluster>[^\n]*)\n"
    rb"server (?P<server>\d+)\n"
    rb"incarnation (?P<incarnation>\d+)\ninode (?P<inode>\d{20})\n"
    rb"commits (?P<commits>\d{20})\nchecksum (?P<checksum>[0-9a-f]{8})\n"
)


def in_words(error: OSError) -> str:
    """An operating-system error in a few words: its meaning, and what to do."""
    if error.errno == errno.ENOSPC:
        return "the disk is full: free some space"
    if error.errno == errno.EDQUOT:
        return "the quota on this disk is used up: free some space, or have it raised"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "permission is denied: give this user the right to write there"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return "a file is where a directory should be: choose another directory"
    if error.errno == errno.EROFS:
        return "the file system is read-only: mount it writable or choose another directory"
    if error.errno == errno.EIO:
        return "the disk reports an input/output error: check the disk"
    if error.errno == errno.EFBIG:
        return "a file may not grow further: raise this process's limit (ulimit -f, LimitFSIZE=)"
    return f"{error.strerror or error}"


def is_there(path: Path) -> bool:
    """Whether something has this name. Raises `OSError` where that cannot be told.

    `Path.exists` takes any error for absence from Python 3.14 on: a disk that cannot be read for a
    moment would look like a new one.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def sync_directory(path: Path) -> None:
    """Make names that were created, renamed or deleted in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path, mode: int = 0o777) -> None:
    """Make a directory and what is missing above it, each name durably. Raises `OSError`."""
    if path.is_dir():
        return
    if not path.parent.exists():
        make_directory(path.parent)
    path.mkdir(mode=mode, exist_ok=True)
    sync_directory(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Give a file new contents, durably; a crash leaves the old ones or these. Raises `OSError`."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
    sync_directory(path.parent)


class Owner(NamedTuple):
    """Whose a data directory is, and which one."""

    cluster: str = ""
    server: ServerId = 0
    incarnation: int = 0
    trouble: str = ""
    """Why its witness cannot be believed, a sentence; then nobody's."""


def owner_of(directory: Path) -> Owner:
    """What the witness in a directory says, whether its server belongs to a cluster yet or not."""
    try:
        found = _witness_in(directory)
    except FileNotFoundError:
        return Owner()
    except OSError as error:
        return Owner(trouble=f"data directory {directory}: {in_words(error)}")
    except StorageError as error:
        return Owner(trouble=str(error))
    cluster = found["cluster"].decode(errors="replace")
    return Owner(cluster, int(found["server"]), int(found["incarnation"]))


def _witness_in(directory: Path) -> re.Match[bytes]:
    """Raises `StorageError` for one that is damaged, or of another format, and `OSError`."""
    text = (directory / WITNESS_NAME).read_bytes()
    head, _, checksum = text.rpartition(b"checksum ")
    version, found = _FORMAT.match(text), _WITNESS.fullmatch(text)
    whole = version is not None and checksum == b"%08x\n" % zlib.crc32(head)
    if version is not None and whole and int(version[1]) != FORMAT_VERSION:
        raise StorageError(
            f"data directory {directory} has format version {int(version[1])}, this Paxon reads "
            f"{FORMAT_VERSION}: use the Paxon that wrote it, or another directory"
        )
    if found is None or not whole:
        raise CorruptStorage(
            f"data directory {directory}: {WITNESS_NAME} is damaged (its checksum is wrong); "
            f"{REMEDY}"
        )
    return found


class DataDirectory:
    """Opens a directory for one server: checks whose it is, then holds the lock until `close`.

    Beside the database lies the *witness*, a small file that says in plain text whose directory
    this is and how many commits were synced. Its count is written after each commit, without a sync
    of its own: it may lag after a power failure and is never ahead of the database, so a database
    that holds fewer commits than the witness counts has lost some (docs/design/storage.md).
    """

    def __init__(
        self, path: Path, cluster: str, server: ServerId, *, condemned_too: bool = False
    ) -> None:
        """Raises `StorageError`, with nothing changed, if the directory cannot be this server's.

        `condemned_too` opens one that is retired or has diverged as well.
        """
        self.path = path
        self.cluster = cluster
        self.server = server
        self.database = path / DATABASE_NAME
        self.incarnation = 0
        self.commits = 0
        self._inode = 0
        self.moved = False
        """Whether the database is another file than the one that was written last: a directory was
        put back or copied. (The device is not compared: its number may change with a reboot.)"""
        self.lock = -1
        self._witness = -1
        self._condemned_too = condemned_too
        self._files: dict[Path, tuple[int, int]] = {}
        """Device and inode of each file that must stay the one that is open here."""
        self._identity = b""
        self._identity_checksum = 0
        try:
            self._open()
        except OSError as error:
            self.close()
            name = Path(os.fsdecode(error.filename or path)).name
            which = f"{name}: " if name != path.name else ""
            raise StorageError(f"data directory {path}: {which}{in_words(error)}") from error
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        if is_there(self.path) and not self.path.is_dir():
            raise StorageError(
                f"data directory {self.path}: there is a file of that name; give a directory"
            )
        self._refuse_if_condemned()
        self.exists = self._check_identity()
        make_directory(self.path, 0o700)
        self._acquire_lock()
        # Another process may have made the database between our look and our lock.
        self.exists = self._check_identity()
        if self.exists:
            self._witness = os.open(self.path / WITNESS_NAME, os.O_RDWR | os.O_CLOEXEC)

    def _acquire_lock(self) -> None:
        path = self.path / LOCK_NAME
        self.lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        keep_from_forks(self.lock)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self.lock, 32, 0).decode(errors="replace").strip() or "unknown"
            raise StorageError(
                f"data directory {self.path} is in use by a live process (pid {holder}): "
                f"stop that one first, or give this server a directory of its own"
            ) from None
        os.ftruncate(self.lock, 0)
        os.pwrite(self.lock, f"{os.getpid()}\n".encode(), 0)

    def _check_identity(self) -> bool:
        """Read the witness; False if there is no database yet. Changes nothing."""
        witness = self.path / WITNESS_NAME
        if not is_there(self.database):
            self._check_unused(witness)
            return False
        if not is_there(witness):
            self._check_foreign()
            raise CorruptStorage(
                f"data directory {self.path}: {WITNESS_NAME} is missing, so that nobody can tell "
                f"whether {DATABASE_NAME} is complete; put it back, or {REMEDY}"
            )
        self._believe(_witness_in(self.path))
        return True

    def _check_unused(self, witness: Path) -> None:
        """Refuse to make a new database where one must have been."""
        commits = 0
        if is_there(witness):
            text = witness.read_bytes()  # empty, if this was killed as it made one
            found = _WITNESS.fullmatch(text)
            commits = int(found["commits"]) if found else (FIRST_COMMIT + 1) * bool(text)
        leftover = is_there(self.database.with_name(DATABASE_NAME + "-wal")) or (
            is_there(self.path) and any(self.path.glob("snapshot-*.paxon"))
        )
        if leftover or commits > FIRST_COMMIT:
            raise StorageError(
                f"data directory {self.path}: {DATABASE_NAME} is missing although this directory "
                f"was in use; put it back, or {REMEDY}"
            )

    def _check_foreign(self) -> None:
        with self.database.open("rb") as file:
            head = file.read(100)
        mark = int.from_bytes(head[68:72], "big")
        if not head.startswith(b"SQLite format 3\0") or mark != APPLICATION_ID:
            raise StorageError(
                f"data directory {self.path}: {DATABASE_NAME} is not a Paxon database; "
                f"give another directory"
            )

    def _believe(self, found: re.Match[bytes]) -> None:
        """Be the directory of this witness. Raises `StorageError` if it is another server's."""
        cluster, server = found["cluster"].decode(errors="replace"), int(found["server"])
        if cluster != self.cluster:
            raise StorageError(
                f"data directory {self.path} belongs to cluster {cluster!r}, not to "
                f"{self.cluster!r}: give this server its own directory"
            )
        if server != self.server:
            raise StorageError(
                f"data directory {self.path} belongs to server {server}, not to server "
                f"{self.server}: give each server its own directory"
            )
        self.incarnation = int(found["incarnation"])
        self.commits = int(found["commits"])
        self._inode = int(found["inode"])
        self.moved = self._inode != self.database.stat().st_ino
        self._set_identity()

    def _set_identity(self) -> None:
        self._identity = (
            f"paxon data directory\nformat {FORMAT_VERSION}\ncluster {self.cluster}\n"
            f"server {self.server}\nincarnation {self.incarnation}\n"
            f"inode {self._inode:020d}\ncommits "
        ).encode()
        self._identity_checksum = zlib.crc32(self._identity)

    def create_witness(self, incarnation: int, database: Path) -> None:
        """Write the witness of a new directory, durably, before the database gets its name."""
        self.incarnation = incarnation
        self._inode = database.stat().st_ino
        self._set_identity()
        self._witness = os.open(
            self.path / WITNESS_NAME, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
        )
        self.witness(FIRST_COMMIT)
        os.fsync(self._witness)
        sync_directory(self.path)

    def witness(self, commits: int) -> None:
        """Note that so many commits are synced; itself not synced (see the class).

        All of it in one write of always the same length, less than a sector of a disk: it is there
        as a whole or not at all, and if not, its checksum says so.
        """
        count = b"%020d\n" % commits
        checksum = zlib.crc32(count, self._identity_checksum)
        line = b"%schecksum %08x\n" % (count, checksum)
        record = self._identity + line
        if os.pwrite(self._witness, record, 0) < len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.commits = commits

    def take_over(self) -> None:
        """The database is this directory's, although it is another file than before."""
        if self.moved:
            self.moved = False
            self._inode = self.database.stat().st_ino
            self._set_identity()
            self.witness(self.commits)

    def sync_witness(self) -> None:
        os.fdatasync(self._witness)

    def note_stop(self, slot: int, reason: str) -> None:
        """Name the slot that stopped this server."""
        self._note(STOPPED_NAME, f"slot {slot}\n{reason}\n")

    def condemn(self, reason: str) -> None:
        """Refuse this directory from now on, with this sentence."""
        self._note(CONDEMNED_NAME, f"{reason}\n")

    def _note(self, name: str, text: str) -> None:
        """Beside the database; that the disk takes no note is not fatal too."""
        try:
            replace_file(self.path / name, text.encode())
        except OSError as error:
            logger.error("{}: {}", self.path / name, in_words(error))

    def _refuse_if_condemned(self) -> None:
        path = self.path / CONDEMNED_NAME
        if is_there(path) and not self._condemned_too:
            reason = path.read_text(errors="replace").strip()
            raise StorageError(f"data directory {self.path}: {reason}")

    def stopped_at(self) -> int:
        """The slot in the note; 0 if there is none."""
        try:
            return int((self.path / STOPPED_NAME).read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return 0

    def forget_stop(self) -> None:
        """Remove the note."""
        with contextlib.suppress(OSError):
            (self.path / STOPPED_NAME).unlink()

    def remember_files(self, *names: str) -> None:
        """These files are open, or all: note which they are, for `check_files`."""
        for name in names or (DATABASE_NAME, DATABASE_NAME + "-wal", WITNESS_NAME, LOCK_NAME):
            path = self.path / name
            self._files[path] = _which(path)

    def check_files(self) -> None:
        """Raise `StorageError` if a file was deleted or replaced while it is open here.

        What is written to it from then on nobody would find again at the next start.
        """
        if missing := self.missing_file():
            raise StorageError(missing)

    def missing_file(self) -> str:
        """A sentence about a file that is not the one that is open here; "" if all are."""
        for path, which in self._files.items():
            if _which(path) != which:
                return (
                    f"{path} was deleted or replaced while this server ran: it stops, for what it "
                    f"writes would be lost; put the file back, or {REMEDY}"
                )
        return ""

    def unreadable(self) -> str:
        """A sentence for when the disk cannot read the database; "" if it can.

        SQLite takes what it cannot read for damaged, but that may pass: nothing is to be emptied.
        """
        for path in (self.database, self.database.with_name(DATABASE_NAME + "-wal")):
            try:
                with path.open("rb", buffering=0) as file:
                    while file.read(READ_BYTES):
                        pass
            except FileNotFoundError:
                continue
            except OSError as error:
                return f"{path}: {in_words(error)}"
        return ""

    def unwritable(self) -> OSError | None:
        """Why a file a little longer than the longest here, or SQLite's log, cannot be written.

        SQLite tells a full disk from other errors in writing, but not a quota, nor a limit.
        """
        try:
            sizes = (path.stat().st_size for path in self.path.iterdir())
            end = max(sizes, default=0) + READ_BYTES
            descriptor = os.open(self.path, os.O_RDWR | getattr(os, "O_TMPFILE", 0), 0o600)
        except OSError as error:
            told = (errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENFILE)
            return error if error.errno in told else None
        try:
            os.pwrite(descriptor, bytes(1), end)
        except OSError as error:
            return error
        finally:
            os.close(descriptor)
        for suffix in ("", "-wal", "-shm"):  # (not opened: to close it would end SQLite's locks)
            path = self.database.with_name(DATABASE_NAME + suffix)
            if is_there(path) and not os.access(path, os.R_OK | os.W_OK):
                return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return _refusal_by_log(self.database.with_name(f"{DATABASE_NAME}-wal"))

    def close(self) -> None:
        """Release the lock; safe to call twice."""
        closed_here(self.lock)
        for descriptor in (self._witness, self.lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._witness = self.lock = -1


def _refusal_by_log(path: Path) -> OSError | None:
    """What the system says of SQLite's log, asked by SQLite's own descriptor (see above).

    A byte beyond its end means nothing to SQLite, which knows the last frame that counts.
    """
    try:
        log = path.stat()
        numbers = [int(entry.name) for entry in Path("/dev/fd").iterdir()]
    except OSError:
        return None
    for number in numbers:
        with contextlib.suppress(OSError):  # (it is closed by now)
            if not os.path.samestat(os.fstat(number), log):
                continue
            try:
                os.pwrite(number, bytes(1), log.st_size)
                os.fsync(number)
            except OSError as error:
                return error
    return None


def _which(path: Path) -> tuple[int, int]:
    """Which file a path names now; (0, 0) for none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_dev, found.st_ino
