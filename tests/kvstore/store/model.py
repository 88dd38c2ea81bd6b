"""What the store should answer, by the plainest means: a copy of everything for every revision.

Written from COORDINATION 9-12 and etcd's behaviour, without a look at the store's own code; nothing
is bounded here, and nothing is fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from paxon.kvstore.store.operations import (
    Append,
    Claim,
    Compact,
    Compare,
    CompareAndSet,
    Delete,
    DeleteRange,
    Enqueue,
    Events,
    Get,
    Grant,
    Increment,
    KeepAlive,
    Leases,
    Put,
    PutItem,
    Range,
    Revoke,
    Scan,
    TimeLeft,
    Txn,
    Unclaimed,
)

__all__ = ["Model", "Refused"]

MS = 1_000_000


class Refused(Exception):
    """The operation changes nothing; the argument is the kind of refusal."""


class Entry(NamedTuple):
    value: bytes
    created: int
    modified: int
    version: int
    lease: int


State = dict[bytes, Entry]


@dataclass
class Model:
    """All states there have been."""

    states: dict[int, State] = field(default_factory=lambda: {1: {}})
    revision: int = 1
    oldest: int = 1
    compacted: int = 0
    now: int = 0
    least_ttl: int = 2000
    """Milliseconds that a lease is granted at least."""
    leases: dict[int, list[int]] = field(default_factory=dict)
    """Per id: time to live and when it ends, in nanoseconds."""
    order: dict[int, list[bytes]] = field(default_factory=dict)
    """Per revision the keys in the order in which they changed."""

    @property
    def state(self) -> State:
        return self.states[self.revision]

    def run(self, operation: Any) -> Any:
        """The result of one operation; a refusal is `{"kind": …}`."""
        before = dict(self.state)
        self.changed: list[bytes] = []
        self.next = dict(before)
        try:
            result = self.execute(operation)
        except Refused as refused:
            return {"kind": refused.args[0]}
        if self.changed:
            self.revision += 1
            self.states[self.revision] = self.next
            self.order[self.revision] = self.changed
        return result

    # --- operations --------------------------------------------------------------------------

    def execute(self, op: Any) -> Any:
        match op:
            case Put(key, value):
                self.put(key, value, 0)
                return self.revision + 1
            case Get(key):
                return self.next[key].value if key in self.next else None
            case Append(key, value):
                held = self.next.get(key)
                whole = (held.value if held else b"") + value
                self.put(key, whole, held.lease if held else 0)
                return len(whole)
            case Delete(key):
                return self.delete([key]) == 1
            case CompareAndSet(key, expected, new):
                if (self.next[key].value if key in self.next else None) != expected:
                    return False
                if new is None:
                    self.delete([key])
                else:
                    self.put(key, new, 0)
                return True
            case Scan(prefix, limit, start_after):
                keys = [k for k in sorted(self.next) if k.startswith(prefix) and k > start_after]
                if not start_after:
                    keys = [k for k in sorted(self.next) if k.startswith(prefix)]
                pairs = [[k, self.next[k].value] for k in keys[:limit]]
                return [len(keys) > limit, pairs]
            case Increment(key, by):
                held = self.next.get(key)
                try:
                    total = int(held.value.decode()) + by if held else by
                except ValueError:
                    raise Refused("") from None
                self.put(key, str(total).encode(), held.lease if held else 0)
                return total
            case PutItem() | DeleteRange():
                self.check(op)
                return self.inner(op)
            case Range():
                self.check(op)
                return self.inner(op)
            case Txn():
                taken = self.decide(op)
                self.check_all(taken)
                return self.carry_out(taken)
            case Compact(revision):
                if revision <= self.compacted or revision < self.oldest:
                    raise Refused("compacted")
                if revision > self.revision:
                    raise Refused("future")
                self.oldest = self.compacted = revision
                return revision
            case Events():
                return self.events(op)
            case Enqueue() | Unclaimed() | Claim():
                return self.queue_operation(op)
            case _:
                return self.lease_operation(op)

    def queue_operation(self, op: Any) -> Any:
        match op:
            case Enqueue(prefix, values):
                if not prefix:
                    raise Refused("")
                for place, value in enumerate(values):
                    key = prefix + f"{self.revision + 1:016x}{place:04x}".encode()
                    if key in self.next:
                        raise Refused("")
                    self.put(key, value, 0)
                return self.revision + 1
            case Unclaimed(items, claims):
                count = sum(key.startswith(items) for key in self.next)
                free = self.unclaimed(items, claims)
                return [self.revision, count, [free, *self.next[free]] if free else None]
            case Claim(items, claims, lease):
                self.check_lease(lease)
                free = self.unclaimed(items, claims)
                if not free:
                    return [self.revision, None]
                self.put(free.replace(items, claims, 1), b"", lease)
                return [self.revision + 1, [free, *self.next[free]]]
            case _:
                raise AssertionError(op)

    def lease_operation(self, op: Any) -> Any:
        match op:
            case Grant(lease, ttl):
                if lease in self.leases:
                    raise Refused("exists")
                ttl = max(ttl, self.least_ttl) * MS
                self.leases[lease] = [ttl, self.now + ttl]
                return ttl // MS
            case KeepAlive(lease):
                self.check_lease(lease)
                self.leases[lease][1] = self.now + self.leases[lease][0]
                return self.leases[lease][0] // MS
            case Revoke(lease):
                self.check_lease(lease)
                self.end(lease)
                return self.revision + bool(self.changed)
            case TimeLeft(lease, keys):
                if lease not in self.leases:
                    return None
                ttl, due = self.leases[lease]
                attached = sorted(k for k, e in self.next.items() if e.lease == lease)
                return [max(0, due - self.now) // MS, ttl // MS, attached if keys else []]
            case Leases():
                return sorted(self.leases)
            case _:
                raise AssertionError(op)

    def unclaimed(self, items: bytes, claims: bytes) -> bytes:
        """The first item without a claim; empty if there is none."""
        found = [key for key in sorted(self.next) if key.startswith(items)]
        free = [key for key in found if key.replace(items, claims, 1) not in self.next]
        return free[0] if free else b""

    def end(self, lease: int) -> None:
        self.delete(sorted(k for k, e in self.next.items() if e.lease == lease))
        del self.leases[lease]

    def wake(self) -> None:
        """Leases that are due end, each in a revision of its own."""
        for due, lease in sorted((due, lease) for lease, (_, due) in self.leases.items()):
            if due <= self.now:
                self.run(Revoke(lease))

    def put(self, key: bytes, value: bytes, lease: int) -> None:
        if not key:
            raise Refused("")
        held = self.next.get(key)
        self.next[key] = Entry(
            value,
            held.created if held else self.revision + 1,
            self.revision + 1,
            held.version + 1 if held else 1,
            lease,
        )
        self.changed.append(key)

    def delete(self, keys: list[bytes]) -> int:
        there = [key for key in keys if key in self.next]
        for key in there:
            del self.next[key]
            self.changed.append(key)
        return len(there)

    # --- transactions ------------------------------------------------------------------------

    def decide(self, txn: Txn) -> tuple[bool, list[Any]]:
        """Which branch is taken, and its operations, nested ones decided too."""
        succeeded = all(self.compare(compare) for compare in txn.compare)
        branch = txn.then if succeeded else txn.otherwise
        return succeeded, [self.decide(op) if isinstance(op, Txn) else op for op in branch]

    def compare(self, compare: Compare) -> bool:
        found = [self.state[key] for key in self.keys(self.state, compare.key, compare.end)]
        if not found:
            if compare.target == "value":
                return False
            found = [Entry(b"", 0, 0, 0, 0)]
        for entry in found:
            is_, wanted = getattr(entry, compare.target), compare.operand
            holds = {"=": is_ == wanted, "!=": is_ != wanted, "<": is_ < wanted, ">": is_ > wanted}
            if not holds[compare.relation]:
                return False
        return True

    def check_all(self, taken: tuple[bool, list[Any]]) -> None:
        for op in taken[1]:
            if isinstance(op, tuple):
                self.check_all(op)
            else:
                self.check(op)

    def check(self, op: Any) -> None:
        match op:
            case Put(b"", _) | PutItem(b""):
                raise Refused("")
            case PutItem(key, value, lease):
                if (value is None or lease is None) and key not in self.state:
                    raise Refused("missing")
                if lease:
                    self.check_lease(lease)
            case Range(revision=revision):
                self.check_revision(revision)
            case _:
                pass

    def check_lease(self, lease: int) -> None:
        if lease not in self.leases:
            raise Refused("lease")

    def check_revision(self, revision: int) -> None:
        if revision > self.revision:
            raise Refused("future")
        if revision and revision < self.oldest:
            raise Refused("compacted")

    def carry_out(self, taken: tuple[bool, list[Any]]) -> Any:
        results = [
            self.carry_out(op) if isinstance(op, tuple) else self.inner(op) for op in taken[1]
        ]
        return [taken[0], self.so_far, results]

    @property
    def so_far(self) -> int:
        return self.revision + bool(self.changed)

    def inner(self, op: Any) -> Any:
        match op:
            case Put() | Get() | Delete():
                return self.execute(op)
            case PutItem(key, value, lease, previous):
                held = self.next.get(key)
                self.put(
                    key,
                    held.value if value is None and held else value or b"",
                    held.lease if lease is None and held else lease or 0,
                )
                return [self.so_far, [key, *held] if previous and held else None]
            case DeleteRange(key, end, previous):
                keys = self.keys(self.next, key, end)
                items = [[k, *self.next[k]] for k in keys]
                self.delete(keys)
                return [self.so_far, len(keys), items if previous else None]
            case Range():
                return self.range(op)
            case _:
                raise AssertionError(op)

    # --- reading -----------------------------------------------------------------------------

    @staticmethod
    def keys(state: State, key: bytes, end: bytes | None) -> list[bytes]:
        if end is None:
            return [key] if key in state else []
        return sorted(k for k in state if k >= key and (end == b"\0" or k < end))

    def range(self, op: Range) -> Any:
        state = self.states[op.revision] if op.revision else self.next
        items: list[list[Any]] = [[k, *state[k]] for k in self.keys(state, op.key, op.end)]
        count = len(items)
        if op.count_only:
            return [self.so_far, count, False, [], None]
        place = {"key": 0, "value": 1, "created": 2, "modified": 3, "version": 4}[op.order]
        items.sort(key=lambda item: item[place], reverse=op.backward)
        infinite = 1 << 70
        items = [
            item
            for item in items
            if op.min_created <= item[2] <= (op.max_created or infinite)
            and op.min_modified <= item[3] <= (op.max_modified or infinite)
        ]
        more = bool(op.limit) and len(items) > op.limit
        items = items[: op.limit] if op.limit else items
        if op.keys_only:
            items = [[item[0], b"", *item[2:]] for item in items]
        return [self.so_far, count, more, items, None]

    def events(self, op: Events) -> Any:
        if op.after >= self.revision:
            return [op.after, []]
        if op.after + 1 < self.oldest:
            raise Refused("compacted")
        found = []
        for revision in range(max(op.after, 1) + 1, self.revision + 1):
            before, after = self.states[revision - 1], self.states[revision]
            for key in self.order[revision]:
                if not any(self.keys({key: 0}, *span) for span in op.spans):  # type: ignore[dict-item]
                    continue
                if not (op.puts if key in after else op.deletes):
                    continue
                item = [key, *after[key]] if key in after else [key, b"", 0, revision, 0, 0]
                previous = [key, *before[key]] if op.previous and key in before else None
                found.append([item, previous])
        return [self.revision, found]
