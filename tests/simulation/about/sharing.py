"""What coordinating clients share: semaphores, locks of readers and writers, queues, barriers.

The plans are the recipes' own; how they are carried out is in errands.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import Any

from paxon.kvstore.client.arguments import as_text
from paxon.kvstore.client.calls.calls import Call
from paxon.kvstore.client.calls.calls import Put as PutCall
from paxon.kvstore.client.calls.comparing import Comparing
from paxon.kvstore.client.calls.conditions import Condition
from paxon.kvstore.client.leases.keeping import Held
from paxon.kvstore.client.watches.events import Event
from paxon.kvstore.errors import LockLost, PaxonError
from paxon.kvstore.recipes.barriers import Hall, meet, part
from paxon.kvstore.recipes.contests import Contest
from paxon.kvstore.recipes.queues import Claim, Claimed, Enqueue, Finish, Found, Line, Peek
from paxon.kvstore.recipes.sharing import Permits, Sharing
from paxon.kvstore.store.operations import Compare, Get, Txn, is_refusal
from tests.books.store import GUARDED, PERMITS
from tests.simulation.about import errands
from tests.simulation.about.coordinator import Ask, Coordinator, Next, Pause, Steps, Watch

__all__ = ["ERRANDS", "drain"]

_TTL = 1.0
"""Seconds; of no account here: leases are drawn by the plan."""
_QUEUE = "~queue"
_PARTIES = 2
_FOREVER = 1e6


def _share(client: Coordinator, contest: Contest) -> Steps:
    """Hold a place for a while, and write or read under it."""
    random = client.random
    found = yield from errands.acquire(client, contest, random.choice((0.0, 1.0, 5.0)))
    if found is None:
        return
    held, fence = found
    for number in range(random.randint(1, 2)):
        if random.random() < client.plan.stalls:
            client.stall(random.uniform(0.5, 2.5) * held.ttl)
        yield Pause(random.uniform(0, client.plan.think))
        if contest.value == b"read":
            yield from _read_under(client, contest, held.id, fence)
        else:
            yield from errands.write_under(client, contest, held.id, fence, number)
    yield from errands.let_go(client, held)


def _semaphore(client: Coordinator) -> Steps:
    return _share(client, Permits("~sem0", PERMITS, _TTL))


def _rwlock(client: Coordinator) -> Steps:
    mode = client.random.choice(("read", "read", "write"))
    return _share(client, Sharing("~rw0", mode, _TTL))  # type: ignore[arg-type]


def _read_under(client: Coordinator, contest: Contest, lease: int, fence: int) -> Steps:
    """What a reader reads while it holds was written by a writer before it."""
    guard = Compare(contest.key(lease).encode(), "created", "=", fence)
    floor = client.books.told
    read = Txn([guard], [Get(GUARDED + contest.name.encode())], [])
    [result] = yield Ask(read)
    client.books.read(read, floor, result)
    if result[0]:
        client.books.read_under(contest.name, fence, result[2][0])


# --- queues --------------------------------------------------------------------------------------


class _Item:
    """An item that is held: what `Finish` has to know of it."""

    def __init__(self, held: Held, claimed: Claimed, fence: int) -> None:
        self.lease = held
        self.key = claimed.key(held.id)
        self._fence = fence

    def conditions(self) -> Sequence[Condition]:
        return [Comparing.created(self.key) == self._fence]


def _enqueue(client: Coordinator) -> Steps:
    line = Line(_QUEUE, "queue", _TTL)
    values = [b"%d" % client.random.getrandbits(40) for _ in range(client.random.randint(1, 2))]
    yield from errands.do(Enqueue(line.items, [*values]))


def _consume(client: Coordinator) -> Steps:
    """Take an item, work on it, and be done with it, give it back, or die."""
    random = client.random
    line = Line(_QUEUE, "queue", _TTL)
    found = yield from _claim(client, line, client.world.now + random.choice((0.0, 1.0)))
    if found is None:
        return
    held, item = found
    if random.random() < client.plan.stalls:
        client.stall(random.uniform(0.5, 2.5) * held.ttl)
    yield Pause(random.uniform(0, client.plan.think))
    if random.random() < 0.6:
        yield from _finish(client, line, held, item)
    else:
        yield from errands.let_go(client, held)


def _claim(
    client: Coordinator, line: Line, until: float
) -> Generator[Any, Any, tuple[Held, Found] | None]:
    number = client.random.getrandbits(62) + 1
    held: Held | None = None
    try:
        claim = Claim(line, number)
        held, found = yield from errands.new_lease_for(client, number, claim)
        while found.item is None:
            if client.world.now >= until or held.is_over(client.boot):
                held.lose("there was nothing to do")
                yield from errands.revoke(client, number)
                return None
            yield from _wait_for_news(client, line, found.revision, until)
            found = yield from errands.do(claim)
        if held.is_over(client.boot):
            raise LockLost("its lease ended meanwhile")
    except PaxonError:
        if held is not None:
            held.lose("it was given up")
        yield from errands.revoke(client, number)
        return None
    client.books.claimed(found.item.key.encode(), found.revision, number)
    return held, found


def _wait_for_news(client: Coordinator, line: Line, revision: int, until: float) -> Steps:
    watch = Watch(client, line.news(revision))
    while client.world.now < until:
        with contextlib.suppress(PaxonError):
            yield Next(watch, min(0.5, until - client.world.now))
        answer = watch.take()
        if answer is None or is_refusal(answer):
            break
        if line.may_have_item(map(_event, answer[1])):
            break
    if watch in client.watching:
        watch.drop()


def _event(pair: Any) -> Event:
    key, value, created, modified, version, lease = pair[0]
    kind: Any = "put" if version else "delete"
    return Event(kind, as_text(key), value, modified, created, version, lease)


def _finish(client: Coordinator, line: Line, held: Held, found: Found) -> Steps:
    """Done, with a note of it that no other consumer may make as well."""
    assert found.item is not None
    item = found.item
    claimed = Claimed(line, item.key)
    note = PutCall(f"~done/{item.key.rpartition('/')[2]}", item.value)
    finish: Call[Any] = Finish(_Item(held, claimed, found.revision), claimed, [note])
    try:
        yield from errands.do(finish)
    except LockLost:
        return
    client.books.finished(item.key.encode())


def drain(client: Coordinator) -> Steps:
    """After all is healed: each item comes to somebody, and none is left."""
    line = Line(_QUEUE, "queue", _TTL)
    while True:
        count, _ = yield from errands.do(Peek(line))
        if not count:
            return
        found = yield from _claim(client, line, client.world.now)
        if found is None:
            yield Pause(0.2)
        else:
            yield from _finish(client, line, *found)


# --- barriers ------------------------------------------------------------------------------------


def _barrier(client: Coordinator) -> Steps:
    """Go on once two are there."""
    random = client.random
    hall = Hall("~hall", "barrier", _PARTIES, _TTL)
    number = random.getrandbits(62) + 1
    held: Held | None = None
    plan = meet(hall, number)
    try:
        held, answer = yield from errands.new_lease_for(client, number, next(plan))
        until = client.world.now + random.choice((1.0, 3.0))
        (fence, meeting), _ = yield from errands.follow(
            client, hall, plan, answer, held, until=until
        )
    except PaxonError:
        if held is not None:
            held.lose("it was given up")
        yield from errands.revoke(client, number)
        return
    client.books.met(hall.prefix.encode(), fence, meeting, _PARTIES)
    held.lose("it has gone on")
    yield from errands.revoke(client, number)
    with contextlib.suppress(PaxonError):
        ending = part(hall, meeting, wait=False)
        yield from errands.follow(client, hall, ending, None, held, until=_FOREVER)


ERRANDS: dict[str, Any] = {
    "semaphore": _semaphore, "rwlock": _rwlock, "enqueue": _enqueue, "consume": _consume,
    "barrier": _barrier,
}  # fmt: skip
