"""The command line: what it prints, what it returns, and that no traceback ever shows."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import typer
from rich.console import Console

from paxon.actors import NO_BALLOT
from paxon.actors.messages import StatusReply
from paxon.kvstore.cli import locks, store, up
from paxon.kvstore.client.addresses import DEFAULT_CLIENTS
from paxon.kvstore.cluster.local_cluster import LocalCluster
from paxon.kvstore.cluster.status import ServerStatus
from paxon.kvstore.errors import ClusterUnavailable
from tests.cluster.copies.test_backup import describe
from tests.cluster.helpers import (
    PAXON,
    environment,
    once_it_says,
    one_sentence,
    paxon,
    paxon_here,
    pid_is_alive,
    wait_until,
)
from tests.cluster.test_surroundings import STDERR
from tests.ports import own_base, own_ports

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(3) as running:
        running.leader()
        yield running


@pytest.fixture
def at(cluster: LocalCluster) -> tuple[str, str]:
    return ("--cluster", ",".join(cluster.addresses))


def test_put_get_append_delete(at: tuple[str, str]) -> None:
    done = paxon("put", "motto", "fewer dictators", *at)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert json.loads(paxon_here("append", "motto", ", more quorums", "--json", *at).stdout) == {
        "length": 29
    }
    done = paxon("get", "motto", *at)
    assert (done.returncode, done.stdout) == (0, b"fewer dictators, more quorums")
    done = paxon_here("get", "motto", "--json", *at)
    assert json.loads(done.stdout) == "fewer dictators, more quorums"
    assert json.loads(paxon_here("delete", "motto", "--json", *at).stdout) == {"deleted": True}
    done = paxon_here("delete", "motto", *at)
    assert done.returncode == 3
    assert one_sentence(done) == "paxon: no such key: 'motto'"


def test_a_missing_key(at: tuple[str, str]) -> None:
    done = paxon_here("get", "nobody", *at)
    assert (done.returncode, done.stdout) == (3, b"")
    assert one_sentence(done) == "paxon: no such key: 'nobody'"
    done = paxon_here("get", "nobody", "--json", *at)
    assert done.returncode == 3
    assert json.loads(done.stdout) is None


def test_values_are_bytes(at: tuple[str, str]) -> None:
    value = bytes(range(256)) + b"\n"
    assert paxon("put", "bytes", "-", *at, stdin=value).returncode == 0
    assert paxon("get", "bytes", *at).stdout == value
    assert "base64" in json.loads(paxon_here("get", "bytes", "--json", *at).stdout)
    # An argument that is not UTF-8 arrives as it was given.
    subprocess.run([*PAXON, "put", "raw", b"\xff\xfe", *at], env=environment(), check=True)
    assert paxon_here("get", "raw", *at).stdout == b"\xff\xfe"
    lease = paxon_here("lease", "grant", "60", *at).stdout.decode().strip()
    assert paxon_here("put", "\udcff", "x", "--lease", lease, *at).returncode == 0
    assert paxon_here("lease", "ttl", lease, *at).stdout.endswith(b" s\n  \\xff\n")
    told = json.loads(paxon_here("lease", "ttl", lease, "--json", *at).stdout)
    assert told["keys"] == [{"base64": "/w=="}]
    with mock.patch.object(locks, "_wait_for_loss", side_effect=typer.Exit):
        assert paxon_here("lock", "\udcff", *at).stdout.startswith(b"\\xff/")
        assert "base64" in json.loads(paxon_here("lock", "\udcff", "--json", *at).stdout)["key"]
    assert paxon_here("put", "empty", "", *at).returncode == 0
    done = paxon_here("get", "empty", *at)
    assert (done.returncode, done.stdout) == (0, b"")
    assert paxon_here("put", *at, "--", "minus", "-1").returncode == 0
    assert paxon_here("get", "minus", *at).stdout == b"-1"


def test_compare_and_set(at: tuple[str, str]) -> None:
    assert paxon_here("cas", "owner", "me", "--absent", *at).returncode == 0
    done = paxon_here("cas", "owner", "you", "--absent", *at)
    assert done.returncode == 4
    assert one_sentence(done) == "paxon: not changed: 'owner' exists"
    assert json.loads(paxon_here("cas", "owner", "me", "you", "--json", *at).stdout) == {
        "swapped": True
    }
    done = paxon_here("cas", "owner", "me", "they", "--json", *at)
    assert (done.returncode, json.loads(done.stdout)) == (4, {"swapped": False})
    assert paxon_here("cas", "owner", "-", "bytes", *at, stdin=b"you").returncode == 0
    assert paxon_here("cas", "owner", "bytes", "-", *at, stdin=b"\xff\0\n").returncode == 0
    assert paxon_here("append", "owner", "-", *at, stdin=b"\xfe").returncode == 0
    assert paxon_here("get", "owner", *at).stdout == b"\xff\0\n\xfe"
    assert paxon_here("cas", "owner", "-", "-", *at).returncode == 2
    assert paxon_here("cas", "other", "-", "--absent", *at, stdin=b"\xff").returncode == 0
    assert paxon_here("put", "owner", "-", *at, stdin=bytes((8 << 20) + 1)).returncode == 2
    paxon_here("put", "owner", "you", *at)
    assert paxon_here("get", "owner", *at).stdout == b"you"
    for wrong in (("cas", "owner", "one"), ("cas", "owner", "a", "b", "c"), ("cas", "owner")):
        assert paxon_here(*wrong, *at).returncode == 2


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("put motto more quorums", "quote what has spaces"),
        ("put n -1", "put -- before what begins with -"),
        ("lock deploy make all", "the command to run comes after --"),
        ("election boss me make -j", "the command to run comes after --"),
    ],
)
def test_words_that_are_one_too_many(words: str, advice: str) -> None:
    done = paxon_here(*words.split())
    assert done.returncode == 2
    assert advice in " ".join(done.stderr.decode().replace("│", " ").split())


def test_scan(at: tuple[str, str]) -> None:
    for key, value in (
        ("fruit/b", b"tab\there"),
        ("fruit/a", "Äpfel".encode()),
        ("fruit/c", b"\xff"),
    ):
        paxon_here("put", key, "-", *at, stdin=value)
    done = paxon("scan", "fruit/", *at, env=environment(PYTHONIOENCODING="utf-8"))
    assert done.stdout.decode().splitlines() == [
        "fruit/a\tÄpfel",
        "fruit/b\ttab\\there",
        "fruit/c\t\\xff",
    ]
    done = paxon_here("scan", "fruit/", "--limit", "1", "--json", *at)
    assert json.loads(done.stdout) == [{"key": "fruit/a", "value": "Äpfel"}]
    assert json.loads(paxon_here("scan", "nothing/", "--json", *at).stdout) == []
    assert paxon_here("scan", "fruit/", "--limit", "0", *at).returncode == 2


def test_status(cluster: LocalCluster, at: tuple[str, str]) -> None:
    rows: list[Any] = []

    def one_leads() -> bool:
        done = paxon_here("status", "--json", "--timeout", "60", *at)
        rows[:] = json.loads(done.stdout)
        leaders = [row["server"] for row in rows if row["role"] == "leader"]
        return done.returncode == 0 and leaders == [cluster.leader()]

    wait_until(one_leads)
    assert [row["server"] for row in rows] == [1, 2, 3]
    assert all(row["answers"] for row in rows)
    for name in ("ballot", "accepted", "chosen", "executed", "discarded", "leader", "uptime"):
        assert all(row[name] is not None for row in rows), name
    assert all(row["counters"]["bursts"] > 0 for row in rows)
    text = paxon("status", "--timeout", "60", *at).stdout.decode()
    assert "leader" in text and cluster.addresses[0] in text


def test_status_of_one_server_finds_the_others(cluster: LocalCluster) -> None:
    for address in cluster.addresses:
        status = ("status", "--json", "--cluster", address, "--timeout", "60")
        rows = json.loads(paxon_here(*status).stdout)
        assert [(row["server"], row["address"]) for row in rows] == list(
            enumerate(cluster.addresses, start=1)
        )
        wait_until(lambda: paxon_here(*status).returncode == 0)  # noqa: B023


def test_no_majority_says_so_and_status_by_one_server_is_not_content(tmp_path: Path) -> None:
    with LocalCluster(3, tmp_path / "data") as three:
        three.leader()
        three.kill(1)
        three.kill(2)

        def has_lost_its_leader() -> bool:
            reply = three.status()[2].reply
            return reply is not None and reply.leader == 0

        wait_until(has_lost_its_leader)
        at = ("--cluster", three.addresses[2])
        few = b"only 1 of 3 servers answer"
        wait_until(lambda: few in paxon_here("status", *at, "--timeout", "0.5").stderr)
        assert paxon_here("status", *at, "--timeout", "0.5").returncode == 5
        every = ("status", "--cluster", ",".join(three.addresses), "--timeout", "0.5", "--json")
        assert [row["server"] for row in json.loads(paxon_here(*every).stdout)] == [1, 2, 3]
        none_leads = "1 of 3 servers answered, none leads, 2 are needed"
        done = once_it_says(none_leads, "get", "key", *at, "--timeout", "1")
        assert done.returncode == 5 and none_leads in one_sentence(done)


def test_status_of_a_cluster_file_and_of_addresses_of_nobody(cluster: LocalCluster) -> None:
    file = str(cluster.directory / "cluster.toml")
    wait_until(lambda: paxon_here("status", "--cluster", file, "-t", "60").returncode == 0)
    assert paxon_here("put", "by", "file", "--cluster", file).returncode == 0
    nobody = [f"tcp://127.0.0.1:{port}" for port in own_ports(4)]
    at = ("--cluster", ",".join([cluster.addresses[0], *nobody]))
    done = paxon_here("status", "--json", "-t", "0.3", *at)
    while done.returncode:  # (a busy machine may hear too few of them in so short a time)
        done = paxon_here("status", "--json", "-t", "0.3", *at)
    rows = json.loads(done.stdout)
    assert [row["answers"] for row in rows] == [True] * 3 + [False] * 4
    assert rows[3]["role"] is None
    assert not done.stderr  # all three members are well


def test_the_environment_names_the_cluster(cluster: LocalCluster) -> None:
    variables = environment(
        PAXON_CLUSTER=",".join(cluster.addresses), PAXON_CLUSTER_FILE="/nowhere.toml"
    )
    assert paxon("put", "from", "environment", env=variables).returncode == 0
    variables = environment(PAXON_CLUSTER_FILE=str(cluster.directory / "cluster.toml"))
    assert paxon("get", "from", env=variables).stdout == b"environment"


def test_nobody_at_the_default_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most likely nothing was started yet."""
    unheard = ", ".join(DEFAULT_CLIENTS.split(","))
    error = ClusterUnavailable(f"no server answered (asked {unheard}): look", unknown=False)
    monkeypatch.setattr(store, "open_client", mock.Mock(side_effect=error))
    monkeypatch.setattr(
        "paxon.kvstore.cluster.status.look_around",
        lambda addresses, *_, **_more: [
            ServerStatus(server=0, address=each) for each in addresses.values()
        ],
    )
    for command in (("get", "key"), ("status",)):
        done = paxon_here(*command)
        assert done.returncode == 5
        assert one_sentence(done).endswith(
            "; `paxon up` starts a cluster there, --cluster names another"
        )
    assert b"paxon up" not in paxon_here("status", "--cluster", "127.0.0.1:1").stderr


