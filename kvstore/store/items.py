"""What the store keeps of a key, and how a value is shared between what it was and what it is."""

from __future__ import annotations

import re

import msgspec

__all__ = [
    "SHORT_VALUE", "Item", "Prefix", "Row", "as_bytes", "row", "tombstone", "value_bytes",
    "whole_number",
]  # fmt: skip

SHORT_VALUE = 1024
"""Values below this size are copied by what keeps or extends them: to share bytes takes more."""
_WHOLE_NUMBER = re.compile(rb"-?[0-9]{1,19}")
"""Part of the language of operations: not to be changed."""


class Item(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True, tag=1):
    """A key with all that belongs to it.

    Once it is in the store nothing of it changes (but how its value is held, see `Prefix`): a write
    makes a new one, and history keeps the old one.

    It has the tag of the operation `Put`: of a command, a put is decoded as the item that it makes,
    which spares every write an object.
    """

    key: bytes
    value: bytes
    """Bytes; a bytearray if it is current and was appended to, which later appends extend in place
    (with `bytes` each of them would copy all of it); in history a `Prefix` of such a one."""
    created: int = 0
    """The revision that made the key."""
    modified: int = 0
    """The revision of its last write."""
    version: int = 0
    """How many writes since it was made, from 1; 0: the key was deleted in revision `modified`."""
    lease: int = 0
    """The lease that it goes with; 0: none."""


# Every write sets fields of items. msgspec's own way of setting one minds the garbage collector,
# which does not track these; with the plain way the interpreter stores straight into the slot, at a
# tenth of the instructions. (The metaclass would undo it in the class's body.)
Item.__setattr__ = object.__setattr__  # type: ignore[method-assign]
Item.__delattr__ = object.__delattr__  # type: ignore[method-assign]


class Prefix:
    """A value that was appended to: the first bytes of what became of it.

    No Struct, so that nothing encodes it by oversight.
    """

    __slots__ = ("size", "whole")

    def __init__(self, whole: bytes | bytearray, size: int) -> None:
        self.whole = whole
        self.size = size


Row = tuple[bytes, bytes, int, int, int, int]
"""An item as it is answered: key, value, created, modified, version, lease."""


def tombstone(key: bytes, revision: int) -> Item:
    """The mark that a deletion leaves in history."""
    return Item(key, b"", 0, revision, 0, 0)


def as_bytes(value: bytes | bytearray | Prefix) -> bytes:
    """A value that nothing changes any more, whatever the store does with it next."""
    if type(value) is bytes:
        return value
    if type(value) is Prefix:
        return bytes(memoryview(value.whole)[: value.size])
    assert isinstance(value, bytearray)
    return bytes(value)


def whole_number(value: bytes | bytearray) -> int | None:
    """The number that a counter's value is, in decimal; None if it is something else."""
    return int(value) if _WHOLE_NUMBER.fullmatch(value) else None


def value_bytes(value: bytes | bytearray | Prefix) -> int:
    """The length of a value."""
    return value.size if type(value) is Prefix else len(value)  # type: ignore[arg-type]


def row(item: Item, *, keys_only: bool = False) -> Row:
    """The item as it is answered: no later operation of the same command changes it."""
    value = b"" if keys_only else as_bytes(item.value)
    return item.key, value, item.created, item.modified, item.version, item.lease
