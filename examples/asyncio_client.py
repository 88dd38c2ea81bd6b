"""The same store from asyncio: many tasks share one client, whose operations travel together.

python examples/asyncio_client.py
"""

from __future__ import annotations

import asyncio
import time

from paxon import AsyncClient, LocalCluster

TASKS = 50
ROUNDS = 20


async def visit(kv: AsyncClient, page: str) -> None:
    """Count a visit, by compare and set: try again until nobody else came between."""
    while True:
        before = await kv.get(page)
        after = str(int(before or b"0") + 1)
        if await kv.cas(page, before, after):
            return


async def main(cluster: LocalCluster) -> None:
    """Append from many tasks at once, then count visits to one page."""
    async with cluster.async_client() as kv:

        async def write(task: int) -> None:
            for turn in range(ROUNDS):
                await kv.append(f"log/{task:02}", f"{turn},")

        start = time.monotonic()
        await asyncio.gather(*(write(task) for task in range(TASKS)))
        elapsed = time.monotonic() - start
        print(f"{TASKS * ROUNDS} appends from {TASKS} tasks in {elapsed:.2f} s")
        print("the first log reads", await kv.get("log/00"))

        await asyncio.gather(*(visit(kv, "front page") for _ in range(5)))
        print("visits to the front page:", await kv.get("front page"))


if __name__ == "__main__":
    with LocalCluster(servers=3) as local:
        asyncio.run(main(local))