def test_nobody_there() -> None:
    (port,) = own_ports(1)
    done = paxon("get", "key", "--cluster", f"127.0.0.1:{port}", "--timeout", "0.3")
    assert done.returncode == 5
    one_sentence(done)
    for more in ((), ("--after", "7")):
        at = ("--cluster", f"127.0.0.1:{port}", "--timeout", "0.3")
        done = paxon_here("watch", "key", *more, *at)
        assert done.returncode == 5 and "no server answered" in one_sentence(done)
    done = paxon_here("put", "key", "v", "--cluster", f"127.0.0.1:{port}", "--timeout", "0.3")
    assert done.returncode == 5  # nothing was sent
    assert "no effect" in one_sentence(done)


def test_wrong_usage_is_2(at: tuple[str, str]) -> None:
    for wrong in (
        ("get",),
        ("get", "key", "--cluster", "not an address"),
        ("get", "key", "--cluster", ","),
        ("get", "key", "--cluster", "/no/such/file.toml"),
        ("get", "key", "--timeout", "-1"),
        ("status", "--timeout", "nan", *at),
        ("status", "--watch", "--counters", *at),
        ("status", "--state", "--counters", *at),
        ("demo", "--seconds", "nan"),
        ("frobnicate",),
        ("up", "--servers", "0"),
        ("up", "--set", "windw=1"),
        ("up", "--durability", "tape"),
        ("up", "--port", "0"),
        ("up", "--dir", ""),
        ("backup", "restore", "file", "--cluster", "file", "--into="),
        ("put", "k" * 4097, "value", *at),
        ("lock", "deploy", "--list", *at, "--", "true"),
        ("election", "cron", "--count", "1", *at),
        ("server",),
    ):
        assert paxon_here(*wrong).returncode == 2, wrong
    assert paxon("frobnicate").returncode == 2
    long = "x" * 300
    (said,) = paxon_here("keygen", long).stderr.splitlines()
    assert said.startswith(b"paxon: ") and said.endswith(f"{long}: File name too long".encode())


