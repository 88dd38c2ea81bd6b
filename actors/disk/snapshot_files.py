"""Snapshots as files: written by a forked child, received from peers piece by piece, verified."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import re
import signal
import stat
import struct
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from paxon.actors.ballot import ServerId
from paxon.actors.disk.data_directory import in_words, sync_directory
from paxon.actors.disk.room import LOG_ROOM, NoRoomError, SharedDisk, allocated_bytes, reserve
from paxon.actors.disk.storage import REMEDY, CorruptStorage, Produce, Prove, SnapshotInfo
from paxon.actors.execution.machine_errors import in_short
from paxon.transport.log import forking_would_wait, logger
from paxon.transport.orphans import end_with_parent

__all__ = ["SnapshotFiles"]

FETCH_SECONDS = 10.0
"""The snapshot before the newest is kept while a peer fetches it, that is for so long after it was
last asked for; but not on a disk that has little room."""
TIGHT_BYTES = 32 << 20
"""With less than this besides twice a snapshot's size nothing is kept for a server that is down."""

MAGIC = b"PAXONSNP"
_HEADER = struct.Struct("<8sHHQQQI")
"""Magic, version, length of the cluster id, server, slot, size, CRC-32 of the image; then follow
the cluster id and a CRC-32 of all that."""
_CHECKSUM = struct.Struct("<I")
VERSION = 1
PIECE_BYTES = 512 << 10
SYNC_BYTES = PIECE_BYTES
"""An image is synced whenever so much was written, so that no single sync takes long …"""
RECEIVED_SYNC_BYTES = 8 << 20
"""… one that is received less often: the server itself waits for these syncs."""
LEAST_BESIDE, BESIDE_PART = 4 << 20, 10
"""While a snapshot is taken the log may grow by so many bytes, or one part of so many of a large
state's size, at any rate …"""
BESIDE_RATE = 4 << 20
"""… and by so many bytes a second beyond that."""
LONGEST_REST = 0.1
"""Seconds for which a child leaves the disk to the server after a sync, at most."""
CHILD_NICENESS = 10
REPORT_BYTES = 4096
FORK_AGAIN_SECONDS = 1.0
"""How long to leave a program's blocked log alone before the next try to fork."""

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that pass."""

_NAME = re.compile(r"snapshot-(\d+)\.paxon")

# Python warns of any fork in a process with threads. The child here runs only Python code that
# takes no lock another thread may have held, and leaves by os._exit.
warnings.filterwarnings(
    "ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning, module=__name__
)


class SnapshotFiles:
    """The snapshot files of one data directory.

    Which of them count is for the database to say: a file is durable before it is reported, and
    counts once its `SnapshotInfo` is committed.
    """

    def __init__(
        self, directory: Path, cluster: str, server: ServerId, *, fork: bool, lock: int = -1
    ) -> None:
        """`lock` is a descriptor that a forked child must not keep open."""
        self._directory = directory
        self.disk = SharedDisk(directory, cluster, server)
        self._cluster = cluster.encode()
        self._server = server
        self._fork = fork and hasattr(os, "fork")
        self._lock = lock
        self._kept: dict[int, tuple[int, SnapshotInfo]] = {}
        """Descriptor and info of each snapshot kept, by slot; the highest may be yet to count."""
        self.current = 0
        """The slot of the durable snapshot."""
        self._child: tuple[int, int, int] | None = None
        """Process id, end of the report pipe and slot of the snapshot being taken."""
        self._ready: SnapshotInfo | None = None
        self._beside = 0
        """Bytes that were written to the log since the snapshot under way was begun."""
        self._read_at: dict[int, float] = {}
        """When each kept snapshot was last read by a peer, in seconds of the monotonic clock."""
        self._incoming: SnapshotInfo | None = None
        self._incoming_file = -1
        self._received = 0
        self._received_checksum = 0
        self._unsynced = 0
        self._fork_again_at = 0.0
        self._expected = 0
        """Bytes that the snapshot under way is taken to have until its child knows."""

    # --- names and headers -----------------------------------------------------------------------

    def path(self, slot: int) -> Path:
        return self._directory / f"snapshot-{slot}.paxon"

    def _temporary(self, slot: int) -> Path:
        return self._directory / f"snapshot-{slot}.tmp"

    def _incoming_path(self, slot: int) -> Path:
        return self._directory / f"incoming-{slot}.tmp"

    @property
    def _header_bytes(self) -> int:
        return _HEADER.size + len(self._cluster) + _CHECKSUM.size

    def _header(self, info: SnapshotInfo) -> bytes:
        head = _HEADER.pack(
            MAGIC, VERSION, len(self._cluster), self._server, info.slot, info.size, info.checksum
        )
        head += self._cluster
        return head + _CHECKSUM.pack(zlib.crc32(head))

    def _read_header(self, descriptor: int) -> SnapshotInfo | None:
        """The info in a file's header; None if it is not one of this server's snapshots."""
        head = os.pread(descriptor, self._header_bytes, 0)
        if len(head) < self._header_bytes:
            return None
        *_, slot, size, checksum = _HEADER.unpack_from(head)
        info = SnapshotInfo(slot, size, checksum)
        return info if head == self._header(info) else None

    # --- at the start ----------------------------------------------------------------------------

    def recover(self, durable: SnapshotInfo | None) -> None:
        """Open what is kept, and change nothing; `CorruptStorage` if it is gone."""
        if durable is None:
            return
        if durable.slot not in self._found():
            raise CorruptStorage(
                f"{self.path(durable.slot)} is missing, although {durable.slot} is this server's "
                f"snapshot: put it back, or {REMEDY}"
            )
        self._open(durable.slot)

    def _found(self) -> dict[int, Path]:
        matches = ((_NAME.fullmatch(path.name), path) for path in self._directory.iterdir())
        return {int(match[1]): path for match, path in matches if match}

    def tidy(self, durable: SnapshotInfo | None) -> None:
        """Remove what never counted."""
        last = 0 if durable is None else durable.slot
        for slot, path in self._found().items():
            if slot > last:
                path.unlink()  # renamed, but its commit never came
        for path in self._directory.glob("snapshot-*.tmp"):
            path.unlink()
        if durable is not None:
            self.current = 0
            self.keep(durable)

    def _open(self, slot: int) -> None:
        descriptor = os.open(self.path(slot), os.O_RDONLY | os.O_CLOEXEC)
        info = self._read_header(descriptor)
        if info is None or info.slot != slot:
            os.close(descriptor)
        else:
            self._kept[slot] = (descriptor, info)

    def verify(self, durable: SnapshotInfo | None) -> None:
        """Raises `CorruptStorage` if the durable snapshot is not there as it was written."""
        if durable is None:
            return
        held = self._kept.get(durable.slot)
        if held is None or held[1] != durable:
            raise CorruptStorage(f"{self.path(durable.slot)} has a damaged header: {REMEDY}")
        if self._checksum(held[0], durable.size) != (durable.size, durable.checksum):
            raise CorruptStorage(
                f"{self.path(durable.slot)} is damaged (its checksum is wrong): {REMEDY}"
            )

    def _checksum(self, descriptor: int, size: int) -> tuple[int, int]:
        """Size and CRC-32 of an image in a file, read up to `size` bytes."""
        done = checksum = 0
        while done < size:
            piece = os.pread(descriptor, min(PIECE_BYTES, size - done), self._header_bytes + done)
            if not piece:
                break
            checksum = zlib.crc32(piece, checksum)
            done += len(piece)
        return done, checksum

    def keep(self, durable: SnapshotInfo) -> None:
        """`durable` counts now; delete the files that nobody needs any more."""
        if durable.slot == self.current:
            return
        try:
            if durable.slot not in self._kept:
                self._open(durable.slot)
        except OSError as error:
            if error.errno not in SHORTAGES:
                raise
            return  # the next commit tries again
        self.current = durable.slot
        self.forget_old()
        with contextlib.suppress(OSError):  # what is left over may stay until the next time
            for slot, path in self._found().items():
                if slot < durable.slot and slot not in self._kept:
                    path.unlink()

    def forget_old(self, *, at_once: bool = False) -> bool:
        """Delete the snapshot before the newest unless a peer fetches it; whether one was."""
        old = sorted(slot for slot in self._kept if slot < self.current)
        deleted = False
        for slot in old:
            descriptor, info = self._kept[slot]
            fetched = time.monotonic() - self._read_at.get(slot, -FETCH_SECONDS) < FETCH_SECONDS
            if (
                slot == old[-1]
                and fetched
                and not at_once
                and (self.disk.free_bytes() or 0) >= 2 * info.size + LOG_ROOM
            ):
                continue
            os.close(descriptor)
            del self._kept[slot]
            self._read_at.pop(slot, None)
            with contextlib.suppress(OSError):
                self.path(slot).unlink(missing_ok=True)
            deleted = True
        return deleted

    def is_tight(self) -> bool:
        """Whether the next snapshot and the log until then may find no room any more."""
        free = self.disk.free_bytes()
        return free is not None and free < 2 * self.next_bytes() + TIGHT_BYTES

    def next_bytes(self) -> int:
        """Bytes that a snapshot will take, going by the one before."""
        held = self._kept.get(self.current)
        return 0 if held is None else held[1].size

    def coming(self) -> tuple[int, int, int] | None:
        """Slot and size of the snapshot under way, and what it is still to take, bytes.

        How large it will be is a guess until its child has made the image.
        """
        if self._child is not None:
            slot = self._child[2]
            for path in (self._temporary(slot), self.path(slot)):  # its name comes last
                with contextlib.suppress(OSError):
                    state = path.stat()
                    size = state.st_size or self._expected
                    return slot, size, max(0, size - allocated_bytes(state))
            return slot, self._expected, self._expected
        if self._ready is not None:
            return self._ready.slot, self._ready.size, 0
        if self._incoming is not None:
            size, held = self._incoming.size, os.fstat(self._incoming_file)
            return self._incoming.slot, size, max(0, size - allocated_bytes(held))
        return None

    def make_room(self) -> bool:
        """The log has none left: give up all but the snapshot that counts; whether that helped."""
        helped = self._child is not None
        self._abandon()
        if self._incoming_file >= 0 and self._incoming is not None:
            self._incoming_path(self._incoming.slot).unlink(missing_ok=True)
            self._stop_receiving()
            helped = True
        return self.forget_old(at_once=True) or helped

    def read(self, slot: int, offset: int, size: int) -> bytes:
        held = self._kept.get(slot)
        if held is None or offset >= held[1].size:
            return b""
        self._read_at[slot] = time.monotonic()
        size = min(size, held[1].size - offset)
        data = self._read_image(held[0], size, offset)
        if len(data) < size:
            raise CorruptStorage(f"{self.path(slot)} is shorter than it was: check the disk")
        return data

    def _read_image(self, descriptor: int, size: int, offset: int = 0) -> bytes:
        """`size` bytes of an image from `offset` on, fewer if the file ends before."""
        pieces = []
        while size > 0:  # one read returns at most 2 GiB
            piece = os.pread(descriptor, size, self._header_bytes + offset)
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # --- taking one ------------------------------------------------------------------------------

    @property
    def taking(self) -> bool:
        return self._child is not None or self._ready is not None

    def take(self, slot: int, produce: Produce, prove: Prove | None, *, growth: int) -> None:
        """Write the image in a forked child, or at once. A failure is logged and counted.

        `prove`, in a child only, may raise to keep the image from being kept. It may be larger than
        the one before by `growth` bytes.
        """
        self._drop_leftovers()
        self._beside = 0
        self._expected = self.next_bytes() + growth
        if not self._fork:
            try:
                self._ready = self._write(slot, produce)
            except BaseException as error:  # the user's snapshot() may raise anything
                self._failed(slot, _describe(error))
            return
        if time.monotonic() < self._fork_again_at:
            return
        if forking_would_wait():
            self._fork_again_at = time.monotonic() + FORK_AGAIN_SECONDS
            self._failed(slot, "a log sink is blocked, and a fork would wait for it")
            return
        parent = os.getpid()
        try:
            reader, writer = os.pipe()
        except OSError as error:
            self._failed(slot, in_words(error))
            return
        os.set_blocking(reader, False)  # some other fork of this program may hold the writer
        collecting = gc.isenabled()
        gc.disable()  # a collection in the child would touch, and so copy, every page
        try:
            child = os.fork()
            if child == 0:
                self._run_child(slot, produce, prove, writer, parent)
        except OSError as error:
            os.close(reader)
            self._failed(slot, in_words(error))
            return
        finally:
            if collecting:
                gc.enable()
            os.close(writer)
        self._child = (child, reader, slot)

    def beside(self, size: int) -> None:
        """The log has grown by `size` bytes beside a snapshot under way; let that one catch up.

        The server would fill the disk with what only the snapshot's end allows to delete.
        """
        self._beside += size
        held = self._kept.get(self.current)
        if held is not None and self._beside > max(LEAST_BESIDE, held[1].size // BESIDE_PART):
            time.sleep(min(size / BESIDE_RATE, LONGEST_REST))

    def _drop_leftovers(self) -> None:
        """Nobody takes a snapshot while one is on its way here: what came of one is of no use."""
        self._stop_receiving()
        with contextlib.suppress(OSError):
            for path in list(self._directory.glob("incoming-*.tmp")):
                path.unlink(missing_ok=True)

    def _run_child(
        self, slot: int, produce: Produce, prove: Prove | None, writer: int, parent: int
    ) -> NoReturn:
        """The child's whole life: it must leave no trace but the file and the report."""
        status = 1
        try:
            _detach(self._lock, hurry=self.is_tight())
            info = self._write(slot, produce, parent, prove)
            os.write(writer, b"ok %d %d" % (info.size, info.checksum))
            status = 0
        except BaseException as error:
            os.write(writer, _describe(error).encode()[:REPORT_BYTES])
        finally:
            os._exit(status)

    def _write(
        self, slot: int, produce: Produce, parent: int = 0, prove: Prove | None = None
    ) -> SnapshotInfo:
        """Write, sync and name the file. `parent`: give up when that process is gone."""
        temporary = self._temporary(slot)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            pieces = list(produce())
            size = sum(len(piece) for piece in pieces)
            reserve(descriptor, self._header_bytes + size)
            os.ftruncate(descriptor, self._header_bytes + size)  # so the server knows it, too
            os.lseek(descriptor, self._header_bytes, os.SEEK_SET)
            checksum = unsynced = 0
            for part in _in_parts(pieces):
                if parent and os.getppid() != parent:
                    raise InterruptedError("the server is gone")
                checksum = zlib.crc32(part, checksum)
                _write_all(descriptor, part)
                # In one go at the end, the server's own small syncs would wait behind it.
                unsynced += len(part)
                if unsynced >= SYNC_BYTES:
                    _sync_and_rest(descriptor, rest=parent > 0)
                    unsynced = 0
            info = SnapshotInfo(slot, size, checksum)
            os.pwrite(descriptor, self._header(info), 0)
            os.fsync(descriptor)
            if prove is not None:
                prove(self._read_image(descriptor, size))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        temporary.rename(self.path(slot))
        sync_directory(self._directory)
        return info

    def taken(self) -> SnapshotInfo | None:
        """The snapshot whose file became durable since the last call, if any. Never blocks."""
        ready, self._ready = self._ready, None
        if self._child is None:
            return ready
        child, reader, slot = self._child
        with contextlib.suppress(ChildProcessError):  # reaped by somebody else: it has ended
            if os.waitpid(child, os.WNOHANG)[0] == 0:
                return None
        report: list[bytes] = []
        with contextlib.suppress(BlockingIOError):  # it ended without a word
            report = os.read(reader, REPORT_BYTES).split()
        os.close(reader)
        self._child = None
        if len(report) == 3 and report[0] == b"ok":
            return SnapshotInfo(slot, int(report[1]), int(report[2]))
        reason = b" ".join(report).decode(errors="replace")
        self._failed(slot, reason or "the child process was killed")
        return None

    def _failed(self, slot: int, reason: str, *, received: bool = False) -> None:
        """Throw away what there is of a snapshot, and say why."""
        with contextlib.suppress(OSError):
            if received:
                self._incoming_path(slot).unlink(missing_ok=True)
            else:
                self._remove_taken(slot)
        what = "take in another's" if received else "take a"
        logger.warning(
            "server {} could not {} snapshot at slot {}: {}; it goes on and tries again later",
            self._server, what, slot, reason,
        )  # fmt: skip

    # --- receiving one ---------------------------------------------------------------------------

    def receive(self, info: SnapshotInfo, offset: int, data: bytes) -> int:
        """Append a piece if it fits; returns the bytes held, or -1 if the machine has no room."""
        try:
            if info != self._incoming:
                self._start_receiving(info)
            if data and offset == self._received and offset + len(data) <= info.size:
                os.lseek(self._incoming_file, self._header_bytes + offset, os.SEEK_SET)
                _write_all(self._incoming_file, memoryview(data))
                self._received += len(data)
                self._received_checksum = zlib.crc32(data, self._received_checksum)
                self._unsynced += len(data)
                if self._unsynced >= RECEIVED_SYNC_BYTES:
                    os.fdatasync(self._incoming_file)
                    self._unsynced = 0
        except (OSError, NoRoomError) as error:
            self._stop_receiving()
            self._failed(info.slot, _describe(error), received=True)
            return -1
        return self._received

    def _start_receiving(self, info: SnapshotInfo) -> None:
        """Go on with what is held of this very snapshot, or start afresh."""
        self._stop_receiving()
        for path in list(self._directory.glob("incoming-*.tmp")):
            if path != self._incoming_path(info.slot):
                path.unlink()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._incoming_file = os.open(self._incoming_path(info.slot), flags, 0o600)
        self._received = self._received_checksum = self._unsynced = 0
        if self._read_header(self._incoming_file) == info:
            held = self._checksum(self._incoming_file, info.size)
            self._received, self._received_checksum = held
        else:
            os.ftruncate(self._incoming_file, 0)
            os.pwrite(self._incoming_file, self._header(info), 0)
        reserve(self._incoming_file, self._header_bytes + info.size)
        self._abandon()  # the one to come is newer, but might have found no room beside it
        self._incoming = info

    def _stop_receiving(self) -> None:
        if self._incoming_file >= 0:
            os.close(self._incoming_file)
        self._incoming_file = -1
        self._incoming = None
        self._received = self._received_checksum = 0

    def finish(self, info: SnapshotInfo) -> bytes | None:
        """Give a received image its name, durably; None, and gone, if it cannot be had so."""
        if info != self._incoming:
            return None
        whole = (self._received, self._received_checksum) == (info.size, info.checksum)
        path = self._incoming_path(info.slot)
        try:
            if whole:
                os.fsync(self._incoming_file)
                path.rename(self.path(info.slot))
                sync_directory(self._directory)
                # It needs no second descriptor, of which there may be none.
                self._kept[info.slot], self._incoming_file = (self._incoming_file, info), -1
            else:
                path.unlink()
        except OSError as error:
            self.path(info.slot).unlink(missing_ok=True)  # it counts only once that is committed
            self._failed(info.slot, _describe(error), received=True)
            return None
        finally:
            self._stop_receiving()
        return self._read_image(self._kept[info.slot][0], info.size) if whole else None

    def _abandon(self) -> None:
        """End a child under way, and what it has written."""
        if self._child is None:
            return
        child, reader, slot = self._child
        self._child = None
        # One that somebody else has reaped is gone, and its number may be a stranger's.
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(child, os.WNOHANG)[0] == 0:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        os.close(reader)
        self._remove_taken(slot)

    def _remove_taken(self, slot: int) -> None:
        """It never came to count, though it may have got its name."""
        for path in (self._temporary(slot), self.path(slot)):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Kill a child under way and close all files; safe to call twice."""
        self._abandon()
        self._stop_receiving()
        for descriptor, _ in self._kept.values():
            os.close(descriptor)
        self._kept = {}


def _write_all(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]


def _in_parts(pieces: Iterable[bytes]) -> Iterator[memoryview]:
    """The same bytes in parts of at most `PIECE_BYTES`."""
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), PIECE_BYTES):
            yield view[start : start + PIECE_BYTES]


def _sync_and_rest(descriptor: int, *, rest: bool) -> None:
    """Sync, then leave the disk to the server for as long as that took."""
    begun = time.monotonic()
    os.fdatasync(descriptor)
    if rest:
        time.sleep(min(time.monotonic() - begun, LONGEST_REST))


def _describe(error: BaseException) -> str:
    if isinstance(error, NoRoomError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return in_words(error)
    return in_short(error)


def _detach(lock: int, *, hurry: bool) -> None:
    """Make a forked child independent of its parent's locks, ports and signals, yet die with it.

    It gives way to other processes, unless the log waits for the room that it makes: `hurry`.

    It inherits every descriptor. If it kept the lock or a listening socket and outlived a killed
    parent, the server could not be started again at once. Closing them here does not close them
    there.
    """
    if lock >= 0:
        with contextlib.suppress(OSError):  # every fork of this process closes it
            os.close(lock)
    for entry in list(Path("/dev/fd").iterdir()):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(entry.stat().st_mode):
                os.close(int(entry.name))
    end_with_parent()  # (where there is no such call, the child looks itself, piece by piece)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if not hurry:
        os.nice(CHILD_NICENESS)
