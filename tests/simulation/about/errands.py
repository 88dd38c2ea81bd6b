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
from paxon.kvstore.client.leases.keeping import CLOCK_DRIFT, Held
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
    Operation,
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
from tests.books.store import GUARDED
from tests.simulation.about.coordinator import Ask, Coordinator, Next, Pause, Renewal, Steps, Watch

__all__ = [
    "acquire", "closing", "do", "draw_errand", "follow", "let_go", "new_lease_for", "revoke",
    "watching", "write_under",
]  # fmt: skip

KEYS = [b"~t/%d" % number for number in range(4)]
"""Those of transactions. All keys begin with `~`: they come after those of other clients."""
WATCHED = [b"~t/0", b"~t/3", b"~l/", b"~lock0/", b"k0"]
FOREVER = 1e6
_COUNTED = (1 - CLOCK_DRIFT) / (1 + CLOCK_DRIFT)


def draw_errand(client: Coordinator) -> Steps:
    """Any errand, after a while."""
    weights = client.plan.weights
    kind = client.random.choice([kind for kind, weight in weights.items() for _ in range(weight)])
    errand: Any = _ERRANDS.get(kind)
    if kind == "backup":
        from tests.simulation.about import backups

        errand = backups.save
    elif errand is None:
        from tests.simulation.about.sharing import ERRANDS

        errand = ERRANDS[kind]
    return _after_thinking(client, errand(client))


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


def _new_number(client: Coordinator) -> int:
    return client.random.getrandbits(62) + 1


def _new_lease(
    client: Coordinator, number: int, *first: Operation
) -> Generator[Any, Any, tuple[Held, list[Any]]]:
    """Grant a lease of this number, and keep it alive in the background.

    What is asked for in the same command, and its results.
    """
    sent, since = client.boot, client.books.slot
    grant = Grant(number, client.random.randint(*client.plan.ttls))
    ttl, *results = yield Ask(grant, *first)
    client.books.acknowledged(grant, since, ttl)
    held = Held(number, ttl / 1000, sent)
    client.books.owners[number] = _Owned(client, held)
    if client.random.random() >= client.plan.tardy:
        client.run(_keep(client, held))
    else:
        client.run(_keep_tardily(client, held))
    return held, results


def new_lease_for(
    client: Coordinator, number: int, call: Any
) -> Generator[Any, Any, tuple[Held, Any]]:
    """A lease, and the answer to the first thing that is done under it, as `GrantFor` does."""
    held, [result] = yield from _new_lease(client, number, call.operation)
    try:
        return held, call.answer(result)
    except PaxonError:
        held.lose("it was given up")
        raise


def _keep_tardily(client: Coordinator, held: Held) -> Steps:
    """Renew at the last moment, or a little after: with luck in the very slot in which it ends."""
    while not held.is_over(client.boot):
        early = client.random.uniform(-0.01, 0.06)
        due = held.deadline + held.ttl * (1 - _COUNTED) - early
        yield Pause(max(0.0, due - client.boot))
        now = client.boot
        with contextlib.suppress(PaxonError):
            payload = yield Renewal(renewal([held.id]), 1.0)
            if isinstance(still_alive(payload, [held.id])[0], LeaseExpired):
                client.books.lease_gone(held.id)
                break
            held.renewed(now)
    held.lose("it has ended")


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


def revoke(client: Coordinator, number: int) -> Steps:
    """End a lease, if that gets through."""
    with contextlib.suppress(PaxonError):
        yield Ask(Revoke(number), patience=1.0)


def _lease(client: Coordinator) -> Steps:
    """Keys that go with a lease, which is revoked, or left alone, or outlives its owner's care."""
    random, number = client.random, client.random.getrandbits(62) + 1
    held, _ = yield from _new_lease(client, number)
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
        yield from revoke(client, number)
    elif end < 0.8:
        held.lose("it was thrown away")


# --- locks ---------------------------------------------------------------------------------------


def do(call: Call[Any], mode: ReadMode = "linearizable") -> Generator[Any, Any, Any]:
    """What clients do with a call."""
    steps = call.steps()
    try:
        operations = next(steps)
        while True:
            results = yield Ask(*operations, mode=mode)
            operations = steps.send(results)
    except StopIteration as stop:
        return stop.value


