"""What coordinating clients do: lease, lock, write under a lock, transact, read, watch, compact.

Each is a generator of steps (coordinator.py). The recipe of locks is the one that users have
(`paxon.kvstore.recipes.contests`), and so is the keeping of leases (`client.leases.keeping`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

from paxon.actors.messages import ReadMode
from paxon.kvstore.client.arguments import as_text
from paxon.kvstore.client.calls.answers import RangeResult, TxnResult
from paxon.kvstore.client.calls.calls import Call
from paxon.kvstore.client.leases.keeping import Held
from paxon.kvstore.client.leases.requests import renewal, still_alive
from paxon.kvstore.client.watches.events import Event
from paxon.kvstore.errors import LeaseExpired, LockLost, NotAcquired, PaxonError
from paxon.kvstore.recipes.contests import Contest, Look, Until, enter
from paxon.kvstore.store.operations import (
    Compact,
    Compare,
    DeleteRange,
    Events,
    Get,
    Grant,
    Inner,
    Put,
    PutItem,
    Range,
    Revoke,
    TimeLeft,
    Txn,
    is_read,
    is_refusal,
)
from paxon.kvstore.store.spans import prefix_span
from tests.simulation.coordinator import Ask, Coordinator, Next, Pause, Renewal, Steps, Watch
from tests.store_books import GUARDED

__all__ = ["closing", "draw_errand", "watching"]

KEYS = [b"~t/%d" % number for number in range(4)]
"""Those of transactions. All keys begin with `~`: they come after those of other clients."""
WATCHED = [b"~t/0", b"~t/3", b"~l/", b"~lock0/", b"k0"]
FOREVER = 1e6


def draw_errand(client: Coordinator) -> Steps:
    """Any errand, after a while."""
    weights = client.plan.weights
    kind = client.random.choice([kind for kind, weight in weights.items() for _ in range(weight)])
    return _after_thinking(client, _ERRANDS[kind](client))


def _after_thinking(client: Coordinator, steps: Steps) -> Steps:
    yield Pause(client.random.uniform(0, 2 * client.plan.think))
    yield from steps


# --- leases --------------------------------------------------------------------------------------


class _Owned:
    """What the books ask an owner."""

    def __init__(self, client: Coordinator, held: Held) -> None:
        self._client, self._held = client, held

    def believes(self) -> bool:
        return not self._held.reason and self._client.boot < self._held.deadline


def _new_lease(client: Coordinator, number: int) -> Generator[Any, Any, Held]:
    """Grant a lease of this number, and keep it alive in the background."""
    sent, since = client.boot, client.books.slot
    grant = Grant(number, client.random.randint(*client.plan.ttls))
    [ttl] = yield Ask(grant)
    client.books.acknowledged(grant, since, ttl)
    held = Held(number, ttl / 1000, sent)
    client.books.owners[number] = _Owned(client, held)
    client.run(_keep(client, held))
    return held


def _keep(client: Coordinator, held: Held) -> Steps:
    """As the keepers of clients do: renew at a third of the time, and take it for lost in time."""
    while not held.is_over(client.boot):
        yield Pause(max(0.0, held.renew_at - client.boot))
        now = client.boot
        if held.is_over(now):
            return
        try:
            patience = max(0.05, min(held.ttl / 3, held.deadline - now))
            payload = yield Renewal(renewal([held.id]), patience)
            [alive] = still_alive(payload, [held.id])
        except PaxonError:
            held.tried(client.boot)
            continue
        if isinstance(alive, LeaseExpired):
            client.books.lease_gone(held.id)
            held.lose("it has ended")
        elif not held.is_over(client.boot):
            held.renewed(now)


def _revoke(client: Coordinator, number: int) -> Steps:
    """End a lease, if that gets through."""
    with contextlib.suppress(PaxonError):
        yield Ask(Revoke(number), patience=1.0)


def _lease(client: Coordinator) -> Steps:
    """Keys that go with a lease, which is revoked, or left alone, or outlives its owner's care."""
    random, number = client.random, client.random.getrandbits(62) + 1
    held = yield from _new_lease(client, number)
    key = b"~l/%d" % random.randrange(2)
    put: Any = PutItem(key, b"%x" % number, number)
    if random.random() < 0.3:
        put = Txn([], [put, Txn([], [PutItem(key + b"+", b"too", number)], [])], [])
    yield Ask(put)
    for _ in range(random.randrange(4)):
        yield Pause(random.uniform(0, held.ttl))
        asked_at = client.books.model.now
        [left] = yield Ask(TimeLeft(number))
        client.books.time_left(number, asked_at, left)
    end = random.random()
    if end < 0.4:
        held.lose("it was revoked")
        yield from _revoke(client, number)
    elif end < 0.8:
        held.lose("it was thrown away")


