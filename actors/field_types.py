"""The types of a struct's fields, checked when it is made: msgspec checks what it decodes alone."""

from __future__ import annotations

import math
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import msgspec

__all__ = ["wrong_field"]

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[tuple[str, Any], ...]:
    return tuple((field.name, field.type) for field in msgspec.structs.fields(kind))


def wrong_field(struct: msgspec.Struct) -> str:
    """One sentence on the first field with a value of another type than it has; "" if all fit."""
    for name, kind in _fields(type(struct)):
        value = getattr(struct, name)
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            return f"{name} = {value!r}: must be {_in_words(kind)}"
        if isinstance(value, float) and not math.isfinite(value):
            return f"{name} = {value!r}: must be a finite number"
    return ""


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        return "a list of whole numbers"
    if get_origin(kind) is dict:
        return "a dict of texts by whole number"
    if isinstance(kind, UnionType):
        return " or ".join(_in_words(part) for part in get_args(kind))
    return _WORDS.get(kind, "None" if kind is type(None) else str(kind))
