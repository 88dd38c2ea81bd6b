"""Protocol Buffers by hand: the few messages of etcd that a load needs.

Field numbers are those of etcd's `rpc.proto`. Only what is used is here.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

__all__ = [
    "PUT",
    "RANGE",
    "STATUS",
    "Status",
    "put_request",
    "range_request",
    "read_header_revision",
    "read_status",
    "fields_of",
]

PUT = "/etcdserverpb.KV/Put"
RANGE = "/etcdserverpb.KV/Range"
STATUS = "/etcdserverpb.Maintenance/Status"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Status(msgspec.Struct, frozen=True):
    """What a member of a cluster says of itself."""

    member: int
    leader: int
    """0 if it knows of none."""
    version: str


def put_request(key: bytes, value: bytes) -> bytes:
    """A `PutRequest`."""
    return _bytes_field(1, key) + _bytes_field(2, value)


def range_request(key: bytes) -> bytes:
    """A `RangeRequest` for one key. It is linearizable: field 7, `serializable`, is left out."""
    return _bytes_field(1, key)


def read_header_revision(message: bytes) -> int:
    """The store's revision, from the header that every answer begins with; each put adds one."""
    header = next((value for number, value in fields_of(message) if number == 1), b"")
    return _integer(header, 3)


def read_status(message: bytes) -> Status:
    """A `StatusResponse`."""
    fields = dict(fields_of(message))
    header, version = fields.get(1, b""), fields.get(2, b"")
    leader = fields.get(4, 0)
    return Status(
        member=_integer(header, 2),
        leader=leader if isinstance(leader, int) else 0,
        version=version.decode() if isinstance(version, bytes) else "",
    )


def _integer(message: bytes | int, wanted: int) -> int:
    """An integer field of a message inside a message; 0 if it is left out, as the format has it."""
    if isinstance(message, int):
        raise ValueError("an integer stands where a message should")
    for number, value in fields_of(message):
        if number == wanted and isinstance(value, int):
            return value
    return 0


def fields_of(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The fields of a message with their numbers. Raises ValueError for what is none."""
    place = 0
    while place < len(message):
        tag, place = _read_varint(message, place)
        kind = tag & 7
        if kind == _VARINT:
            value, place = _read_varint(message, place)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, place = _read_varint(message, place)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of the unknown kind {kind}")
        if place + size > len(message):
            raise ValueError("a field is longer than its message")
        yield tag >> 3, message[place : place + size]
        place += size


def _bytes_field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    """A number and the place after it."""
    number = shift = 0
    while place < len(message):
        byte = message[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
        shift += 7
    raise ValueError("a number is cut off")
