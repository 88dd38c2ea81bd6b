"""The store's language: operations and results, and how they become commands and replies.

A command (or query) is a msgpack list of operations, each a tagged array; the reply is the msgpack
list of their results in the same order. Packing many operations into one command is what makes
clients fast: decoding a list costs some 70 ns an operation. Every operation that writes is a
revision of its own, a transaction with all that it does is one.

The result of each operation stands in its docstring. One that was refused, alone of its command,
has the map `{"error": "…"}` for a result, which changed nothing; `"kind"` in it says what callers
may want to tell apart (`Refused`); with `"split": true` it is a read that would have made the reply
too large, and will be answered in a smaller request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias, assert_never

import msgspec

from paxon.kvstore.store.doubled import Writes, either, joined
from paxon.kvstore.store.items import Item
from paxon.kvstore.store.spans import TO_THE_END

__all__ = [
    "LANGUAGE",
    "MAX_KEY_BYTES",
    "MAX_VALUE_BYTES",
    "MAX_SCAN_ITEMS",
    "MAX_SCAN_BYTES",
    "MAX_OPERATIONS",
    "MAX_REPLY_BYTES",
    "MAX_CLAIMED",
    "MAX_NUMBER",
    "MAX_TXN_DEPTH",
    "MAX_TXN_OPERATIONS",
    "Put",
    "Get",
    "Append",
    "Delete",
    "CompareAndSet",
    "Scan",
    "PutItem",
    "Range",
    "DeleteRange",
    "Compare",
    "Inner",
    "LargeTxn",
    "Txn",
    "Compact",
    "Increment",
    "Grant",
    "KeepAlive",
    "Revoke",
    "TimeLeft",
    "Leases",
    "Events",
    "Enqueue",
    "Unclaimed",
    "Claim",
    "Operation",
    "Executable",
    "Refused",
    "Result",
    "Relation",
    "Target",
    "READS",
    "is_read",
    "only_reads",
    "operation_bytes",
    "encode_operations",
    "compares_ranges",
    "count_operations",
    "decode_operations",
    "decode_puts",
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
MAX_VALUE_BYTES = 8 << 20
MAX_SCAN_ITEMS = 10_000
"""A scan's limit is at most this."""
MAX_SCAN_BYTES = 1 << 20
"""A scan or range stops, and says that there is more, once it has found this much."""
MAX_OPERATIONS = 50_000
"""In one command or query, those of transactions included; so many take a server some 30 ms."""
MAX_REPLY_BYTES = 16 << 20
"""Reads past this in one reply are refused; the first of a command is always answered."""
MAX_TXN_OPERATIONS = 10_000
"""Comparisons and operations in a transaction, with all that is nested in it."""
MAX_LOOK = 100
"""Items that a watch looks at."""
MAX_TXN_DEPTH = 8
"""Transactions in one another, the outermost included."""
MAX_CLAIMED = 4096
"""Claimed items of a queue that are passed over in search of one that is not."""
MAX_NUMBER = (1 << 63) - 1
"""Revisions, versions and lease ids, and the numbers that `Increment` counts with."""

Refused: TypeAlias = Literal["compacted", "future", "lease", "exists", "missing", "large", ""]
"""Why: the revision is gone, or not there yet; no such lease; the lease's id is taken; the key to
be kept is missing; too much for one revision or reply; "": anything else."""
Target: TypeAlias = Literal["value", "version", "created", "modified", "lease"]
"""What is compared; ranges are sorted by these too, a lease excepted."""
Relation: TypeAlias = Literal["=", "!=", "<", ">"]


