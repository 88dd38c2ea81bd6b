"""What no argument may be is refused at once, with one sentence that names it."""

from __future__ import annotations

import asyncio
import copy
import math
import multiprocessing.spawn
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paxon import ReplicatedDict, async_proxy, proxy
from paxon.actors import Settings, SettingsError, StateMachine
from paxon.actors.ballot import Ballot
from paxon.kvstore import (
    AsyncClient,
    AsyncCommandClient,
    Client,
    ClusterError,
    CommandClient,
    InvalidRequest,
    KVStore,
    LocalCluster,
    ServerStartError,
    start_server,
)
from paxon.kvstore.client.agreement import transfer_request
from paxon.kvstore.cluster.node import _data_directory
from paxon.testing import MemoryCluster
from tests.kvstore.client.fake_cluster import SocketCluster

ONE = "tcp://127.0.0.1:1"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"window": "a"}, "window = 'a': must be a whole number"),
        ({"window": 1.5}, "window = 1.5: must be a whole number"),
        ({"window": True}, "window = True: must be a whole number"),
        ({"window": None}, "window = None"),
        ({"window": 10**30}, "window must be at most 1099511627776"),
        ({"election_timeout_max": 1e300}, "election_timeout_max must be at most 86400.0 (seconds)"),
        ({"heartbeat_interval": "0.1"}, "heartbeat_interval = '0.1': must be a number"),
        ({"heartbeat_interval": math.nan}, "heartbeat_interval = nan: must be a finite number"),
        ({"session_ttl": math.inf}, "session_ttl = inf: must be a finite number"),
        ({"policy": "brave"}, "policy = 'brave': must be one of 'stable'"),
        ({"leases": 1}, "leases = 1: must be True or False"),
        ({"cluster": b"bytes"}, "cluster = b'bytes': must be text"),
        ({"servers": 3}, "servers = 3: must be a list of whole numbers"),
        ({"servers": ("1",)}, "servers = "),
        ({"server": "1"}, "server = '1': must be a whole number"),
        ({"client_addresses": [ONE]}, "client_addresses = "),
        ({"client_addresses": {"1": ONE}}, "client_addresses = "),
    ],
)
def test_settings(wrong: dict[str, Any], named: str) -> None:
    right: dict[str, Any] = {"cluster": "c", "server": 1, "servers": (1,)}
    with pytest.raises(SettingsError) as refused:
        Settings(**right | wrong)
    assert named in str(refused.value)