# --- locks ---------------------------------------------------------------------------------------


def _do(call: Call[Any], mode: ReadMode = "linearizable") -> Generator[Any, Any, Any]:
    """What clients do with a call."""
    steps = call.steps()
    try:
        operations = next(steps)
        while True:
            results = yield Ask(*operations, mode=mode)
            operations = steps.send(results)
    except StopIteration as stop:
        return stop.value


def _contend(
    client: Coordinator, contest: Contest, held: Held, until: float
) -> Generator[Any, Any, tuple[int, int]]:
    """The recipe, step by step; the fence, and the revision at which it was one's turn."""
    plan, seen = enter(contest, held.id, b""), 0
    try:
        step = next(plan)
        while True:
            if isinstance(step, Until):
                yield from _wait(client, contest, step, held, until)
                seen = seen if step.found is None else step.found.revision
                step = next(plan)
                continue
            answer = yield from (_do(step.call, "lease") if isinstance(step, Look) else _do(step))
            if isinstance(answer, TxnResult | RangeResult):
                seen = answer.revision
            step = plan.send(answer)
    except StopIteration as stop:
        return stop.value, seen


def _wait(client: Coordinator, contest: Contest, step: Until, held: Held, until: float) -> Steps:
    """Until it is over, or the time is up (as `recipes.taking`)."""
    watch = Watch(client, step.wanted)
    while True:
        if held.is_over(client.boot):
            raise contest.expired()
        if client.world.now >= until:
            raise NotAcquired("others hold it")
        with contextlib.suppress(PaxonError):
            yield Next(watch, min(held.deadline - client.boot, until - client.world.now))
        answer = watch.take()
        if answer is None or is_refusal(answer):
            break
        _, rows, *looked = answer
        gone = [Event("delete", as_text(row[0]), b"", row[3], 0, 0, 0) for row, _ in rows]
        if step.over(gone, *looked):
            break
    if watch in client.watching:
        watch.drop()


def _acquire(
    client: Coordinator, name: str, patience: float
) -> Generator[Any, Any, tuple[Held, Contest, int] | None]:
    """A lock; None if it was not to be had. Who gives up revokes its lease."""
    random, number = client.random, client.random.getrandbits(62) + 1
    contest = Contest(name, "lock", 1.0)
    held: Held | None = None
    try:
        held = yield from _new_lease(client, number)
        fence, seen = yield from _contend(client, contest, held, client.world.now + patience)
        if held.is_over(client.boot):
            raise LockLost("its lease ended while it waited")
    except PaxonError:
        if held is not None:
            held.lose("it was given up")
        if random.random() < 0.9:  # (else its process has died just then)
            yield from _revoke(client, number)
        return None
    client.books.acquired(name, contest.key(number).encode(), fence, seen)
    return held, contest, fence


def _lock(client: Coordinator) -> Steps:
    """Write something under a lock, again and again, whatever becomes of the lease meanwhile."""
    random, plan = client.random, client.plan
    name = f"~lock{random.randrange(plan.names)}"
    found = yield from _acquire(client, name, random.choice((0.0, 1.0, 5.0)))
    if found is None:
        return
    held, contest, fence = found
    for number in range(random.randint(1, 3)):
        if random.random() < plan.stalls:
            client.stall(random.uniform(0.5, 2.5) * held.ttl)
        yield Pause(random.uniform(0, plan.think))
        yield from _write_under(client, contest, held.id, fence, number)
    if random.random() < 0.8:
        held.lose("it was revoked")
        yield from _revoke(client, held.id)
    else:  # the process dies, and nobody renews it
        held.lose("it was thrown away")


def _write_under(
    client: Coordinator, contest: Contest, lease: int, fence: int, number: int
) -> Steps:
    """A transaction that its holder's key guards; it may be lost long since."""
    guard = Compare(contest.key(lease).encode(), "created", "=", fence)
    guarded = Put(GUARDED + contest.name.encode(), b"%d %d.%d" % (fence, client.number, number))
    write = Txn([guard], [guarded], [])
    since = client.books.slot
    [result] = yield Ask(write)
    client.books.acknowledged(write, since, result)


# --- transactions, reads -------------------------------------------------------------------------


def _draw_branch(client: Coordinator, depth: int) -> list[Inner]:
    random = client.random
    operations: list[Inner] = []
    keys = random.sample(KEYS, random.randint(1, 3))
    for key in keys:
        operation: Inner
        match random.randrange(8):
            case 0:
                operation = DeleteRange(key, previous=random.random() < 0.5)
            case 1:
                operation = Range(b"~t/", b"~t0", order=random.choice(("key", "modified")))
            case 2:
                operation = Get(key)
            case 3 | 4 if depth:
                operation = _draw_transaction(client, depth - 1)
            case 5:
                operation = PutItem(key, b"%d" % random.getrandbits(30), 0, previous=True)
            case _:
                operation = Put(key, b"%d" % random.getrandbits(30))
        operations.append(operation)
    return operations


