"""Watches of one span share one of Paxon's, and none of their clients notices."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from paxon.kvstore.errors import ClientClosed
from paxon.kvstore.etcd.feeds import MOST_WAITING, Batch, Feeds, Gone, Subscription
from paxon.kvstore.etcd.front import Front
from paxon.kvstore.etcd.messages import message
from paxon.kvstore.etcd.watch import _Stream
from paxon.kvstore.recipes.clients import AsyncClient
from paxon.kvstore.store.operations import Events
from paxon.testing import MemoryCluster

Story = Callable[[AsyncClient, Feeds], Awaitable[None]]


def told(story: Story) -> None:
    async def tell() -> None:
        with MemoryCluster() as cluster:
            async with cluster.async_client() as kv:
                feeds = Feeds(Front(kv))
                await asyncio.wait_for(story(kv, feeds), 60)
                assert not feeds._feeds  # nobody listens, and nothing is left

    asyncio.run(tell())


def begin(feeds: Feeds, after: int, *, current: bool = True, **wanted: Any) -> Subscription:
    return Subscription(feeds, Events(after, [(b"k", b"l")], **wanted), current=current)


def watched_by(kv: AsyncClient) -> int:
    """How many watches of Paxon's this client has."""
    return len(kv._core.watches._watches)


async def take(watch: Subscription, count: int) -> list[bytes]:
    values: list[bytes] = []
    while len(values) < count:
        batch = await watch.next()
        values += [row[1] for row, _ in batch.rows]
        watch.taken()
    return values


def test_a_thousand_watches_of_a_key_are_one_and_each_is_told_all() -> None:
    async def story(kv: AsyncClient, feeds: Feeds) -> None:
        at = await kv.put("k", b"before")
        watches = [begin(feeds, at) for _ in range(1000)]
        assert watched_by(kv) == 1
        for value in (b"1", b"2", b"3"):
            last = await kv.put("k", value)
        assert await asyncio.gather(*(take(w, 3) for w in watches)) == [[b"1", b"2", b"3"]] * 1000
        assert all(watch.position >= last for watch in watches)
        for watch in watches:
            watch.close()
        assert watched_by(kv) == 0

    told(story)


def test_answers_that_came_together_are_told_together() -> None:
    """One by one, in one go, they would be too many for whoever is about to write the first."""

    async def story(kv: AsyncClient, feeds: Feeds) -> None:
        watch = begin(feeds, await kv.put("k", b"before"))
        at = await kv.put("k", b"first")
        await watch.next()
        assert watch._feed is not None
        many = [[at, [((b"k", b"", at, at, 1, 0), None)]]] * 2 * MOST_WAITING
        watch._feed.answers._watched.answers += many
        await kv.put("k", b"last")
        values = await take(watch, len(many) + 2)
        assert values[0] == b"first" and values[-1] == b"last"
        assert watch._own is None
        watch.close()

    told(story)


def test_what_events_are_put_into_is_made_once() -> None:
    async def story(kv: AsyncClient, feeds: Feeds) -> None:
        at = await kv.put("k", b"before")
        one, other = begin(feeds, at), begin(feeds, at)
        await kv.put("k", b"1")
        first, second = await one.next(), await other.next()
        assert first.events is second.events
        one.close()
        other.close()

    told(story)


def test_who_joins_later_is_not_told_what_happened_before() -> None:
    async def story(kv: AsyncClient, feeds: Feeds) -> None:
        early = begin(feeds, await kv.put("k", b"0"))
        at = [await kv.put("k", b"%d" % n) for n in range(1, 4)]
        late, future = begin(feeds, at[-1]), begin(feeds, at[-1] + 1)
        await kv.put("k", b"4")
        await kv.put("k", b"5")
        assert await take(early, 5) == [b"1", b"2", b"3", b"4", b"5"]
        assert await take(late, 2) == [b"4", b"5"]
        assert await take(future, 1) == [b"5"]
        for watch in (early, late, future):
            watch.close()

    told(story)


def test_who_joined_in_the_midst_of_a_batch_is_told_the_rest_of_it() -> None:
    rows: list[Any] = [((b"k", b"", 1, revision, 1, 0), None) for revision in (5, 6, 7)]
    batch = Batch(7, rows)
    assert batch.after(6).rows == rows[2:] and batch.after(6).through == 7
    assert batch.after(4) is batch


def test_who_comes_behind_what_the_others_were_told_misses_nothing() -> None:
    """It was told how far the store is, and something happened before it could watch."""

    async def story(kv: AsyncClient, feeds: Feeds) -> None:
        early = begin(feeds, await kv.put("k", b"0"))
        at = await kv.put("k", b"1")
        assert await take(early, 1) == [b"1"]
        late = begin(feeds, at - 1)
        assert await take(late, 1) == [b"1"]
        early.close()
        late.close()

    told(story)


