"""`paxon.testing`: a cluster in the test's own process, and pytest's fixtures."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pykka
import pytest

import paxon
from paxon import Replicated, command, query
from paxon.actors.execution.state_machine import StateMachine
from paxon.testing import MemoryCluster

pytest_plugins = ("pytester",)


def test_a_client_writes_and_reads(paxon_client: paxon.Client) -> None:
    paxon_client.put("motto", b"fewer dictators")
    assert paxon_client.get("motto") == b"fewer dictators"
    with paxon_client.pipeline() as p:
        for number in range(1000):
            p.put(f"key/{number}", b"x")
    assert len(paxon_client.scan("key/")) == 1000


def test_two_clients_of_one_cluster_see_the_same(paxon_cluster: MemoryCluster) -> None:
    with paxon_cluster.client() as one, paxon.Client(paxon_cluster.addresses) as other:
        one.put("a", b"1")
        assert other.get("a") == b"1"
    [status] = paxon_cluster.client().status(timeout=60).values()
    assert status.role == "leader"


def test_the_asyncio_client_too(paxon_cluster: MemoryCluster) -> None:
    async def main() -> list[bytes | None]:
        async with paxon_cluster.async_client() as kv:
            await asyncio.gather(*(kv.append("all", f"{n},") for n in range(50)))
            return [await kv.get("all")]

    [value] = asyncio.run(main())
    assert value is not None
    assert sorted(value.split(b",")[:-1]) == sorted(b"%d" % n for n in range(50))


def test_what_was_acknowledged_survives_a_restart(paxon_cluster: MemoryCluster) -> None:
    with paxon_cluster.client() as kv:
        kv.put("a", b"1")
        paxon_cluster.restart()
        assert kv.get("a") == b"1"
        kv.put("a", b"2")
        paxon_cluster.restart()
        kv.append("a", b"3")
        assert kv.get("a") == b"23"


def test_in_a_fork_it_has_stopped(paxon_cluster: MemoryCluster) -> None:
    """Who left its `with` statement there, or asked it something, waited for ever."""

    def ask() -> None:
        with pytest.raises(pykka.ActorDeadError):
            paxon_cluster.let_pass(1.0)

    with paxon_cluster.client() as kv:
        for use in (paxon_cluster.stop, ask):  # (as the end of `with` does)
            pid = os.fork()
            if pid == 0:
                signal.alarm(30)
                try:
                    use()
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            kv.put("a", b"the parent's runs on")


def test_time_passes_as_the_test_says(paxon_cluster: MemoryCluster) -> None:
    with MemoryCluster(session_ttl=60.0) as cluster, cluster.command_client() as client:
        opened = cluster.client()
        opened.put("a", b"1")
        before = next(iter(opened.status(timeout=60).values())).sessions
        cluster.let_pass(61.0)
        client.execute(b"\x90")  # an empty list of operations, in a session of its own
        assert next(iter(opened.status(timeout=60).values())).sessions == before


class Alarms(Replicated):
    rung: int = 0

    @command
    def set(self, number: int, seconds: float) -> None:
        for _ in range(number):
            self.timers.after(seconds, self.ring)

    @command
    def ring(self) -> None:
        self.rung += 1

    @query
    def so_far(self) -> int:
        return self.rung


@pytest.mark.parametrize("seconds", [0.1, 1.5])
def test_timers_that_are_due_have_run_once_time_has_passed(seconds: float) -> None:
    with MemoryCluster(Alarms) as cluster, cluster.proxy(Alarms) as alarms:
        for total in (2500, 5000):
            alarms.set(2500, seconds)  # more than run in one slot
            cluster.let_pass(seconds)
            assert alarms.so_far() == total
            cluster.restart()


class Sum(StateMachine):
    def __init__(self) -> None:
        self.total = 0

    def apply(self, command: bytes) -> bytes:
        if command == b"stop":
            raise MemoryError
        self.total += int(command)
        return b"%d" % self.total

    def query(self, query: bytes) -> bytes:
        return b"%d" % self.total

    def snapshot(self) -> bytes:
        return b"%d" % self.total

    def restore(self, snapshot: bytes) -> None:
        self.total = int(snapshot)


def test_a_machine_of_ones_own() -> None:
    with MemoryCluster(Sum) as cluster, cluster.command_client() as client:
        assert client.execute(b"3") == b"3"
        cluster.restart()
        assert client.execute(b"4") == b"7"

        async def main() -> bytes:
            async with cluster.async_command_client() as other:
                return await other.execute(b"5")

        assert asyncio.run(main()) == b"12"
        with pytest.raises(paxon.OperationFailed, match="ValueError"):
            client.execute(b"four")
        assert cluster.failure is None


class Reader(Replicated):
    def __init__(self) -> None:
        self.reads: list[bool] = []
        self.text: str = ""

    @command
    def write(self, text: str) -> None:
        self.text = text

    @query
    def read(self, count: bool) -> int:
        if count:
            self.reads.append(True)
        return len(self.reads)


class Stamped(Reader):
    """Two images of one state differ."""

    def snapshot(self) -> bytes:
        return os.urandom(8)

    def restore(self, snapshot: bytes) -> None: ...


class Unkept(Reader):
    def snapshot(self) -> bytes:
        raise ValueError

    def restore(self, snapshot: bytes) -> None: ...


def test_a_query_that_changes_the_state_of_a_class_is_found() -> None:
    with MemoryCluster(Reader) as cluster, cluster.proxy(Reader) as reader:
        assert reader.read(False) == 0
        with pytest.raises(paxon.OperationFailed, match="a query changed the state"):
            reader.read(True)
        reader.write("x" * (65 << 10))
        assert reader.read(True) == 2, "of a large state nobody looks"
    for cls in (Stamped, Unkept):
        with MemoryCluster(cls) as cluster, cluster.proxy(cls) as reader:
            assert reader.read(False) == 0


def test_a_server_that_stops_says_why_and_its_clients_do_not_hang() -> None:
    with MemoryCluster(Sum) as cluster, cluster.command_client() as client:
        with pytest.raises(paxon.RequestTimeout):
            client.execute(b"stop", timeout=0.3)
        assert "MemoryError" in str(cluster.failure)
        with pytest.raises(paxon.ServerStartError, match="MemoryError"):
            cluster.restart()  # the same command is in its log


def test_what_a_snapshot_raises_keeps_the_server_from_nothing() -> None:
    class Interrupted(Sum):
        def snapshot(self) -> bytes:
            raise KeyboardInterrupt

    with (
        MemoryCluster(Interrupted, snapshot_slots=1) as cluster,
        cluster.command_client() as client,
    ):
        for _ in range(5):
            client.execute(b"1")
        assert client.query(b"sum") == b"5"


def test_a_server_that_is_gone_is_named() -> None:
    with MemoryCluster() as cluster:
        pass
    with (
        cluster.client() as kv,
        pytest.raises(paxon.ClusterUnavailable, match="no server of that name is open"),
    ):
        kv.get("a", timeout=0.1)
    cluster.stop()


def test_all_that_it_makes_takes_options(paxon_cluster: MemoryCluster) -> None:
    one = paxon_cluster
    for make in (
        one.client, one.command_client, partial(one.proxy, Alarms),
        one.async_client, one.async_command_client, partial(one.async_proxy, Alarms),
    ):  # fmt: skip
        with pytest.raises(paxon.InvalidRequest, match="the timeout has to be"):
            make(timeout=-1)


def test_a_closed_client_leaves_no_file_open(paxon_cluster: MemoryCluster) -> None:
    def run() -> int:
        with paxon_cluster.client() as kv:
            kv.put("a", "1")
        return len(list(Path("/dev/fd").iterdir()))

    before = run()
    assert [run() for _ in range(10)][-1] < before + 10


def test_wrong_settings_are_named() -> None:
    with pytest.raises(paxon.SettingsError, match="window must be above 0"):
        MemoryCluster(window=0)
    with pytest.raises(paxon.SettingsError, match=r"'windwo' \(did you mean 'window'\?\)"):
        MemoryCluster(windwo=1)
    for option in ({"durability": "disk"}, {"rejoin": True}):
        with pytest.raises(paxon.SettingsError, match="its disk is in memory too"):
            MemoryCluster(**option)
    nobody = paxon.proxy("127.0.0.1:1", paxon.ReplicatedDict)
    machines: tuple[Any, ...] = (3, lambda: 3, lambda: Sum, paxon.Replicated, lambda: nobody)
    for machine in machines:
        with pytest.raises(paxon.ServerStartError, match=r"^machine: "):
            MemoryCluster(machine)
    with MemoryCluster() as cluster:
        for seconds in (-1, True, "1", None, math.inf, math.nan):
            with pytest.raises(paxon.InvalidRequest, match="takes a number of seconds"):
                cluster.let_pass(seconds)  # type: ignore[arg-type]


def test_the_plugin_costs_other_projects_next_to_nothing() -> None:
    """Pytest loads it in every run."""
    script = "import sys, paxon.kvstore.testing.plugin; print(*sys.modules)"
    run = [sys.executable, "-c", script]
    loaded = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert not {"zmq", "pykka", "msgspec", "sqlite3", "asyncio", "paxon.actors"} & set(loaded)


def test_pytest_finds_the_fixtures_of_an_installed_paxon(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_put(paxon_client):
            paxon_client.put("a", b"1")
            assert paxon_client.get("a") == b"1"

        def test_each_test_has_a_cluster_of_its_own(paxon_client, paxon_cluster):
            assert paxon_client.get("a") is None
            with paxon_cluster.client() as other:
                other.put("b", b"2")
            assert paxon_client.get("b") == b"2"
        """
    )
    # In a process of its own, where nothing but the entry point brings the plugin.
    result = pytester.runpytest_subprocess("-p", "no:hypothesispytest", "-p", "no:xdist")
    result.assert_outcomes(passed=2)
