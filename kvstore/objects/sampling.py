"""Some parts of a state, few enough to be compared among servers slot by slot."""

from __future__ import annotations

import dataclasses
from enum import Enum
from functools import lru_cache
from itertools import chain, islice
from operator import itemgetter
from typing import Any

import msgspec
from msgspec import NODEFAULT

from paxon.actors.execution.machine_errors import depends_on_process
from paxon.kvstore.objects.carrying import PLAIN

__all__ = ["PARTS", "sample"]

PARTS = 64
"""How many parts are looked at in a slot, by default."""
_LONG = 1024
"""Characters or bytes that are taken of a text."""
_LARGE = 4096
"""A dict of n times as many entries is looked into in one slot of n: to get to a place in the midst
of it takes time in proportion to its length."""
_MOST_EMPTY = 64
"""An object in which so many fields were looked at does not count as empty."""
_FACTOR, _MASK = 6364136223846793005, (1 << 64) - 1
_TEXTS = (str, bytes, bytearray)
_SIZED = (*_TEXTS, list, tuple, dict, set, frozenset)
_MAY_BE_EMPTY = (*PLAIN, *_SIZED)
_Factory: Any = type(msgspec.defstruct("_", [("of", list, [])]).__struct_defaults__[0])

_encode = msgspec.msgpack.Encoder(enc_hook=lambda value: type(value).__name__).encode


def sample(state: list[object], number: int, parts: int) -> bytes:
    """About so many parts of a state; which ones follows from `number`.

    They are equal where two states are, in the order of their dicts, too. Where two states differ
    they do so at once if there are no more parts than that, else for some numbers.
    """
    try:
        return _encode(_some_of(state, number, parts))
    except Exception as error:  # what cannot be carried, or lacks a field: no snapshot takes it
        if depends_on_process(error):
            raise
        return b""


def _some_of(state: list[object], number: int, parts: int) -> list[object]:
    """Goes down from a random place of each container, and on from there around it."""
    taken: list[object] = []
    ahead: list[object] = [state]
    while ahead and (room := parts - len(taken)) > 0:
        each = ahead.pop()
        kind = type(each)
        if kind in PLAIN and (kind not in _TEXTS or len(each) <= _LONG):  # type: ignore[arg-type]
            taken.append(each)
            continue
        if _is_object(kind):
            names, values = _parts_of(each)
            taken.append(names)
            ahead += values
            continue
        number = (number + 1) * _FACTOR & _MASK
        size = len(each) if isinstance(each, _SIZED) else 0
        taken.append(size)
        first, chance = (number >> 16) % max(1, size), number >> 48
        again = min(first, max(0, first + room - size))
        if isinstance(each, (list, tuple)):
            ahead += each[first : first + room]
            ahead += each[:again]
        elif isinstance(each, dict):
            if chance % (size // _LARGE + 1) == 0:
                entries = each.items()
                ahead += chain.from_iterable(islice(entries, first, first + room))
                ahead += chain.from_iterable(islice(entries, again))
        elif isinstance(each, _TEXTS):
            first = max(0, min(first, size - _LONG))
            taken.append(each[first : first + _LONG])
        elif not isinstance(each, set | frozenset):  # (whose order is each process's own)
            taken.append(each)
    return taken


def _parts_of(value: Any) -> tuple[list[object], list[object]]:
    """Of an object: what it is carried as, which of its fields say something, and their values."""
    tagged = isinstance(value, msgspec.Struct)
    names: list[object] = [value.__struct_config__.tag if tagged else None]
    values: list[object] = []
    for name, attribute, begins in _fields_of(type(value)):  # type: ignore[arg-type]
        each = getattr(value, attribute)
        if each is not begins and (begins is not NODEFAULT or not _is_empty(each)):
            names.append(name)
            values.append(each)
    return names, values


def _is_empty(value: Any) -> bool:
    """Whether it is what most fields begin with, so that older code may not know its field."""
    ahead: list[Any] = [value]
    for _ in range(_MOST_EMPTY):
        if not ahead:
            return True
        each = ahead.pop()
        if _is_object(type(each)):
            for _, attribute, begins in _fields_of(type(each)):  # type: ignore[arg-type]
                held = getattr(each, attribute)
                if begins is NODEFAULT:
                    ahead.append(held)
                elif held is not begins:
                    return False
        elif each or not isinstance(each, _MAY_BE_EMPTY):
            return False
    return False


def _is_object(kind: type) -> bool:
    if issubclass(kind, tuple):
        return hasattr(kind, "_field_defaults")
    return issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind)


@lru_cache(maxsize=1024)
def _fields_of(kind: type) -> list[tuple[Any, str, object]]:
    """The fields of a class that are compared: what each is carried by, its name, and its default.

    Compared are those that are not as they begin: empty, where they have no default or an empty one
    (code may come to know one more, or give one that), or that default, where it is True or of an
    Enum. Any other default may have been read off this machine (its name, its environment, the
    day), and would say nothing of the state: its field is left out. Their order in code is nothing.
    """
    by_place = issubclass(kind, tuple)
    if issubclass(kind, msgspec.Struct):
        by_place = kind.__struct_config__.array_like
        names, defaults = kind.__struct_fields__, kind.__struct_defaults__
        begins = (NODEFAULT,) * (len(names) - len(defaults)) + defaults
        found = list(zip(kind.__struct_encode_fields__, names, begins, strict=True))
    elif by_place:  # a NamedTuple
        held: Any = kind
        found = [(each, each, held._field_defaults.get(each, NODEFAULT)) for each in held._fields]
    else:
        fields = dataclasses.fields(kind)  # type: ignore[arg-type]
        found = [(each.name, each.name, _default_of(each)) for each in fields]
    kept = [
        (place if by_place else name, attribute, begins if _is_one_value(begins) else NODEFAULT)
        for place, (name, attribute, begins) in enumerate(found)
        if _is_one_value(begins) or _is_of_no_machine(begins)
    ]
    return sorted(kept, key=itemgetter(0))


def _default_of(field: dataclasses.Field[object]) -> object:
    """Or what makes it, or NODEFAULT."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory
    return NODEFAULT if field.default is dataclasses.MISSING else field.default


def _is_one_value(default: object) -> bool:
    return default is True or isinstance(default, Enum)


def _is_of_no_machine(default: object) -> bool:
    """Whether there is none, or it is empty, or what makes it makes what is."""
    if isinstance(default, _Factory):
        default = default.factory
    if isinstance(default, type) and _is_object(default):
        return not hasattr(default, "__post_init__")
    empty = isinstance(default, _MAY_BE_EMPTY) and not default
    return empty or default is NODEFAULT or any(default is each for each in _MAY_BE_EMPTY)
