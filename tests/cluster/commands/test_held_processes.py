"""`paxon lock` as a process: killed, waiting, and in a terminal; its other ways in
tests/kvstore/recipes/test_held_commands.py."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from paxon.kvstore.cluster.local_cluster import LocalCluster
from tests.cluster.helpers import PAXON, environment, pid_is_alive, wait_until

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(1) as running:
        running.leader()
        yield running


def lock(name: str, cluster: LocalCluster, *more: str) -> list[str]:
    return [*PAXON, "lock", name, "--cluster", ",".join(cluster.addresses), *more]


@contextmanager
def running(command: list[str], cwd: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, whatever it waits for."""
    with subprocess.Popen(command, env=environment(), cwd=cwd, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_one_that_is_killed_takes_its_command_along(cluster: LocalCluster, tmp_path: Path) -> None:
    """Else it would run on, and soon beside the next holder's."""
    script = "sleep 1000 & echo $! > child; echo $$ > pid; kill -KILL $PPID; wait"
    command = lock("killed", cluster, "--", "sh", "-c", script)
    process = subprocess.run(command, env=environment(), cwd=tmp_path, timeout=60, check=False)
    assert process.returncode == -signal.SIGKILL
    for name in ("pid", "child"):
        pid = int((tmp_path / name).read_text(encoding="utf-8"))
        wait_until(lambda: not pid_is_alive(pid))  # noqa: B023


def test_one_that_is_killed_before_its_command_begins_leaves_none(tmp_path: Path) -> None:
    """At once, or once the shell that is to become the command waits; nohup makes no difference."""
    script = """
import os, signal, time
from paxon.kvstore.cluster.guarded import _begin
signal.signal(signal.SIGHUP, signal.SIG_IGN)
for seconds in [0.0] * 20 + [0.1]:
    if os.fork() == 0:
        os.write(1, b"%d\\n" % _begin(["touch", "begun"], os.environ)[0])
        if seconds:
            time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)
"""
    with (tmp_path / "pids").open("w") as pids:  # (not a pipe: what is left would hold it open)
        command = [sys.executable, "-c", script]
        subprocess.run(command, cwd=tmp_path, stdout=pids, timeout=60, check=True)

    def begun() -> list[int]:
        return [int(line) for line in (tmp_path / "pids").read_text(encoding="utf-8").split()]

    wait_until(lambda: len(begun()) == 21)
    wait_until(lambda: not any(map(pid_is_alive, begun())))
    assert not (tmp_path / "begun").exists()


def test_one_that_is_stopped_loses_its_command_with_its_lease(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    """Nobody renews the lease meanwhile: it is stopped as its command begins, which takes no notice
    of SIGTERM."""
    script = "echo $$ > pid; kill -STOP $PPID; trap '' TERM; while :; do sleep 0.05; done"
    command = lock("stopped", cluster, "--ttl", "2", "--", "sh", "-c", script)
    pid, said = tmp_path / "pid", b""
    for _ in range(10):  # (on a busy machine so short a lease may end sooner)
        pid.write_bytes(b"")
        with running(command, tmp_path) as process:
            wait_until(lambda: bool(pid.read_bytes()) or process.poll() is not None)
            if number := pid.read_bytes():
                wait_until(lambda: not pid_is_alive(int(number)))
                process.send_signal(signal.SIGCONT)
            said = process.communicate(timeout=60)[1]
            assert process.returncode == 1
        if b"could not be renewed in time; its command was ended" in said:
            return
    raise AssertionError(said)


def test_one_that_is_ended_while_it_waits_leaves_nothing(cluster: LocalCluster) -> None:
    with cluster.client(timeout=60) as kv, kv.lock("a", ttl=60):
        command = lock("a", cluster, "--ttl", "3600", "--", "true")
        with running(command) as process:
            wait_until(lambda: len(kv.lock("a").contenders()) == 2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 143 and process.communicate()[1] == b""
        assert len(kv.lock("a").contenders()) == 1


def test_a_command_has_the_terminal_and_its_ctrl_c(cluster: LocalCluster) -> None:
    script = (
        'trap "echo; echo interrupted; exit 9" INT; trap "echo continued" CONT; '
        'read x; echo "got $x"; while :; do read y; done'
    )
    shell = shlex.join(lock("b", cluster, "--ttl", "60", "--", "sh", "-c", script))
    # A shell of its own, with job control, as a user's: it is suspended, and goes on.
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("sh", ["sh", "-mc", f"{shell}; echo stopped; fg; echo code $?"], environment())
    with Terminal(terminal) as seen:
        seen.say(b"hello\n")
        seen.expect(rb"got hello")
        seen.say(b"\x1a")
        seen.expect(rb"stopped\r\n(?s:.)*continued\r\n")
        seen.say(b"\x03")
        seen.expect(rb"interrupted\r\n(?s:.)*code 9\r\n")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with cluster.client() as kv:
        assert not kv.lock("b").locked()


class Terminal:
    """Our end of one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._seen = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def say(self, text: bytes) -> None:
        os.write(self._descriptor, text)

    def expect(self, pattern: bytes) -> None:
        """Read on until this has come."""
        while not (found := re.search(pattern, self._seen)):
            assert select.select([self._descriptor], [], [], 60)[0], self._seen
            try:
                more = os.read(self._descriptor, 1000)
            except OSError:
                more = b""
            assert more, self._seen
            self._seen += more
        self._seen = self._seen[found.end() :]
