"""What is carried as it is, what would be altered, and how that is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import pytest
from msgspec import Meta

from paxon.kvstore.objects.carrying import altered, check_plain, keeping_ints, where_in

POSITIVE = Annotated[float, Meta(ge=0)]


@pytest.mark.parametrize(
    ("declared", "kept"),
    [
        (float, int | float),
        (list[float], list[int | float]),
        (dict[str, list[float]], dict[str, list[int | float]]),
        (tuple[float, ...], tuple[int | float, ...]),
        (tuple[str, float], tuple[str, int | float]),
        (float | None, int | float | None),
        (POSITIVE, POSITIVE),
        (list, list),
        (str, str),
    ],
)
def test_an_int_may_be_kept_wherever_a_float_is_declared(declared: Any, kept: Any) -> None:
    assert keeping_ints(declared) == kept


@dataclass
class Point:
    x: int
    what: Any = None


@pytest.mark.parametrize(
    ("value", "kinds", "text"),
    [
        ([1, {"a": [None, 1.5, b"", True]}], (), ""),
        ({"a": (1,)}, (), "a tuple is no plain data"),
        ({(1,): "a"}, (), "a tuple is no plain data"),
        ([[Point(1)]], (), "a Point is no plain data"),
        ([Point(1, [Point(2)]), bytearray(b"x")], (Point, bytearray), ""),
        (Point(1, {1: {2}}), (Point,), "a set is no plain data"),
    ],
)
def test_of_any_is_taken_what_is_plain_all_through(value: Any, kinds: Any, text: str) -> None:
    if text:
        with pytest.raises(TypeError, match=text):
            check_plain(value, kinds)
    else:
        check_plain(value, kinds)


class Summing:
    rows: Any

    @cached_property
    def total(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Fixed(Summing):
    rows: tuple[Any, ...]


@dataclass
class Loose(Summing):
    rows: list[Any]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Fixed((1, (2,))), ""),
        (lambda: Fixed((1, [2])), "a Fixed, which would have no total"),
        (lambda: Fixed(([2], 1)), "a Fixed, which would have no total"),
        (lambda: Loose([1]), "a Loose, which would have no total"),
    ],
)
def test_what_a_property_keeps_comes_again_if_nothing_can_change(
    make: Callable[[], Summing], text: str
) -> None:
    one = make()
    assert altered([one], [make()]) == ""
    assert one.total == len(one.rows)
    assert altered([one], [make()]) == text


def test_what_is_set_beside_the_fields_would_be_lost() -> None:
    one = Loose([1])
    one.__dict__.update(later=1, also=2)
    assert altered(one, Loose([1])) == "a Loose, which would have no also"
    assert altered([1], [1, 2]) == "a list, which would be another"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Expected `int`, got `str` - at `$.size`", ("size", "expected int, got str")),
        ("Expected `int` - at `$.sizes[0].x`", ("sizes", "expected int at [0].x")),
        ("Expected `int` - at `key` in `$.by`", ("by", "expected int in a key")),
        ("Expected `array` - at `$[1]`", ("", "expected array at [1]")),
        ("Input data was truncated", ("", "input data was truncated")),
    ],
)
def test_where_an_error_is(text: str, found: tuple[str, str]) -> None:
    assert where_in(ValueError(text)) == found