def test_where_the_working_directory_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))  # as of os.getcwd
    monkeypatch.setattr(os, "getcwd", mock.Mock(side_effect=gone))
    describe(tmp_path)
    file = str(tmp_path / "cluster.toml")
    done = paxon_here("recover", "--cluster", file, "--id", "1", "--into", "new", "--dir", "d")
    said = b"paxon: the working directory is deleted: change to one that exists\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_version_and_help() -> None:
    assert paxon("--version").stdout.startswith(b"paxon ")
    assert b"demo" in paxon("--help").stdout
    for command in ("demo", "up", "server", "status", "get", "put", "append", "delete", "cas"):
        done = paxon_here(command, "--help")
        assert done.returncode == 0, command
        assert f"paxon {command}".encode() in done.stdout


def test_the_command_starts_quickly() -> None:
    """Neither plots nor, for `--help`, sockets are imported."""
    code = (
        "import sys, paxon.kvstore.cli.commands\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules} "
        "& {'matplotlib', 'zmq', 'pykka', 'sqlite3', 'multiprocessing', 'asyncio'}))"
    )
    done = subprocess.run([PAXON[0], "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_reader_that_has_seen_enough(cluster: LocalCluster, at: tuple[str, str]) -> None:
    with cluster.client() as client, client.pipeline() as many:
        for number in range(3000):
            many.put(f"many/{number}", b"x" * 100)
    done = subprocess.run(
        f"{shlex.join([*PAXON, 'scan', 'many/', '-n', '3000', *at])} | head -n 1",
        shell=True,
        capture_output=True,
        env=environment(),
        check=False,
    )
    assert done.stdout.startswith(b"many/0\t")
    assert done.stderr == b""


def test_a_full_disk_under_the_output(at: tuple[str, str]) -> None:
    paxon_here("put", "some", "value", *at)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*PAXON, "get", "some", *at],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"paxon: the output cannot be written: No space left on device\n"
    command = shlex.join([*PAXON, "get", "some", *at])
    closed = subprocess.run(
        f"{command} >&-", shell=True, stderr=subprocess.PIPE, env=environment(), check=False
    )
    assert closed.returncode == 1
    assert closed.stderr == b"paxon: the output cannot be written: Bad file descriptor\n"
    command = shlex.join([*PAXON, "put", "some", "-", *at])
    closed = subprocess.run(
        f"{command} <&-", shell=True, stderr=subprocess.PIPE, env=environment(), check=False
    )
    assert closed.returncode == 2 and b"stdin cannot be read" in closed.stderr
    assert paxon_here("get", "some", *at).stdout == b"value"


def test_nobody_reads_what_a_command_says(at: tuple[str, str]) -> None:
    """The exit code is told all the same, and a gateway serves and stops when asked."""
    (port,) = own_ports(1)
    with contextmanager(STDERR["full"])() as full:
        missing = subprocess.Popen([*PAXON, "get", "none", *at], stderr=full, env=environment())
        gateway = subprocess.Popen(
            [*PAXON, "etcd", *at, "--listen", f"127.0.0.1:{port}"],
            stdout=full, stderr=full, env=environment(),
        )  # fmt: skip
        try:
            assert missing.wait(30) == 3

            def serves() -> bool:
                with suppress(OSError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    return True
                return False

            wait_until(serves, "the gateway listens", 30)
            where = f"127.0.0.1:{port}"
            second = paxon("etcd", *at, "--listen", where)
            taken = f"paxon: cannot listen at {where}: it is in use: stop the program"
            assert second.returncode == 1 and second.stderr.decode().startswith(taken)
            gateway.terminate()
            assert gateway.wait(30) == 0
        finally:
            gateway.kill()
            gateway.wait()


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (["get", "key"], ""),
        (["txn", "--then", "put key x"], "given up: the write may have taken effect"),
        (["backup", "save", "/tmp/none"], "given up: /tmp/none is whole, or not there"),
    ],
)
def test_ctrl_c_while_waiting_for_a_cluster(what: list[str], says: str) -> None:
    (port,) = own_ports(1)
    process = subprocess.Popen(
        [*PAXON, *what, "--cluster", f"127.0.0.1:{port}", "--timeout", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )

    def waits() -> bool:
        """ZeroMQ's threads are there; earlier it would be the interpreter that is interrupted."""
        return len(list(Path(f"/proc/{process.pid}/task").iterdir())) > 2

    wait_until(waits, "the command waits", 60)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert says in errors.decode() and bool(errors) == bool(says)


def test_ctrl_c_while_the_command_is_imported() -> None:
    script = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from paxon.kvstore.cli.app import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, b"")


