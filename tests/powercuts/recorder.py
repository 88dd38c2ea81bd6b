"""Records what processes do to the files below a directory, by a library that is loaded into them.

`recorder.c` is compiled when it is wanted and preloaded; see there for what is recorded and when.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

__all__ = ["Call", "Kind", "Recorder", "RecorderError", "why_not"]

SOURCE = Path(__file__).with_name("recorder.c")

_HEAD = struct.Struct("<IBIQQQHH")


class Kind(IntEnum):
    """What a record is of; the numbers are those of recorder.c."""

    CREATE = 1
    WRITE = 2
    TRUNCATE = 3
    SYNC_BEGIN = 4
    SYNC_END = 5
    RENAME = 6
    UNLINK = 7
    MKDIR = 8
    MARK = 9
    """Not a call: what the test wants to know when it happened."""
    ALLOCATE = 10
    UNKNOWN = 11


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a recorded process, or a mark."""

    kind: Kind
    thread: int
    inode: int
    """Of the file; 0 for directories and where names are all that counts."""
    offset: int
    size: int
    path: str
    other: str
    """The new name, of a rename."""
    data: bytes


class RecorderError(Exception):
    """Nothing can be recorded, or what was recorded cannot be used."""


def why_not() -> str:
    """Why nothing can be recorded on this machine; empty if it can."""
    if sys.platform != "linux":
        return "calls are recorded by a preloaded library, as Linux knows it"
    if _compiler() is None:
        return "no C compiler is installed (apt install gcc libc6-dev)"
    return ""


def _compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc")


class Recorder:
    """A log of all calls that processes started with `environment` make below `root`."""

    def __init__(self, root: Path, work: Path) -> None:
        """Compile the library into `work`, which also holds the log; `root` is made."""
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        self._log = work / "calls.log"
        self._log.touch()
        self._file = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._library = work / "recorder.so"
        compiler = _compiler()
        if compiler is None:
            raise RecorderError(why_not())
        command = [
            compiler, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-D_LARGEFILE64_SOURCE",
            "-shared", "-fPIC", "-o", str(self._library), str(SOURCE), "-ldl",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RecorderError(f"{SOURCE.name} does not compile: {done.stderr}")

    @property
    def environment(self) -> dict[str, str]:
        """What a process has to be started with, besides what it has anyway."""
        preloaded = os.environ.get("LD_PRELOAD", "")
        return {
            "LD_PRELOAD": f"{self._library} {preloaded}".strip(),
            "POWERCUT_LOG": str(self._log),
            "POWERCUT_ROOT": str(self.root),
        }

    def mark(self, text: str) -> None:
        """Write a mark into the log, between the calls before and after it."""
        mark(self._file, text)

    def calls(self) -> Iterator[Call]:
        """All that was recorded, in order. Raises `RecorderError` for what is not understood."""
        with self._log.open("rb") as log:
            while head := log.read(_HEAD.size):
                if len(head) < _HEAD.size:
                    raise RecorderError("the log ends within a record")
                length, kind, thread, inode, offset, size, path, other = _HEAD.unpack(head)
                rest = log.read(length - _HEAD.size)
                names = rest[: path + other]
                call = Call(
                    Kind(kind), thread, inode, offset, size, os.fsdecode(names[:path]),
                    os.fsdecode(names[path:]), rest[path + other :],
                )  # fmt: skip
                if call.kind is Kind.UNKNOWN:
                    raise RecorderError(
                        f"{call.path} of {call.other}: recorder.c does not record this call, so "
                        f"that no disk can be rebuilt; teach it"
                    )
                yield call

    def close(self) -> None:
        os.close(self._file)


def mark(log: int, text: str) -> None:
    """Write a mark into the log that the descriptor is of."""
    data = text.encode()
    head = _HEAD.pack(_HEAD.size + len(data), Kind.MARK, 0, 0, 0, 0, 0, 0)
    os.write(log, head + data)


def open_log() -> int:
    """The log, in a recorded process that marks what it does."""
    descriptor = os.open(os.environ["POWERCUT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 710)
