"""Members change on real processes, while they serve (docs/membership.md).

`python -m tests.faults members` does it for as long as wanted, at random.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from pathlib import Path

import msgspec
import pytest

from paxon import AsyncClient, ChangeRefused, Client, ClusterError, InvalidRequest
from paxon.kvstore.client.keys import secure_with
from paxon.kvstore.cluster import local_cluster
from paxon.kvstore.cluster.cluster_file import ClusterDescription
from paxon.kvstore.cluster.local_cluster import LocalCluster
from paxon.transport import CurveKeys
from tests.cluster.commands.test_server_command import serving
from tests.cluster.helpers import (
    PAXON,
    last_sentence,
    once_it_says,
    one_sentence,
    paxon,
    paxon_here,
    vote_instead,
    wait_until,
    wait_until_equal,
)
from tests.cluster.test_local_cluster import children
from tests.ports import own_ports

pytestmark = pytest.mark.process

TIMEOUT = 10.0
"""Seconds that a client's operation may take: that of a client that was given none."""


class Writer:
    """A client that only knows some first addresses, and puts one number after another."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.last = 0
        self.longest = 0.0
        self.errors: list[Exception] = []
        self._ending = threading.Event()
        self._client = cluster.client(timeout=TIMEOUT)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            with self._client as kv:
                while not self._ending.is_set():
                    began = time.monotonic()
                    kv.put("n", str(self.last + 1))
                    self.longest = max(self.longest, time.monotonic() - began)
                    self.last += 1
                assert kv.get("n") == str(self.last).encode()
        except Exception as error:
            self.errors.append(error)

    def goes_on(self) -> None:
        before = self.last
        wait_until(lambda: self.last > before + 5 or bool(self.errors), "the client goes on")
        assert not self.errors

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            self.goes_on()
            yield
            self.goes_on()
        finally:
            self._ending.set()
            self._thread.join()
        assert not self.errors
        print(f"{self.last} puts, the longest took {self.longest * 1000:.0f} ms")


def written(cluster: LocalCluster, writer: Writer) -> None:
    """All members have what was acknowledged, and so has the cluster after a restart of all."""
    wait_until_equal(cluster)
    with cluster.client() as kv:
        assert kv.get("n") == str(writer.last).encode()


def test_one_server_becomes_three_five_and_three_others_while_it_serves(tmp_path: Path) -> None:
    """The client knew the first server alone, which is gone in the end."""
    with LocalCluster(1, tmp_path) as cluster:
        writer = Writer(cluster)
        with writer.running():
            assert [cluster.add_server() for _ in range(4)] == [2, 3, 4, 5]
            writer.goes_on()
            for server in (1, 2):
                cluster.remove_server(server)
        assert cluster.servers == [3, 4, 5]
        written(cluster, writer)
        assert sorted(path.name for path in tmp_path.glob("server-?")) == [
            "server-3", "server-4", "server-5",
        ]  # fmt: skip
        assert list(ClusterDescription.read(tmp_path / "cluster.toml").servers) == [3, 4, 5]
    with LocalCluster(1, tmp_path) as cluster:  # whatever it was made with
        assert cluster.servers == [3, 4, 5]
        written(cluster, writer)


def test_all_who_vote_change_in_one_command_while_it_serves() -> None:
    """Six changes at once: no server of the old majority is in the new one."""
    with LocalCluster(3) as cluster:
        writer, new = Writer(cluster), [4, 5, 6]
        with writer.running():
            assert [cluster.add_server(learner=True) for _ in new] == new
            assert vote_instead(cluster, new, (1, 2, 3)) == new
            writer.goes_on()
            for server in (1, 2, 3):
                cluster.remove_server(server)
        assert cluster.servers == new
        written(cluster, writer)


async def sleeps(addresses: list[str], wait: Callable[[], object]) -> bytes | None:
    """A client of asyncio that asks for something, and much later for something else."""
    async with AsyncClient(addresses, timeout=TIMEOUT) as kv:
        await kv.get("silent")
        await asyncio.to_thread(wait)
        return await kv.get("silent")


def test_three_are_replaced_one_by_one_by_three_on_other_ports_under_load() -> None:
    """kill -9 and an empty disk each time; the client that knew only the old addresses works on.

    So do those that are silent all the while. (None of them renews anything meanwhile.)
    """
    with LocalCluster(3) as cluster, ExitStack() as stack:
        before, writer, done = cluster.addresses, Writer(cluster), threading.Event()
        silent = [stack.enter_context(cluster.client(timeout=TIMEOUT)) for _ in range(4)]
        idle, watching, keeping, holding = silent
        idle.transfer_leader(3)  # so that the writer hears of the others from it alone
        idle.put("silent", "before")
        events = stack.enter_context(watching.watch("silent"))
        lease = stack.enter_context(keeping.lease(ttl=60.0))
        held = stack.enter_context(holding.lock("held", ttl=60.0))
        asleep = stack.enter_context(ThreadPoolExecutor()).submit(
            asyncio.run, sleeps(before, done.wait)
        )
        stack.callback(done.set)
        with writer.running():
            for server in (1, 2, 3):
                cluster.replace_server(server)
        assert not set(before) & set(cluster.addresses)
        done.set()
        assert [kv.get("silent") for kv in silent] == [b"before"] * 4
        assert asleep.result() == b"before"
        idle.put("silent", "after")
        assert next(events).value == b"after"
        assert not lease.lost.is_set()
        held.check()
        written(cluster, writer)


def with_another(file: Path, server: int) -> Path:
    """The cluster's file with one server more, whose key stands there."""
    peer, client = own_ports(2)
    key = CurveKeys.load_or_generate(file.with_name(f"server-{server}.key")).public
    entry = f'id = {server}\npeer_port = {peer}\nclient_port = {client}\npublic_key = "{key}"\n'
    grown = file.with_name("grown.toml")
    grown.write_text(f"{file.read_text()}\n[[server]]\n{entry}")
    return grown


