"""Watches as callers see them: iterators, callbacks, mirrors; on one server in this process."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from paxon import (
    AsyncClient,
    Client,
    ClientClosed,
    Compacted,
    Event,
    InvalidRequest,
    NotAcquired,
    RequestTimeout,
)
from paxon.testing import MemoryCluster
from tests.waiting import wait_until

SOON = 20.0
"""Seconds in which what has to happen does, however busy the machine is."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[MemoryCluster]:
    with MemoryCluster() as memory:
        yield memory


@pytest.fixture
def kv(cluster: MemoryCluster) -> Iterator[Client]:
    with cluster.client() as client:
        client.delete_prefix("")
        yield client


@pytest.fixture
def other(cluster: MemoryCluster) -> Iterator[Client]:
    with cluster.client() as client:
        yield client


def held(cluster: MemoryCluster) -> int:
    """How many watches the server holds."""
    with cluster.client() as client:
        (status,) = client.status(timeout=60).values()
    return status.counters["watches"]


def test_a_loop_over_what_happens(kv: Client, other: Client) -> None:
    with kv.watch(prefix="jobs/") as events:
        other.put("jobs/1", b"paint")
        other.put("elsewhere", b"")
        revision = other.put("jobs/2", b"dry")
        other.delete("jobs/1")
        told = [next(events) for _ in range(3)]
    assert [(e.kind, e.key, e.value) for e in told] == [
        ("put", "jobs/1", b"paint"), ("put", "jobs/2", b"dry"), ("delete", "jobs/1", b""),
    ]  # fmt: skip
    assert told[1].revision == revision
    assert told[0].version == 1
    assert told[2].version == 0


def test_without_after_it_begins_with_what_is_not_there_yet(kv: Client) -> None:
    kv.put("k", b"before")
    with kv.watch("k") as events:
        kv.put("k", b"after")
        assert next(events).value == b"after"


def test_after_a_revision_it_tells_what_was_missed(kv: Client) -> None:
    first = kv.put("k", b"1")
    kv.put("k", b"2")
    with kv.watch("k", after=first) as events:
        assert [event.value for event in events.batch()] == [b"2"]


def test_it_goes_on_where_another_ended(kv: Client) -> None:
    """Even in the midst of a revision: all of it comes again, for it was not told whole."""
    with kv.watch(prefix="k") as events:
        kv.put_many({"k1": b"", "k2": b"", "k3": b""})
        first = next(events)
        assert events.revision == first.revision - 1
        next(events)
        next(events)
        assert events.revision >= first.revision
    kv.put("k1", b"again")
    with kv.watch(prefix="k", after=events.revision) as events:
        assert next(events).value == b"again"


def test_a_batch_is_made_of_whole_revisions(kv: Client) -> None:
    with kv.watch(prefix="") as events:
        for n in range(20):
            kv.put_many({f"a{n}": b"", f"b{n}": b""})
        told: list[Event] = []
        while len(told) < 40:
            batch = events.batch(SOON)
            assert len({event.revision for event in batch}) * 2 == len(batch)
            told += batch
    assert [e.key for e in told] == [f"{letter}{n}" for n in range(20) for letter in "ab"]


def test_a_range_and_what_was_before(kv: Client) -> None:
    kv.put("b", b"old")
    with kv.watch(range=("b", "c"), previous=True, puts=False) as events:
        kv.put("b", b"new")
        kv.put("c", b"")
        kv.delete("c")
        kv.delete("b")
        event = next(events)
    assert (event.kind, event.key, event.previous) == ("delete", "b", b"new")


def test_nothing_happens_in_the_time_given(kv: Client, other: Client) -> None:
    with kv.watch("k") as events:
        with pytest.raises(TimeoutError, match="nothing has happened within 0"):
            events.next(0.01)
        with pytest.raises(TimeoutError):
            events.batch(0)
        kv.put("k", b"late")
        assert events.next(SOON).value == b"late"
        other.put("k", b"there")
        assert events.next(0).value == b"there", "it is looked for, though not waited for"


def test_what_is_gone_from_history_is_said_and_ends_it(kv: Client) -> None:
    first = kv.put("k", b"1")
    kv.put("k", b"2")
    last = kv.put("k", b"3")
    kv.compact(last)
    with kv.watch("k", after=first) as events, pytest.raises(Compacted) as gone:
        next(events)
    assert gone.value.oldest == last
    with pytest.raises(ClientClosed):
        events.next()
    with kv.watch("k", after=last - 1) as events:
        assert next(events).value == b"3"


