"""What a gateway itself makes sure of, whatever server it asks."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from msgspec.structs import replace

from paxon import AsyncClient as Paxon
from paxon.kvstore.etcd.cluster import ClusterService
from paxon.kvstore.etcd.front import REVISION, Front
from paxon.kvstore.recipes.clients import AsyncClient
from paxon.kvstore.store import operations as wire
from paxon.kvstore.store.operations import refusal
from paxon.kvstore.testing.cluster import MemoryCluster


class Servers:
    """Stands for a client of the cluster; answers stale reads as it is told."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.modes: list[str] = []

    async def _do(self, _call: Any, _timeout: float, mode: str) -> Any:
        self.modes.append(mode)
        return [self._answers.pop(0)]


def row(revision: int) -> Any:
    return [revision, 0, False, [], None]


def ask(servers: Servers, seen: int) -> Any:
    front = Front(cast("AsyncClient", servers))
    front.revision = seen
    return asyncio.run(front.ask_any(wire.Range(b"k"), 5.0, lambda result: int(result[0])))


def test_time_does_not_go_back_for_who_reads_from_one_gateway() -> None:
    servers = Servers(row(7), row(8), row(9))
    assert ask(servers, seen=9)[0] == 9
    assert servers.modes == ["stale"] * 3


def test_a_revision_that_a_server_does_not_have_yet_is_waited_for() -> None:
    future = refusal("not yet", "future")
    assert ask(Servers(future, row(9)), seen=9)[0] == 9


def test_who_stays_behind_is_given_up_for_the_leader() -> None:
    servers = Servers(*[row(7)] * 1000)

    async def answers(_call: Any, _timeout: float, mode: str) -> Any:
        return [row(7 if mode == "stale" else 9)]

    servers._do = answers  # type: ignore[method-assign]
    assert ask(servers, seen=9)[0] == 9


def test_what_comes_alone_leaves_at_once_and_what_comes_with_others_together() -> None:
    """A turn of the loop more is a twelfth of the time that a lone read takes."""

    async def sent() -> list[int]:
        async with Paxon(cluster.addresses) as kv:
            front, core = Front(kv), kv._core
            await front.now(5.0)  # (the leader is known)
            await asyncio.sleep(0)
            counts = [core._sends]
            answered = [asyncio.get_running_loop().create_future() for _ in range(3)]
            for each in answered:
                front.begin(REVISION, 5.0, lambda *both: both, each.set_result)
                counts.append(core._sends)
            await asyncio.gather(*answered)
            return [count - counts[0] for count in [*counts, core._sends]]

    with MemoryCluster() as cluster:
        assert asyncio.run(sent()) == [0, 1, 1, 1, 2]


def test_the_members_are_those_of_the_cluster_and_who_learns_is_called_so() -> None:
    async def members() -> list[tuple[str, bool]]:
        async with Paxon(cluster.addresses) as kv:
            [reply] = (await kv.status(timeout=5.0)).values()
            replies = {
                part: replace(reply, server=number, part=part, members=(1, 2, 4))
                for number, part in enumerate(("voter", "learner", "none"), 1)
            }

            async def status(**_more: Any) -> Any:
                return replies

            kv.status = status  # type: ignore[assignment]
            front = Front(kv)
            await front.look()
            answer = await ClusterService(front).members(None, 5.0)
            told = [(member.name, member.isLearner) for member in answer.members]
            front._url = "http://x:1"
            for left in (
                (1, 2, 4),
                (2, 4),
            ):  # who stands for a member that is removed takes another
                replies.update({part: replace(r, members=left) for part, r in replies.items()})
                await front.look()
                await front._register()
                answer = await ClusterService(front).members(None, 5.0)
                assert [*answer.members[0].clientURLs] == ["http://x:1"]
                replies.pop("voter", None)
            return told

    with MemoryCluster() as cluster:
        assert asyncio.run(members()) == [
            ("server-1", False), ("server-2", True), ("server-4", False),
        ]  # fmt: skip


def test_who_is_asked_before_anybody_led_answers_with_a_term() -> None:
    """One that came up together with its cluster had looked before the first election."""

    async def main() -> None:
        async with AsyncClient(cluster.addresses) as kv:
            front = Front(kv)
            look = front.look

            async def too_early() -> None:
                await look()
                front.term = 0
                front.look = look  # type: ignore[method-assign]

            front.look = too_early  # type: ignore[method-assign]
            await front.open("")
            assert front.header().raft_term > 0
            await front.close()

    with MemoryCluster() as cluster:
        asyncio.run(main())