# --- paxon up ------------------------------------------------------------------------------------


def start_up(directory: Path | None, *more: str) -> tuple[subprocess.Popen[str], str]:
    """`paxon up` on free ports; the process, and where it says that clients may connect."""
    port = own_base()
    arguments = [*PAXON, "up", "--port", str(port), *more]
    if directory is not None:
        arguments += ["--dir", str(directory)]
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONUNBUFFERED="1"),
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        assert "1 servers" not in line
        if "--cluster" in line:
            return process, line.split("--cluster")[1].strip()
    raise AssertionError(process.communicate())


def test_up_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    process, addresses = start_up(tmp_path / "data")
    assert paxon_here("put", "a", "1", "--cluster", addresses).returncode == 0
    status = ("status", "--json", "--timeout", "60", "--cluster", addresses)
    rows = json.loads(paxon_here(*status).stdout)
    assert len(rows) == 3
    assert process.stdout is not None
    assert any("leader" in line for line in process.stdout), "the view tells of changes"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    for ending in (signal.SIGTERM, signal.SIGINT if nohup else signal.SIGHUP):
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
        assert errors == ""
        # What was acknowledged is there again.
        process, addresses = start_up(tmp_path / "data")
        assert paxon_here("get", "a", "--cluster", addresses).stdout == b"1"
        (os.kill if ending == signal.SIGTERM else os.killpg)(process.pid, ending)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_up_says_what_is_wrong_in_one_sentence(tmp_path: Path) -> None:
    process, address = start_up(None, "--servers", "1")
    port = int(address.rpartition(":")[2]) - 11
    done = paxon("up", "--servers", "1", "--port", str(port))
    assert done.returncode == 1
    assert "in use" in one_sentence(done)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    (tmp_path / "file").write_text("")
    done = paxon("up", "--dir", str(tmp_path / "file"))
    assert done.returncode == 1
    one_sentence(done)
    done = paxon("up", "--set", "heartbeat_interval=99")
    assert done.returncode == 2
    assert "heartbeat_interval" in one_sentence(done)


