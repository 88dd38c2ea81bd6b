"""Parts of the state that servers compare, whatever replies say (docs/design/digests.md)."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
import pytest

from paxon import Replicated, command, query
from paxon.actors.execution.agreed import decode_agreed, encode_agreed, first_agreed
from paxon.actors.messages import ChangeSettings
from paxon.kvstore.objects.calls import encode, encode_answer
from paxon.kvstore.objects.machine import COMPARED_PARTS, VERSION, ObjectMachine, machine_of
from paxon.kvstore.objects.sampling import PARTS, sample
from tests.harness import Cluster
from tests.objects.test_machine import call, restored
from tests.protocol.execution.test_digests import run

NOTHING = encode_answer([])


class Kind(Enum):
    NEW = "new"
    OLD = "old"


@dataclass
class Part:
    name: str
    weight: float
    kind: Kind = Kind.NEW
    of: list[str] = field(default_factory=list)


class Point(msgspec.Struct, frozen=True):
    x: int
    y: int = 0


class Store(Replicated):
    def __init__(self) -> None:
        self.parts: dict[str, Part] = {}
        self.at: dict[Point, list[tuple[int, bytes]]] = {}
        self.text: str = ""
        self.sizes: list[int] = []

    @command
    def fill(self, size: int) -> None:
        for number in range(size):
            part = Part(f"n{number}", self.random.random(), self.random.choice([*Kind]))
            part.of = [f"{number % 7}"] * (number % 3)
            self.parts[f"n{number}"] = part
            self.at[Point(number, number % 2)] = [(number, b"x" * (number % 5))]
            self.sizes.append(number)
            self.text += f"{number} "


def filled(size: int) -> ObjectMachine:
    machine = machine_of(Store())
    machine.agree({VERSION: 1, COMPARED_PARTS: PARTS})
    call(machine, "fill", size=size)
    return machine


def seen_in(machine: ObjectMachine, slot: int) -> bytes:
    machine.enter(slot)
    return machine.comparable(NOTHING)


@pytest.mark.parametrize("size", [0, 1, 3, 40, 900])
def test_of_equal_states_the_same_is_seen(size: int) -> None:
    machine = filled(size)
    again = restored(machine, Store())
    again.agree({VERSION: 1, COMPARED_PARTS: PARTS})
    seen = [seen_in(machine, slot) for slot in range(1, 300)]
    assert seen == [seen_in(again, slot) for slot in range(1, 300)]
    assert seen_in(machine, 301) != machine.comparable(NOTHING) == NOTHING, "once in a slot"


def turned(store: Any) -> None:
    store.parts["n0"] = store.parts.pop("n0")


CHANGES: list[Callable[[Any], None]] = [
    turned,
    lambda store: store.parts.pop("n3"),
    lambda store: store.at[Point(4, 0)].append((0, b"")),
    lambda store: store.sizes.reverse(),
    lambda store: setattr(store, "text", store.text[:-2] + "? "),
    lambda store: setattr(store.parts["n5"], "weight", -1.0),
    lambda store: setattr(store.parts["n2"], "kind", Kind.OLD),
    lambda store: store.timers.after(1, store.fill, 1),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("size", "within"), [(6, 1), (400, 1000)])
def test_what_differs_is_seen(change: Callable[[Any], None], size: int, within: int) -> None:
    """At once in a small state, and elsewhere in time."""
    machine = filled(size)
    for part in machine.object.parts.values():  # type: ignore[attr-defined]
        part.kind = Kind.NEW
    again = restored(machine, Store())
    for each in (machine, again):
        each.agree({VERSION: 1, COMPARED_PARTS: 8 * PARTS if within == 1 else PARTS})
    change(again.object)
    assert any(seen_in(machine, slot) != seen_in(again, slot) for slot in range(1, within + 1))


def test_what_is_seen_is_the_same_in_every_release_and_python() -> None:
    """Else a server of a newer one is stopped by a majority of older ones.

    What is to be seen from now on goes with a new `digest_version`, or a setting of its own.
    """
    machine = filled(100)
    machine.object.parts["all"] = Part("all", 0.5, Kind.OLD, ["a" * 2000, "b"])  # type: ignore[attr-defined]
    seen = blake2b(digest_size=8)
    for slot in range(1, 200):
        seen.update(seen_in(machine, slot))
    state: list[object] = [value for pair in (*ALIKE, *UNLIKE) for value in pair]
    state += [date(2020, 1, 1), Decimal("1.50"), math.inf, (), [None, True], {b"k": -1}]
    for slot in range(1, 200):
        seen.update(sample(state, slot, 10 + slot % 7 * 50))
    assert seen.hexdigest() == "0bdba9d65a0cb382"


def test_every_entry_of_a_large_dict_is_seen_in_time() -> None:
    entries = {number: number for number in range(20_000)}
    other = entries | {random.Random(7).randrange(20_000): -1}
    assert any(
        sample([entries], slot, PARTS) != sample([other], slot, PARTS) for slot in range(20_000)
    )


BEGINS: list[tuple[str, Any]] = [
    ("none", None), ("nan", math.nan), ("kind", Kind.NEW), ("point", Point(0)), ("pair", ()),
    ("day", date(2020, 1, 1)), ("list", msgspec.field(default_factory=list)),
    ("counts", msgspec.field(default_factory=lambda: {"a": 0})),
    ("part", msgspec.field(default_factory=lambda: Part("", 1.0))),
]  # fmt: skip
"""Defaults of each kind."""


def of_dataclass(default: Any) -> Any:
    if type(default) is type(msgspec.field()):
        return field(default_factory=default.default_factory)
    return field(default=default)


def test_code_that_knows_one_field_more_sees_the_same() -> None:
    old, new = (
        msgspec.defstruct("P", [("x", int)]),
        msgspec.defstruct(
            "P", [("x", int), ("y", int, 0), *((name, Any, default) for name, default in BEGINS)]
        ),
    )
    one, other = [old(1), old(2)], [new(1), new(2)]
    assert sample([one], 5, PARTS) == sample([other], 5, PARTS)
    fields: list[Any] = [
        ("x", int),
        *((name, Any, of_dataclass(default)) for name, default in BEGINS),
    ]
    data = dataclasses.make_dataclass("P", fields)
    assert sample([one], 5, PARTS) == sample([[data(1), data(2)]], 5, PARTS)
    setattr(other[0], "y", 3)  # noqa: B010 (unknown to type checkers)
    assert sample([one], 5, PARTS) != sample([other], 5, PARTS)


@dataclass
class Inner:
    counts: dict[str, int] = field(default_factory=dict)
    on: bool = True


class Pair(NamedTuple):
    x: int
    on: bool


class Longer(NamedTuple):
    x: int
    on: bool
    inner: Inner | None = None


def of(*fields: Any, **options: Any) -> Any:
    return msgspec.defstruct("P", fields, kw_only=True, **options)


X, Y = ("x", int), ("y", int)
ALIKE: list[tuple[object, object]] = [
    (of(X, Y)(x=1, y=2), of(Y, X)(x=1, y=2)),
    (of(X, Y)(x=1, y=0), of(X, ("y", int, 0))(x=1)),
    (of(X, Y, array_like=True)(x=1, y=2), of(Y, X, array_like=True)(y=1, x=2)),
    (of(X)(x=1), of(("number", int, msgspec.field(name="x")))(number=1)),
    (of(X)(x=1), of(X, ("inner", Inner, msgspec.field(default_factory=Inner)))(x=1)),
    (Pair(1, False), Longer(1, False)),
]
"""The same in two releases of a program."""
UNLIKE: list[tuple[object, object]] = [
    (of(X, Y)(x=1, y=0), of(X, Y)(x=0, y=1)),
    (of(X, ("on", bool, True))(x=1), of(X, ("on", bool, True))(x=1, on=False)),
    (of(X, tag="a")(x=1), of(X, tag="b")(x=1)),
    (of(("inner", Inner))(inner=Inner()), of(("inner", Inner))(inner=Inner({"a": 0}))),
    (Pair(1, True), Pair(2, True)),
]


def test_what_code_may_change_without_a_word_tells_nobody_apart() -> None:
    for one, other in ALIKE:
        assert sample([[one]], 5, PARTS) == sample([[other]], 5, PARTS)
    for one, other in UNLIKE:
        assert sample([[one]], 5, PARTS) != sample([[other]], 5, PARTS)


def test_the_fields_of_a_class_may_stand_in_another_order() -> None:
    class One(Replicated):
        a: int = 1
        b: int = 2

        @command
        def nothing(self) -> None: ...

    class Other(Replicated):
        b: int = 2
        a: int = 1

        @command
        def nothing(self) -> None: ...

    seen = []
    for kind in (One, Other):
        machine = machine_of(kind())
        machine.agree({VERSION: 1, COMPARED_PARTS: PARTS})
        seen.append(seen_in(machine, 1))
    assert seen[0] == seen[1] != NOTHING


def test_what_a_machine_begins_with_says_nothing_of_the_state() -> None:
    """Such as its own name: the object may come from a client on one of these machines."""

    def on(machine: str) -> list[bytes]:
        made = dataclasses.make_dataclass(
            "Worker", [("name", str), ("host", str, field(default_factory=lambda: machine))]
        )
        read = of(("name", str), ("host", str, machine))
        return [sample([[kind(name="w", host="a")]], 5, PARTS) for kind in (made, read)]

    assert on("a") == on("b")


def test_how_long_it_takes_does_not_depend_on_how_much_an_object_holds() -> None:
    looked_at = 0

    def look(_: object) -> int:
        nonlocal looked_at
        looked_at += 1
        return 1

    counted: Any = dataclasses.make_dataclass("Counted", [X], init=False)
    counted.x = property(look)
    outer = of(("inner", Inner, msgspec.field(default_factory=Inner)))
    sample([outer(inner=Inner({"a": [counted()] * 1000}))], 5, PARTS)  # type: ignore[dict-item]
    assert 0 < looked_at <= PARTS


def test_what_no_snapshot_would_take_is_not_looked_at() -> None:
    round_: list[Any] = []
    round_ += [round_, {"a": round_}]
    assert sample(round_, 1, PARTS) == sample(round_, 1, PARTS)
    assert sample([1 << 70], 1, PARTS) == sample([{1: object()}, 1 << 80], 1, PARTS) == b""
    assert sample([{"a", "b"}], 1, PARTS) == sample([{"b", "c"}], 1, PARTS)
    lacking = Part("a", 1)
    del lacking.name
    assert sample([lacking], 1, PARTS) == b""


def test_memory_that_runs_out_is_no_part_of_the_state() -> None:
    class Full(Part):
        @property
        def name(self) -> str:
            raise MemoryError

        @name.setter
        def name(self, _: str) -> None: ...

    with pytest.raises(MemoryError):
        sample([Full("a", 1)], 1, PARTS)


class Own(Store):
    """Has a snapshot of its own, so it shows itself what is to be compared."""

    def snapshot(self) -> bytes:
        return encode([list(self.parts), self.text])

    def restore(self, snapshot: bytes) -> None:
        raise NotImplementedError

    @query(compared=True)
    def names(self) -> list[str]:
        return list(self.parts)

    @query(compared=True, since=2)
    def time(self) -> list[int]:
        return [self.now, len(self.text)]

    @query(compared=True)
    def fails(self) -> int:
        return 1 // (len(self.parts) % 2)


def test_what_a_class_shows_is_compared_and_in_force_with_its_version() -> None:
    machine, other = machine_of(Own()), machine_of(Own())
    turned_by: dict[int, Callable[[Any], None]] = {
        1: turned,
        2: lambda store: setattr(store, "text", "another"),
        3: lambda store: store.parts.popitem(),
        4: lambda store: store.timers.after(1, store.fill, 1),
    }
    for version in (1, 2):
        for change, turn in turned_by.items():
            for each in (machine, other):
                each.agree({VERSION: version, COMPARED_PARTS: PARTS})
                each.object.__init__()  # type: ignore[misc]
                each.object.timers.waiting.clear()
                call(each, "fill", size=3)
            other.query(encode([("names", {})]))
            other._moment.now = 7  # (as of a query)
            assert seen_in(machine, 10 * version + change) == seen_in(other, 10 * version + change)
            turn(other.object)
            same = seen_in(machine, 30 * version + change) == seen_in(other, 30 * version + change)
            assert same == (version == 1 and change == 2), (version, change)
            other._moment.timers.next_id = machine._moment.timers.next_id


def test_what_is_compared_takes_no_arguments() -> None:
    with pytest.raises(TypeError, match=r"Asked\.of is compared, so it takes no arguments"):

        class Asked(Replicated):
            @query(compared=True)
            def of(self, name: str = "") -> int:
                return 1


def three(kind: type[Store] = Store) -> tuple[Cluster, int]:
    cluster = Cluster(3, machine=lambda: machine_of(kind())).start()
    cluster.lead(1)
    return cluster, cluster.open_session(1)


def change_behind_its_back(cluster: Cluster, server: int) -> None:
    """As a query that changes something would, or memory that fails."""
    cluster.pass_time(0.2)
    machine = cluster.servers[server].application.machine
    assert isinstance(machine, ObjectMachine)
    turned(machine.object)


FILL = encode([("fill", {"size": 3})])
DO_NOTHING = encode([("fill", {"size": 0})])


@pytest.mark.parametrize(("server", "kind"), [(1, Store), (3, Store), (2, Own)])
def test_whose_state_differs_stops_though_no_reply_shows_it(server: int, kind: type[Store]) -> None:
    cluster, session = three(kind)
    cluster.execute(1, session, FILL)
    assert run(cluster, 0.5) == {}
    change_behind_its_back(cluster, server)
    cluster.execute(1, session, DO_NOTHING, first=2)
    [(stopped, reason)] = run(cluster).items()
    assert stopped == server
    assert f"server {server} executed something else from slot 3 on" in reason


def test_where_no_parts_are_compared_replies_alone_are() -> None:
    cluster, session = three()
    cluster.pass_time(0.2)
    cluster.request(1, ChangeSettings(1, 0, {COMPARED_PARTS: 0}))
    cluster.execute(1, session, FILL)
    change_behind_its_back(cluster, 3)
    cluster.execute(1, session, DO_NOTHING, first=2)
    assert run(cluster) == {}
    assert not any(server.describe().alarm for server in cluster.servers.values())


def test_a_cluster_made_by_an_earlier_release_compares_replies_alone() -> None:
    """Its servers are replaced one by one, and meanwhile hash alike."""
    limits = machine_of(Store()).limits
    earlier = {VERSION: limits[VERSION]}
    agreed = decode_agreed(encode_agreed(first_agreed({}, earlier)), limits)
    assert agreed.machine == {VERSION: 1, COMPARED_PARTS: 0}
