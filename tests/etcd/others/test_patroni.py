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
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paxon import LocalCluster
from tests.etcd.tools import fetched, tools_directory
from tests.ports import own_ports
from tests.soak import sized
from tests.waiting import happens_soon, wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

INSTALLED = Path("/usr/lib/postgresql")
USERS = ("postgres", "nobody")
"""Of whom one has to be there where root runs the tests: PostgreSQL does not serve root."""
SOON = 200
LOOK_SECONDS = 0.2
LOOPS = sized(3, 5)
"""Rounds of Patroni's, of a second each, in which nobody is to be demoted."""
KILLS = sized(1, 2)
"""Of Paxon's leader."""


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for it, but do not ask so often that nobody gets to anything else."""

    def look() -> bool:
        time.sleep(LOOK_SECONDS)
        return condition()

    wait_until(look, what, SOON)


def programs(place: Path) -> Path:
    """The folder of PostgreSQL's programs: of the system, or fetched and copied to this place."""
    found = sorted(INSTALLED.glob("*/bin/initdb"))
    if not found:
        fetched("postgres", "postgres")
        shutil.copytree(tools_directory() / "postgres" / "usr", place / "usr", symlinks=True)
        found = sorted((place / "usr" / "lib" / "postgresql").glob("*/bin/initdb"))
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


def environment(place: Path) -> dict[str, str]:
    """For PostgreSQL's programs, which find the libraries that came with them."""
    libraries = os.pathsep.join(map(str, place.glob("usr/lib/*-linux-gnu")))
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "LD_LIBRARY_PATH": libraries}


class Node:
    """Patroni and the PostgreSQL server that it keeps."""

    def __init__(self, number: int, place: Path, etcd: str, identity: dict[str, Any]) -> None:
        self.name = f"node{number}"
        self._rest, self._port = own_ports(2)
        self._programs = place / "programs"
        self._directory = place / self.name
        self._directory.mkdir()
        config = self._directory / "patroni.yml"
        config.write_text(json.dumps(self._config(etcd)))  # JSON is YAML
        if identity:
            os.chown(self._directory, identity["user"], identity["group"])
        config.chmod(0o644)
        self._place = place
        self._log = (self._directory / "log").open("wb")
        self._process = subprocess.Popen(
            [str(Path(sys._base_executable)), "-m", "patroni", str(config)],  # type: ignore[attr-defined]
            env=environment(place) | {"PYTHONPATH": str(place / "library")},
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
                    "ttl": 30, "loop_wait": 1, "retry_timeout": 10, "primary_start_timeout": 0,
                    "postgresql": {"use_pg_rewind": False, "parameters": {
                        "fsync": "off", "shared_buffers": "16MB", "max_connections": 20,
                    }},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "no-sync"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self._port}", "connect_address": f"127.0.0.1:{self._port}",
                "data_dir": str(self._directory / "data"), "bin_dir": str(self._programs),
                "basebackup": [{"checkpoint": "fast"}, "no-sync"],
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
        until(lambda: self.status().get("dcs_last_seen", 0) >= seen + count, "rounds")

    def sql(self, text: str) -> str:
        done = subprocess.run(
            [str(self._programs / "psql"), "-h", "127.0.0.1", "-p", str(self._port), "-U",
             "postgres", "-Atc", text],
            env=environment(self._place), capture_output=True, text=True, timeout=60, check=False,
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
        """End both at once, and leave no memory that is shared."""
        self._process.kill()
        self._process.wait()
        pid_file = self._directory / "data" / "postmaster.pid"
        with contextlib.suppress(OSError):
            os.kill(int(pid_file.read_text().splitlines()[0]), signal.SIGQUIT)
            happens_soon(lambda: not pid_file.exists(), 20)
        self._log.close()
        print(f"--- {self.name} said at last:", self.log()[-3000:], sep="\n")  # (of a failed test)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that PostgreSQL's user may enter, with Patroni in it."""
    library, identity = fetched("patroni", "patroni"), somebody()
    path = Path(tempfile.mkdtemp(prefix="paxon-patroni-"))
    try:
        path.chmod(0o755)
        shutil.copytree(library, path / "library")
        (path / "programs").symlink_to(programs(path))
        assert identity is not None
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def primary_among(nodes: list[Node]) -> Node:
    found: list[Node] = []

    def one() -> bool:
        found[:] = [node for node in nodes if node.runs_as("primary")]
        return len(found) == 1

    until(one, "one of them is primary")
    return found[0]


@pytest.mark.parametrize(
    "kill", [Node.kill_postgres, *sized([], [Node.kill])], ids=lambda kill: kill.__name__
)
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
        until(lambda: all(node.runs_as("replica") for node in others), "two follow")
        primary.sql("CREATE TABLE books (title text); INSERT INTO books VALUES ('Paxos')")
        timeline = primary.status()["timeline"]

        for _ in range(KILLS):
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
        until(lambda: following.sql("SELECT title FROM books") == "Paxos", "it is there")
        following.sql("INSERT INTO books VALUES ('Raft')")
        (last,) = [node for node in others if node is not following]
        until(lambda: last.sql("SELECT count(*) FROM books") == "2", "it is copied")