def test_up_tells_when_a_server_dies(tmp_path: Path) -> None:
    process, addresses = start_up(tmp_path)
    status = ("status", "--json", "--timeout", "60", "--cluster", addresses)
    rows = json.loads(paxon_here(*status).stdout)
    assert len(rows) == 3
    listed = subprocess.run(
        ["ps", "-ww", "--ppid", str(process.pid), "-o", "pid=,args="],
        capture_output=True,
        text=True,
        check=True,
    )
    victim = next(
        int(line.split()[0]) for line in listed.stdout.splitlines() if "spawn_main" in line
    )
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not pid_is_alive(victim), "the server is dead")
    assert process.stdout is not None
    for line in process.stdout:
        if "failed" in line and "SIGKILL" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0


# --- paxon demo ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_demo_tells_the_story() -> None:
    done = paxon("demo", "--seconds", "1")
    text = done.stdout.decode()
    assert done.returncode == 0, text
    for words in (
        "3 servers started",
        "leads with ballot",
        "kill -9",
        "took over with ballot",
        "failover took",
        "restarted and caught up",
        "all 3 servers executed the same",
        "acknowledged writes are there",
        "temporary directory removed",
    ):
        assert words in text
    assert done.stderr == b""
    assert "\x1b" not in text


@pytest.mark.slow
def test_demo_ends_on_ctrl_c_with_nothing_left() -> None:
    process = subprocess.Popen(
        [*PAXON, "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONUNBUFFERED="1"),
        start_new_session=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    servers = [int(pid) for pid in line.partition("pids ")[2].partition(")")[0].split(",")]
    assert len(servers) == 3
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == ""
    assert not any(pid_is_alive(pid) for pid in servers)


def test_keys_are_utf8_in_any_locale(tmp_path: Path) -> None:
    plain = environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    with LocalCluster(1, tmp_path) as cluster:
        at = ("--cluster", ",".join(cluster.addresses))
        assert paxon("put", "ü", "é…", *at, env=plain).returncode == 0
        assert paxon("get", "ü", *at).stdout == "é…".encode()
        assert paxon("get", "ü", *at, env=plain).stdout == "é…".encode()
        for locale in (plain, environment(PYTHONIOENCODING="cp437")):
            assert paxon("scan", "ü", *at, env=locale).stdout == "ü\té…\n".encode()
        file = f"{tmp_path}/saved-é"
        assert file.encode() in paxon("backup", "save", file, *at, env=plain).stdout


def test_up_shows_whom_its_start_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its live view begins only once the cluster is in force."""
    monkeypatch.setattr(up, "_PATIENCE_SECONDS", -1.0)
    out = io.StringIO()
    cluster = up._Shown(3)
    cluster.console = Console(file=out, width=200)
    waits = StatusReply(
        id=0, server=1, cluster="c", role="follower", ballot=NO_BALLOT, leader=0, accepted=0,
        chosen=0, executed=0, discarded=0, snapshot=0, uptime=0.0, disk_bytes=0, state_digest="",
        counters={}, waits_for="waits for server 2 to make the cluster",
    )  # fmt: skip
    rows = [
        ServerStatus(server=1, address="a", reply=waits, state="running"),
        ServerStatus(server=2, address="b", state="running"),
    ]
    for _ in range(3):
        cluster._waiting_to_start(rows)
    assert out.getvalue().splitlines() == [
        "server 1 waits: waits for server 2 to make the cluster", "server 2 does not answer yet",
    ]  # fmt: skip


def test_up_says_that_a_directory_has_members_already(tmp_path: Path) -> None:
    out = io.StringIO()
    cluster: Any = SimpleNamespace(
        servers=[1, 2, 3], directory=tmp_path, addresses=["a"], secure=None
    )
    for wanted in (3, 5):
        up._introduce(Console(file=out, width=200), cluster, wanted, tmp_path, 7100)
    said = "its members are those of before: 5 would be for a new directory"
    assert out.getvalue().splitlines().count(said) == 1