class _Operation(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """A command is decoded whole or not at all: surplus elements are refused, whatever they are."""


class Put(_Operation, frozen=True, tag=1):
    """Set a key's value, without a lease. Result: the revision."""

    key: bytes
    value: bytes


class Get(_Operation, frozen=True, tag=2):
    """Read a key's value. Result: the value, nil if the key is missing."""

    key: bytes


class Append(_Operation, frozen=True, tag=3):
    """Append to a key's value, a missing one counting as empty. Result: the new length."""

    key: bytes
    value: bytes


class Delete(_Operation, frozen=True, tag=4):
    """Remove a key. Result: whether it was there."""

    key: bytes


class CompareAndSet(_Operation, frozen=True, tag=5):
    """Replace a key's value if it is what is expected. Result: whether it was."""

    key: bytes
    expected: bytes | None
    """None: the key has to be missing."""
    new: bytes | None
    """None: remove the key."""


class Scan(_Operation, frozen=True, tag=6):
    """The keys that begin with a prefix, in order. Result: `[more, [[key, value], …]]`."""

    prefix: bytes
    limit: int
    start_after: bytes = b""
    """Only keys after this one."""


class PutItem(_Operation, frozen=True, tag=7):
    """`Put` with all that etcd's has. Result: `[revision, previous]`, the item as it was or nil."""

    key: bytes
    value: bytes | None
    """None: the value stays, and the key has to be there."""
    lease: int | None = 0
    """0: none; None: the lease stays, and the key has to be there."""
    previous: bool = False
    """Whether to answer what the key was before."""


class Range(_Operation, frozen=True, tag=8):
    """Items of a key or span. Result: `[revision, count, more, items, rest]`.

    `revision` is the store's; `count` is of all keys there, whatever the limit and filters; `more`
    says that the limit cut something off; `rest` is nil, or where the answer had to be cut for its
    size: the first key, backward the end, to go on with.
    """

    key: bytes
    end: bytes | None = None
    """As in spans.py; None: the one key."""
    limit: int = 0
    """0: no limit."""
    revision: int = 0
    """The store as it was after this revision; 0: as it is."""
    order: Literal["key", "value", "version", "created", "modified"] = "key"
    """Equal ones are in the order of keys."""
    backward: bool = False
    keys_only: bool = False
    count_only: bool = False
    min_modified: int = 0
    max_modified: int = 0
    min_created: int = 0
    max_created: int = 0
    """Filters by revision, both ends included; 0: none."""

    def __post_init__(self) -> None:
        if not 0 <= self.limit <= MAX_NUMBER or not 0 <= self.revision <= MAX_NUMBER:
            raise ValueError("the limit and the revision of a range are from 0 to 2^63 - 1")


class DeleteRange(_Operation, frozen=True, tag=9):
    """Remove a key or span. Result: `[revision, deleted, previous items]`."""

    key: bytes
    end: bytes | None = None
    previous: bool = False


class Compare(_Operation, frozen=True):
    """A comparison of a transaction: true if it is of each key of the span.

    Where there is none, numbers compare as 0 and a comparison of the value is false.
    """

    key: bytes
    target: Target
    relation: Relation
    operand: bytes | int
    end: bytes | None = None

    def __post_init__(self) -> None:
        if isinstance(self.operand, bytes) != (self.target == "value"):
            raise ValueError("a value is compared with bytes, everything else with a number")


class LargeTxn(ValueError):
    """A transaction is too large, whatever is in the store."""


class Txn(_Operation, frozen=True, tag=10):
    """Comparisons, and what is done if all are true, or if not; all of it or nothing.

    Result: `[succeeded, revision, results]`, those of the branch that was taken; the revision is
    the store's afterwards.
    """

    compare: Annotated[list[Compare], msgspec.Meta(max_length=MAX_TXN_OPERATIONS)]
    then: Annotated[list[Inner], msgspec.Meta(max_length=MAX_TXN_OPERATIONS)]
    otherwise: Annotated[list[Inner], msgspec.Meta(max_length=MAX_TXN_OPERATIONS)]

    def __post_init__(self) -> None:
        """Refuse what is wrong with a transaction whatever is in the store.

        So clients refuse it when they make it, and servers when they decode it.
        """
        then, otherwise = self.then, self.otherwise
        if len(then) < 2 and len(otherwise) < 2 and Txn not in map(type, then + otherwise):
            return  # the most frequent kind: within bounds, and one alone writes nothing twice
        if self.depth() > MAX_TXN_DEPTH:
            raise ValueError(f"transactions are nested more than {MAX_TXN_DEPTH} deep")
        if self.weight() > MAX_TXN_OPERATIONS:
            raise LargeTxn(f"a transaction has more than {MAX_TXN_OPERATIONS} operations")
        for operations in (self.then, self.otherwise):
            if len(operations) > 1 or (operations and type(operations[0]) is Txn):
                _all_writes(operations)

    def depth(self) -> int:
        """Transactions in one another, this one included."""
        depth = 0
        for operations in (self.then, self.otherwise):
            for operation in operations:
                if type(operation) is Txn:
                    depth = max(depth, operation.depth())
        return depth + 1

    def weight(self) -> int:
        """Comparisons and operations in it, nested ones included."""
        weight = len(self.compare) + len(self.then) + len(self.otherwise)
        for operations in (self.then, self.otherwise):
            for operation in operations:
                if type(operation) is Txn:
                    weight += operation.weight()
        return weight


class Compact(_Operation, frozen=True, tag=11):
    """Forget history before a revision. Result: the oldest revision kept."""

    revision: int


class Increment(_Operation, frozen=True, tag=12):
    """Add to a value that is a number in decimal, a missing one counting as 0. Result: the sum."""

    key: bytes
    by: int


class Grant(_Operation, frozen=True, tag=13):
    """Make a lease. Result: the time to live granted, in ms."""

    lease: int
    ttl: int
    """Milliseconds."""


class KeepAlive(_Operation, frozen=True, tag=14):
    """Let a lease live for its whole time again. Result: that time, in ms."""

    lease: int


class Revoke(_Operation, frozen=True, tag=15):
    """End a lease: its keys go, in one revision. Result: the store's revision."""

    lease: int


class TimeLeft(_Operation, frozen=True, tag=16):
    """Result: `[left in ms, granted in ms, keys]`, nil if there is no such lease."""

    lease: int
    keys: bool = False


class Leases(_Operation, frozen=True, tag=17):
    """Result: the ids of all leases, in order."""


class Events(_Operation, frozen=True, tag=18):
    """Events of keys after a revision. Result: `[through, events]`, or with `look` three.

    All revisions up to `through` are answered completely, none in part. An event is `[item,
    previous]`: the item as the revision `modified` left it, its version 0 if it was deleted then.
    """

    after: int
    spans: Annotated[list[tuple[bytes, bytes | None]], msgspec.Meta(max_length=1000)]
    puts: bool = True
    deletes: bool = True
    previous: bool = False
    """Whether to answer what each key was before, nil if it was missing."""
    look: Range | None = None
    """A short range to answer as well, as it is by then; nil if it is too large."""

    def __post_init__(self) -> None:
        look = self.look
        if look is not None and (look.revision or not 0 < look.limit <= MAX_LOOK):
            raise ValueError(f"a watch looks at 1 to {MAX_LOOK} items, as they are")


class Enqueue(_Operation, frozen=True, tag=19):
    """Put values at the end of a queue, in one revision. Result: the revision.

    Their keys are the prefix, the revision in 16 hexadecimal digits, and four of the place among
    the values. A key that is there refuses the whole.
    """

    prefix: bytes
    values: Annotated[list[bytes], msgspec.Meta(min_length=1, max_length=10_000)]


class Unclaimed(_Operation, frozen=True, tag=20):
    """The first item that nobody has claimed; see `Claim`. Result: `[revision, items, item]`.

    `items` counts them all, claimed or not; the item is nil if there is none.
    """

    items: bytes
    claims: bytes

    def __post_init__(self) -> None:
        _check_queue(self.items, self.claims)


class Claim(_Operation, frozen=True, tag=21):
    """Claim the first unclaimed key that begins with a prefix. Result: `[revision, item]`.

    The claim is a key without value that goes with a lease: `claims` instead of `items`, and the
    rest of the item's key. The revision is the store's afterwards, so that of the claim, if there
    is one; without an item (nil) nothing is written. More than `MAX_CLAIMED` claimed items before
    the first other one refuse it.
    """

    items: bytes
    claims: bytes
    lease: int

    def __post_init__(self) -> None:
        _check_queue(self.items, self.claims)


def _check_queue(items: bytes, claims: bytes) -> None:
    if not items or not claims or items.startswith(claims) or claims.startswith(items):
        raise ValueError("items and claims of a queue have prefixes of which none begins the other")


Inner: TypeAlias = Put | Get | Delete | PutItem | Range | DeleteRange | Txn
"""What a transaction may do."""
Rarer: TypeAlias = (
    Get | Append | Delete | CompareAndSet | Scan | PutItem | Range | DeleteRange
    | Compact | Increment | Grant | KeepAlive | Revoke | TimeLeft | Leases | Events
    | Enqueue | Unclaimed | Claim
)  # fmt: skip
"""All but puts and transactions."""
Operation: TypeAlias = Put | Txn | Rarer
Executable: TypeAlias = Item | Txn | Rarer
"""An operation as a server decodes it: a put is the item that it makes."""
Result: TypeAlias = Any

_AFTER_ALL = b"\xff" * (MAX_KEY_BYTES + 1)


def _all_writes(operations: Sequence[Inner]) -> Writes:
    return joined([_writes(operation) for operation in operations])


def _writes(operation: Inner) -> Writes:
    match operation:
        case Put(key) | PutItem(key):
            return Writes({key: None}, [])
        case Delete(key):
            return Writes({}, [(key, key + b"\0")])
        case DeleteRange(key, end):
            after = key + b"\0" if end is None else _AFTER_ALL if end == TO_THE_END else end
            return Writes({}, [(key, after)])
        case Txn(_, then, otherwise):
            return either(_all_writes(then), _all_writes(otherwise))
        case Get() | Range():
            return Writes({}, [])
        case _:
            assert_never(operation)


_encoder = msgspec.msgpack.Encoder()
_operations_decoder = msgspec.msgpack.Decoder(list[Executable])
_ONE = b"\x91"
"""How a command of one operation begins."""
_PUT = b"\x93\x01"
"""How a put begins: an array of three, its tag."""
PUT_BYTES = 16
"""What a put takes in a command besides its key and value, at most."""
_LONGEST_HEAD = 5
"""The bytes of msgpack's head of an array before its elements, at most."""
_PUT_ENDS = _LONGEST_HEAD + len(_PUT)
_puts_decoder = msgspec.msgpack.Decoder(list[Item])
_results_decoder = msgspec.msgpack.Decoder(list[Any])

READS = frozenset({Get, Scan, Range, TimeLeft, Leases, Events, Unclaimed})
"""Those that never change anything; a transaction does not if all in it are of these."""


def is_read(operation: Operation | Executable | Inner) -> bool:
    """Whether the operation changes nothing, so that a query can answer it."""
    if type(operation) is Txn:
        for branch in (operation.then, operation.otherwise):
            for inner in branch:
                if not (type(inner) in READS or (type(inner) is Txn and is_read(inner))):
                    return False
        return True
    return type(operation) in READS


def compares_ranges(operation: Operation | Inner) -> bool:
    """Whether it is a transaction that compares keys of which its size says nothing."""
    return type(operation) is Txn and (
        any(compare.end is not None for compare in operation.compare)
        or any(map(compares_ranges, [*operation.then, *operation.otherwise]))
    )


def only_reads(operations: Sequence[Operation | Executable]) -> bool:
    """Whether all of them change nothing."""
    if READS.issuperset(kinds := set(map(type, operations))):
        return True
    return READS.issuperset(kinds - {Txn}) and all(map(is_read, operations))


def encode_operations(operations: Sequence[Operation]) -> bytes:
    """The command or query that holds these operations."""
    return _encoder.encode(operations)


def decode_operations(command: bytes) -> list[Executable]:
    """The operations of a command or query. Raises ValueError if it is malformed."""
    long = len(command) > MAX_OPERATIONS
    if long and count_operations(command) > MAX_OPERATIONS:
        raise ValueError(f"it holds more than {MAX_OPERATIONS} operations: send fewer at once")
    try:
        operations = _operations_decoder.decode(command)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"not a list of store operations (this cluster runs the key-value store: use Client): "
            f"{error}"
        ) from None
    if long and _inner_weight(operations) > MAX_OPERATIONS:
        raise ValueError(
            f"its transactions hold more than {MAX_OPERATIONS} operations: send fewer at once"
        )
    return operations


