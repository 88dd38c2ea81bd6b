"""What executing a log comes to: part of the format, since each server may begin elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from paxon import KVStore, Replicated, StateMachine, command, query
from paxon.actors.disk.data_directory import FORMAT_VERSION
from paxon.actors.execution.agreed import first_agreed
from paxon.actors.execution.application import Application, encode_batch
from paxon.actors.messages import Batch, Entry
from paxon.kvstore.objects.calls import encode
from paxon.kvstore.objects.machine import machine_of
from paxon.kvstore.store.operations import (
    Append,
    Compare,
    DeleteRange,
    Get,
    Grant,
    Increment,
    Operation,
    Put,
    PutItem,
    Range,
    Txn,
    encode_operations,
)
from tests.objects.classes import Bank

SECOND = 1_000_000_000


class Own(Replicated):
    """With a snapshot of its own, and something that it shows."""

    def __init__(self) -> None:
        self.sums = [0]

    @command
    def add(self, number: int) -> int:
        self.sums.append(self.sums[-1] + number)
        self.timers.after(number, self.add, number)
        return self.sums[-1]

    @query(compared=True)
    def last(self) -> list[int]:
        return self.sums[-5:]

    def snapshot(self) -> bytes:
        return encode(self.sums)

    def restore(self, snapshot: bytes) -> None:
        self.sums = msgspec.msgpack.decode(snapshot, type=list[int])


class Plain(Own):
    """The same, and shows nothing."""

    @query
    def last(self) -> list[int]:
        return self.sums[-5:]


OPERATIONS: list[list[Operation]] = [
    [Put(b"a", b"1"), Put(b"b", b"word"), Increment(b"a", 2), Increment(b"b", 2)],
    [Append(b"b", bytes(2000)), Append(b"b", b"s"), Get(b"b"), Grant(5, 3000)],
    [PutItem(b"c", b"1", 5), PutItem(b"c", None, 6), Range(b"", b"", order="value", backward=True)],
    [Txn([Compare(b"a", "value", "=", b"3", b"z")], [DeleteRange(b"a", b"c")], [Get(b"a")])],
    [Txn([Compare(b"a", "version", ">", 0)], [Range(b"", b""), Put(b"d", b"")], []), Get(b"c")],
]
CALLS: dict[Callable[[], Replicated], list[list[Any]]] = {
    Bank: [
        [("pay_in", {"name": "ann", "amount": 5}), ("fail", {"how": "zero"})],
        [("move", {"source": "ann", "target": "bob", "amount": 9})],
        [("fail", {"how": how}) for how in ("declared", "deep", "worded", "exit")],
        [("move", {"source": "eve", "target": "bob", "amount": 1}), ("pay_in", {})],
        [("pay_in", {"name": "bob"}), ("balance", {"name": "bob"}), ("none", {})],
    ],
    Own: [[("add", {"number": number})] for number in range(3, 8)],
    Plain: [[("add", {"number": number})] for number in range(3, 8)],
}


def around(kind: Callable[[], Replicated]) -> Callable[[], StateMachine]:
    return lambda: machine_of(kind())


def ended(machine: Callable[[], StateMachine], commands: list[bytes]) -> list[tuple[str, str, int]]:
    """Hash, state and what is kept, of a server that executed all, and of those that came later."""
    whole = machine()
    servers = [Application(whole, first_agreed({"max_kept_each": 9000}, whole.limits), 7)]
    opening = encode_batch(Batch(0, [Entry(0, 5, 0, 0, b"")]))
    [(_, opened)] = servers[0].execute(1, opening)
    session = int.from_bytes(opened.payload, "big")
    for slot, body in enumerate(3 * commands, 2):
        entries = [Entry(session, 2 * slot + more, 2 * slot - 5, 0, body) for more in (0, 1)]
        value = encode_batch(Batch(SECOND * slot, entries))
        for server in servers:
            server.execute(slot, value)
        late = Application(machine(), servers[0].agreed, 7)
        late.restore(b"".join(servers[0].image()))
        servers.append(late)
    return [(each.chain.head.hex(), each.digest(), each.sessions.kept) for each in servers]


def test_what_slots_come_to_is_part_of_the_format() -> None:
    """A server replays slots that others have executed before, in another release perhaps.

    If this fails, raise `FORMAT_VERSION` and `PROTOCOL_VERSION`, or make what is new depend on what
    is agreed (`Limit.before`); and write down here what the assertion shows.
    """
    runs = [ended(KVStore, [encode_operations(each) for each in OPERATIONS])]
    for kind, calls in CALLS.items():
        runs.append(ended(around(kind), [encode(each) for each in calls]))
    for run in runs:
        assert run == run[:1] * len(run)
    ends = hashlib.blake2b(repr([run[0] for run in runs]).encode(), digest_size=8).hexdigest()
    assert (FORMAT_VERSION, ends) == (11, "c69ece5a9a2705e6")
