"""Queues: one consumer an item, none lost, none done twice, and no herd."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from paxon import (
    Client,
    InvalidRequest,
    LockLost,
    NotAcquired,
    PriorityQueue,
    Put,
    Queue,
    QueueItem,
    TooLarge,
)
from paxon.kvstore.client.watches.events import Event
from paxon.kvstore.recipes.queues import MAX_PRIORITY, Claim, Found, Line
from paxon.kvstore.store.operations import split_refusal
from paxon.kvstore.store.queues import claim
from paxon.testing import MemoryCluster
from tests.kvstore.recipes.bridge import only
from tests.kvstore.recipes.others import Other, interrupted
from tests.waiting import wait_until


def waiting(kv: Client, name: str = "jobs") -> int:
    """How many have found nothing, and wait."""
    return kv.range(prefix=f"{name}/.queue/turn/", count_only=True).count


def getting(name: str = "jobs", **options: Any) -> Callable[[Client], QueueItem]:
    return lambda client: client.queue(name).get(**options)


def test_items_come_in_order_and_each_is_held_once_until_it_is_done(kv: Client) -> None:
    queue = kv.queue("jobs")
    queue.put("a")
    queue.put_many(["b", b"c"])
    assert queue.name == "jobs" and len(queue) == 3 and queue.peek() == b"a"
    first, second = queue.get(), queue.get(timeout=0)
    assert (first.value, second.value) == (b"a", b"b") and second.fence > first.fence
    assert (queue.peek(), len(queue)) == (b"c", 3)
    entry = kv.entry(first.key)
    assert entry is not None and (entry.created, entry.lease) == (first.fence, first.lease.id)
    first.check()
    second.done()
    first.done()
    assert first.lost.is_set()
    with queue.get() as third:
        assert third.value == b"c"
    assert kv.leases() == [] and kv.scan("jobs/") == []
    assert queue.peek() is None and queue.size() == 0 and bool(queue)


def test_what_is_released_or_fails_goes_back_to_its_place(kv: Client) -> None:
    queue = kv.queue("jobs")
    queue.put_many(["a", "b"])
    with queue.get() as item:
        item.release()
    with pytest.raises(RuntimeError), queue.get() as item:
        assert item.value == b"a"
        raise RuntimeError("it cannot be done")
    assert queue.peek() == b"a" and kv.leases() == []
    with pytest.raises(TooLarge), queue.get() as item:
        item.done(then=[Put(f"{n}", b"x" * (8 << 20)) for n in range(3)])
    assert queue.peek() == b"a" and kv.leases() == []
    with queue.get() as item:
        item.done()
    item.release()
    assert queue.peek() == b"b"


def test_a_stale_consumer_cannot_finish_what_was_taken_back(
    cluster: MemoryCluster, kv: Client
) -> None:
    """It stalled: its own clock says that all is well, and the servers' leases have ended."""
    queue = kv.queue("jobs", ttl=60)
    queue.put_many(["a", "b"])
    stale = queue.get()
    cluster.let_pass(61)
    fresh = queue.get()
    assert fresh.value == stale.value == b"a" and fresh.fence > stale.fence
    with pytest.raises(LockLost, match="it was done or let go of before"):
        stale.done(then=[Put("result", "stale")])
    assert not kv.txn(if_=[stale], then=[Put("result", "stale")]).succeeded
    assert stale.lost.is_set() and kv.get("result") is None and len(queue) == 2
    fresh.done(then=[Put("result", "fresh")])
    assert kv.get("result") == b"fresh" and len(queue) == 1
    for late in (fresh, stale):
        with pytest.raises(LockLost):
            late.done()
    with pytest.raises(LockLost), queue.get() as item:
        kv.revoke(item.lease)
    assert queue.peek() == b"b"