def decode_puts(command: bytes) -> list[Item] | None:
    """The operations of a command that holds several puts and nothing else; None for any other.

    That is what most long commands hold, and needs no looking at each again.
    """
    if command[:1] == _ONE or command.find(_PUT, 1, _PUT_ENDS) < 0:
        return None
    if len(command) > MAX_OPERATIONS and count_operations(command) > MAX_OPERATIONS:
        return None
    try:
        return _puts_decoder.decode(command)
    except msgspec.MsgspecError:
        return None


def _inner_weight(operations: list[Executable]) -> int:
    return sum(operation.weight() for operation in operations if type(operation) is Txn)


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


def refusal(text: str, kind: Refused = "", **more: int) -> Result:
    """The result of an operation that was refused."""
    return {"error": text, "kind": kind, **more} if kind else {"error": text}


def split_refusal() -> Result:
    """The result of a read that no longer fitted into the reply."""
    text = f"the reply would exceed {MAX_REPLY_BYTES} bytes: read fewer values in one request"
    return {"error": text, "split": True}


def is_refusal(result: Result) -> bool:
    """Whether an operation was refused: only refusals are maps."""
    return type(result) is dict


def is_split(result: Result) -> bool:
    """Whether it was refused for want of room in the reply alone."""
    return type(result) is dict and "split" in result