@pytest.mark.parametrize("kind", [Client, CommandClient, AsyncClient, AsyncCommandClient])
@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"servers": 7111}, "an address has to be text, not 7111"),
        ({"servers": b"127.0.0.1:7111"}, "has to be text"),
        ({"servers": [None]}, "has to be text"),
        ({"servers": []}, "at least one server"),
        ({"servers": {}}, "at least one server"),
        ({"servers": ""}, "no address given"),
        ({"servers": "udp://host:1"}, "is no address"),
        ({"timeout": "1"}, "the timeout has to be a number"),
        ({"timeout": math.nan}, "the timeout has to be a number"),
        ({"timeout": -1}, "the timeout has to be a number"),
        ({"timeout": 0}, "the timeout has to be a number"),
        ({"timeout": True}, "the timeout has to be a number"),
        ({"redirect": "no"}, "redirect has to be True or False"),
        ({"options": {"window": 1}}, "options have to be CoreOptions"),
        ({"secure": "key"}, "secure has to be a function"),
    ],
)
def test_clients(kind: Callable[..., Any], wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        kind(**{"servers": ONE} | wrong)
    assert named in str(refused.value)


def test_operations(servers: SocketCluster) -> None:
    with Client(servers.addresses, timeout=20) as kv:
        for wrong in ("1", math.nan, -1, 0, True, [1]):
            with pytest.raises(InvalidRequest, match="the timeout has to be"):
                kv.get("key", timeout=wrong)  # type: ignore[arg-type]
            with pytest.raises(InvalidRequest, match="the timeout has to be"):
                kv.pipeline(timeout=wrong)  # type: ignore[arg-type]
            with pytest.raises(InvalidRequest, match="the timeout has to be"):
                kv.status(timeout=wrong)  # type: ignore[arg-type]
        for wrong in ("1", math.nan, -1, True):
            with pytest.raises(InvalidRequest, match="the timeout has to be"):
                kv.submit_get("key").result(timeout=wrong)  # type: ignore[arg-type]
        for odd in (0, -1, "2", 2.0, None, True):
            with pytest.raises(InvalidRequest, match="max_in_flight has to be an int"):
                kv.pipeline(max_in_flight=odd)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="has to be text"):
            kv.status(1)  # type: ignore[arg-type]
        anything: Any = kv
        calls: list[tuple[Callable[[], object], str]] = [
            (lambda: anything.get_many(3), "give a list of keys, not 3"),
            (lambda: anything.get("a", revision=None), "the revision has to be an int"),
            (lambda: anything.range(prefix="a", sort=["key"]), "sort is by key"),
            (lambda: anything.txn(if_=""), "if_ has to be a list of conditions"),
            (lambda: anything.lease_info(None), "a lease has to be one that `lease` has granted"),
            (lambda: anything.put("a", "", lease=AsyncClient(ONE).lease(5)), "entered or awaited"),
            (lambda: anything.txn(if_=[kv.lock("a")]), "a condition is something held"),
            (lambda: dict(AsyncClient(ONE).mirror("m")), "enter it by `async with`"),
            (lambda: anything.add_member(10**20), f"MemberChange: server cannot be {10**20}"),
            (lambda: anything.add_member(2, key=b"k"), "MemberChange: key cannot be b'k'"),
            (lambda: anything.change_settings(max_sessions=10**400), "must be a number below 2^63"),
            (lambda: anything.change_settings(**{"x" * 101: 1}), "no agreed setting 'xxx"),
            (lambda: anything.change_settings(**{"\ud800": 1}), "no agreed setting '"),
            (lambda: anything.change_settings(**{f"x{n}": n for n in range(101)}), "at most 100"),
            (lambda: transfer_request(Ballot(1, 1), 10**30), "the id of a server, from 1 to 63"),
            (lambda: anything.lease(5, on_lost=3), "on_lost has to be a plain function"),
            (lambda: anything.lock("a", reentrant=1), "reentrant has to be True or False"),
            (lambda: AsyncClient(ONE).mirror(3), "the prefix has to be a str"),  # type: ignore[arg-type]
            (lambda: AsyncClient(ONE).get("a").send(None), "coroutines that asyncio runs"),
            (lambda: anything.get("a", mode="x" * 10**6), "x…"),
        ]
        for call, text in calls:
            with pytest.raises(InvalidRequest) as refused:
                call()
            assert text in str(refused.value) and len(str(refused.value)) < 1100
        assert kv.get("key", timeout=10**400) is None


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"servers": "3"}, "servers = '3'"),
        ({"servers": 0}, "servers = 0"),
        ({"servers": True}, "servers = True"),
        ({"servers": 2.0}, "servers = 2.0"),
        ({"port": "7100"}, "port = '7100'"),
        ({"port": 0}, "port = 0"),
        ({"directory": 5}, "directory = 5"),
        ({"directory": b"bytes"}, "directory = b'bytes'"),
        ({"directory": "a\0b"}, "directory"),
        ({"machine": KVStore()}, "give the class, KVStore"),
        ({"machine": 1}, "machine = 1"),
        ({"durability": "tape"}, "durability = 'tape'"),
        ({"transport": None}, "transport = None"),
        ({"log_level": 10}, "log level 10"),
        ({"window": "a"}, "window = 'a'"),
        ({"windw": 1}, "did you mean 'window'"),
    ],
)
def test_local_cluster(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ClusterError) as refused:
        LocalCluster(**wrong)
    assert named in str(refused.value)


