"""`paxon server`: serving, stopping, and one sentence for each thing that can be wrong."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from paxon.actors import Execute, PaxosServer, ServerRef, StateMachine
from paxon.actors.execution.machine_errors import ExecutionFailed
from paxon.kvstore import Client, KVStore, PaxonError, RequestTimeout, start_server
from paxon.kvstore.cluster import node
from paxon.kvstore.cluster.cluster_file import ClusterDescription
from paxon.kvstore.cluster.node import ServerStartError
from paxon.transport import binding
from tests.cluster.helpers import (
    PAXON,
    environment,
    one_sentence,
    paxon,
    paxon_here,
    wait_until,
    write_cluster_file,
)

pytestmark = pytest.mark.process


class RunningServer:
    """A `paxon server` process that serves."""

    def __init__(self, file: Path, number: int, *more: str, env: dict[str, str] | None = None):
        self.process = subprocess.Popen(
            [*PAXON, "server", "--cluster", str(file), "--id", str(number), *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env if env is not None else environment(),
        )
        assert self.process.stderr is not None
        self.warnings: list[str] = []
        self.greeting = self.process.stderr.readline()
        while "WARNING" in self.greeting:
            self.warnings.append(self.greeting)
            self.greeting = self.process.stderr.readline()
        self.address = ClusterDescription.read(file).client_addresses[number]

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; exit code and what else was on stderr."""
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=30)
        assert output == ""
        return self.process.returncode, errors


@contextmanager
def serving(file: Path, number: int = 1, *more: str) -> Iterator[RunningServer]:
    server = RunningServer(file, number, *more)
    try:
        assert "serves clients at" in server.greeting, server.greeting
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


def refused(file: Path, *more: str, code: int = 1) -> str:
    """Start server 1, which must not come up: what it says."""
    done = paxon("server", "--cluster", str(file), "--id", "1", *more)
    assert done.returncode == code, done
    assert done.stdout == b""
    return one_sentence(done)


def put_one(server: RunningServer) -> None:
    with Client(server.address) as client:
        client.put("key", "value")


def get_one(server: RunningServer) -> bytes | None:
    with Client(server.address) as client:
        return client.get("key")


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """The file of a cluster of one."""
    return write_cluster_file(tmp_path / "one.toml", [1])


def test_three_servers_from_a_file_serve_and_stop(tmp_path: Path) -> None:
    file = write_cluster_file(tmp_path / "three.toml")
    with serving(file, 1) as one, serving(file, 2) as two, serving(file, 3) as three:
        assert paxon_here("put", "key", "value", "--cluster", str(file)).returncode == 0
        assert paxon_here("get", "key", "--cluster", str(file)).stdout == b"value"
        assert paxon_here("status", "--cluster", str(file)).returncode == 0
        hang_up = signal.SIGHUP  # (which servers ignore that are started by `nohup`)
        if signal.getsignal(hang_up) == signal.SIG_IGN:
            hang_up = signal.SIGTERM
        for server, number in ((one, signal.SIGTERM), (two, signal.SIGINT), (three, hang_up)):
            code, said = server.end(number)
            # On a busy machine the first may have waited for the others long enough to say so.
            assert code == 0
            assert all("its cluster is not in force" in line for line in said.splitlines())
        assert "stopped as asked" in (tmp_path / "server-1" / "server.log").read_text()


def test_a_restarted_server_has_its_data(single: Path) -> None:
    with serving(single) as server:
        put_one(server)
        assert server.end()[0] == 0
    with serving(single) as server:
        assert get_one(server) == b"value"


def test_options_from_flag_and_environment(single: Path) -> None:
    variables = environment(PAXON_SERVER_ID="1", PAXON_WINDOW="0")
    done = paxon("server", "--cluster", str(single), env=variables)
    assert done.returncode == 2
    assert "window must be above 0" in one_sentence(done)
    server = RunningServer(single, 1, "--set", "window=3", env=variables)
    assert "serves clients" in server.greeting
    assert server.end()[0] == 0


