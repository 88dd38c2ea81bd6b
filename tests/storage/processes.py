"""Starts `child.py` and ends it in whatever way a test wants."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("child.py")
FAILING_DISK = Path(__file__).with_name("failing_disk.c")


class FailingDisk:
    """A disk below `root` that fails processes started with `environment`, as it is told."""

    def __init__(self, root: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if sys.platform != "linux" or compiler is None:
            pytest.skip("a disk that fails takes Linux and a C compiler")
        library = root.with_name(root.name + ".so")
        flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]
        subprocess.run([compiler, *flags, str(library), str(FAILING_DISK), "-ldl"], check=True)
        self._order = root.with_name(root.name + ".order")
        self.environment = {
            "LD_PRELOAD": f"{library} {os.environ.get('LD_PRELOAD', '')}".strip(),
            "FAILING_ROOT": str(root),
            "FAILING_ORDER": str(self._order),
        }

    def fail(self, order: str) -> None:
        """From now on (failing_disk.c says how an order reads)."""
        fresh = self._order.with_suffix(".new")
        fresh.write_text(order)
        fresh.rename(self._order)

    def mend(self) -> None:
        self._order.unlink()


@contextmanager
def child(
    mode: str, directory: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process with the directory open; killed with -9 at the end if it still lives."""
    process = subprocess.Popen(
        [sys.executable, str(CHILD), mode, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    """The next line that it says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()
