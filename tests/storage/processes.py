"""Starts `child.py` and ends it in whatever way a test wants."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHILD = Path(__file__).with_name("child.py")


@contextmanager
def child(mode: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with the directory open; killed with -9 at the end if it still lives."""
    process = subprocess.Popen(
        [sys.executable, str(CHILD), mode, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
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
