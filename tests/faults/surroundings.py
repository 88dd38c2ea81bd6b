"""What is around servers: SIGCHLD ignored, forks, a log sink that blocks, a stderr that is full."""

from __future__ import annotations

import contextlib
import multiprocessing.util
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import loguru

from paxon.actors import ServerId
from tests.cluster.helpers import PAXON, environment
from tests.cluster.test_surroundings import STDERR
from tests.faults.flooding.crowds import LimitedCluster
from tests.faults.networks.network import RelayedCluster
from tests.faults.trial import Outcome, Trial

__all__ = ["streams", "surroundings"]


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


class _Streamed(LimitedCluster):
    """The stderr of each server leads elsewhere: it is closed, nobody reads it, or it is full."""

    def __enter__(self) -> Self:
        self._ends = contextlib.ExitStack()
        for server, ends in zip(self.servers, STDERR.values(), strict=True):
            self.start(server, self._ends.enter_context(contextlib.contextmanager(ends)()))
        return self

    def start(self, server: ServerId, stderr: int) -> None:
        command = [*PAXON, "server", "--cluster", str(self._file), "--id", str(server)]
        self.processes.append(
            subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=stderr if stderr >= 0 else None,
                env=environment(), cwd=self._directory,
                preexec_fn=(lambda: os.close(2)) if stderr < 0 else None,  # noqa: PLW1509
            )
        )  # fmt: skip

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._ends.close()


def streams(directory: Path, long: bool) -> Outcome:
    """Servers serve and stop in order wherever their stderr leads, and what they log goes there."""
    with (
        _Streamed(directory / "streams", 1024) as cluster,
        Trial("streams", cluster, directory, long=long) as trial,
    ):
        trial.load.wait_for_more(trial.sized(200, 5000), seconds=60)
        for server, process in zip(cluster.servers, cluster.processes, strict=True):
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, f"server {server} does not stop in order"
            trial.fault()
            ends = list(STDERR.values())[server - 1]
            with contextlib.contextmanager(ends)() as stderr:
                cluster.start(server, stderr)
                trial.load.wait_for_more(50, seconds=60)
                cluster.processes[server - 1] = cluster.processes.pop()
        return trial.verify()