def test_another_thread_ends_the_loop(kv: Client) -> None:
    events = kv.watch("k")
    told: list[Event] = []
    loop = threading.Thread(target=lambda: told.extend(events))
    loop.start()
    kv.put("k", b"v")
    while not told:
        time.sleep(0.001)
    events.close()
    loop.join(SOON)
    assert not loop.is_alive()
    events.close()
    with pytest.raises(ClientClosed, match="the watch is closed"):
        events.next()


def test_a_closed_client_ends_its_watches_with_an_error(cluster: MemoryCluster) -> None:
    client = cluster.client()
    events = client.watch("k", after=0)
    client.close()
    with pytest.raises(ClientClosed, match="the client is closed"):
        list(events)


def test_an_interrupt_loses_no_event(kv: Client, other: Client) -> None:
    """Ctrl-C while it waits: what had come by then is told to the next call."""
    with kv.watch("k") as events:
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            next(events)
        other.put("k", b"1")
        assert events.next(SOON).value == b"1"


def test_an_answer_that_nobody_has_looked_at_was_not_told(kv: Client) -> None:
    """Whoever goes on from `revision` elsewhere would miss it."""
    with kv.watch("k") as events:
        first = kv.put("k", b"1")
        with pytest.raises(TimeoutError):  # it comes while another call waits
            kv.watch("other").next(0.2)
        assert events.revision < first
        assert events.next(SOON).value == b"1"
        assert events.revision >= first


def test_callbacks_come_in_order_and_the_end_is_told(kv: Client) -> None:
    told: list[Event] = []
    ends: list[object] = []
    events = kv.watch(prefix="k")
    thread = events.call(told.append, ends.append)
    for n in range(100):
        kv.put(f"k{n % 3}", b"%d" % n)
    while len(told) < 100:
        time.sleep(0.001)
    events.close()
    thread.join(SOON)
    assert [event.value for event in told] == [b"%d" % n for n in range(100)]
    assert ends == [None]


def test_the_end_says_why(kv: Client) -> None:
    first = kv.put("k", b"")
    kv.put("k", b"")
    kv.compact(kv.put("k", b""))
    ends: list[object] = []
    kv.watch("k", after=first).call(lambda event: None, ends.append).join(SOON)
    assert isinstance(ends[0], Compacted)


def test_one_that_nobody_holds_is_forgotten(cluster: MemoryCluster, kv: Client) -> None:
    before = held(cluster)
    events = kv.watch("k")
    kv.put("x", b"")
    assert held(cluster) == before + 1
    del events
    gc.collect()
    kv.put("x", b"")
    assert held(cluster) == before
    events = kv.watch("k")
    with kv._driver.lock:  # a finalizer strikes in the midst of the client's work
        events.close()
    kv.put("x", b"")
    assert held(cluster) == before


def test_many_watches_of_one_client(kv: Client) -> None:
    watches = [kv.watch(f"k{n}") for n in range(300)]
    kv.put_many({f"k{n}": b"%d" % n for n in range(300)})
    assert [events.next(SOON).value for events in watches] == [b"%d" % n for n in range(300)]
    for events in watches:
        events.close()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({}, "give one of"),
        ({"key": "k", "prefix": "k"}, "give one of"),
        ({"key": ""}, "empty"),
        ({"key": 1}, "str or bytes"),
        ({"range": "ab"}, "pair"),
        ({"key": "k", "after": -1}, "from 0"),
        ({"key": "k", "after": "1"}, "int"),
        ({"key": "k", "after": True}, "int"),
        ({"key": "k", "puts": False, "deletes": False}, "neither puts nor deletes"),
        ({"key": "k", "puts": 1}, "True or False"),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    kv: Client, arguments: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidRequest, match=why):
        kv.watch(**arguments)


# --- mirrors -------------------------------------------------------------------------------------