def _draw_transaction(client: Coordinator, depth: int) -> Txn:
    """Any that writes no key twice."""
    random, books = client.random, client.books
    while True:
        compares = []
        for _ in range(random.choice((0, 0, 1, 1, 2))):
            key = random.choice(KEYS)
            entry = books.model.state.get(key)
            known = 0 if entry is None else random.choice((entry.modified, entry.modified, 0))
            compares.append(
                Compare(key, "modified", random.choice(("=", "=", "!=", "<", ">")), known)
            )
        try:
            then, otherwise = _draw_branch(client, depth), _draw_branch(client, depth)
            return Txn(compares, then, otherwise)
        except ValueError:
            continue


def _transact(client: Coordinator) -> Steps:
    """Transactions, nested and plain."""
    for _ in range(client.random.randint(1, 4)):
        txn = _draw_transaction(client, 2)
        since, floor = client.books.slot, client.books.told
        [result] = yield Ask(txn)
        if is_read(txn):
            client.books.read(txn, floor, result)
        else:
            client.books.acknowledged(txn, since, result)
        yield Pause(client.random.uniform(0, client.plan.think))


def _read(client: Coordinator) -> Steps:
    """Ranges, of the present and of the past, by any server's word too."""
    random, books = client.random, client.books
    for _ in range(random.randint(1, 4)):
        revision = 0
        if random.random() < 0.3:
            revision = random.randint(max(1, books.told - 20), books.told)
        modes: list[ReadMode] = ["linearizable", "linearizable", "stale"]
        if client.world.plan.clients.lease:
            modes.append("lease")
        mode = random.choice(modes)
        if mode == "stale":
            revision = 0  # (it may be in that server's future)
        wanted = Range(b"~", b"\x7f", revision=revision)
        floor = 1 if mode == "stale" else books.told
        [result] = yield Ask(wanted, mode=mode)
        books.read(wanted, floor, result)
        yield Pause(random.uniform(0, client.plan.think))


def _compact(client: Coordinator) -> Steps:
    """History is cut, at the newest revision or a little before, amid other writes."""
    random, told = client.random, client.books.told
    compact = Compact(max(1, told - random.choice((0, 0, 5))))
    if random.random() < 0.5:
        yield Ask(compact)
        return
    put = Put(KEYS[0], b"before a cut")
    yield Ask(put, put, Compact(told + 2))  # (the head, if nobody else writes meanwhile)


# --- watches -------------------------------------------------------------------------------------


def watching(client: Coordinator) -> Steps:
    """Watch from some revision on, for a while."""
    random, books = client.random, client.books
    yield Pause(random.uniform(0, client.plan.think))
    after = books.told + random.choice((0, 0, -3, -10, 3))
    keys = random.sample(WATCHED, random.randint(1, 3))
    spans: list[Any] = [prefix_span(key) if key.endswith(b"/") else (key, None) for key in keys]
    if random.random() < 0.2:
        spans = [(b"~", b"\x7f")]
    kinds = random.choice(((True, True), (True, True), (True, False), (False, True)))
    watch = Watch(client, Events(max(after, 1), spans, *kinds, random.random() < 0.5))
    for _ in range(random.randint(1, 12)):
        with contextlib.suppress(PaxonError):
            yield Next(watch, random.choice((0.3, 2.0)))
        answer = watch.take()
        if is_refusal(answer):
            return
        if random.random() < 0.3:
            yield Pause(random.uniform(0, 1.0))  # it reads slowly
    watch.drop()


# --- the end -------------------------------------------------------------------------------------


def closing(client: Coordinator) -> Steps:
    """After all is healed: the lock comes to everybody, and watches to the end."""
    found = yield from _acquire(client, "~lock0", FOREVER)
    while found is None:
        yield Pause(client.plan.think)
        found = yield from _acquire(client, "~lock0", FOREVER)
    held, contest, fence = found
    yield from _write_under(client, contest, held.id, fence, -1)
    held.lose("it was revoked")
    yield from _revoke(client, held.id)
    while client.watching:
        for watch in list(client.watching):
            yield from _to_the_end(client, watch)


def _to_the_end(client: Coordinator, watch: Watch) -> Steps:
    while watch.complete_to < client.books.model.revision:
        with contextlib.suppress(PaxonError):
            yield Next(watch, 0.5)
        if is_refusal(watch.take()):
            return
    watch.drop()


_ERRANDS: dict[str, Any] = {
    "lease": _lease, "lock": _lock, "transact": _transact, "read": _read, "compact": _compact,
}  # fmt: skip
