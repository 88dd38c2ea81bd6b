"""Patroni keeps three PostgreSQL servers by what Paxon says: it fails over when it has to."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paxon import LocalCluster
from paxon.kvstore.client.addresses import free_ports
from tests.etcd.tools import fetched
from tests.soak import SOAK
from tests.waiting import wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

PROGRAMS = Path("/usr/lib/postgresql")
USERS = ("postgres", "nobody")
"""Of whom one has to be there where root runs the tests: PostgreSQL does not serve root."""
SOON = 120
LOOPS = 5
"""Rounds of Patroni's, of a second each, in which nobody is to be demoted."""


def programs() -> Path:
    """PostgreSQL's; the test is skipped where it is not installed."""
    found = sorted(PROGRAMS.glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    return found[-1].parent


def somebody() -> dict[str, Any]:
    """As whom PostgreSQL runs, for `Popen`."""
    if os.getuid() != 0:
        return {}
    for name in USERS:
        with contextlib.suppress(KeyError):
            row = pwd.getpwnam(name)
            return {"user": row.pw_uid, "group": row.pw_gid, "extra_groups": []}
    pytest.skip(f"PostgreSQL does not run as root, and none of {USERS} is a user here")


class Node:
    """Patroni and the PostgreSQL server that it keeps."""

    def __init__(self, number: int, place: Path, etcd: str, identity: dict[str, Any]) -> None:
        self.name = f"node{number}"
        self._rest, self._port = free_ports(2)
        self._directory = place / self.name
        self._directory.mkdir()
        config = self._directory / "patroni.yml"
        config.write_text(json.dumps(self._config(etcd)))  # JSON is YAML
        if identity:
            os.chown(self._directory, identity["user"], identity["group"])
        config.chmod(0o644)
        self._log = (self._directory / "log").open("wb")
        self._process = subprocess.Popen(
            [str(Path(sys._base_executable)), "-m", "patroni", str(config)],  # type: ignore[attr-defined]
            env={
                "PYTHONPATH": str(place / "library"), "PATH": os.environ["PATH"], "LANG": "C.UTF-8",
            },
            cwd=self._directory, stdin=subprocess.DEVNULL, stdout=self._log,
            stderr=subprocess.STDOUT, **identity,
        )  # fmt: skip

    def _config(self, etcd: str) -> dict[str, Any]:
        trusted = ["local all all trust", "host all all 127.0.0.1/32 trust",
                   "host replication all 127.0.0.1/32 trust"]  # fmt: skip
        return {
            "scope": "books", "name": self.name,
            "etcd3": {"host": etcd},
            "restapi": {
                "listen": f"127.0.0.1:{self._rest}", "connect_address": f"127.0.0.1:{self._rest}",
            },
            "bootstrap": {
                "dcs": {
                    "ttl": 20, "loop_wait": 1, "retry_timeout": 3, "primary_start_timeout": 0,
                    "postgresql": {"use_pg_rewind": False, "parameters": {
                        "fsync": "off", "shared_buffers": "16MB", "max_connections": 20,
                    }},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self._port}", "connect_address": f"127.0.0.1:{self._port}",
                "data_dir": str(self._directory / "data"), "bin_dir": str(programs()),
                "pgpass": str(self._directory / "pgpass"), "pg_hba": trusted,
                "parameters": {"unix_socket_directories": str(self._directory)},
                "authentication": {
                    "superuser": {"username": "postgres", "password": "p"},
                    "replication": {"username": "copies", "password": "p"},
                },
            },
        }  # fmt: skip

    def status(self) -> dict[str, Any]:
        """What Patroni says of itself, {} if it does not answer."""
        with contextlib.suppress(OSError, ValueError):
            url = f"http://127.0.0.1:{self._rest}/patroni"
            with urllib.request.urlopen(url, timeout=5) as answer:
                said: dict[str, Any] = json.load(answer)
                return said
        return {}

    def runs_as(self, role: str) -> bool:
        said = self.status()
        return (said.get("role"), said.get("state")) == (role, "running") or (
            role == "replica" and said.get("replication_state") == "streaming"
        )

    def see_rounds(self, count: int) -> None:
        """Wait until it has looked into the store for so many seconds more."""
        seen = self.status()["dcs_last_seen"]
        wait_until(lambda: self.status().get("dcs_last_seen", 0) >= seen + count, "rounds", SOON)

    def sql(self, text: str) -> str:
        done = subprocess.run(
            [str(programs() / "psql"), "-h", "127.0.0.1", "-p", str(self._port), "-U", "postgres",
             "-Atc", text],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def kill_postgres(self) -> None:
        first = (self._directory / "data" / "postmaster.pid").read_text().splitlines()[0]
        os.kill(int(first), signal.SIGKILL)

    def kill(self) -> None:
        """Patroni as well: nobody lets go of what it held."""
        self._process.kill()
        self.kill_postgres()

    def log(self) -> str:
        return (self._directory / "log").read_text(errors="replace")

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
        with contextlib.suppress(OSError):
            self.kill_postgres()
        self._log.close()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that PostgreSQL's user may enter, with Patroni in it."""
    library, identity = fetched("patroni", "patroni"), somebody()
    path = Path(tempfile.mkdtemp(prefix="paxon-patroni-"))
    try:
        path.chmod(0o755)
        shutil.copytree(library, path / "library")
        assert identity is not None
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def primary_among(nodes: list[Node]) -> Node:
    found: list[Node] = []

    def one() -> bool:
        found[:] = [node for node in nodes if node.runs_as("primary")]
        return len(found) == 1

    wait_until(one, "one of them is primary", SOON)
    return found[0]


@pytest.mark.skipif(
    not SOAK, reason="only in make soak: it takes a minute, which initdb has most of"
)
@pytest.mark.parametrize("kill", [Node.kill_postgres, Node.kill], ids=["postgres", "both"])
def test_a_primary_is_followed_and_a_paxon_leader_costs_nobody_his_place(
    place: Path, kill: Callable[[Node], None]
) -> None:
    with LocalCluster(3, etcd=True) as cluster, contextlib.ExitStack() as ending:
        nodes = []
        for number in range(3):
            nodes.append(Node(number, place, cluster.etcd_address, somebody()))
            ending.callback(nodes[-1].close)
        primary = primary_among(nodes)
        others = [node for node in nodes if node is not primary]
        wait_until(lambda: all(node.runs_as("replica") for node in others), "two follow", SOON)
        primary.sql("CREATE TABLE books (title text); INSERT INTO books VALUES ('Paxos')")
        timeline = primary.status()["timeline"]

        for _ in range(2):
            leader = cluster.leader()
            cluster.kill(leader)
            primary.see_rounds(LOOPS)
            cluster.restart(leader)
            assert primary.runs_as("primary")
            assert primary.status()["timeline"] == timeline
        assert "demot" not in primary.log()

        kill(primary)
        following = primary_among(others)
        assert following.status()["timeline"] == timeline + 1
        wait_until(lambda: following.sql("SELECT title FROM books") == "Paxos", "it is there", SOON)
        following.sql("INSERT INTO books VALUES ('Raft')")
        (last,) = [node for node in others if node is not following]
        wait_until(lambda: last.sql("SELECT count(*) FROM books") == "2", "it is copied", SOON)