def test_an_event_tells_what_was_there_before_and_of_what_is_deleted_the_key() -> None:
    async def story(kv: AsyncClient, feeds: Feeds) -> None:
        watch = begin(feeds, await kv.put("k", b"0"), previous=True)
        await kv.put("k", b"1")
        await kv.delete("k")
        events: list[Any] = []
        while len(events) < 2:
            events += (await watch.next()).events
            watch.taken()
        put, deleted = events
        assert (put.kv.value, put.prev_kv.value) == (b"1", b"0")
        assert (deleted.kv.key, deleted.kv.value, deleted.type) == (b"k", b"", 1)
        assert deleted.kv.mod_revision == put.kv.mod_revision + 1
        assert deleted.prev_kv.value == b"1"
        watch.close()

    told(story)


def test_who_asks_for_the_past_reads_it_by_itself() -> None:
    async def story(kv: AsyncClient, feeds: Feeds) -> None:
        at = [await kv.put("k", b"%d" % n) for n in range(3)]
        now = begin(feeds, at[-1])
        past = begin(feeds, at[0], current=False)
        await kv.put("k", b"3")
        assert await take(past, 3) == [b"1", b"2", b"3"]
        assert await take(now, 1) == [b"3"]
        await kv.compact(at[-1] + 1)
        gone = begin(feeds, at[0], current=False)
        with pytest.raises(Gone):
            await gone.next()
        for watch in (now, past, gone):
            watch.close()

    told(story)


def test_who_takes_nothing_goes_on_by_itself_and_misses_nothing() -> None:
    async def story(kv: AsyncClient, feeds: Feeds) -> None:
        at = await kv.put("k", b"before")
        idle, busy = begin(feeds, at), begin(feeds, at)
        wanted = [b"%d" % n for n in range(3 * MOST_WAITING)]
        for value in wanted:
            await kv.put("k", value)
            assert await take(busy, 1) == [value]
        assert len(idle._batches) <= MOST_WAITING
        before = idle.position
        assert await take(idle, len(wanted)) == wanted
        assert before < idle.position
        idle.close()
        busy.close()

    told(story)


def test_how_far_a_watch_has_told_says_nothing_of_what_waits_to_be_passed_on() -> None:
    """A client that came back from there would miss it."""

    async def story(kv: AsyncClient, feeds: Feeds) -> None:
        at = await kv.put("k", b"0")
        slow, busy = begin(feeds, at), begin(feeds, at)
        past = begin(feeds, at, current=False)
        last = await kv.put("k", b"1")
        assert await take(busy, 1) == [b"1"]
        await past.next()
        assert (slow.position, past.position) == (at, at)
        for watch in (slow, past):
            assert await take(watch, 1) == [b"1"]
        assert min(watch.position for watch in (slow, busy, past)) >= last
        for watch in (slow, busy, past):
            watch.close()

    told(story)


def test_who_waits_hears_of_the_end_of_the_client() -> None:
    async def story(kv: AsyncClient, feeds: Feeds) -> None:
        watch = begin(feeds, await kv.put("k", b"0"))
        waiting = asyncio.create_task(watch.next())
        await asyncio.sleep(0)
        await kv.close()
        with pytest.raises(ClientClosed):
            await waiting
        watch.close()

    told(story)


def test_kinds_of_watches_are_kept_apart() -> None:
    async def story(kv: AsyncClient, feeds: Feeds) -> None:
        at = await kv.put("k", b"0")
        deletes, puts = begin(feeds, at, puts=False), begin(feeds, at, deletes=False, previous=True)
        assert watched_by(kv) == 2
        await kv.delete("k")
        await kv.put("k", b"1")
        assert await take(deletes, 1) == [b""]
        assert await take(puts, 1) == [b"1"]
        deletes.close()
        puts.close()

    told(story)


class Saying:
    """A call, as far as a stream of watches sees of it."""

    waiting = 0

    def __init__(self) -> None:
        self.requests: asyncio.Queue[Any] = asyncio.Queue()
        self.told = asyncio.Semaphore(0)

    async def receive(self) -> Any:
        return await self.requests.get()

    async def send(self, _answer: Any) -> None:
        self.told.release()


@pytest.mark.parametrize("turns", range(2))
def test_a_stream_whose_client_leaves_while_a_watch_ends_is_over(turns: int) -> None:
    async def story(kv: AsyncClient, feeds: Feeds) -> None:
        call, of = Saying(), message("WatchRequest")
        running = asyncio.create_task(_Stream(feeds.front, feeds, call).run())
        create = message("WatchCreateRequest")
        call.requests.put_nowait(of(create_request=create(key=b"k", start_revision=10**6)))
        await call.told.acquire()
        assert not feeds._feeds, "the span's feed begins with those of now"
        call.requests.put_nowait(of(create_request=create(key=b"k")))
        await call.told.acquire()
        call.requests.put_nowait(of(cancel_request=message("WatchCancelRequest")(watch_id=1)))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        assert (await asyncio.wait({running}, timeout=20))[0] == {running}

    told(story)
