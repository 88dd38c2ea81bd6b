"""Some parts of a state, few enough to be compared among servers slot by slot."""

from __future__ import annotations

import dataclasses
from itertools import chain, islice
from typing import Any

import msgspec

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
_FACTOR, _MASK = 6364136223846793005, (1 << 64) - 1
_TEXTS = (str, bytes, bytearray)
_SIZED = (*_TEXTS, list, tuple, dict, set, frozenset)
_NOTHING = object()
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
        elif isinstance(each, msgspec.Struct) or dataclasses.is_dataclass(each):
            ahead += _fields_of(each)
        elif not isinstance(each, set | frozenset):  # (whose order is each process's own)
            taken.append(each)
    return taken


def _fields_of(value: object) -> list[object]:
    """The values of its fields, but for those that are as they begin.

    So they are the same where another server's code knows one field more.
    """
    if isinstance(value, msgspec.Struct):
        names, defaults = value.__struct_fields__, value.__struct_defaults__
        known = zip(names, (_NOTHING,) * (len(names) - len(defaults)) + defaults, strict=True)
    else:
        fields = dataclasses.fields(value)  # type: ignore[arg-type]
        known = ((each.name, _default_of(each)) for each in fields)  # type: ignore[assignment]
    found = ((getattr(value, name), default) for name, default in known)
    return [each for each, default in found if not _as_it_begins(each, default)]


def _default_of(field: dataclasses.Field[object]) -> object:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def _as_it_begins(value: object, default: object) -> bool:
    if isinstance(default, _Factory):
        default = default.factory()
    kind = type(value)
    if kind is not type(default) or (isinstance(value, _SIZED) and len(value) != len(default)):  # type: ignore[arg-type]
        return False
    if kind in PLAIN and kind is not float:  # (a NaN is not equal to itself)
        return value == default
    return _encode(value) == _encode(default)
