"""The store's language: operations and results, and how they become commands and replies.

A command (or query) is a msgpack list of operations, each a tagged array; the reply is the msgpack
list of their results in the same order. Packing many operations into one command is what makes
clients fast: decoding a list costs some 70 ns an operation.

Results by operation: put nil; get the value or nil; append the new length; delete and
compare-and-set a boolean; scan `[more, [[key, value], …]]`. An operation that was refused, alone of
its command, has the map `{"error": "…"}` for a result; with `"split": true` in it if it is a read
that would have made the reply too large, and will be answered in a smaller request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from paxon.kvstore.errors import InvalidRequest

__all__ = [
    "LANGUAGE",
    "MAX_KEY_BYTES",
    "MAX_VALUE_BYTES",
    "MAX_SCAN_ITEMS",
    "MAX_SCAN_BYTES",
    "MAX_OPERATIONS",
    "MAX_REPLY_BYTES",
    "Put",
    "Get",
    "Append",
    "Delete",
    "CompareAndSet",
    "Scan",
    "Operation",
    "Result",
    "READS",
    "is_read",
    "only_reads",
    "operation_bytes",
    "check_key",
    "check_value",
    "check_optional_value",
    "check_scan",
    "encode_operations",
    "count_operations",
    "decode_operations",
    "encode_results",
    "decode_results",
    "refusal",
    "split_refusal",
    "is_refusal",
    "is_split",
]

LANGUAGE = "paxon-kv"
"""By this name clients of the store know its servers from those of other state machines."""

# The most that a cluster may agree on (`KVStore.limits`): clients and frames reckon with these.
MAX_KEY_BYTES = 4096
"""A key's UTF-8 form is at most this long."""
MAX_VALUE_BYTES = 8 << 20
MAX_SCAN_ITEMS = 10_000
"""A scan's limit is at most this."""
MAX_SCAN_BYTES = 1 << 20
"""A scan stops, and says that there is more, once it has found this much."""
MAX_OPERATIONS = 50_000
"""In one command or query; so many take a server some 30 ms."""
MAX_REPLY_BYTES = 16 << 20
"""Reads past this in one reply are refused; the first of a command is always answered."""


class _Operation(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """A command is decoded whole or not at all: surplus elements are refused, whatever they are."""


class Put(_Operation, frozen=True, tag=1):
    """Set a key's value."""

    key: str
    value: bytes


class Get(_Operation, frozen=True, tag=2):
    """Read a key's value; nil if it is missing."""

    key: str


class Append(_Operation, frozen=True, tag=3):
    """Append to a key's value, a missing one counting as empty."""

    key: str
    value: bytes


class Delete(_Operation, frozen=True, tag=4):
    """Remove a key; says whether it was there."""

    key: str


class CompareAndSet(_Operation, frozen=True, tag=5):
    """Replace a key's value if it is what is expected."""

    key: str
    expected: bytes | None
    """None: the key has to be missing."""
    new: bytes | None
    """None: remove the key."""


class Scan(_Operation, frozen=True, tag=6):
    """The keys that begin with a prefix, in order (of code points, which is that of UTF-8)."""

    prefix: str
    limit: int
    start_after: str = ""
    """Only keys after this one."""


Operation: TypeAlias = Put | Get | Append | Delete | CompareAndSet | Scan
Result: TypeAlias = Any
"""What an operation came to, as the module's docstring lists it."""

_encoder = msgspec.msgpack.Encoder()
_operations_decoder = msgspec.msgpack.Decoder(list[Operation])
_results_decoder = msgspec.msgpack.Decoder(list[Any])

READS = frozenset({Get, Scan})
_SETS_VALUE = (Put, Append)


def is_read(operation: Operation) -> bool:
    """Whether the operation changes nothing, so that a query can answer it."""
    return type(operation) in READS


def only_reads(operations: Sequence[Operation]) -> bool:
    """Whether all of them change nothing."""
    return READS.issuperset(map(type, operations))


def encode_operations(operations: Sequence[Operation]) -> bytes:
    """The command or query that holds these operations."""
    return _encoder.encode(operations)


def decode_operations(command: bytes) -> list[Operation]:
    """The operations of a command or query. Raises ValueError if it is malformed."""
    if len(command) > MAX_OPERATIONS and count_operations(command) > MAX_OPERATIONS:
        raise ValueError(f"it holds more than {MAX_OPERATIONS} operations: send fewer at once")
    try:
        return _operations_decoder.decode(command)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"not a list of store operations (this cluster runs the key-value store: use Client): "
            f"{error}"
        ) from None


