"""What can be carried between servers and to disk, and what is wrong with the rest.

msgspec does the carrying, by annotations. What it would carry changed is refused here: a set's
order differs from process to process, and what is annotated as Any arrives as plain data.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import re
import types
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import inspect as shapes

__all__ = [
    "Shape",
    "altered",
    "can_change",
    "check_ordered",
    "check_plain",
    "keeping_ints",
    "shared_part",
    "shape_of",
    "substitute",
    "where_in",
]

_OWN = (
    shapes.ListType, shapes.DictType, shapes.TypedDictType, shapes.StructType,
    shapes.DataclassType, shapes.ByteArrayType,
)  # fmt: skip
"""Of which one object in two places is more than two that are equal."""

_IN_ORDER = (
    shapes.IntType, shapes.BoolType, shapes.StrType, shapes.BytesType, shapes.DateType,
    shapes.TimeDeltaType, shapes.UUIDType,
)  # fmt: skip
"""Any two of one of these can be compared, and always are alike."""

_KINDS: dict[type, type] = {
    shapes.SetType: set,
    shapes.FrozenSetType: frozenset,
    shapes.TupleType: tuple,
    shapes.VarTupleType: tuple,
    shapes.ByteArrayType: bytearray,
    shapes.DateTimeType: datetime.datetime,
    shapes.DateType: datetime.date,
    shapes.TimeType: datetime.time,
    shapes.TimeDeltaType: datetime.timedelta,
    shapes.UUIDType: uuid.UUID,
    shapes.DecimalType: decimal.Decimal,
}

PLAIN = (type(None), bool, int, float, str, bytes)


class Shape(msgspec.Struct, frozen=True):
    """The facts of an annotation."""

    wrong: str = ""
    """Why it cannot be carried, "" if it can."""
    has_set: bool = False
    has_any: bool = False
    """Somewhere in it is a value of which nothing is known."""
    kinds: tuple[type, ...] = ()
    """Classes that it names besides plain data."""
    deep: bool = False
    """Within it may be what must not be shared."""
    unordered: bool = False
    """It has a set of elements, or beside a set a dict of keys, that msgspec cannot always sort."""


def shape_of(annotation: Any) -> Shape:
    """Look all through an annotation."""
    try:
        root = shapes.type_info(annotation)
    except (TypeError, ValueError, AttributeError, NameError) as error:
        return Shape(str(error).splitlines()[0] if str(error) else type(error).__name__)
    has_set = has_any = unordered = other_keys = False
    own = 0
    kinds: list[type] = []
    for found in _parts(root):
        if isinstance(found, shapes.SetType | shapes.FrozenSetType):
            has_set = True
            unordered |= not _in_order(found.item_type)
        elif isinstance(found, shapes.AnyType):
            has_any = True
        elif isinstance(found, shapes.CustomType | shapes.RawType | shapes.ExtType) or (
            isinstance(found, shapes.DataclassType) and not dataclasses.is_dataclass(found.cls)
        ):
            name = getattr(getattr(found, "cls", None), "__qualname__", type(found).__name__)
            return Shape(f"{name} is no dataclass, no msgspec.Struct and nothing built in")
        elif isinstance(found, shapes.DictType):
            other_keys |= not isinstance(found.key_type, shapes.StrType)
        own += isinstance(found, _OWN)
        kinds.append(getattr(found, "cls", _KINDS.get(type(found), int)))
    alone = isinstance(root, shapes.ListType | shapes.DictType | shapes.ByteArrayType)
    deep = has_any or own > alone
    return Shape("", has_set, has_any, tuple(kinds), deep, has_set and (unordered or other_keys))


def _in_order(item: Any) -> bool:
    """Whether elements of a set can be sorted in one way alone."""
    if isinstance(item, shapes.TupleType):
        return all(map(_in_order, item.item_types))
    if isinstance(item, shapes.VarTupleType):
        return _in_order(item.item_type)
    return isinstance(item, _IN_ORDER)


def _parts(root: Any) -> Iterator[Any]:
    """All types within one."""
    seen: set[int] = set()
    kept: list[Any] = []
    ahead = [root]
    while ahead:
        part = ahead.pop()
        if isinstance(part, tuple | list):
            ahead += part
        elif isinstance(part, shapes.Type | shapes.Field):
            key = id(getattr(part, "cls", part))
            if key in seen and not isinstance(part, shapes.Field):
                continue
            seen.add(key)
            kept.append(part)
            if isinstance(part, shapes.Type):
                yield part
            ahead += [
                getattr(part, name)
                for name in part.__struct_fields__
                if name not in {"cls", "default", "default_factory"}
            ]


def substitute(annotation: Any, known: dict[Any, Any]) -> Any:
    """With type variables replaced by what a subclass has put in; Any for those left open."""
    if isinstance(annotation, TypeVar):
        return known.get(annotation, Any)
    parameters = getattr(annotation, "__parameters__", ())
    if not parameters or isinstance(annotation, type):
        return annotation
    return annotation[tuple(known.get(each, Any) for each in parameters)]


def keeping_ints(annotation: Any) -> Any:
    """With int | float for each float.

    An int may stand where a float is declared, and has to be an int again after a restart: 3 and
    3.0 are equal and do not read the same.
    """
    if annotation is float:
        return int | float
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is None or not args:
        return annotation
    if origin is Annotated:
        # What bounds a float would not take the int beside it.
        return annotation
    if origin in (Union, types.UnionType):
        return Union[tuple(keeping_ints(each) for each in args)]  # noqa: UP007 (made at run time)
    if origin in (list, dict, tuple):
        return origin[tuple(keeping_ints(each) if each is not Ellipsis else each for each in args)]
    return annotation


def check_plain(value: object, kinds: tuple[type, ...] = ()) -> None:
    """Raise `TypeError` for a value, annotated as Any, that would arrive as something else.

    What the annotation names besides is taken, too. The value has been encoded, so it ends.
    """
    ahead = [value]
    while ahead:
        each = ahead.pop()
        kind = type(each)
        if kind in PLAIN:
            continue
        if kind is list:
            ahead += each  # type: ignore[arg-type]
        elif kind is dict:
            ahead += each.keys()  # type: ignore[attr-defined]
            ahead += each.values()  # type: ignore[attr-defined]
        elif kind in kinds:
            ahead += [] if kind is bytearray else _contents(each, True)[0]
        else:
            raise TypeError(
                f"{_a(kind)} is no plain data (None, bool, int, float, str, bytes, list, "
                "dict): annotate its type"
            )


def check_ordered(value: object) -> None:
    """Raise `TypeError` for what would be written in the order of a set.

    That differs from process to process, and what is not declared as a set is not sorted. The
    value has been encoded, so it ends.
    """
    ahead = [value]
    while ahead:
        each = ahead.pop()
        if isinstance(each, set | frozenset):
            raise TypeError(
                f"{_a(type(each))} in place of a list has another order on each server: sort it"
            )
        ahead += () if type(each) in PLAIN else _contents(each, True)[0]


def shared_part(fields: Mapping[str, object], deep: Collection[str]) -> str:
    """In words, a part that two places of a state share and must not; "" if there is none.

    Kept as bytes it would be two things afterwards, of which only one changes. Looks into those
    fields that are `deep`.
    """
    places: dict[int, str] = {}
    for name, value in fields.items():
        ahead = [value]
        while ahead:
            each = ahead.pop()
            parts, changes = _contents(each, name in deep)
            if changes:
                if id(each) in places:
                    other = places[id(each)]
                    where = f"{other} and {name} share" if other != name else f"{name} holds twice"
                    return f"{where} one {type(each).__name__}"
                places[id(each)] = name
            ahead += parts
    return ""


def can_change(value: object) -> bool:
    """Whether it is something that keeps data and that a method could change."""
    return not isinstance(value, type) and _contents(value, True)[1]


def altered(value: object, again: object) -> str:
    """In words, a part of a value that does not come back from bytes as it was; "" if all do.

    msgspec writes a defaultdict as a dict, and an object as its declared class, without a word.
    """
    ahead = [(value, again)]
    while ahead:
        one, other = ahead.pop()
        kind = type(one)
        if kind is not type(other):
            return f"{_a(kind)}, which would be {_a(type(other))}"
        if kind in PLAIN:
            if one != other and one == one:  # noqa: PLR0124 (NaN is as it was)
                return f"{one!r:.50}, which would be {other!r:.50}"
            continue
        parts, others = (list(_contents(each, True)[0]) for each in (one, other))
        leaf = not parts and kind is not memoryview
        if len(parts) != len(others) or (leaf and repr(one) != repr(other)):  # (its timezone too)
            return f"{_a(kind)}, which would be another"
        more = vars(one).keys() - vars(other).keys() if hasattr(one, "__dict__") else ()
        # (What a cached_property keeps is the same again if nothing that it looked at can change.)
        if lost := [name for name in more if not hasattr(kind, name) or not _is_fixed(one)]:
            return f"{_a(kind)}, which would have no {min(lost)}"
        ahead += zip(parts, others, strict=True)
    return ""


def _is_fixed(value: object) -> bool:
    """Whether neither it nor what is in it can change."""
    parts, changes = _contents(value, True)
    return not changes and all(map(_is_fixed, parts))


def _a(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'aeiouAEIOU' else 'a'} {kind.__name__}"


def _contents(value: object, wanted: bool) -> tuple[Iterable[object], bool]:
    """Its content, if that is wanted, and whether it can change, or equals nothing but itself."""
    if not wanted:
        return (), not isinstance(value, (*PLAIN, tuple))
    if isinstance(value, list | tuple | set | frozenset):
        return value, isinstance(value, list | set)
    if isinstance(value, dict):
        return [*value.keys(), *value.values()], True
    if isinstance(value, msgspec.Struct):
        names, config = value.__struct_fields__, value.__struct_config__
        return [getattr(value, name) for name in names], not (config.frozen and config.eq)
    if dataclasses.is_dataclass(value):
        frozen: bool = getattr(value, "__dataclass_params__").frozen  # noqa: B009 (typeshed hides it)
        fixed = frozen and type(value).__eq__ is not object.__eq__
        return [getattr(value, field.name) for field in dataclasses.fields(value)], not fixed
    return (), isinstance(value, bytearray)


_PLACE = re.compile(r" - at (?P<key>`key` in )?`\$(?:\.(?P<name>\w+))?(?P<rest>[^`]*)`$")


def where_in(error: Exception) -> tuple[str, str]:
    """The argument or field that a decoding error is about ("" if none) and what is wrong."""
    text = str(error)
    found = _PLACE.search(text)
    if found is None:
        return "", _lower(text)
    place = f" at {found['rest']}" if found["rest"] else ""
    place += " in a key" if found["key"] else ""
    return found["name"] or "", _lower(text[: found.start()]) + place


def _lower(text: str) -> str:
    return (text[:1].lower() + text[1:]).replace("`", "")