def test_a_mirror_is_a_mapping_that_follows(kv: Client, other: Client) -> None:
    other.put("flags/dark", b"off")
    with kv.mirror("flags/") as flags:
        assert isinstance(flags, Mapping)
        assert dict(flags) == {"flags/dark": b"off"}
        revision = other.put("flags/new", b"on")
        assert flags.wait(lambda flags: flags.get("flags/new"), SOON) == b"on"
        assert flags.revision >= revision
        other.delete("flags/dark")
        flags.wait(lambda flags: "flags/dark" not in flags, SOON)
        assert list(flags) == ["flags/new"]
        with pytest.raises(TimeoutError, match="did not become true within 0"):
            flags.wait(lambda flags: "never" in flags, 0.01)
        flags.wait(lambda flags: [flags.close()])  # type: ignore[func-returns-value]
    assert flags["flags/new"] == b"on", "what it holds stays readable"
    with pytest.raises(ClientClosed, match="the mirror is closed"):
        flags.wait(lambda flags: "never" in flags)


def test_a_mirror_shows_no_revision_in_part(kv: Client, other: Client) -> None:
    other.put_many({"m/a": b"0", "m/b": b"0"})
    with kv.mirror("m/") as mirror:
        for n in range(1, 200):
            other.put_many({"m/a": b"%d" % n, "m/b": b"%d" % n})
            assert len(set(dict(mirror).values())) == 1
        mirror.wait(lambda mirror: mirror["m/a"] == b"199", SOON)


def test_a_mirror_that_is_thrown_away_leaves_no_thread(kv: Client) -> None:
    """As a watch or a lease leaves nothing behind; one made for each request would add up."""
    mirror = kv.mirror("m/")
    thread = mirror._thread
    mirror.wait(lambda mirror: mirror.revision >= 0)
    del mirror
    gc.collect()
    thread.join(SOON)
    assert not thread.is_alive()


def test_a_mirror_moves_on_while_nothing_happens_to_its_keys(kv: Client, other: Client) -> None:
    with kv.mirror("m/") as mirror:
        revision = other.put("elsewhere", b"")
        mirror.wait(lambda mirror: mirror.revision >= revision, SOON)


def _gone(_seconds: float) -> list[Event]:
    raise Compacted("what comes next is gone", oldest=2)