def count_operations(command: bytes) -> int:
    """How many operations a command says that it holds (msgpack's head of a long array)."""
    if command[:1] == b"\xdc":
        return int.from_bytes(command[1:3], "big")
    return int.from_bytes(command[1:5], "big") if command[:1] == b"\xdd" else 0


def encode_results(results: Sequence[Result]) -> bytes:
    """The reply to a command."""
    return _encoder.encode(results)


def decode_results(reply: bytes) -> list[Result]:
    """The results of a command or query. Raises ValueError if the reply is malformed."""
    try:
        return _results_decoder.decode(reply)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a list of results: {error}") from None


def refusal(text: str) -> Result:
    """The result of an operation that was refused."""
    return {"error": text}


def split_refusal() -> Result:
    """The result of a read that no longer fitted into the reply."""
    text = f"the reply would exceed {MAX_REPLY_BYTES} bytes: read fewer values in one request"
    return {"error": text, "split": True}


def is_refusal(result: Result) -> bool:
    """Whether an operation was refused: only refusals are maps."""
    return type(result) is dict


def is_split(result: Result) -> bool:
    """Whether it was refused because another command has to do it (`split`)."""
    return type(result) is dict and "split" in result


def operation_bytes(operation: Operation) -> int:
    """About what the operation takes in a command, in bytes, never less than it does."""
    if isinstance(operation, _SETS_VALUE):
        return 4 * len(operation.key) + len(operation.value) + 16
    match operation:
        case CompareAndSet(key, expected, new):
            return 4 * len(key) + len(expected or b"") + len(new or b"") + 24
        case Scan(prefix, _, start_after):
            return 4 * (len(prefix) + len(start_after)) + 32
        case _:
            return 4 * len(operation.key) + 16


# --- what clients check before anything is sent --------------------------------------------------


def check_key(key: object, what: str = "key") -> str:
    """Return a proper key, else raise `InvalidRequest`."""
    if type(key) is not str:
        if not isinstance(key, str):
            raise InvalidRequest(f"the {what} has to be a str, not {type(key).__name__}")
        key = str(key)
    if len(key) > MAX_KEY_BYTES // 4 or not key.isascii():
        _check_encoded(key, what)
    return key


def _check_encoded(key: str, what: str) -> None:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidRequest(f"the {what} cannot be written as UTF-8: {key!r}") from None
    if size > MAX_KEY_BYTES:
        raise InvalidRequest(f"the {what} has {size} bytes; at most {MAX_KEY_BYTES} are allowed")


def check_value(value: object, what: str = "value") -> bytes:
    """Return a value as bytes (a str becomes UTF-8), else raise `InvalidRequest`."""
    if type(value) is not bytes:
        if isinstance(value, str):
            try:
                value = value.encode()
            except UnicodeEncodeError:
                raise InvalidRequest(f"the {what} cannot be written as UTF-8") from None
        elif isinstance(value, bytes | bytearray | memoryview):
            value = bytes(value)
        else:
            raise InvalidRequest(
                f"the {what} has to be bytes (or a str, which becomes UTF-8), "
                f"not {type(value).__name__}"
            )
    if len(value) > MAX_VALUE_BYTES:
        raise InvalidRequest(
            f"the {what} has {len(value)} bytes; at most {MAX_VALUE_BYTES} are allowed"
        )
    return value


def check_optional_value(value: object, what: str) -> bytes | None:
    """Like `check_value`; None passes."""
    return None if value is None else check_value(value, what)


def check_scan(prefix: object, limit: object, start_after: object) -> Scan:
    """A scan with proper arguments, else `InvalidRequest`."""
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise InvalidRequest(f"the limit has to be an int, not {type(limit).__name__}")
    if not 1 <= limit <= MAX_SCAN_ITEMS:
        raise InvalidRequest(f"the limit has to be from 1 to {MAX_SCAN_ITEMS}, not {limit}")
    return Scan(check_key(prefix, "prefix"), limit, check_key(start_after, "start_after"))