def test_servers_with_keys_come_and_go(tmp_path: Path) -> None:
    """A new one is let in by the key that the configuration has for it, and clients learn that.

    One that was started by hand is asked itself for its directory, and has to have the key that
    the file gives it: with keys no member hears that it waits.
    """
    with LocalCluster(1, tmp_path, keys=True) as cluster, cluster.client(timeout=TIMEOUT) as kv:
        kv.put("k", "1")
        assert cluster.add_server() == 2
        told = {member.server: member.key for member in kv.cluster_members().members}
        assert len(told[2]) == 40
        kv.put("k", "2")
        cluster.remove_server(1)
        assert kv.get("k") == b"2"
        kv.put("k", "3")
        wait_until_equal(cluster)
        file = with_another(tmp_path / "cluster.toml", 3)
        with serving(file, 3, "--join", cluster.addresses[0]):
            add = ["member", "add", "3", "--learner", "--cluster", str(file), "--json"]
            key, client = (
                CurveKeys.generate().public,
                ClusterDescription.read(file).servers[3].client,
            )
            another = (*add, "--public-key", key, "--timeout", "1")
            once_it_says("no server 3 waits to become a member", *another)
            added = paxon_here(*add)
            assert added.returncode == 0, added.stderr
            (third,) = [m for m in json.loads(added.stdout)["members"] if m["id"] == 3]
            assert third["client"] == client
            assert third["public_key"] == ClusterDescription.read(file).public_keys[3]
            without = str(tmp_path / "cluster.toml")  # by which its key is asked for, too

            def both_answer() -> bool:
                seen = json.loads(paxon_here("status", "--cluster", without, "--json").stdout)
                return {row["server"]: row["answers"] for row in seen} == {2: True, 3: True}

            wait_until(both_answer)
        # While it sleeps all whose keys it has are replaced: it needs the new ones in its file.
        (tmp_path / "server-1.key").unlink()
        assert cluster.add_server() == 1
        cluster.remove_server(2)
        kv.put("k", "4")
        own = re.search(r"id = 3\n.*", file.read_text(), re.DOTALL)
        assert own is not None
        file.write_text(f"{(tmp_path / 'cluster.toml').read_text()}\n[[server]]\n{own[0]}")
        secure = secure_with({client: third["public_key"]})
        join = ("--join", cluster.addresses[0])
        with serving(file, 3, *join), Client(client, timeout=60.0, secure=secure) as late:
            wait_until(lambda: late.get("k", mode="stale") == b"4", "it has caught up")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(1, tmp_path_factory.mktemp("one")) as cluster:
        cluster.leader()
        yield cluster


