"""What the program around a cluster does: ignores SIGCHLD, forks, has a log sink that blocks."""

from __future__ import annotations

import contextlib
import multiprocessing.util
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import loguru

from tests.faults.networks.network import RelayedCluster
from tests.faults.trial import Outcome, Trial

__all__ = ["surroundings"]


@contextlib.contextmanager
def _children_reaped_by_the_kernel() -> Iterator[None]:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


@contextlib.contextmanager
def _sink_blocked() -> Iterator[None]:
    """A log sink that takes a line and does not come back before the end."""
    end = threading.Event()

    def sink_line(_line: object) -> None:
        end.wait()

    sink = loguru.logger.add(sink_line, level="DEBUG")
    try:
        yield
    finally:
        end.set()
        loguru.logger.remove(sink)


def _fork_that_exits() -> None:
    """A copy of this process that does what multiprocessing does at the exit of one."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(20)  # whatever a lock of another thread may do to it
            multiprocessing.util._exit_function()  # type: ignore[attr-defined]
        finally:
            os._exit(0)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)


def surroundings(directory: Path, long: bool) -> Outcome:
    """Servers are killed and started again meanwhile; call it in the main thread."""
    place = directory / "surroundings"
    with (
        RelayedCluster(3, place / "cluster") as cluster,
        _children_reaped_by_the_kernel(),
        Trial("surroundings", cluster, place, long=long) as trial,
    ):
        for _ in range(trial.sized(2, 20)):
            _fork_that_exits()  # before the sink blocks: loguru would have the fork wait for it
            trial.fault()
            with _sink_blocked():
                victim = cluster.leader()
                cluster.kill(victim)
                trial.fault()
                trial.load.wait_for_more(50)
                cluster.restart(victim)
                trial.load.wait_for_more(50)
        return trial.verify()