def operation_bytes(operation: Operation | Compare) -> int:
    """About what the operation takes in a command, in bytes, never less than it does."""
    if isinstance(operation, Put):
        return len(operation.key) + len(operation.value) + PUT_BYTES
    if isinstance(operation, Get):
        return len(operation.key) + 24
    if isinstance(operation, Txn):
        size = 24
        for compare in operation.compare:
            size += operation_bytes(compare)
        for branch in (operation.then, operation.otherwise):
            for inner in branch:
                size += operation_bytes(inner)
        return size
    if isinstance(operation, Compare):
        size = len(operation.operand) if isinstance(operation.operand, bytes) else 0
        return len(operation.key) + len(operation.end or b"") + size + 48
    return _rarer_bytes(operation)


def _rarer_bytes(operation: Rarer) -> int:
    match operation:
        case Append(key, value):
            return len(key) + len(value) + 16
        case PutItem(key, value):
            return len(key) + len(value or b"") + 32
        case CompareAndSet(key, expected, new):
            return len(key) + len(expected or b"") + len(new or b"") + 24
        case Scan(prefix, _, start_after):
            return len(prefix) + len(start_after) + 32
        case Range(key, end):
            return len(key) + len(end or b"") + 96
        case DeleteRange(key, end):
            return len(key) + len(end or b"") + 16
        case Events():
            look = 0 if operation.look is None else operation_bytes(operation.look)
            return sum(len(key) + len(end or b"") + 16 for key, end in operation.spans) + look + 32
        case Enqueue(prefix, values):
            return len(prefix) + sum(map(len, values)) + 8 * len(values) + 16
        case Unclaimed(items, claims) | Claim(items, claims):
            return len(items) + len(claims) + 32
        case Get() | Delete() | Increment():
            return len(operation.key) + 24
        case Compact() | Grant() | KeepAlive() | Revoke() | TimeLeft() | Leases():
            return 40
        case _:
            assert_never(operation)