def member(cluster: LocalCluster, *arguments: str) -> list[str]:
    return ["member", *arguments, "--cluster", cluster.addresses[0]]


def test_the_command_lists_adds_and_removes(one: LocalCluster) -> None:
    added = paxon_here(
        *member(one, "add", "7", "--learner", "--incarnation", "5", "--peer", "tcp://10.0.0.7:1"),
    )
    assert added.returncode == 0, added.stderr
    assert b"  7  learner  tcp://10.0.0.7:1" in added.stdout
    shown = json.loads(paxon_here(*member(one, "list", "--json")).stdout)
    assert [(each["id"], each["voter"]) for each in shown["members"]] == [(1, True), (7, False)]
    assert shown["leader"] == 1
    moved = paxon_here(*member(one, "move", "7", "--peer", "tcp://10.0.0.8:1"))
    assert b"tcp://10.0.0.8:1" in moved.stdout
    removed = paxon_here(*member(one, "remove", "7", "--json"))
    assert [each["id"] for each in json.loads(removed.stdout)["members"]] == [1]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("remove", "1"), 1, "nobody would have a vote"),
        (("remove", "9"), 1, "server 9 is no member; the members are server 1"),
        (("promote", "1"), 1, "server 1 has a vote already"),
        (("add", "1"), 1, "server 1 is a voter already"),
        (("add", "2", "--timeout", "0.3"), 1, "no server 2 waits to become a member"),
        (("replace", "1", "--incarnation", "6"), 1, "its old directory is in use"),
        (("remove", "8", "8"), 1, "server 8 is no member"),
        (("add", "2", "--incarnation", "6", "--peer", "nowhere"), 1, "cannot be dialled"),
        (("add", "2", "--incarnation", "6", "--client", "OURS"), 1, "server 1 has the address"),
        (("add", "64"), 1, "ids run from 1 to 63"),
        (("replace", "9"), 1, "server 9 is no member, so nobody can take its place"),
        (("promote", "7"), 1, "server 7 is no member; the members are server 1: add it first"),
    ],
)
def test_the_command_refuses_in_one_sentence(
    one: LocalCluster, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    asked = member(one, *(one.addresses[0] if each == "OURS" else each for each in arguments))
    refused = paxon_here(*asked)
    while refused.returncode == 5:  # a busy machine: nobody answered in so short a time
        refused = paxon_here(*asked)
    assert refused.returncode == code
    assert sentence in last_sentence(refused)
    assert arguments[0] != "remove" or "add it" not in last_sentence(refused)
    with one.client() as kv:
        assert len(kv.cluster_members().members) == 1


def test_nothing_changes_that_the_rest_could_not_serve(tmp_path: Path) -> None:
    """Two administrators at once; a removal that would lose the majority; none left to agree."""
    with LocalCluster(3, tmp_path) as cluster:
        everybody = ["--cluster", ",".join(cluster.addresses), "--timeout", "60"]

        def listed() -> list[tuple[int, bool]]:
            shown = json.loads(paxon_here("member", "list", "--json", *everybody).stdout)
            return [(each["id"], each["voter"]) for each in shown["members"]]

        def demote(server: int) -> subprocess.Popen[bytes]:
            command = [*PAXON, "member", "demote", str(server), *everybody]
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

        done: list[int] = []

        def two_at_once() -> bool:
            """Each is told the truth: both are made, one, or (on a busy machine) none."""
            before, asked = listed(), [demote(server) for server in (2, 3)]
            said = [process.communicate(timeout=120)[1].decode() for process in asked]
            codes = [process.returncode for process in asked]
            done[:] = [server for server, code in zip((2, 3), codes, strict=True) if code == 0]
            assert listed() == [(server, vote and server not in done) for server, vote in before]
            for code, sentence in zip(codes, said, strict=True):
                assert code == 0 or (code == 1 and "nothing was changed" in sentence), said
            return bool(done)

        cluster.leader()
        wait_until(two_at_once, "one of them has it made")

        def voters_again() -> bool:
            for server, vote in listed():
                if not vote:
                    paxon_here("member", "promote", str(server), *everybody)
            return all(vote for _, vote in listed())

        wait_until(voters_again, "all have their votes again")

        led, before = cluster.leader(), listed()
        down, other = (server for server in (1, 2, 3) if server != led)
        cluster.kill(down)

        def refusal() -> str:
            return last_sentence(paxon_here("member", "remove", str(other), *everybody))

        # Until the leader has missed it for a while, it takes the change up and gives it up.
        wait_until(lambda: f"server {down} was not heard of late" in refusal(), "it is missed")
        assert listed() == before
        cluster.kill(other)
        ask = ["member", "remove", str(down), *everybody[:2], "--timeout", "1"]
        wait_until(
            lambda: (
                (asked := paxon_here(*ask)).returncode == 5
                and "no server leads" in last_sentence(asked)
            ),
            "nobody leads any more",
        )
        for server in (down, other):
            cluster.restart(server)
        cluster.leader()
        assert listed() == before


def test_the_command_says_who_does_not_answer() -> None:
    port = own_ports(1)[0]
    asked = paxon_here("member", "list", "--cluster", f"127.0.0.1:{port}", "--timeout", "0.3")
    assert asked.returncode == 5
    assert "no server answered within 0.3 s" in one_sentence(asked)


def test_a_server_that_cannot_join_says_why(one: LocalCluster, tmp_path: Path) -> None:
    peer, client = (f"tcp://127.0.0.1:{port}" for port in own_ports(2))
    flags = ["server", "--id", "2", "--peer", peer, "--client", client]
    at = ["--join", one.addresses[0]]
    usage = paxon_here("server", "--id", "2", *at)
    assert usage.returncode == 2
    assert b"needs --dir, --peer and --client" in usage.stderr
    assert b"give the cluster file, or --join" in paxon_here("server", "--id", "2").stderr
    both = paxon_here(*flags, *at, "--cluster", "orders.toml")
    assert b"orders.toml has the addresses" in both.stderr

    nobody = paxon_here(*flags, "--dir", str(tmp_path / "a"), "--join", client)
    assert nobody.returncode == 1
    assert "the cluster to join was not found: no server answered" in one_sentence(nobody)

    with LocalCluster(1, tmp_path / "other") as other:
        other.leader()
        theirs = str(tmp_path / "other" / "server-1")
        foreign = paxon_here(*flags, "--dir", theirs, *at)
        assert "and the servers to join are those of" in one_sentence(foreign)
        used = paxon(*flags, "--dir", theirs, "--join", other.addresses[0])
    assert foreign.returncode == used.returncode == 1
    assert "belongs to server 1" in one_sentence(used) or "in use" in one_sentence(used)


def test_a_server_joins_by_the_command_alone(one: LocalCluster, tmp_path: Path) -> None:
    """It waits, says what to do, and is a learner once that is done; then it is taken out."""
    peer, client = (f"tcp://127.0.0.1:{port}" for port in own_ports(2))
    command = [
        sys.executable, "-m", "paxon.kvstore.cli", "server", "--id", "3", "--dir",
        str(tmp_path / "s"), "--peer", peer, "--client", client, "--join", one.addresses[0],
    ]  # fmt: skip
    with (tmp_path / "err").open("wb") as err, subprocess.Popen(command, stderr=err) as process:
        try:
            cluster = f"{one.addresses[0]},{client}"

            def status() -> str:
                return paxon_here("status", "--cluster", cluster).stderr.decode()

            wait_until(lambda: "`paxon member add 3` makes it one" in status())
            waits = paxon_here(*member(one, "list"))
            assert b"  3  waits    " + peer.encode() in waits.stdout
            added = paxon_here(*member(one, "add", "3", "--learner"))
            assert added.returncode == 0, added.stderr
            wait_until(lambda: not status())
            assert paxon_here(*member(one, "remove", "3")).returncode == 0
            assert process.wait(60) == 0  # it has heard, and retires
        finally:
            process.kill()
    said = (tmp_path / "err").read_text()
    assert "was told of" not in said
    again = paxon(*command[3:])
    assert again.returncode != 0 or "retired" in again.stderr.decode()
    assert "never comes back" in again.stderr.decode()


def test_local_clusters_refuse_what_cannot_be(one: LocalCluster) -> None:
    for wrong in (9, "1", True, 1.0, None):
        for each in (one.remove_server, one.replace_server, one.kill, one.restart, one.pause):
            with pytest.raises(ClusterError, match=f"there is no server {wrong!r}, only server 1"):
                each(wrong)  # type: ignore[arg-type]
    calls: list[Callable[..., object]] = [one.leader, one.status, one.add_server]
    calls += [partial(each, 1) for each in (one.remove_server, one.replace_server)]
    for call, odd in product(calls, ("1", -1, math.nan, True)):
        with pytest.raises(InvalidRequest, match="the timeout has to be a number"):
            call(timeout=odd)
    restart: Callable[..., object] = partial(one.restart, 1)
    for call, flag in zip(
        (calls[1], calls[2], restart), ("state", "learner", "rejoin"), strict=True
    ):
        with pytest.raises(InvalidRequest, match=f"{flag} has to be True or False, not 'no'"):
            call(**{flag: "no"})
    with one.client() as kv, pytest.raises(InvalidRequest, match="learner has to be True"):
        kv.add_member(4, learner=1)  # type: ignore[arg-type]
    assert one.status()[0].state == "running" and len(children()) == 1  # nothing was lost or begun
    with pytest.raises(ClusterError, match="leave at least one voter"):
        one.remove_server(1)
    with one.client() as kv, pytest.raises(ChangeRefused, match="no server 4 waits"):
        kv.add_member(4, timeout=2)
    assert one.servers == [1]


def test_members_may_change_while_all_are_asked(
    one: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(*_: object, **__: object) -> dict[int, object]:
        monkeypatch.setattr(one, "_ids", [1, 2])
        monkeypatch.setattr(one._running(), "_children", {})
        return {}

    monkeypatch.setattr(local_cluster, "ask_status", meanwhile)
    assert [(row.server, row.state) for row in one.status()] == [(1, "stopped")]


def test_a_stale_cluster_file_is_answered_by_the_list_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory says who the members are, whatever file or program starts the server."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with LocalCluster(1, tmp_path) as cluster:
        for where, members in (("_change", 1), ("_await_part", 2)):
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(cluster, where, interrupted)
                cluster.add_server(learner=True)
            assert [row.state for row in cluster.status()] == ["running"] * members
        described = ClusterDescription.read(tmp_path / "cluster.toml")
        assert list(described.servers) == [1, 2]
        stale = msgspec.structs.replace(described, servers={1: described.servers[1]})
        cluster._description = stale
        cluster.restart(1)
        said = cluster.log_path(1).read_text()
        assert "was told of server 1, but the members of its cluster are servers 1 and 2" in said
