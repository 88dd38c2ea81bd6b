"""`AsyncClient` over real sockets, against fake servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from paxon.actors.messages import Command
from paxon.kvstore import (
    AsyncClient,
    AsyncCommandClient,
    ClientClosed,
    ClusterUnavailable,
    InvalidRequest,
    PipelineError,
    Put,
    RequestTimeout,
)
from paxon.kvstore.client.core import CoreOptions
from paxon.kvstore.store.operations import MAX_VALUE_BYTES
from tests.kvstore.client.fake_cluster import SocketCluster
from tests.kvstore.client.test_client import Counter


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario, 60)

    asyncio.run(bounded())


def test_transactions_that_share_a_command_do_not_take_each_others_room(
    servers: SocketCluster,
) -> None:
    """What they compare counts in the room of one reply: nobody's concern but the client's."""

    async def scenario() -> None:
        async with AsyncClient(servers.addresses[1]) as kv:
            await kv.put_many({f"k{number}": "" for number in range(2000)})
            there = kv.version(prefix="k") > 0
            puts = [Put(f"n{number}", "") for number in range(80)]
            done = await asyncio.gather(*(kv.txn(if_=[there], then=[put]) for put in puts))
            assert all(each.succeeded for each in done)
            async with kv.pipeline() as p:
                for put in puts:
                    p.txn(if_=[there], then=[put])
            assert all(each.succeeded for each in p.results)
            entries = (await kv.range(prefix="n")).entries
            assert len(entries) == 80 and {entry.version for entry in entries} == {2}
            with pytest.raises(PipelineError, match="ask for less in one request, or in one pipe"):
                async with kv.pipeline() as p:
                    p.put("large", bytes(1 << 20))
                    for _ in range(17):
                        p.get("large")

    run(scenario())


def test_the_operations(servers: SocketCluster) -> None:
    async def scenario() -> None:
        async with AsyncClient(servers.addresses[1]) as kv:
            await kv.put("a", "1")
            assert await kv.append("a", b"2") == 2
            assert await kv.get("a") == b"12"
            assert await kv.get("a", mode="stale") == b"12"
            assert await kv.cas("a", b"12", b"3") is True
            assert await kv.delete("b") is False
            assert await kv.scan() == [("a", b"3")]
            with pytest.raises(InvalidRequest):
                await kv.put("a", 5)  # type: ignore[arg-type]
            assert len(await kv.status()) == 2

    run(scenario())


def test_many_tasks_share_requests(servers: SocketCluster) -> None:
    async def scenario() -> None:
        async with AsyncClient(servers.addresses) as kv:

            async def work(number: int) -> None:
                for i in range(20):
                    assert await kv.append(f"k{number}", b"x") == i + 1

            await asyncio.gather(*(work(number) for number in range(100)))

    run(scenario())
    commands = [m for _, m in servers.cluster.received if isinstance(m, Command)]
    assert len(commands) < 200


def test_what_follows_an_answer_is_sent_in_the_turn_that_wakes_its_task(
    servers: SocketCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        turn = 0
        seen: list[tuple[str, int]] = []

        def tick() -> None:
            nonlocal turn
            turn += 1
            loop.call_soon(tick)

        async with AsyncClient(servers.addresses) as kv:
            await kv.put("k", b"v")
            links = kv._driver._links
            send, receive = links.send, links._receive

            def note_send(outgoing: Any, epoch: int) -> Any:
                if outgoing:
                    seen.append(("sent", turn))
                return send(outgoing, epoch)

            def note_receive(*arguments: Any) -> None:
                seen.append(("received", turn))
                receive(*arguments)

            monkeypatch.setattr(links, "send", note_send)
            monkeypatch.setattr(links, "_receive", note_receive)
            tick()
            for _ in range(3):
                await kv.put("k", b"v")
        assert [what for what, _ in seen] == ["sent", "received"] * 3
        turns = zip(seen[1::2], seen[2::2], strict=False)
        assert [sent - received for (_, received), (_, sent) in turns] == [1, 1]

    run(scenario())


def test_a_short_time_beside_a_long_one(servers: SocketCluster) -> None:
    """Nothing else wakes the loop before the long one is over."""

    async def scenario() -> None:
        options = CoreOptions(retry_first=60.0, retry_max=60.0, resend_after=60.0)
        async with AsyncClient(servers.addresses, options=options) as kv:
            await kv.put("k", b"v")
            servers.silent.update(servers.addresses)
            long = asyncio.create_task(kv.get("k", timeout=200.0))
            await asyncio.sleep(0.01)
            with pytest.raises(RequestTimeout):
                await kv.get("k", timeout=0.1)
            assert not long.done()
            long.cancel()

    run(scenario())


def test_pipelines(servers: SocketCluster) -> None:
    async def scenario() -> None:
        async with AsyncClient(servers.addresses) as kv:
            async with kv.pipeline(max_in_flight=500) as p:
                for _ in range(2000):
                    p.append("k", b"x")
                p.get("k")
            assert p.results == [*range(1, 2001), b"x" * 2000]
            await kv.put("big", b"v" * MAX_VALUE_BYTES)
            p = kv.pipeline()
            p.append("big", b"!")
            p.put("k", b"v")
            with pytest.raises(PipelineError) as caught:
                await p.execute()
            assert list(caught.value.errors) == [0]

    run(scenario())


def test_a_silent_leader_is_replaced(servers: SocketCluster) -> None:
    async def scenario() -> None:
        async with AsyncClient(servers.addresses) as kv:
            await kv.put("k", b"v")
            with servers.lock:
                servers.silent.add(servers.addresses[0])
                servers.cluster.leader = servers.addresses[2]
            await kv.append("k", b"w")
            assert await kv.get("k") == b"vw"

    run(scenario())


def test_timeouts_and_nobody_there(servers: SocketCluster) -> None:
    async def scenario() -> None:
        async with AsyncClient(servers.addresses, timeout=0.2) as kv:
            await kv.put("k", b"v", timeout=60.0)
            servers.silent.update(servers.addresses)
            started = time.monotonic()
            with pytest.raises(RequestTimeout):
                await kv.get("k")
            assert time.monotonic() - started > 0.15
        async with AsyncClient("tcp://127.0.0.1:9", timeout=0.2) as kv:
            with pytest.raises(ClusterUnavailable):
                await kv.put("k", b"v")
            with pytest.raises(ClusterUnavailable):
                await kv.status(timeout=0.1)

    run(scenario())


def test_a_cancelled_task_leaves_the_client_usable(servers: SocketCluster) -> None:
    async def scenario() -> None:
        async with AsyncClient(servers.addresses) as kv:
            await kv.put("k", b"v")
            servers.silent.update(servers.addresses)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(kv.append("k", b"w"), 0.1)
            servers.silent.clear()
            await kv.put("other", b"v")
            assert await kv.get("other") == b"v"

    run(scenario())


def test_closing_fails_what_is_waited_for(servers: SocketCluster) -> None:
    async def scenario() -> None:
        servers.silent.update(servers.addresses)
        kv = AsyncClient(servers.addresses)
        task = asyncio.create_task(kv.put("k", b"v"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await kv.close()
        with pytest.raises(ClientClosed):
            await task
        with pytest.raises(ClientClosed):
            await kv.get("k")
        await kv.close()

    run(scenario())


def test_a_client_belongs_to_one_loop(servers: SocketCluster) -> None:
    kv = AsyncClient(servers.addresses)

    async def use() -> None:
        await kv.put("k", b"v")

    run(use())
    with pytest.raises(ClientClosed, match="one event loop"):
        run(use())

    async def close() -> None:
        await kv.close()

    run(close())


def test_commands_of_an_embedders_own() -> None:
    servers = SocketCluster(2, Counter())

    async def scenario() -> None:
        async with AsyncCommandClient(servers.addresses) as client:
            assert await client.execute(b"5") == b"5"
            assert await client.query(b"= ") == b"= 5"
            with pytest.raises(InvalidRequest):
                await client.execute(b"")

    try:
        run(scenario())
    finally:
        servers.close()