@pytest.mark.parametrize("how", ["put", "release", "end", "done"])
def test_who_waits_gets_the_next_item_there_is(
    cluster: MemoryCluster, kv: Client, how: str
) -> None:
    queue = kv.queue("jobs", ttl=60)
    held = None
    if how != "put":
        queue.put("a")
        held = queue.get()
    other = Other(cluster, getting())
    wait_until(lambda: waiting(kv) == 1)
    match how, held:
        case "release", QueueItem():
            held.release()
        case "end", QueueItem():
            kv.revoke(held.lease)
        case "done", QueueItem():
            held.done(then=[])
            queue.put("a")
        case _:
            queue.put("a")
    item = other.join()
    assert isinstance(item, QueueItem) and item.value == b"a"
    assert waiting(kv) == 0
    item.done()
    assert kv.leases() == []


def test_so_many_who_wait_cost_so_many_claims_and_no_herd(
    cluster: MemoryCluster, kv: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = []

    def counted(*args: Any) -> Any:
        claims.append(args)
        return claim(*args)

    monkeypatch.setattr("paxon.kvstore.store.store.claim", counted)
    queue, many = kv.queue("jobs"), 12
    others = []
    for number in range(many):
        others.append(Other(cluster, getting()))
        wait_until(lambda: waiting(kv) == number + 1)  # noqa: B023
    for number in range(many):
        queue.put(f"{number}")
        wait_until(lambda: sum(not each.thread.is_alive() for each in others) == number + 1)  # noqa: B023
    found = [each.join() for each in others]
    assert [each.value for each in found if isinstance(each, QueueItem)] == [
        b"%d" % number for number in range(many)
    ]  # and who came first got the first
    # One that found nothing, one more when its turn had come, and one that found its item.
    assert len(claims) <= 3 * many


def test_one_that_dies_while_it_waits_does_not_keep_the_others_from_items(
    cluster: MemoryCluster, kv: Client
) -> None:
    dead = kv.lease(60)
    kv.put(f"jobs/.queue/turn/{dead.id:x}", "", lease=dead)
    dead.lose("its process was killed")
    other = Other(cluster, getting())
    wait_until(lambda: waiting(kv) == 2)
    kv.queue("jobs").put("a")
    assert other.thread.is_alive()
    kv.revoke(dead)  # as its time to live would
    item = other.join()
    assert isinstance(item, QueueItem) and item.value == b"a"


@pytest.mark.parametrize("how", ["delete", "revoke"])
def test_one_that_loses_its_turn_goes_on_all_the_same(
    cluster: MemoryCluster, kv: Client, how: str
) -> None:
    others = []
    for number in range(2):
        others.append(Other(cluster, getting()))
        wait_until(lambda: waiting(kv) == number + 1)  # noqa: B023
    turn = kv.range(prefix="jobs/.queue/turn/", sort="created").entries[1]
    if how == "delete":
        kv.delete(turn.key)
    else:
        kv.revoke(turn.lease)
    wait_until(lambda: waiting(kv) == 2)
    kv.queue("jobs").put_many(["a", "b"])
    for other in others:
        assert isinstance(other.join(), QueueItem)


def test_one_whose_lease_is_over_by_its_own_clock_gets_no_item(
    cluster: MemoryCluster, kv: Client
) -> None:
    """Others may have it before it notices. It begins again."""
    other = Other(cluster, getting())
    wait_until(lambda: waiting(kv) == 1)
    for lease in list(other.client._care.leases):
        if kv.entry(f"jobs/.queue/turn/{lease.id:x}") is None:
            lease.lose("its machine slept")
    kv.queue("jobs").put("a")
    item = other.join()
    assert isinstance(item, QueueItem) and not item.lost.is_set()


def test_a_lease_that_ended_while_it_waited_is_replaced(cluster: MemoryCluster, kv: Client) -> None:
    """The servers have not heard it for longer than a lease lives. It holds nothing: it goes on."""
    other = Other(cluster, getting())
    wait_until(lambda: waiting(kv) == 1)
    cluster.let_pass(60)
    assert other.thread.is_alive()
    kv.queue("jobs").put("a")
    item = other.join()
    assert isinstance(item, QueueItem)
    item.check()
    item.done()
    wait_until(lambda: kv.leases() == [])


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_one_that_waits_in_vain_leaves_nothing(
    cluster: MemoryCluster, kv: Client, timeout: float
) -> None:
    queue = kv.queue("jobs")
    queue.put("a")
    with queue.get() as held:
        with pytest.raises(NotAcquired, match="queue 'jobs' had no item in the time given"):
            queue.get(timeout=timeout)
        assert kv.leases() == [held.lease.id] and waiting(kv) == 0
        other = Other(cluster, getting())
        wait_until(lambda: waiting(kv) == 1)
        with pytest.raises(NotAcquired, match="queue 'jobs' had no item in the time given"):
            queue.get(timeout=timeout)  # behind another
        assert waiting(kv) == 1
        held.release()
        other.join()


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])
def test_ctrl_c_and_alarms_leave_nothing(
    cluster: MemoryCluster, kv: Client, error: type[BaseException]
) -> None:
    with interrupted(cluster, lambda other: waiting(other) == 1, error):
        kv.queue("jobs").get()
    assert kv.leases() == [] and kv.scan("jobs/") == []


