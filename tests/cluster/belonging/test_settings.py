"""Agreed settings on real processes: what flags and files say later splits and isolates nobody."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from paxon.actors.execution.agreed import NAMES
from paxon.kvstore import AsyncClient, Client, InvalidRequest, PaxonError
from paxon.kvstore.cluster.local_cluster import LocalCluster
from tests.cluster.commands.test_server_command import RunningServer, serving
from tests.cluster.helpers import one_sentence, paxon_here, wait_until, write_cluster_file

pytestmark = pytest.mark.process

LONG = 60.0
"""Seconds that a busy machine may take for what takes one."""


def in_step(addresses: list[str], servers: int = 3) -> bool:
    """Whether all servers answer and have executed the same, and (asserted) come to the same."""
    with Client(addresses) as kv:
        try:
            replies = list(kv.status(timeout=2.0).values())
        except PaxonError:
            return False
    if len(replies) < servers or len({reply.executed for reply in replies}) > 1:
        return False
    assert len({reply.state_digest for reply in replies}) == 1, replies
    assert len({tuple(sorted(reply.agreed.items())) for reply in replies}) == 1, replies
    return True


def use_sessions(addresses: list[str], clients: int, rounds: int) -> None:
    """Each client has a session of its own and writes in it."""
    with ExitStack() as stack:
        stores = [stack.enter_context(Client(addresses, timeout=LONG)) for _ in range(clients)]
        for number in range(rounds):
            for index, store in enumerate(stores):
                store.put(f"key-{index}", str(number))


def wait_for_warning(directory: Path, server: int, text: str) -> None:
    """A server logs this. It may serve before it knows what is agreed: that comes with the log."""
    log = directory / f"server-{server}" / "server.log"
    wait_until(lambda: text in log.read_text(), f"server {server} says {text!r}", LONG)


def test_another_limit_at_a_restart_of_all_where_one_has_a_fresher_snapshot(
    tmp_path: Path,
) -> None:
    """Server 1 starts from a snapshot, the others from their logs; all are told another limit.

    Six sessions are opened in all. With room for two, as told, the logs' replay would know fewer.
    """
    file = write_cluster_file(tmp_path / "three.toml")

    def start(stack: ExitStack, room: int) -> list[RunningServer]:
        told = ("--set", f"max_sessions={room}")
        often = ("--set", "snapshot_slots=20")
        return [
            stack.enter_context(serving(file, n, *told, *(often if n == 1 else ())))
            for n in (1, 2, 3)
        ]

    with ExitStack() as stack:
        servers = start(stack, room=6)
        addresses = [server.address for server in servers]
        use_sessions(addresses, clients=5, rounds=10)
        with Client(addresses) as kv:
            wait_until(
                lambda: [r.snapshot > 0 for r in kv.status(timeout=LONG).values()]
                == [True, False, False],
                "server 1 alone has a snapshot", LONG,
            )  # fmt: skip
        assert [server.end()[0] for server in servers] == [0, 0, 0]
    with ExitStack() as stack:
        servers = start(stack, room=2)
        for number in (1, 2, 3):
            wait_for_warning(tmp_path, number, "max_sessions is 6 by agreement and 2 here")
        use_sessions(addresses, clients=1, rounds=3)
        wait_until(lambda: in_step(addresses), "all servers are in step", LONG)
        with Client(addresses, timeout=LONG) as kv:
            assert kv.settings()["max_sessions"] == 6
            assert {reply.sessions for reply in kv.status(timeout=LONG).values()} == {6}


def test_a_changed_file_server_by_server_isolates_nobody(tmp_path: Path) -> None:
    """Each is restarted with another `session_ttl`, and serves in a majority of old and new."""
    file = write_cluster_file(tmp_path / "three.toml")
    with ExitStack() as stack:
        servers = {n: stack.enter_context(serving(file, n)) for n in (1, 2, 3)}
        addresses = [server.address for server in servers.values()]
        use_sessions(addresses, clients=2, rounds=2)
        for number in (1, 2, 3):
            assert servers[number].end()[0] == 0
            more = ("--set", "session_ttl=17", "--set", "election_timeout_min=0.4")
            servers[number] = stack.enter_context(serving(file, number, *more))
            wait_for_warning(tmp_path, number, "session_ttl is 3600 by agreement and 17 here")
            other = number % 3 + 1  # now the restarted one is needed for a majority
            assert servers[other].end()[0] == 0
            use_sessions(addresses, clients=1, rounds=2)
            servers[other] = stack.enter_context(serving(file, other))
        wait_until(lambda: in_step(addresses), "all servers are in step", LONG)
        with Client(addresses, timeout=LONG) as kv:
            assert kv.settings()["session_ttl"] == 3600.0


def test_settings_are_changed_while_the_cluster_serves_and_outlive_restarts(
    tmp_path: Path,
) -> None:
    with LocalCluster(3, directory=tmp_path) as cluster:
        at = ("--cluster", ",".join(cluster.addresses))
        cluster.leader()
        wait_until(
            lambda: paxon_here("settings", "set", "max_value_bytes", "5", *at).returncode == 0,
            "the leader has heard of all", LONG,
        )  # fmt: skip
        with cluster.client() as kv:
            with pytest.raises(InvalidRequest, match="longer than 5 bytes"):
                kv.put("key", b"123456", timeout=LONG)
            changed = kv.change_settings(max_value_bytes=6, session_ttl=50, timeout=LONG)
            assert changed["max_value_bytes"] == 6
            kv.put("key", b"123456", timeout=LONG)
            assert kv.settings(timeout=LONG) == changed

        async def ask() -> None:
            async with AsyncClient(cluster.addresses, timeout=LONG) as kv:
                assert await kv.settings() == changed
                again = await kv.change_settings(max_value_bytes=6)
                assert again == changed  # what is agreed already is no change

        asyncio.run(ask())
        shown = json.loads(paxon_here("settings", "--json", *at).stdout)
        assert shown == {"settings": changed.values, "from_slot": changed.from_slot}
        assert b"max_value_bytes" in paxon_here("settings", *at).stdout
    with LocalCluster(3, directory=tmp_path) as cluster, cluster.client() as kv:
        assert kv.settings(timeout=LONG) == changed


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("set", "max_session", "5"), 2, "there is no agreed setting 'max_session'"),
        (("set", "window", "5"), 2, "window is each server's own and not agreed on: set it in"),
        (("set", "max_sessions", "0"), 2, "max_sessions = 0: must be from 1 to 1000000"),
        (("set", "max_sessions", "1.5"), 2, "max_sessions = 1.5: must be a whole number"),
    ],
)
def test_what_the_command_refuses(
    one: LocalCluster, arguments: tuple[str, ...], code: int, text: str
) -> None:
    done = paxon_here("settings", *arguments, "--cluster", ",".join(one.addresses))
    assert done.returncode == code
    assert text in one_sentence(done)


@pytest.mark.parametrize("arguments", [("set",), ("set", "max_sessions"), ("get", "x", "1")])
def test_wrong_usage_of_the_command(arguments: tuple[str, ...]) -> None:
    assert paxon_here("settings", *arguments).returncode == 2


@pytest.fixture(scope="module")
def one() -> object:
    with LocalCluster(1) as cluster:
        cluster.leader()
        yield cluster


SMALL: dict[str, float] = {
    "max_command_bytes": 2 << 20, "max_outstanding": 2, "max_scan_items": 3, "max_scan_bytes": 10,
    "max_reply_bytes": 64, "max_kept_each": 1, "max_kept": 1, "session_ttl": 60.0,
}  # fmt: skip
"""(A busy machine may stand still for seconds: with a shorter life a session ends in mid-retry.)"""


def use_ordinarily(kv: Client) -> None:
    """What a client packs together by itself fits into what the cluster takes."""
    with kv.pipeline(timeout=LONG) as pipeline:
        for number in range(200):
            pipeline.put(f"key/{number:03}", b"%40d" % number)
    reads = kv.pipeline(timeout=LONG)
    with reads:
        for number in range(200):
            reads.get(f"key/{number:03}")
    assert [int(value) for value in reads.results] == list(range(200))
    assert len(list(kv.scan("key/", timeout=LONG))) == 200
    large = b"x" * 1_900_000
    with kv.pipeline(timeout=LONG) as pipeline:
        for number in range(6):  # each with a small one fits nowhere
            pipeline.put(f"small/{number}", b"x" * 200_000)
            pipeline.put(f"large/{number}", large)
    assert kv.get("large/5", timeout=LONG) == large
    with pytest.raises(InvalidRequest, match="the command exceeds 2097152 bytes"):
        kv.put("key/000", b"x" * (2 << 20), timeout=LONG)


def agree(kv: Client, values: dict[str, float]) -> None:
    """As soon as the leader has heard of all that they know these settings."""

    def agreed() -> bool:
        with suppress(PaxonError):
            kv.change_settings(timeout=LONG, **values)
            return True
        return False

    wait_until(agreed, "all know the settings", LONG)


def test_small_agreed_limits_fail_no_ordinary_use(tmp_path: Path) -> None:
    own: dict[str, Any] = {name: value for name, value in SMALL.items() if name in NAMES}
    with LocalCluster(3, tmp_path, **own) as cluster, cluster.client() as kv:
        agree(kv, {name: value for name, value in SMALL.items() if name not in NAMES})
        use_ordinarily(kv)


def test_limits_that_become_small_while_a_client_is_at_work(tmp_path: Path) -> None:
    """Its session was told of larger ones: what was packed for those goes again, in parts."""
    with (
        LocalCluster(3, tmp_path) as cluster,
        cluster.client() as kv,
        cluster.client() as other,
    ):
        kv.put("a", b"1", timeout=LONG)
        agree(other, SMALL)
        use_ordinarily(kv)


def test_async_clients_among_small_limits(tmp_path: Path) -> None:
    async def use(cluster: LocalCluster) -> None:
        async with AsyncClient(cluster.addresses, timeout=LONG) as kv:
            await kv.put("a", b"1")
            with cluster.client() as other:
                agree(other, {"max_outstanding": 3})
            await asyncio.gather(*(kv.append("log", b"%3d" % n) for n in range(300)))
            assert len(await kv.get("log") or b"") == 900

    with LocalCluster(3, tmp_path) as cluster:
        asyncio.run(use(cluster))
