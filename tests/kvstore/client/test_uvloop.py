"""AsyncClient in another event loop than asyncio's own: uvloop, whose handles can do less."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from paxon.kvstore import AsyncClient, RequestTimeout
from tests.kvstore.client.fake_cluster import SocketCluster

uvloop = pytest.importorskip(
    "uvloop", reason="uvloop is not installed: it has no wheel for this system"
)


def test_an_async_client_works_under_uvloop(servers: SocketCluster) -> None:
    async def work() -> None:
        async with AsyncClient(servers.addresses, timeout=20) as client:
            await asyncio.gather(*(client.put(f"k{n}", str(n)) for n in range(300)))
            async with client.pipeline() as pipeline:
                for n in range(300):
                    pipeline.get(f"k{n}")
            assert list(pipeline.results) == [str(n).encode() for n in range(300)]
            servers.silent = set(servers.addresses)  # its timers have to fire
            with pytest.raises(RequestTimeout):
                await client.get("k1", timeout=0.2)
            servers.silent = set()
            assert await client.get("k1") == b"1"

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(work())
    finally:
        loop.close()


def test_a_client_whose_loop_was_closed_can_be_closed(servers: SocketCluster) -> None:
    for new_event_loop in (asyncio.new_event_loop, uvloop.new_event_loop):
        loop = new_event_loop()
        client = AsyncClient(servers.addresses, timeout=20)
        loop.run_until_complete(client.put("key", "value"))
        loop.close()
        asyncio.run(client.close())


class _Handle:
    """All that the clients may count on."""

    def __init__(self, inner: asyncio.TimerHandle) -> None:
        self.cancel = inner.cancel


class _PoorLoop(asyncio.SelectorEventLoop):
    """Hands out timers that do not say when they fire, as older releases of uvloop do."""

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *arguments: Any, **more: Any
    ) -> Any:
        return _Handle(super().call_at(when, callback, *arguments, **more))


def test_a_loop_whose_timers_do_not_say_when(servers: SocketCluster) -> None:
    loop = _PoorLoop()
    failures: list[object] = []
    loop.set_exception_handler(lambda _, context: failures.append(context))

    async def work() -> None:
        async with AsyncClient(servers.addresses, timeout=20) as client:
            for n in range(20):
                await client.put(f"k{n}", str(n))

    try:
        loop.run_until_complete(work())
    finally:
        loop.close()
    assert not failures
