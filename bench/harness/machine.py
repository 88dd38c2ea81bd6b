"""What a figure was measured on: it means nothing without.

Nothing here names the machine or its user: reports are made to be published.
"""

from __future__ import annotations

import os
import platform
import sqlite3
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import msgspec
import zmq

__all__ = ["Machine", "children_of", "cpu_seconds", "describe_machine", "memory_bytes"]

_LIBRARIES = ("paxon", "pykka", "pyzmq", "msgspec", "loguru")


class Machine(msgspec.Struct, frozen=True):
    """Hardware and versions."""

    cpu: str
    cores: int
    """That this process may use."""
    memory_bytes: int
    system: str
    python: str
    versions: dict[str, str]

    def sentence(self) -> str:
        """The machine in a line."""
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_bytes / 2**30:.0f} GiB, {self.system}, "
            f"{self.python}"
        )


def describe_machine() -> Machine:
    """This machine, as far as the system tells."""
    versions = {library: metadata.version(library) for library in _LIBRARIES}
    versions |= {"libzmq": zmq.zmq_version(), "sqlite": sqlite3.sqlite_version}
    return Machine(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        versions=versions,
    )


def _lines(path: str) -> list[tuple[str, str, str]]:
    """The lines of such a file, parted by their colons; none where it is not there."""
    with suppress(OSError):
        return [text.partition(":") for text in Path(path).read_text("utf-8").splitlines()]
    return []


def _cpu_model() -> str:
    models = (text for name, _, text in _lines("/proc/cpuinfo") if name.strip() == "model name")
    return next(models, platform.machine() or "unknown processor").strip()


def cpu_seconds(pid: int) -> float:
    """CPU time, user and system, that a process has used so far.

    Raises ProcessLookupError if it is gone.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None
    # The name in parentheses may hold anything, spaces and parentheses too: count from its end.
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int | str = "self", line: str = "VmRSS") -> int:
    """Bytes that a process has in memory; "VmHWM": had at most. Raises ProcessLookupError."""
    for name, _, value in _lines(f"/proc/{pid}/status"):
        if name == line:
            return int(value.split()[0]) * 1024
    raise ProcessLookupError(pid)  # a process that has ended has no memory any more


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that are still there.

    Empty where the kernel does not tell (CONFIG_PROC_CHILDREN).
    """
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError):  # that thread has just ended
            found += map(int, path.read_text(encoding="utf-8").split())
    return found