def test_lower_priorities_come_first_and_equal_ones_in_order(kv: Client) -> None:
    queue = kv.priority_queue("jobs")
    queue.put("usual")
    queue.put("last", 65535)
    queue.put_many(["first", "second"], priority=0)
    queue.put("usual too")
    assert queue.peek() == b"first" and len(queue) == 5
    found = []
    for _ in range(5):
        with queue.get(timeout=0) as item:
            found.append(item.value)
    assert found == [b"first", b"second", b"usual", b"usual too", b"last"]
    queue.put("x")
    assert len(kv.queue("jobs")) == 0  # another queue


def all_done(cluster: MemoryCluster, queue: Queue) -> bool:
    cluster.let_pass(0.05)
    return not queue.size()


def test_ten_consumers_that_are_killed_at_random_do_each_item_once(
    cluster: MemoryCluster, kv: Client
) -> None:
    """FAULTS, claims of finished items (kazoo #366): none lost, none twice, nobody blocks."""
    items, consumers, seed = 1000, 10, random.randrange(1 << 30)
    print(f"seed {seed}")
    kv.queue("jobs").put_many([f"{number}" for number in range(items)])
    killed: Counter[str] = Counter()
    finished = threading.Event()

    def consume(number: int) -> None:
        random_ = random.Random(seed + number)
        while not finished.is_set():
            with cluster.client() as client:  # a process's
                consume_until_killed(client, random_)

    def consume_until_killed(client: Client, random_: random.Random) -> None:
        queue = client.queue("jobs", ttl=2)
        while not finished.is_set():
            try:
                item = queue.get(timeout=0.2)
            except NotAcquired:
                continue
            fate = random_.random()
            if fate < 0.02:
                killed["while it worked"] += 1
                item.lease.lose("killed")
                return
            try:
                item.done(then=[Put(f"done/{item.value.decode()}", "")])
            except LockLost:
                killed["stalled"] += 1
            if fate > 0.98:
                killed["when it was done"] += 1
                return

    threads = [threading.Thread(target=consume, args=(n,), daemon=True) for n in range(consumers)]
    for thread in threads:
        thread.start()
    try:
        # Time runs fast for the servers: now and then a lease ends that somebody relies on.
        wait_until(lambda: all_done(cluster, kv.queue("jobs")))
    finally:
        finished.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    done = kv.range(prefix="done/")
    assert len(done) == items and {entry.version for entry in done} == {1}
    cluster.let_pass(10)
    assert kv.range(prefix="jobs/").entries == []
    assert killed["while it worked"] and killed["when it was done"]


@pytest.mark.parametrize(
    "make",
    [
        lambda kv: kv.queue(""),
        lambda kv: kv.queue("x" * 4060),
        lambda kv: kv.queue("a", ttl=0),
        lambda kv: kv.queue("a").get(timeout=-1),
        lambda kv: kv.queue("a").put(7),
        lambda kv: kv.queue("a").put_many("abc"),
        lambda kv: kv.queue("a").put_many(7),
        lambda kv: kv.queue("a").put_many([]),
        lambda kv: kv.queue("a").put_many([b""] * 10_001),
        lambda kv: kv.priority_queue("a").put("x", -1),
        lambda kv: kv.priority_queue("a").put("x", 65536),
        lambda kv: kv.priority_queue("a").put_many(["x"], priority=True),
    ],
)
def test_wrong_arguments_are_refused(
    kv: Client, make: Callable[[Client], Queue | PriorityQueue | int]
) -> None:
    kv.close()
    with pytest.raises(InvalidRequest):  # before anything is sent
        make(kv)


