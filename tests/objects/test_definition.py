"""What a class may look like; whatever cannot work is refused when it is defined."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType
from typing import Annotated, Any, ClassVar, Generic, TypeVar
from uuid import uuid4

import pytest
from msgspec import Meta

from paxon import Replicated, command, proxy, query, since
from paxon.kvstore.objects.machine import machine_of
from tests.objects.classes import Bank

K = TypeVar("K")
V = TypeVar("V")


class Plain:
    pass


def refused(text: str, define: Callable[[], object]) -> None:
    with pytest.raises(TypeError) as caught:
        define()
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_carried_is_refused_with_the_arguments_name() -> None:
    def one() -> None:
        class Bad(Replicated):
            @command
            def put(self, key: str, what: Plain) -> None: ...

    def two() -> None:
        class Bad(Replicated):
            @command
            def put(self, key: str, each: list[Callable[[], None]]) -> None: ...

    def three() -> None:
        class Bad(Replicated):
            @command
            def put(self, key: str) -> Plain:
                return Plain()

    def four() -> None:
        class Bad(Replicated):
            @command
            def put(self, what: list[int] | tuple[int, int]) -> None: ...

    refused("Bad.put: argument 'what' cannot be carried: Plain is no dataclass", one)
    refused("Bad.put: argument 'what' cannot be carried: Type unions may not contain more", four)
    refused("Bad.put: argument 'each' cannot be carried", two)
    refused("Bad.put: its result cannot be carried", three)


def test_what_has_no_annotation_is_refused() -> None:
    def argument() -> None:
        class Bad(Replicated):
            @command
            def put(self, key) -> None: ...  # type: ignore[no-untyped-def]

    def result() -> None:
        class Bad(Replicated):
            @command
            def put(self, key: str): ...  # type: ignore[no-untyped-def]

    def field() -> None:
        class Bad(Replicated):
            def __init__(self) -> None:
                self.count = 0

    def pair() -> None:
        class Bad(Replicated):
            one: int

            def __init__(self) -> None:
                self.one, self.other = 1, 2

    def plain() -> None:
        class Bad(Replicated):
            what: Plain

    def stars() -> None:
        class Bad(Replicated):
            @command
            def put(self, *keys: str) -> None: ...

    def nonsense() -> None:
        class Bad(Replicated):
            @command
            def put(self, key: NoSuchThing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    refused("Bad.put: argument 'key' has no annotation", argument)
    refused("Bad.put: its result has no annotation", result)
    refused("Bad.__init__ sets self.count without an annotation", field)
    refused("Bad.__init__ sets self.other without an annotation", pair)
    refused("Bad.what cannot be kept: Plain is no dataclass", plain)
    refused("Bad.put: *keys cannot be carried", stars)
    refused("Bad.put(key): its annotation 'NoSuchThing' means nothing here", nonsense)


def test_a_set_in_the_state_is_refused_wherever_it_is() -> None:
    @dataclass
    class Team:
        names: set[str]

    def plain() -> None:
        class Bad(Replicated):
            def __init__(self) -> None:
                self.members: set[str] = set()

    def inside() -> None:
        class Bad(Replicated):
            def __init__(self) -> None:
                self.teams: dict[str, Team] = {}

    def argument() -> None:
        class Bad(Replicated):
            @command
            def put(self, names: frozenset[str]) -> None: ...

    refused("Bad.members holds a set, whose order differs from server to server: use a dict", plain)
    refused("Bad.teams holds a set", inside)
    refused("Bad.put: argument 'names' is a set", argument)


def test_a_result_with_a_set_that_cannot_be_sorted_is_refused() -> None:
    def given(result: Any) -> type[Replicated]:
        def put(self: Any) -> Any: ...

        put.__annotations__["return"] = result
        return type("Bad", (Replicated,), {"put": command(put), "__module__": __name__})

    for good in (
        set[str], dict[str, frozenset[tuple[int, bytes]]], set[bool] | None, set[tuple[int, ...]]
    ):  # fmt: skip
        assert given(good)
    for bad in (
        set, set[Any], set[int | str], set[float], set[frozenset[str]], dict[int, set[str]],
        set[tuple[int, float]], set[tuple[float, ...]],
    ):  # fmt: skip
        refused("Bad.put: its result holds a set that cannot always be", lambda bad=bad: given(bad))  # type: ignore[misc]


def test_names_and_versions_that_clash_are_refused() -> None:
    def taken() -> None:
        class Bad(Replicated):
            @command
            def random(self) -> None: ...  # type: ignore[override]

    def twice() -> None:
        class Bad(Replicated):
            @command
            def put(self) -> None: ...

            @command(name="put")
            def put_again(self) -> None: ...

    def half() -> None:
        class Bad(Replicated):
            def snapshot(self) -> bytes:
                return b""

    class Same(KeyError):
        pass

    Same.__name__ = "KeyError"

    def arguments() -> None:
        command(raises=(int,))  # type: ignore[arg-type]

    refused("Bad.random: the name belongs to Replicated", taken)
    refused("Bad.put has two bodies since version 1", twice)
    refused("define both snapshot and restore", half)
    refused("give a tuple of classes of exceptions", arguments)
    refused("two of them have one name", lambda: command(raises=(KeyError, Same)))
    refused("@command is for methods, once for each", lambda: command(command(half)))
    refused("@query with name=3: a name is a str", lambda: query(name=3))  # type: ignore[call-overload]
    refused("class Bad with name=3: a name is", lambda: type("Bad", (Replicated,), {}, name=3))
    refused("a version is an int from 1", lambda: command(since=0))
    refused("a version is an int from 1", lambda: command(since=1 << 70))
    refused("a version is an int from 1", lambda: since(0))
    refused("a version is an int from 1", lambda: since(True))


def test_what_would_not_be_executed_or_kept_as_it_reads_is_refused() -> None:
    class Base(Replicated):
        @command
        def put(self) -> None: ...

    def plain(self: Any) -> None: ...
    def alone() -> None: ...
    def given(self: Any, to: list[int] = []) -> None: ...  # noqa: B006
    def each(self: Any) -> Iterator[int]:
        yield 1

    async def later(self: Any) -> None: ...

    def marked(function: Any) -> Any:
        again = FunctionType(function.__code__, globals(), argdefs=function.__defaults__)
        again.__annotations__ = function.__annotations__
        return command(again)

    outermost = "so it has to be a method with @command or @query outermost"
    of_replicated = "the name belongs to Replicated"
    hidden = "a field cannot have the name of a method or property"
    for members, text in (
        ({"put": plain}, outermost),
        ({"put": None}, outermost),
        ({"get": property(marked(plain))}, outermost),
        ({"get": staticmethod(marked(plain))}, outermost),
        ({"get": marked(later)}, "cannot be async"),
        ({"get": marked(each)}, "cannot be a generator: return a list"),
        ({"get": marked(alone)}, "takes no self"),
        ({"get": marked(given)}, "the default of argument 'to' is a list, which one call could"),
        ({"__eq__": marked(plain)}, of_replicated),
        ({"close": marked(plain)}, of_replicated),
        ({"size": cached_property(plain)}, "Bad.size is a cached_property, and what it keeps"),
        ({"kept": []}, "Bad.kept is a list without annotation, so it would be lost"),
        ({"__annotations__": {"timers": int}}, hidden),
        ({"__annotations__": {"get": int}, "get": plain}, hidden),
    ):
        refused(text, lambda members=members: type("Bad", (Base,), members))  # type: ignore[misc]


def test_fields_of_body_and_init_and_of_the_classes_above() -> None:
    class Base(Replicated):
        limit: int = 3
        shared: ClassVar[list[int]] = []
        most: ClassVar = 7

        def __init__(this) -> None:  # noqa: N805
            this.__hidden: "list[int]" = []  # noqa: UP037
            super().__init__()

    class Other(Base):
        def __init__(self) -> None:
            super().__init__()
            self.newer: Annotated[float, Meta(ge=0), since(3)] = 0.5
            self.any: dict[str, Any] = {}
            self.limit = 4

    fields = Other.__paxon_definition__.fields
    assert list(fields) == ["limit", "_Base__hidden", "newer", "any"]
    assert (fields["newer"].since, fields["any"].since) == (3, 1)
    assert fields["newer"].annotation == Annotated[float, Meta(ge=0)]
    assert Other.__paxon_definition__.newest == 3
    assert machine_of(Other()).snapshot()


def test_type_variables_are_what_the_classes_below_put_in() -> None:
    class Base(Replicated, Generic[K]):
        def __init__(self) -> None:
            self.keys: list[K] = []

    class Other(Base[K], Generic[V, K]):
        def __init__(self) -> None:
            super().__init__()
            self.by: dict[K, V] = {}

    class Below(Other[int, str]): ...

    class Left(Base[K]): ...

    class Right(Base[int]): ...

    class Both(Left, Right): ...  # type: ignore[type-arg]

    def kept(cls: type[Replicated]) -> list[Any]:
        return [field.annotation for field in cls.__paxon_definition__.fields.values()]

    assert kept(Below) == [list[str], dict[str, int]]
    assert kept(Other) == [list[Any], dict[Any, Any]]
    assert kept(Both) == [list[int]]  # what one base leaves open another says


def test_other_arguments_of_a_class_go_to_the_other_bases() -> None:
    class Mixin:
        def __init_subclass__(cls, *, colour: str, **others: Any) -> None:
            super().__init_subclass__(**others)
            cls.colour = colour

        colour: ClassVar[str]

    class Flags(Replicated, Mixin, name="flags", colour="red"): ...

    assert (Flags.colour, Flags.__paxon_definition__.name) == ("red", "flags")


def test_what_is_no_field_cannot_be_set() -> None:
    class Counter(Replicated):
        most = 10
        __slots__ = ("kept",)

        def __init__(self) -> None:
            self.count: int = 0

        @command
        def add(self) -> None:
            self.cuont = 1

        @command
        def raise_most(self) -> None:
            self.most = 20  # (of the class: it would be 10 again)

        @command
        def keep(self) -> None:
            self.kept = 1

        @command
        def drop(self) -> None:
            del self.count

        @property
        def twice(self) -> int:
            return 2 * self.count

        @twice.setter
        def twice(self, value: int) -> None:
            self.count = value // 2

        @query
        def look(self) -> None:
            self.count += 1

    counter = Counter()
    for act, name in ((counter.add, "cuont"), (counter.raise_most, "most"), (counter.keep, "kept")):
        with pytest.raises(AttributeError, match=f"Counter.{name} is no field of the state"):
            act()
    with pytest.raises(AttributeError, match=r"Counter.count is a field .* instead of deleting it"):
        counter.drop()
    counter.look()  # (an object by itself is a plain one)
    assert (counter.count, counter.twice) == (1, 2)
    counter.twice = 2
    assert counter.count == 1


def test_a_field_that_init_leaves_out_or_fills_wrongly_is_refused() -> None:
    class Absent(Replicated):
        count: int

    class Wrong(Replicated):
        def __init__(self) -> None:
            self.count: int = "three"  # type: ignore[assignment]

    class Drawn(Replicated):
        def __init__(self, by: int = 3) -> None:
            self.count: int = by
            self.token: str = uuid4().hex

    class Given(Replicated):
        def __init__(self, token: str) -> None:
            self.token: str = token

    refused(
        "Drawn.__init__ sets self.token to something else each time, and every server has its own",
        lambda: machine_of(Drawn()),
    )
    assert machine_of(Given("a"))
    refused("Absent.__init__ does not set self.count", lambda: machine_of(Absent()))
    refused("Wrong.count: expected int, got str", lambda: machine_of(Wrong()))


def test_a_class_of_a_function_finds_what_is_defined_there() -> None:
    @dataclass
    class Local:
        name: str

    class Keeper(Replicated):
        def __init__(self) -> None:
            self.kept: list[Local] = []

        @command
        def keep(self, what: Local) -> None:
            self.kept.append(what)

    class Abstract(Keeper, ABC):
        def __init__(self) -> None:
            self.more: list[Local] = []

    class Of(Generic[K], Replicated):  # noqa: PYI059 (whose `__init_subclass__` comes first)
        def __init__(self) -> None:
            self.kept: list[Local] = []

    def keep(self: Any, what: Local) -> None: ...

    made: Any = type("Made", (Replicated,), {"keep": command(keep), "__module__": __name__})
    assert made.__paxon_definition__.attributes["keep"].parameters == ("what",)
    for cls, name in ((Keeper, "kept"), (Abstract, "more"), (Of, "kept")):
        assert cls.__paxon_definition__.fields[name].annotation == list[Local]


def test_what_a_base_names_is_not_what_is_called_alike_around_a_class_below() -> None:
    class Account: ...

    class Savings(Bank):
        @command
        def rate(self) -> int:
            return 1

    def declared(cls: type[Bank]) -> list[Any]:
        found = cls.__paxon_definition__
        return [found.fields["accounts"].annotation, found.attributes["pay_in"].result.type]

    assert declared(Savings) == declared(Bank)


def test_an_object_by_itself_is_a_plain_python_object() -> None:
    class Dice(Replicated):
        def __init__(self) -> None:
            self.last: int = 0

        @command
        def roll(self) -> int:
            self.last = self.random.randint(1, 10**9)
            return self.last

    with proxy("127.0.0.1:1", Dice) as other:
        for none in (Replicated(), other):
            refused("is no object of a subclass of Replicated", lambda none=none: machine_of(none))  # type: ignore[misc]
    assert Dice().roll() == Dice().roll()
    assert Dice().now == 0


def test_a_class_that_is_made_by_a_program_says_that_its_fields_cannot_be_found() -> None:
    def made_by_exec() -> None:
        exec("class Made(Replicated):\n  def __init__(self):\n    self.x: int = 0", globals())

    refused("annotate them in the class's body", made_by_exec)
    begins = {"__init__": lambda self: setattr(self, "x", 0)}
    refused("annotate them in the class's body", lambda: type("Made", (Replicated,), begins))