def test_a_directory_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    """It cannot be written into the cluster file; `start` hung instead of saying so."""
    place = Path(os.fsdecode(bytes(tmp_path) + b"/\xff"))
    with pytest.raises(ClusterError, match=r"\\xff.* is not UTF-8"):
        LocalCluster(3, place)
    assert not place.exists()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"machine": KVStore}, "give a state machine, KVStore(…), not the class"),
        ({"machine": object()}, "is not a paxon.StateMachine"),
        (
            {"machine": type("Odd", (KVStore,), {"language": "\ud800"})()},
            "a line of text, not",
        ),
        ({"machine": type("Odd", (KVStore,), {"language": 7})()}, "a line of text, not 7"),
        ({"peers": {}}, "peers: no address is given for server 1"),
        ({"peers": [ONE]}, "peers: give the servers' addresses by id"),
        ({"peers": {1: 7110, 2: ONE}}, "7110 is no address"),
        ({"peers": {1: "tcp://0.0.0.0:7110", 2: ONE}}, "0:7110' stands for all addresses"),
        ({"client_bind": None}, "None is no address"),
        ({"settings": {"server": 1}}, "give Settings"),
        ({"settings": Settings(cluster="c", server=1, servers=(1, 2))}, "none for server 2"),
        ({"durability": "tape"}, "durability = 'tape'"),
        ({"directory": None}, "needs a data directory"),
        ({"directory": 7}, "needs a data directory"),
        ({"directory": ""}, "needs a data directory"),
        ({"directory": "a\0b"}, "a null character is in"),
        ({"metrics": 9100}, "metrics = 9100: must be text, such as '9100'"),
        ({"log": "paxon"}, "log = 'paxon': must be a Logger, or None"),
        ({"security": "keys"}, "security = 'keys': must be a CurveSecurity, or None"),
        ({"on_failed": 3}, "on_failed has to be a plain function, not 3"),
        ({"on_opened": asyncio.sleep}, "on_opened has to be a plain function"),
    ],
)
def test_start_server(wrong: dict[str, Any], named: str, tmp_path: Path) -> None:
    right: dict[str, Any] = {
        "settings": Settings(
            cluster="c", server=1, servers=(1, 2), client_addresses={1: ONE, 2: ONE}
        ),
        "machine": KVStore(),
        "peers": {1: ONE, 2: ONE},
        "client_bind": ONE,
        "directory": tmp_path,
    }
    with pytest.raises(ServerStartError) as refused:
        start_server(**right | wrong)
    assert named in str(refused.value)
    assert issubclass(KVStore, StateMachine)
    assert not list(tmp_path.iterdir())


def test_functions_of_the_wrong_kind_are_not_called_in_vain() -> None:
    """What nobody awaits, or goes through, was a transaction of no writes, or a true condition."""

    async def later(_: object) -> None: ...
    def now(_: object) -> None: ...
    def some(_: object) -> Iterator[None]:
        yield

    def sooner(argument: object) -> object:
        return later(argument)

    async def main(cluster: MemoryCluster, kv: Any) -> None:
        async with cluster.async_client() as found:
            akv: Any = found
            with kv.mirror("m") as mirror, kv.watch("w") as watch:
                for call, wrong in (
                    (kv.transact, later), (kv.transact, 3), (kv.election("e").run, later),
                    (mirror.wait, later), (watch.call, later), (kv.transact, sooner),
                    (kv.transact, some), (kv.election("e").run, sooner), (mirror.wait, some),
                ):  # fmt: skip
                    with pytest.raises(InvalidRequest, match="has to be a plain function, not"):
                        call(wrong)
            async with akv.mirror("m") as mirror:
                with pytest.raises(InvalidRequest, match="has to be a plain function, not"):
                    await mirror.wait(later)
            run = akv.election("e").run
            for ask, plain in ((akv.transact, now), (akv.transact, 3), (run, now)):
                with pytest.raises(InvalidRequest, match="has to be a coroutine function, not"):
                    await ask(plain)
            assert await akv.election("e").leader() is None

    with MemoryCluster() as cluster, cluster.client() as kv:
        asyncio.run(main(cluster, kv))


@pytest.mark.parametrize("kind", [Client, AsyncClient, proxy, async_proxy])
@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_client_is_not_copied(kind: Any, copied: Any) -> None:
    of = [ReplicatedDict] if kind in {proxy, async_proxy} else []
    with pytest.raises(TypeError, match="neither copied nor pickled"):
        copied(kind("127.0.0.1:1", *of))


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_nor_is_a_cluster(copied: Any) -> None:
    with MemoryCluster() as in_memory:
        for cluster in (LocalCluster(), in_memory):
            with pytest.raises(TypeError, match="a cluster is neither copied nor pickled"):
                copied(cluster)


def test_an_interpreter_that_does_not_know_its_program_starts_no_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It said that the process had ended with exit code 255."""
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", "")
    with pytest.raises(ClusterError, match=r"sys\.executable is empty.*set_executable"):
        LocalCluster(1).start()


@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy])
def test_nor_is_its_watch(copied: Any) -> None:
    with Client("127.0.0.1:1") as kv, kv.watch("a", after=1) as watch:
        with pytest.raises(TypeError, match="neither copied nor pickled, nor is what it has made"):
            copied(watch)
        with pytest.raises(InvalidRequest, match="a number of seconds from 0, not -1"):
            watch.next(-1)
        with pytest.raises(InvalidRequest, match="the prefix has to be a str or bytes, not None"):
            kv.mirror(None)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="of a missing key the version is 0"):
            kv.value("a") == None  # noqa: B015, E711


def test_a_server_stays_where_it_is_wherever_its_program_changes_to() -> None:
    """It took its database for deleted, and stopped."""
    assert _data_directory("data", "disk") == Path.cwd() / "data"
