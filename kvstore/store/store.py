"""The replicated key-value store: a `StateMachine`, and nothing that knows of Paxos."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, islice
from typing import Any, ClassVar

import msgspec

from paxon.actors import Limit, StateMachine
from paxon.actors.execution.agreed import Limits
from paxon.kvstore.store.events import answer_events
from paxon.kvstore.store.history import EVENT_BYTES, key_of
from paxon.kvstore.store.image import decode_state, encode_state
from paxon.kvstore.store.items import (
    SHORT_VALUE,
    Item,
    Prefix,
    as_bytes,
    value_bytes,
    whole_number,
)
from paxon.kvstore.store.leases import MAX_LEASES, MAX_TTL_MS, MIN_TTL_MS, Lease
from paxon.kvstore.store.operations import (
    LANGUAGE,
    MAX_KEY_BYTES,
    MAX_NUMBER,
    MAX_REPLY_BYTES,
    MAX_SCAN_BYTES,
    MAX_SCAN_ITEMS,
    MAX_VALUE_BYTES,
    Append,
    Claim,
    Compact,
    CompareAndSet,
    Delete,
    DeleteRange,
    Enqueue,
    Events,
    Executable,
    Get,
    Grant,
    Increment,
    KeepAlive,
    Leases,
    Put,
    PutItem,
    Range,
    Result,
    Revoke,
    Scan,
    TimeLeft,
    Txn,
    Unclaimed,
    decode_operations,
    decode_puts,
    encode_results,
    only_reads,
)
from paxon.kvstore.store.queues import claim, enqueue, look, looking
from paxon.kvstore.store.ranges import MAX_SORTED, ROW_BYTES, looked_in_vain, read_range
from paxon.kvstore.store.refusals import LOOK_BYTES, Refusal, Room
from paxon.kvstore.store.spans import prefix_span
from paxon.kvstore.store.state import MAX_REVISION_BYTES, MAX_REVISION_EVENTS, State
from paxon.kvstore.store.transactions import MAX_COMPARED, Bounds, Transaction, one_put
from paxon.kvstore.store.watching import Watches

__all__ = ["KVStore"]

# Parts of the language of operations, like their tags: not to be changed.
_MOST_SCAN_LIMIT = 10_000
_ENDED_AT_ONCE = 100
"""Leases that one waking ends: the others keep their turn."""
_MS = 1_000_000
"""Nanoseconds."""

_MANY_OPERATIONS = 2000
_OPERATION_BYTES = 1280
"""What an operation counts for in a command of many: about as long as it takes to copy so much."""
_FEW_OPERATIONS = 64
"""The cost of each in a command with more is not looked into."""
_LONG_OPERATION = 48
"""Bytes: a command whose operations are longer, many as they are, costs what it is long."""
_DIGEST_KEYS = 20_000
_DIGEST_PART_KEYS = 5_000
_DIGEST_BYTES = 8 << 20
_KEPT_COMMANDS = 512
"""Commands whose decoded form is kept from the check to the execution …"""
_KEPT_BYTES = 8 << 20
"""… or so many bytes of them, whichever is less: then all are let go of."""
_CHEAP = frozenset({Item, Put, Append, Delete, CompareAndSet, PutItem, Increment})
"""What they cost is about what they are long."""

_encoder = msgspec.msgpack.Encoder()


def _decoded(command: bytes) -> tuple[Sequence[Executable], bool]:
    """The operations of a command, and whether they are several puts and nothing else.

    Raises ValueError if it is malformed.
    """
    puts = decode_puts(command)
    return (decode_operations(command), False) if puts is None else (puts, True)


def _weight(operation: Any) -> int:
    """For how many operations this one counts."""
    if type(operation) is Enqueue:
        return len(operation.values)
    return operation.weight() if type(operation) is Txn else 1


def _dear(command: bytes, operations: int) -> int:
    """What a command of so many operations costs."""
    return len(command) + operations * _OPERATION_BYTES


class KVStore(StateMachine):
    """Keys and values are bytes. Commands and queries are lists of operations (operations.py).

    All of a command's operations take effect together and in order, each that writes as a revision
    of its own; one that is refused does not keep the others from it.
    """

    language = LANGUAGE
    snapshots_are_sound = True  # plain data, and nothing that restoring could refuse

    # Clients refuse what is beyond the most by themselves, before they send it. The numbers of
    # `before` belong to the format of commands and snapshots: they stay.
    limits: ClassVar[Limits] = {
        "max_key_bytes": Limit(default=4096, least=1, most=MAX_KEY_BYTES, before=4096),
        "max_value_bytes": Limit(default=8 << 20, least=1, most=MAX_VALUE_BYTES, before=8 << 20),
        "max_scan_items": Limit(default=10_000, least=1, most=MAX_SCAN_ITEMS, before=10_000),
        "max_scan_bytes": Limit(default=1 << 20, least=1, most=MAX_SCAN_BYTES, before=1 << 20),
        "max_reply_bytes": Limit(default=16 << 20, least=1, most=MAX_REPLY_BYTES, before=16 << 20),
    }

    def __init__(self) -> None:
        self._state = State()
        self._checked: dict[int, tuple[bytes, Sequence[Executable], bool]] = {}
        """What `check` decoded, by the identity of the command (most is executed here soon), and
        whether these are puts, all of them."""
        self._checked_bytes = 0
        """Bytes of the commands checked since it was last emptied."""
        self._watches = Watches()
        """Those that this very server keeps: no part of the state."""
        self._version = 0
        self._digest: tuple[int, str] = (-1, "")
        self._room = Room()
        """What the reads of the command at hand have taken so far."""
        self.agree({name: limit.default for name, limit in self.limits.items()})
        self._execute_one: dict[type, Callable[[Any], Result]] = {
            Item: self._put,
            Get: self._get,
            Append: self._append,
            Delete: self._delete,
            CompareAndSet: self._compare_and_set,
            Scan: self._scan,
            PutItem: self._transact,
            Range: self._range,
            DeleteRange: self._transact,
            Txn: self._transact,
            Compact: self._compact,
            Increment: self._increment,
            Grant: self._grant,
            KeepAlive: self._keep_alive,
            Revoke: self._revoke,
            TimeLeft: self._time_left,
            Leases: self._leases,
            Events: self._events,
            Enqueue: lambda operation: enqueue(self._state, self._bounds, operation),
            Unclaimed: lambda operation: look(self._state, self._room, operation),
            Claim: lambda operation: claim(self._state, self._bounds, self._room, operation),
        }

    def __len__(self) -> int:
        return len(self._state.data)

    @property
    def revision(self) -> int:
        """Of the store: that of the last write."""
        return self._state.revision

    # --- StateMachine ------------------------------------------------------------------------

    def agree(self, limits: Mapping[str, int]) -> None:
        """Take these limits from now on; what is in the store already stays."""
        self._bounds = Bounds(**limits)
        self._room.most = self._bounds.max_reply_bytes

    def check(self, command: bytes) -> None:
        """Raises ValueError for a command that is not a list of operations."""
        operations, puts = _decoded(command)
        held, self._checked_bytes = self._checked, self._checked_bytes + len(command)
        if self._checked_bytes > _KEPT_BYTES or len(held) >= _KEPT_COMMANDS:
            held.clear()
            self._checked_bytes = len(command)
        held[id(command)] = command, operations, puts

    def cost(self, command: bytes) -> int:
        """About what the reads of a command, or its operations if they are many, will take.

        (What a command reads is bounded by `max_reply_bytes`, however long it is.)
        """
        checked = self._checked.get(id(command))
        if checked is None:
            return len(command)
        _, operations, puts = checked
        count = len(operations)
        if puts or _CHEAP.issuperset(map(type, operations)):
            if count <= _FEW_OPERATIONS:
                return len(command)
            long = len(command) > _LONG_OPERATION * count and count <= _MANY_OPERATIONS
            return len(command) if long else _dear(command, count)
        reads = weight = 0
        for operation in operations:
            reads += self._cost(operation)
            weight += _weight(operation)
        cost = len(command) if weight <= _FEW_OPERATIONS else _dear(command, weight)
        return cost + min(reads, self._bounds.max_reply_bytes)

    def _cost(self, operation: Any) -> int:
        if type(operation) in _CHEAP:
            return 0
        data = self._state.data
        if type(operation) is Txn:
            cost = len(operation.compare) * ROW_BYTES
            if any(compare.end is not None for compare in operation.compare):
                cost += min(len(data), MAX_COMPARED) * LOOK_BYTES
            for branch in (operation.then, operation.otherwise):
                for inner in branch:
                    if type(inner) not in _CHEAP:
                        cost += self._cost(inner)
            return cost
        match operation:
            case Get(key):
                item = data.get(key)
                return 0 if item is None else value_bytes(item.value)
            case Scan(_, limit):
                return min(limit, len(data)) * ROW_BYTES
            case Range(_, bytes(), limit, revision, order):
                looked = min(len(data), MAX_SORTED) if order != "key" else 0
                if revision:
                    looked += len(self._state.history)
                rows = min(limit or len(data), len(data), self._bounds.max_scan_items)
                return rows * ROW_BYTES + looked * LOOK_BYTES
            case DeleteRange(_, bytes()):
                return min(len(data), MAX_REVISION_EVENTS) * ROW_BYTES
            case Events() | Compact():
                return min(len(self._state.history), _DIGEST_KEYS) * 64
            case Unclaimed() | Claim():
                return looking(self._state, operation)
            case _:
                return 0

    def advance(self, time: int) -> None:
        """Set the log's time, in nanoseconds, at which the next commands are executed."""
        self._version += 1
        self._state.history.advance(time, self._state.revision)

    def apply(self, command: bytes) -> bytes:
        """Execute a list of operations, return the list of their results.

        Raises ValueError for a malformed command, before anything is changed.
        """
        checked = self._checked.pop(id(command), None) if self._checked else None
        operations, puts = _decoded(command) if checked is None else checked[1:]
        self._version += 1
        if len(operations) == 1 and type(put := operations[0]) is Item and self._put_alone(put):
            return _encoder.encode((self._state.revision,))
        results: list[Result] = []
        most = self._bounds.max_value_bytes
        if not puts or len(command) > most or self._put_many(operations, results) < len(operations):  # type: ignore[arg-type]
            self._room.begin()
            short = len(command) <= most
            for kind, them in groupby(operations[len(results) :], type):
                done, run = 0, list(them)
                if kind is Item and (
                    short or all(len(put.value) <= most for put in run)  # type: ignore[union-attr,arg-type]
                ):
                    done = self._put_many(run, results)  # type: ignore[arg-type]
                results += map(self._execute, run[done:] if done else run)
        self._state.keep_index()
        return encode_results(results)

    def _put_alone(self, put: Item) -> bool:
        """Carry out a command's only put; False, and nothing is changed, if it is no plain one."""
        state, bounds = self._state, self._bounds
        key, held = put.key, state.data.get(put.key)
        if (
            put.lease
            or not 0 < len(key) <= bounds.max_key_bytes
            or len(put.value) > bounds.max_value_bytes
        ):
            return False
        history, size = state.history, EVENT_BYTES
        if held is None:
            if state.index is not None:
                state.unindexed.add(key)
            put.created = put.modified = state.revision + 1
            put.version = 1
        elif held.lease:
            return False
        else:
            key = put.key = held.key
            put.created = held.created
            put.modified = state.revision + 1
            put.version = held.version + 1
            size += len(held.value)
        state.revision += 1
        state.data[key] = put
        history.items.append(put)
        history.befores.append(key if held is None else held)
        history.count(1, size)
        state.keep_index()
        return True

    def _put_many(self, puts: list[Item], results: list[Result]) -> int:
        """Carry out puts, by far the most frequent operations, whose values are none too long.

        Adds their results, and returns how many were carried out: all up to one that has to do with
        a lease, or is refused.
        """
        state, history, spent = self._state, self._state.history, 0
        data, befores, leased = state.data, history.befores, len(state.leases) > 0
        first, done = state.revision + 1, len(puts)
        for revision, put in enumerate(puts, first):
            held = data.get(put.key)
            if held is None:
                if put.lease or not 0 < len(put.key) <= self._bounds.max_key_bytes:
                    done = revision - first
                    break
                put.created = revision
                put.version = 1
                if state.index is not None:
                    state.unindexed.add(put.key)
                befores.append(put.key)
            elif put.lease or (leased and held.lease):
                done = revision - first
                break
            else:
                put.key = held.key  # one object of each key, which as itself is soon found
                put.created = held.created
                put.version = held.version + 1
                spent += len(held.value)
                befores.append(held)
            put.modified = revision
            data[put.key] = put
        if done:
            state.revision += done
            history.items += puts[:done] if done < len(puts) else puts
            history.count(done, spent + done * EVENT_BYTES)
            results += range(first, first + done)
        return done

    def query(self, query: bytes) -> bytes:
        """Answer a list of reads. Raises ValueError for anything else."""
        operations = decode_operations(query)
        if not only_reads(operations):
            raise ValueError("a query may only hold reads: send writes as a command")
        self._room.begin()
        return encode_results([self._execute(operation) for operation in operations])

    def watch(self, number: int, query: bytes) -> bytes | None:
        """Answer `Events` as a query does, or keep it until there are some."""
        return self._watches.ask(number, query, self._state, self._bounds.max_scan_bytes)

    def unwatch(self, number: int) -> None:
        self._watches.drop(number)

    def happened(self) -> list[tuple[int, bytes]]:
        return self._watches.happened(self._state, self._bounds.max_scan_bytes)

    def keeps(self, number: int) -> bool:
        """Whether an answered watch was told all there was, and goes on from there."""
        return self._watches.keeps(number)

    def watched_through(self) -> bytes:
        """The store's revision: as far as all watches kept are complete."""
        return encode_results([self._state.revision])

    def snapshot(self) -> bytes:
        return encode_state(self._state)

    def restore(self, snapshot: bytes) -> None:
        """Become what `snapshot` holds. Raises ValueError if it is not a snapshot of a store."""
        self._state = decode_state(snapshot)
        self._version += 1
        self._watches.start_anew()

    def next_wakeup(self) -> int | None:
        """When the next lease ends, by the log's time in nanoseconds; None if there is none."""
        lease = self._state.leases.next_due()
        return None if lease is None else lease.due

    def wake(self, time: int) -> bool:
        """End leases that are due, each in a revision of its own, as many as are soon done.

        Returns whether there are more.
        """
        self.advance(time)
        state, size = self._state, 0
        for _ in range(_ENDED_AT_ONCE):
            lease = state.leases.next_due()
            if lease is None or lease.due > time:
                break
            size += lease.bytes
            if size > MAX_REVISION_BYTES and size > lease.bytes:
                break
            state.end_lease(lease.id)
        state.keep_index()
        lease = state.leases.next_due()
        return lease is not None and lease.due <= time

    def renews(self, command: bytes) -> bool:
        """Whether it is a list of nothing but `KeepAlive`."""
        checked = self._checked.get(id(command))
        operations = decode_operations(command) if checked is None else checked[1]
        return bool(operations) and {KeepAlive}.issuperset(map(type, operations))

    def figures(self) -> Mapping[str, int]:
        state = self._state
        return {
            "keys": len(state.data),
            "leases": len(state.leases),
            "revision": state.revision,
            "oldest_revision": state.history.oldest,
        }

    def digest(self) -> str:
        """A fingerprint of the state, the same on servers that executed the same commands.

        It covers keys, all that belongs to them and the order in which they came in (which is a
        function of the commands executed, snapshots included), so nothing has to be sorted; and
        history, leases and the log's time. Computed when asked for and kept until the next command.
        Its cost is bounded by some 20 ms, for a server that is asked for its status stands still
        meanwhile: of a store with more than 20,000 keys and events or 8 MiB of values it covers the
        numbers of all that and what was put in last (5,000 of each), and begins with "~".
        """
        if self._digest[0] != self._version:
            self._digest = (self._version, self._compute_digest())
        return self._digest[1]

    def _compute_digest(self) -> str:
        state = self._state
        data, history = state.data, state.history
        numbers = (
            len(data), state.revision, history.oldest, history.compacted, history.now,
            history.aged, history.bytes, len(history), len(state.leases),
        )  # fmt: skip
        hashed = hashlib.blake2b(_encoder.encode(numbers), digest_size=16)
        if len(data) + len(history) <= _DIGEST_KEYS and history.bytes <= _DIGEST_BYTES:
            size = sum(len(item.value) for item in data.values())
            if size <= _DIGEST_BYTES:
                hashed.update(encode_state(state))
                return hashed.hexdigest()
        budget = _DIGEST_BYTES
        for key in islice(reversed(data), _DIGEST_PART_KEYS):
            item = data[key]
            hashed.update(_encoder.encode(item))
            budget -= len(item.value)
            if budget < 0:
                break
        for revision, before in history.changes(
            max(history.first, history.end - _DIGEST_PART_KEYS)
        ):
            hashed.update(b"%d %b" % (revision, key_of(before)))
        return "~" + hashed.hexdigest()

    # --- operations --------------------------------------------------------------------------

    def _execute(self, operation: Executable) -> Result:
        try:
            return self._execute_one[type(operation)](operation)
        except Refusal as refused:
            return refused.result

    def _get(self, operation: Get) -> Result:
        key = operation.key
        if len(key) > self._bounds.max_key_bytes:
            self._bounds.check_key(key)
        item = self._state.data.get(key)
        if item is None:
            return None
        self._room.take(len(item.value))
        return as_bytes(item.value)

    def _put(self, operation: Item) -> Result:
        if operation.lease:
            raise Refusal("a put of this kind takes no lease")
        self._write(operation.key, operation.value, 0)
        return self._state.revision

    def _write(self, key: bytes, value: bytes, lease: int) -> None:
        self._bounds.check_key(key)
        self._bounds.check_value(len(value))
        state = self._state
        held = state.data.get(key)
        revision = state.revision + 1
        if held is None:
            item = Item(key, value, revision, revision, 1, lease)
        else:
            item = Item(held.key, value, held.created, revision, held.version + 1, lease)
        state.commit({item.key: item})

    def _append(self, operation: Append) -> Result:
        key, value = operation.key, operation.value
        held = self._state.data.get(key)
        if held is None:
            self._write(key, value, 0)
            return len(value)
        size = len(held.value) + len(value)
        self._bounds.check_value(size)
        whole: bytes | bytearray = held.value
        if size < SHORT_VALUE and type(whole) is bytes:
            self._write(key, whole + value, held.lease)
        else:
            self._extend(held, value)
        return size

    def _extend(self, held: Item, value: bytes) -> None:
        """Append in place: what the key was shares its bytes with what it becomes."""
        whole: bytes | bytearray = held.value
        buffer = whole if type(whole) is bytearray else bytearray(whole)
        before = len(whole)
        buffer += value
        revision = self._state.revision + 1
        item = Item(held.key, buffer, held.created, revision, held.version + 1, held.lease)  # type: ignore[arg-type]
        held.value = Prefix(buffer, before)  # type: ignore[assignment]
        try:
            self._state.commit({held.key: item})
        except Refusal:
            held.value = whole  # type: ignore[assignment]
            del buffer[before:]
            raise

    def _delete(self, operation: Delete) -> Result:
        key = operation.key
        if len(key) > self._bounds.max_key_bytes:
            self._bounds.check_key(key)
        if key not in self._state.data:
            return False
        self._state.commit({key: None})
        return True

    def _compare_and_set(self, operation: CompareAndSet) -> Result:
        key, new = operation.key, operation.new
        self._bounds.check_key(key)
        if new is not None:
            self._bounds.check_value(len(new))
        held = self._state.data.get(key)
        if (None if held is None else held.value) != operation.expected:
            return False
        if new is not None:
            self._write(key, new, 0)
        elif held is not None:
            self._state.commit({key: None})
        return True

    def _increment(self, operation: Increment) -> Result:
        key, by = operation.key, operation.by
        held = self._state.data.get(key)
        before = 0 if held is None else whole_number(held.value)
        if before is None:
            raise Refusal("the value is not a whole number, so nothing can be added to it")
        total = before + by
        if not -MAX_NUMBER - 1 <= total <= MAX_NUMBER:
            raise Refusal(f"{total} would not fit into 64 bits")
        self._write(key, b"%d" % total, 0 if held is None else held.lease)
        return total

    def _transact(self, operation: Txn | PutItem | DeleteRange) -> Result:
        state, bounds = self._state, self._bounds
        if isinstance(operation, Txn):
            result = one_put(state, bounds, operation)
            if result is None:
                return Transaction(state, bounds, self._room).run(operation)
            return result
        return Transaction(state, bounds, self._room).run_alone(operation)

    def _scan(self, operation: Scan) -> Result:
        limit = operation.limit
        if not 1 <= limit <= _MOST_SCAN_LIMIT:
            raise Refusal(f"a scan's limit has to be from 1 to {_MOST_SCAN_LIMIT}")
        first, end = prefix_span(operation.prefix)
        after = operation.start_after
        if after and after >= operation.prefix:
            first = after + b"\0"
        wanted = Range(first, end, limit=min(limit, self._bounds.max_scan_items))
        _, _, more, rows, rest = self._range(wanted)
        return [more or rest is not None, [(row[0], row[1]) for row in rows]]

    def _range(self, operation: Range) -> Result:
        self._room.look()
        bounds, state = self._bounds, self._state
        view = state.at(operation.revision)
        try:
            page = read_range(
                view, operation, max_items=bounds.max_scan_items, max_bytes=bounds.max_scan_bytes
            )
        except Refusal:
            self._room.waste(looked_in_vain(view, operation))
            raise
        self._room.spend(page.work + page.looked)
        return [state.revision, page.count, page.more, page.rows, page.rest]

    def _compact(self, operation: Compact) -> Result:
        state, history = self._state, self._state.history
        if operation.revision <= max(history.compacted, history.oldest - 1):
            raise state.compacted(operation.revision)
        state.check_revision(operation.revision)
        self._watches.look(state, self._bounds.max_scan_bytes)
        history.compact(operation.revision)
        history.compacted = operation.revision
        return history.oldest

    def _events(self, operation: Events) -> Result:
        self._room.look()
        result, _, size = answer_events(self._state, operation, self._bounds.max_scan_bytes)
        self._room.spend(size)
        return result

    # --- leases ------------------------------------------------------------------------------

    def _grant(self, operation: Grant) -> Result:
        number, leases, now = operation.lease, self._state.leases, self._state.history.now
        if not 0 < number <= MAX_NUMBER:
            raise Refusal("a lease's id is a number from 1 to 2^63 - 1")
        if not 0 < operation.ttl <= MAX_TTL_MS:
            raise Refusal(f"a lease lives from 1 to {MAX_TTL_MS} ms")
        if leases.get(number) is not None:
            raise Refusal(f"there is a lease {number:x} already", "exists")
        if len(leases) >= MAX_LEASES:
            raise Refusal(f"there are {MAX_LEASES} leases already", "large")
        ttl = max(operation.ttl, MIN_TTL_MS) * _MS
        leases.add(Lease(number, ttl, now + ttl, {}))
        return ttl // _MS

    def _lease(self, number: int) -> Lease:
        lease = self._state.leases.get(number)
        if lease is None:
            raise Refusal(f"there is no lease {number:x}: it has ended", "lease")
        return lease

    def _keep_alive(self, operation: KeepAlive) -> Result:
        lease = self._lease(operation.lease)
        self._state.leases.renew(lease, self._state.history.now)
        return lease.ttl // _MS

    def _revoke(self, operation: Revoke) -> Result:
        self._state.end_lease(self._lease(operation.lease).id)
        return self._state.revision

    def _time_left(self, operation: TimeLeft) -> Result:
        lease = self._state.leases.get(operation.lease)
        if lease is None:
            return None
        keys = []
        if operation.keys:
            self._room.look()
            keys = sorted(lease.keys)
            self._room.spend(sum(map(len, keys)) + len(keys) * LOOK_BYTES)
        left = lease.left(max(self.now, self._state.history.now))
        return [left // _MS, lease.ttl // _MS, keys]

    def _leases(self, operation: Leases) -> Result:
        self._room.look()
        ids = self._state.leases.ids()
        self._room.spend(len(ids) * LOOK_BYTES)
        return ids