def test_what_is_done_besides_is_checked_before_anything_is_sent(kv: Client) -> None:
    queue = kv.queue("jobs")
    queue.put("a")
    item = queue.get()
    for bad in (7, ["x"], [Put(item.key, "")]):
        with pytest.raises(InvalidRequest):
            item.done(then=bad)  # type: ignore[arg-type]
    item.check()


@pytest.mark.parametrize(("kind", "most"), [("queue", 4040), ("priority_queue", 4037)])
def test_a_queue_with_the_longest_name_works_and_a_longer_one_is_refused(
    kv: Client, cluster: MemoryCluster, kind: str, most: int
) -> None:
    """Its longest keys are those of items, of their claims, and of who waits for one."""
    with pytest.raises(InvalidRequest, match="at most 4096 are allowed"):
        getattr(kv, kind)("q" * (most + 1))
    queue = getattr(kv, kind)("q" * most)
    other = Other(cluster, lambda client: getattr(client, kind)("q" * most).get())
    wait_until(lambda: kv.range(prefix=f"{queue.name}/.", count_only=True).count == 1)
    queue.put_many([b"1", b"2"], **({} if kind == "queue" else {"priority": MAX_PRIORITY}))
    first: Any = other.join()
    first.done()
    queue.get().done()
    assert queue.size() == 0


def test_what_is_too_long_to_be_sent_is_refused_and_the_client_goes_on(kv: Client) -> None:
    """The frame would not take it: nothing but `TooLarge` may come of that."""
    values = [b"x" * (8 << 20)] * 4
    for call in (
        lambda: kv.queue("jobs").put_many(values),
        lambda: kv.put_many({f"{n}": value for n, value in enumerate(values)}),
        lambda: kv.txn(if_=[kv.value(f"{n}") == value for n, value in enumerate(values)]),
    ):
        with pytest.raises(TooLarge):
            call()
    assert kv.queue("jobs").put("a") == 2


def test_a_claim_whose_answer_had_no_room_is_asked_for_again() -> None:
    steps = Claim(Line("jobs", "queue", 10), 7).steps()
    asked = next(steps)
    assert steps.send([split_refusal()]) == asked
    with pytest.raises(StopIteration) as told:
        steps.send([[5, None]])
    assert told.value.value == Found(5, None)


def event(kind: Any, part: str, item: str, revision: int) -> Event:
    return Event(kind, f"jobs/.queue/{part}/{item}", b"", revision, 0, 0, 0)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([("put", "items", "1", 5)], True),
        ([("put", "claims", "1", 5)], False),
        ([("delete", "claims", "1", 5)], True),
        ([("delete", "items", "1", 5), ("delete", "claims", "1", 5)], False),
        ([("put", "items", "1", 5), ("put", "claims", "1", 6)], False),
        ([("put", "claims", "1", 5), ("delete", "claims", "1", 6)], True),
        ([("delete", "claims", "1", 5), ("put", "claims", "1", 6)], False),
        ([("put", "items", "1", 5), ("put", "items", "2", 5), ("put", "claims", "1", 6)], True),
    ],
)
def test_only_what_may_have_left_an_item_is_news(events: list[Any], expected: bool) -> None:
    line = Line("jobs", "queue", 10)
    assert line.may_have_item([event(*each) for each in events]) is expected


@only("asyncio")
def test_a_task_that_is_cancelled_leaves_nothing(cluster: MemoryCluster) -> None:
    async def main() -> None:
        async with cluster.async_client() as kv:
            cancelled = asyncio.create_task(kv.queue("jobs").get())
            while not await kv.scan("jobs/.queue/turn/"):
                await asyncio.wait([cancelled], timeout=0.001)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert await kv.leases() == [] and await kv.scan("jobs/") == []

    asyncio.run(main())