def test_memory_warns_loudly(single: Path, tmp_path: Path) -> None:
    server = RunningServer(single, 1, "--durability", "memory")
    code, rest = server.end()
    assert code == 0
    # A server's thread hands its lines over, so the greeting may come before or after them.
    assert "keeps nothing on disk" in "".join(server.warnings) + rest
    assert "of so few not one may: it could not come back" in "".join(server.warnings) + rest
    assert "keeps nothing on disk" in (tmp_path / "server-1" / "server.log").read_text()


@pytest.mark.parametrize("which", ["peer_bind", "client_bind"])
def test_a_port_in_use(which: str, single: Path) -> None:
    entry = ClusterDescription.read(single).servers[1]
    address: str = getattr(entry, which)
    with socket.socket() as taken:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, int(port)))
        taken.listen()
        sentence = refused(single)
    assert address in sentence and "in use" in sentence


NOT_HERE = "tcp://192.0.2.1:7911"
"""An address of no machine (RFC 5737), for which a server waits a while."""
FOR_EVER = 3600.0
"""Seconds of that while, here: longer than a test may take."""


def test_a_stop_while_an_address_is_awaited(single: Path) -> None:
    single.write_text(f'{single.read_text()}\nclient_bind = "{NOT_HERE}"\n')
    code = (
        "from paxon.transport import binding; from paxon.kvstore.cli.app import main; "
        f"binding.AWAITED_SECONDS = {FOR_EVER}; main()"
    )
    command = [sys.executable, "-c", code, "server", "--cluster", str(single), "--id", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment())
    try:
        assert process.stderr is not None
        assert b"no address of this machine so far" in process.stderr.readline()
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_while_an_embedded_server_awaits_its_address(
    single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binding, "AWAITED_SECONDS", FOR_EVER)
    begun = [
        noted(monkeypatch, where, name)
        for where, name in ((binding, "_all_here"), (node, "_await_start"))
    ]

    def interrupt() -> None:
        for each in begun:
            each.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    plan = ClusterDescription.read(single).plan(1)

    def start(client_bind: str) -> ServerRef[PaxosServer]:
        return start_server(
            plan.settings, KVStore(), peers=plan.peers, client_bind=client_bind,
            directory=plan.entry.directory,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        threading.Thread(target=interrupt).start()
        start(NOT_HERE)

    def starts() -> bool:
        with suppress(ServerStartError), start(plan.entry.client_bind) as server:
            return server.is_alive()
        return False

    wait_until(starts, "nothing of it is left")  # (it ends by itself if it takes long)


class Short(KVStore):
    """Of memory."""

    check = StateMachine.check

    def apply(self, command: bytes) -> bytes:
        raise MemoryError


def test_a_server_that_stops_once_it_has_started_is_told_in_one_way(
    single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though whoever starts it has not looked yet, as on a busy machine."""
    plan, waits = ClusterDescription.read(single).plan(1), node._await_start

    def look_late(reference: Any, started: threading.Event, failures: Any) -> None:
        while reference.is_alive():
            with suppress(Exception):
                reference.ask(Execute(b"much")).get(timeout=10)
        waits(reference, started, failures)

    def start(on_failed: Callable[[BaseException], None] | None) -> ServerRef[PaxosServer]:
        return start_server(
            plan.settings, Short(), peers=plan.peers, client_bind=plan.entry.client_bind,
            durability="memory", on_failed=on_failed,
        )  # fmt: skip

    monkeypatch.setattr(node, "_await_start", look_late)
    stopped: list[BaseException] = []
    assert not start(stopped.append).is_alive()
    assert [type(each) for each in stopped] == [ExecutionFailed]
    with pytest.raises(ServerStartError, match="MemoryError"):
        start(None)


def noted(monkeypatch: pytest.MonkeyPatch, where: ModuleType, name: str) -> threading.Event:
    """Set once this function has been called."""
    function, called = getattr(where, name), threading.Event()

    def noting(*arguments: object) -> object:
        called.set()
        return function(*arguments)

    monkeypatch.setattr(where, name, noting)
    return called


def test_a_directory_in_use_by_a_live_process(single: Path, tmp_path: Path) -> None:
    other = write_cluster_file(tmp_path / "other.toml", [1])  # same directory, other ports
    with serving(single) as server:
        sentence = refused(other)
        assert str(tmp_path / "server-1") in sentence
        assert server.process.poll() is None


def test_the_directory_of_another_server_or_cluster(single: Path, tmp_path: Path) -> None:
    with serving(single) as server:
        put_one(server)
        server.end()
    other = write_cluster_file(tmp_path / "other.toml", [1], cluster="another")
    assert "testing" in refused(other)
    two = write_cluster_file(tmp_path / "two.toml", [1, 2])
    sentence = paxon(
        "server", "--cluster", str(two), "--id", "2", "--dir", str(tmp_path / "server-1")
    )
    assert sentence.returncode == 1
    assert "server 1" in one_sentence(sentence)
    with serving(single) as server:  # and nothing of it was lost
        assert get_one(server) == b"value"


def test_a_directory_that_holds_something_else(single: Path, tmp_path: Path) -> None:
    with serving(single) as server:
        server.end()
    databases = [path for path in (tmp_path / "server-1").iterdir() if path.suffix == ".db"]
    assert databases
    for database in databases:
        database.write_bytes(b"this is no database" * 1000)
    sentence = refused(single)
    assert str(tmp_path / "server-1") in sentence


def test_a_directory_that_cannot_be_used(single: Path, tmp_path: Path) -> None:
    (tmp_path / "server-1").write_text("a file in its place")
    assert str(tmp_path / "server-1") in refused(single)
    said = refused(single, "--dir", str(tmp_path / "server-1" / "deeper"))
    assert "a file is where a directory should be" in said


def test_a_directory_without_permission(single: Path, tmp_path: Path) -> None:
    (tmp_path / "server-1").mkdir(mode=0o500)
    done = subprocess.run(
        [*PAXON, "server", "--cluster", str(single), "--id", "1"],
        capture_output=True,
        env=environment(),
        preexec_fn=obey_permissions,
        check=False,
    )
    assert done.returncode == 1
    assert "permission is denied" in one_sentence(done)


def obey_permissions() -> None:
    """Give up root's right to read and write everything (for those who run tests as root)."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    path = tmp_path / "small"
    path.mkdir()
    if os.geteuid() != 0 or mount is None or umount is None:
        pytest.skip("mounting a small file system takes root")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield path
    subprocess.run([umount, str(path)], check=True)


def test_a_state_that_outgrows_its_disk_waits_for_room_and_loses_nothing(
    single: Path, small_disk: Path
) -> None:
    """Who fills the disk with its own data holds clients back; docs/design/full-disks.md."""
    place = ("--dir", str(small_disk / "data"))
    acknowledged: list[str] = []
    with serving(single, 1, *place) as server:
        with Client(server.address, timeout=3) as client:
            refused = ""
            while "little room" not in refused:
                with pytest.raises(PaxonError) as caught:
                    for number in range(len(acknowledged), 1000):
                        client.put(f"k{number}", os.urandom(32 << 10))
                        acknowledged.append(f"k{number}")
                refused = str(caught.value)
                assert "little room" in refused or isinstance(caught.value, RequestTimeout), refused
            assert 10 < len(acknowledged) < 1000
            assert client.get(acknowledged[-1]) is not None
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        with Client(server.address, timeout=60) as client:  # noticed without a restart
            client.put("more", b"room")
    with serving(single, 1, *place) as server, Client(server.address, timeout=10) as client:
        assert [key for key in acknowledged if client.get(key) is None] == []
