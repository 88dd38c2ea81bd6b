"""Looks at SQLite's write-ahead log before SQLite does, which cuts it silently where it is damaged.

SQLite replays the log up to the first frame whose checksum is wrong and forgets the rest, for that
is what a torn last write looks like. So does a flipped byte in the middle of synced transactions.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from paxon.actors.disk.data_directory import is_there
from paxon.actors.disk.storage import REMEDY, CorruptStorage

__all__ = ["WriteAheadLog"]

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_INDEX_HEADER_BYTES = 48
_LAST_FRAME_OFFSET = 16
MAGIC_LITTLE_ENDIAN = 0x377F0682
MAGIC_BIG_ENDIAN = 0x377F0683


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
