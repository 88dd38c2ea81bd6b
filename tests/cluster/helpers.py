"""What the process tests share."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from loguru import logger

from paxon.actors.members import MemberChange
from paxon.kvstore.cli import commands as cli
from paxon.kvstore.cluster.local_cluster import LocalCluster
from paxon.kvstore.errors import ChangeRefused
from tests.ports import own_ports
from tests.waiting import wait_until

__all__ = [
    "PAXON",
    "environment",
    "paxon",
    "paxon_here",
    "last_sentence",
    "once_it_says",
    "one_sentence",
    "are_level",
    "wait_until",
    "wait_until_equal",
    "pid_is_alive",
    "write_cluster_file",
]

PAXON = (sys.executable, "-m", "paxon.kvstore.cli")
"""The command, whether or not its script is on the path."""


_COLOURS = ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS")
"""Typer colours what it prints if one of these is set."""


def environment(**more: str) -> dict[str, str]:
    """The environment without settings of whoever runs the tests, and with their patience."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PAXON_") and name not in _COLOURS
    }
    return kept | {"NO_COLOR": "1", "COLUMNS": "200", "PAXON_TIMEOUT": "60"} | more


def paxon(
    *arguments: str,
    stdin: bytes = b"",
    timeout: float = 120,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run the command to its end; whatever it does, it never shows a traceback."""
    done = subprocess.run(
        [*PAXON, *arguments],
        input=stdin,
        capture_output=True,
        timeout=timeout,
        env=env if env is not None else environment(),
        cwd=cwd,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert b"Traceback" not in done.stdout, done.stdout.decode()
    return done


def paxon_here(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the command in this process, which saves the half second that its start takes.

    Not for what serves: a command that leaves signal handlers or threads behind fails the test.
    """
    out, err = io.BytesIO(), io.BytesIO()
    streams = [io.TextIOWrapper(raw, "utf-8", write_through=True) for raw in (out, err)]
    signals, threads = _signals(), set(threading.enumerate())
    with (
        mock.patch.dict(os.environ, environment(), clear=True),
        mock.patch.object(sys, "argv", ["paxon", *arguments]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8")),
        contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
    ):
        code = cli.run()
    assert _signals() == signals
    # (One thread looks after all clients of the process, one, a dummy here, writes its log, and a
    # name service that takes its time keeps one for as long as that takes.)
    begun = set(threading.enumerate()) - threads
    left = {thread.name for thread in begun if type(thread) is not threading._DummyThread}
    assert left <= {"paxon-clients", "paxon-names"}, left
    texts = out.getvalue(), err.getvalue()
    assert b"Traceback" not in b"".join(texts), texts
    return subprocess.CompletedProcess(arguments, code, *texts)


def _signals() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def one_sentence(done: subprocess.CompletedProcess[bytes]) -> str:
    """What went to stderr, which has to be a single line."""
    lines = [line for line in done.stderr.decode().splitlines() if line.strip()]
    assert len(lines) == 1, lines
    return lines[0]


def last_sentence(done: subprocess.CompletedProcess[bytes]) -> str:
    """How it ended; before that may stand what it waited for, on a busy machine."""
    *waited, last = done.stderr.decode().splitlines()
    assert all(line.startswith("paxon: waiting: ") for line in waited), waited
    return last


def once_it_says(text: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """The command once it ends with this on stderr: a busy machine may hear nobody in a short
    `--timeout`."""
    found: list[subprocess.CompletedProcess[bytes]] = []

    def says() -> bool:
        found.append(paxon_here(*arguments))
        return text in last_sentence(found[-1])

    wait_until(says, f"paxon {' '.join(arguments)} says: {text}")
    return found[-1]


def are_level(cluster: LocalCluster) -> bool:
    """Whether all servers answer, and have executed all that is chosen."""
    replies = [row.reply for row in cluster.status()]
    return len({None if r is None else (r.executed, r.chosen) for r in replies}) == 1 and all(
        r is not None and r.executed == r.chosen for r in replies
    )


def wait_until_equal(cluster: LocalCluster) -> None:
    """All servers run and have executed the same slots to the same state."""

    def equal() -> bool:
        replies = [row.reply for row in cluster.status() if row.reply is not None]
        seen = {(r.executed, r.state_digest, r.digest, r.alarm) for r in replies}
        return len(replies) == len(cluster.servers) and len(seen) == 1

    wait_until(equal, "all servers have executed the same to the same state")


def pid_is_alive(pid: int) -> bool:
    """Whether there is such a process, and not only its remains."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def write_cluster_file(
    path: Path, servers: Sequence[int] = (1, 2, 3), cluster: str = "testing", extra: str = ""
) -> Path:
    """A cluster file on free ports; `extra` goes into its [cluster] table."""
    ports = own_ports(2 * len(servers))
    lines = ["[cluster]", f'id = "{cluster}"', extra]
    for index, server in enumerate(servers):
        lines += [
            "[[server]]",
            f"id = {server}",
            f"peer_port = {ports[2 * index]}",
            f"client_port = {ports[2 * index + 1]}",
        ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def vote_instead(cluster: LocalCluster, new: Sequence[int], old: Sequence[int]) -> list[int]:
    """Have these vote in place of those, in one command, once they are level; who votes then."""
    changes = [MemberChange("promote", server) for server in new]
    changes += [MemberChange("demote", server) for server in old]
    voters: list[int] = []

    def changed() -> bool:
        with contextlib.suppress(ChangeRefused):  # (one of them is behind: nothing was changed)
            members = kv.change_members(*changes).members
            voters.extend(member.server for member in members if member.voter)
        return bool(voters)

    with cluster.client(timeout=60.0) as kv:
        wait_until(changed, f"{new} vote in place of {old}")
    return voters


@contextmanager
def captured_logs() -> Iterator[list[str]]:
    """The lines of warnings and above that this process logs meanwhile."""
    lines: list[str] = []
    sink = logger.add(lambda text: lines.append(str(text)), level="WARNING", format="{message}")
    try:
        yield lines
    finally:
        logger.remove(sink)