def test_a_mirror_whose_history_is_gone_reads_anew_until_it_can_or_is_closed(
    kv: Client, other: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = kv.mirror("m/")
    read, reads = kv.range, 0

    def slowly(**which: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads == 1:
            raise RequestTimeout("nobody leads")
        if reads == 3:
            wait_until(lambda: mirror._closed)
        return read(**which)

    monkeypatch.setattr(kv, "range", slowly)
    for count in (2, 3):
        monkeypatch.setattr(before := mirror._watch, "batch", _gone)
        other.put("m/k", b"%d" % count)  # it waits no longer, and asks for the next
        wait_until(lambda: reads == count)  # noqa: B023
        if count == 2:
            wait_until(lambda: mirror._watch is not before)
            assert mirror["m/k"] == b"2"
    closing = threading.Thread(target=mirror.close, daemon=True)
    closing.start()
    closing.join(SOON)
    assert not closing.is_alive()


# --- asyncio -------------------------------------------------------------------------------------


def test_an_asynchronous_loop(cluster: MemoryCluster, kv: Client) -> None:
    async def main(client: AsyncClient) -> list[Event]:
        told = []
        async with client.watch(prefix="jobs/") as events:
            await client.put("jobs/1", b"paint")
            await client.put("jobs/2", b"dry")
            async for event in events:
                told.append(event)
                if len(told) == 2:
                    break
        return told

    assert [e.value for e in asyncio.run(with_client(cluster, main))] == [b"paint", b"dry"]


async def with_client(cluster: MemoryCluster, main: Any) -> Any:
    async with cluster.async_client() as client:
        return await main(client)


def test_a_cancelled_task_takes_no_event_along(cluster: MemoryCluster, kv: Client) -> None:
    async def main(client: AsyncClient) -> list[bytes]:
        told = []
        async with client.watch("k") as events:
            for n in range(30):
                task = asyncio.create_task(events.next())
                put = asyncio.create_task(client.put("k", b"%d" % n))
                await asyncio.sleep(0.0005 * (n % 3))
                task.cancel()
                await put
                try:
                    told.append((await task).value)
                except asyncio.CancelledError:
                    told.append((await events.next(SOON)).value)
        return told

    assert asyncio.run(with_client(cluster, main)) == [b"%d" % n for n in range(30)]


def test_an_asynchronous_watch_times_out_ends_and_says_what_is_gone(
    cluster: MemoryCluster, kv: Client
) -> None:
    first = kv.put("k", b"1")
    kv.put("k", b"2")
    kv.compact(kv.put("k", b"3"))

    async def main(client: AsyncClient) -> None:
        async with client.watch("k") as events:
            with pytest.raises(TimeoutError, match="the watch goes on"):
                await events.next(0.01)
            loop = asyncio.create_task(_collect(events))
            await asyncio.sleep(0)
            await events.close()
            assert await loop == []
        early = client.watch("k")
        loop = asyncio.create_task(_collect(early))
        await asyncio.sleep(0)  # it asks for the revision to begin after
        await early.close()
        assert await asyncio.wait_for(loop, SOON) == []
        with pytest.raises(Compacted):
            await client.watch("k", after=first).next()

    asyncio.run(with_client(cluster, main))


def _raise(_: object) -> bool:
    raise TimeoutError("their own")


async def _collect(events: Any) -> list[Event]:
    return [event async for event in events]


def test_an_asynchronous_mirror(
    cluster: MemoryCluster, kv: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(client: AsyncClient) -> None:
        await client.put("flags/dark", b"off")
        async with client.mirror("flags/") as flags:
            assert dict(flags) == {"flags/dark": b"off"}
            await client.put("flags/dark", b"on")
            await flags.wait(lambda flags: flags["flags/dark"] == b"on", SOON)
            with pytest.raises(TimeoutError, match="did not become true"):
                await flags.wait(lambda flags: "never" in flags, 0.01)
            with pytest.raises(TimeoutError, match="their own"):
                await flags.wait(_raise, 0.01)
            assert repr(flags) == f"<AsyncMirror 'flags/': 1 key, revision {flags.revision}>"
            with pytest.raises(InvalidRequest, match="enter it by `async with`"):
                await client.mirror("flags/").wait(lambda _: True, SOON)
        with pytest.raises(ClientClosed, match="the mirror is closed"):
            await flags.wait(lambda flags: "never" in flags)
        async with client.mirror("flags/") as flags:
            read, reads, reading, closing = client.range, [], asyncio.Event(), asyncio.Event()

            async def slowly(**which: Any) -> Any:
                reads.append(which)
                if len(reads) == 1:
                    raise RequestTimeout("nobody leads")
                reading.set()
                await closing.wait()
                return await read(**which)

            monkeypatch.setattr(client, "range", slowly)
            assert flags._watch is not None
            monkeypatch.setattr(flags._watch, "batch", _gone)
            await client.put("flags/dark", b"off")
            await reading.wait()
            asyncio.get_running_loop().call_soon(closing.set)
            await asyncio.wait_for(flags.close(), SOON)

    asyncio.run(with_client(cluster, main))


def test_an_asynchronous_mirror_that_is_closed_while_it_is_entered_follows_nothing(
    cluster: MemoryCluster,
) -> None:
    """It began all the same, and its task went on for as long as the client; so did a second's."""

    async def main(client: AsyncClient) -> None:
        for mirror in (client.mirror("m/"), client.mirror("m/")):
            entering = asyncio.create_task(mirror.__aenter__())
            await asyncio.sleep(0)
            await mirror.close()
            with pytest.raises(ClientClosed, match="the mirror is closed"):
                await entering
        async with client.mirror("m/") as mirror:
            with pytest.raises(InvalidRequest, match="was entered before"):
                await mirror.__aenter__()
        assert [task.get_name() for task in asyncio.all_tasks()].count("paxon mirror") == 0

    asyncio.run(with_client(cluster, main))


def test_times_end_in_a_task_that_was_cancelled_once_and_went_on(cluster: MemoryCluster) -> None:
    """As a task group leaves it that fails; Python 3.11.2 took the end of a time for another."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        async with cluster.async_client() as client, client.lock("held"):
            with pytest.raises(TimeoutError, match="nothing has happened within"):
                await client.watch("nothing").next(0.01)
            with pytest.raises(NotAcquired):
                await client.lock("held").acquire(timeout=0.01)
            async with client.mirror("none/") as mirror:
                with pytest.raises(TimeoutError, match="did not become true"):
                    await mirror.wait(lambda _: False, timeout=0.01)
            asyncio.get_running_loop().call_later(0.01, task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await client.watch("nothing").next(SOON)

    asyncio.run(main())