def follow(
    client: Coordinator, contest: Contest, plan: Any, answer: Any, held: Held, *, until: float
) -> Generator[Any, Any, tuple[Any, int]]:
    """A recipe, step by step, from this answer on; what comes of it, and the revision seen last."""
    seen = getattr(answer, "revision", 0)
    try:
        step = plan.send(answer)
        while True:
            if isinstance(step, Until):
                yield from _wait(client, contest, step, held, until)
                found = getattr(step, "found", None)
                seen = seen if found is None else found.revision
                step = next(plan)
                continue
            answer = yield from (do(step.call, "lease") if isinstance(step, Look) else do(step))
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
        if step.over([_event(row) for row, _ in rows], *looked):
            break
    if watch in client.watching:
        watch.drop()


def _event(row: Any) -> Event:
    key, value, created, modified, version, lease = row
    if version:
        return Event("put", as_text(key), value, modified, created, version, lease)
    return Event("delete", as_text(key), b"", modified, 0, 0, 0)


def acquire(
    client: Coordinator, contest: Contest, patience: float
) -> Generator[Any, Any, tuple[Held, int] | None]:
    """A place; None if it was not to be had. Who gives up revokes its lease."""
    random, number = client.random, _new_number(client)
    held: Held | None = None
    plan = enter(contest, number, contest.value)
    try:
        held, answer = yield from new_lease_for(client, number, next(plan))
        until = client.world.now + patience
        fence, seen = yield from follow(client, contest, plan, answer, held, until=until)
        if held.is_over(client.boot):
            raise LockLost("its lease ended while it waited")
    except PaxonError:
        if held is not None:
            held.lose("it was given up")
        if random.random() < 0.9:  # (else its process has died just then)
            yield from revoke(client, number)
        return None
    client.books.acquired(contest.name, contest.key(number).encode(), fence, seen)
    return held, fence


def let_go(client: Coordinator, held: Held) -> Steps:
    """Release a place, or die with it: nobody renews it then."""
    if client.random.random() < 0.8:
        held.lose("it was revoked")
        yield from revoke(client, held.id)
    else:
        held.lose("it was thrown away")


def _lock(client: Coordinator) -> Steps:
    """Write something under a lock, again and again, whatever becomes of the lease meanwhile."""
    random, plan = client.random, client.plan
    contest = Contest(f"~lock{random.randrange(plan.names)}", "lock", 1.0)
    found = yield from acquire(client, contest, random.choice((0.0, 1.0, 5.0)))
    if found is None:
        return
    held, fence = found
    for number in range(random.randint(1, 3)):
        if random.random() < plan.stalls:
            client.stall(random.uniform(0.5, 2.5) * held.ttl)
        yield Pause(random.uniform(0, plan.think))
        yield from write_under(client, contest, held.id, fence, number)
    yield from let_go(client, held)


def write_under(
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
    watch = Watch(client, Events(client.books.model.revision, [(KEYS[0], None)]))
    yield Pause(random.uniform(0, 0.5))  # a server holds it by then, and it has missed nothing
    put, head = Put(KEYS[0], b"before a cut"), client.books.model.revision
    yield Ask(put, put, *(Compact(head + ahead) for ahead in range(2, 12)))  # one is the head
    with contextlib.suppress(PaxonError):
        yield Next(watch, 1.0)
    if watch.take() is None or watch in client.watching:
        watch.drop()


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
    contest = Contest("~lock0", "lock", 1.0)
    found = yield from acquire(client, contest, FOREVER)
    while found is None:
        yield Pause(client.plan.think)
        found = yield from acquire(client, contest, FOREVER)
    held, fence = found
    yield from write_under(client, contest, held.id, fence, -1)
    held.lose("it was revoked")
    yield from revoke(client, held.id)
    if client.plan.weights.get("consume"):
        from tests.simulation.about.sharing import drain

        yield from drain(client)
    while client.watching:  # in turn: each is asked for again only once its answer is taken
        for watch in list(client.watching):
            if watch.complete_to < client.books.model.revision:
                with contextlib.suppress(PaxonError):
                    yield Next(watch, 0.5)
                watch.take()
            elif watch in client.watching:
                watch.drop()


_ERRANDS: dict[str, Any] = {
    "lease": _lease, "lock": _lock, "transact": _transact, "read": _read, "compact": _compact,
}  # fmt: skip
