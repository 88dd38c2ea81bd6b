"""The replicated key-value store: a `StateMachine` over a dict, and nothing that knows of Paxos."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import islice
from typing import ClassVar, cast

import msgspec

from paxon.actors import Limit, StateMachine
from paxon.actors.execution.agreed import Limits
from paxon.kvstore.store.key_index import KeyIndex
from paxon.kvstore.store.operations import (
    LANGUAGE,
    MAX_KEY_BYTES,
    MAX_REPLY_BYTES,
    MAX_SCAN_BYTES,
    MAX_SCAN_ITEMS,
    MAX_VALUE_BYTES,
    READS,
    Append,
    CompareAndSet,
    Delete,
    Get,
    Operation,
    Put,
    Result,
    Scan,
    count_operations,
    decode_operations,
    encode_results,
    only_reads,
    refusal,
    split_refusal,
)

__all__ = ["KVStore"]

_FORMAT = 1
_MOST_SCAN_LIMIT = 10_000
"""Part of the language of operations, like their tags: not to be changed."""
_SHORT_VALUE = 1024
"""Values below this size are copied by an append: a bytearray takes more memory and time."""
_MANY_OPERATIONS = 2000
_OPERATION_BYTES = 1280
"""What an operation counts for in a command of many: about as long as it takes to copy so much."""
_FEW_OPERATIONS = 64
"""The cost of a command with more is not looked into."""
_SCAN_ITEM_BYTES = 512
"""What an item of a scan counts for beside its size, for it takes about as long."""
_INDEX_BACKLOG = 2048
"""Keys that may wait to be put in or taken out of the index, once there is one."""
_DIGEST_KEYS = 50_000
_DIGEST_PART_KEYS = 10_000
_DIGEST_BYTES = 8 << 20
_KEPT_COMMANDS = 512
"""Commands whose decoded form is kept from the check to the execution …"""
_KEPT_BYTES = 32 << 10
"""… each of at most so many bytes: of longer ones decoding is the smallest part."""
_LONG_REPLY = split_refusal()


class _Image(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A snapshot. The map keeps the dict's order, on which the digest depends."""

    format: int
    data: dict[str, bytes]


_encoder = msgspec.msgpack.Encoder()
_image_decoder = msgspec.msgpack.Decoder(_Image)


class KVStore(StateMachine):
    """Keys are str, values bytes. Commands and queries are lists of operations (operations.py).

    All of a command's operations take effect together and in order; one that is refused for its
    size does not keep the others from it.
    """

    language = LANGUAGE
    snapshots_are_sound = True  # one dict of str and bytes, and nothing that restoring could refuse

    # Clients refuse what is beyond the most by themselves, before they send it. The numbers of
    # `before` belong to the format of commands and snapshots: they stay.
    limits: ClassVar[Limits] = {
        "max_key_bytes": Limit(default=4096, least=1, most=MAX_KEY_BYTES, before=4096),
        "max_value_bytes": Limit(default=8 << 20, least=1, most=MAX_VALUE_BYTES, before=8 << 20),
        "max_scan_items": Limit(default=10_000, least=1, most=MAX_SCAN_ITEMS, before=10_000),
        "max_scan_bytes": Limit(default=1 << 20, least=1, most=MAX_SCAN_BYTES, before=1 << 20),
        "max_reply_bytes": Limit(default=16 << 20, least=1, most=MAX_REPLY_BYTES, before=16 << 20),
    }

    def __init__(self) -> None:
        self.agree({name: limit.default for name, limit in self.limits.items()})
        self._data: dict[str, bytes | bytearray] = {}
        """A value that was appended to is a bytearray: with `bytes` each append to a large value
        would copy all of it, and a short command of many appends would stop the cluster."""
        self._checked: dict[int, tuple[bytes, list[Operation]]] = {}
        """What `check` decoded, by the identity of the command: most is executed here soon."""
        self._index: KeyIndex | None = None
        """Built at the first scan and kept since; without scans it costs nothing."""
        self._unindexed: set[str] = set()
        """Keys put in or removed since the index was last brought up to date."""
        self._version = 0
        self._digest: tuple[int, str] = (-1, "")
        self._reply_bytes = 0
        """What the reads of the command at hand have taken so far."""

    def __len__(self) -> int:
        return len(self._data)

    # --- StateMachine ------------------------------------------------------------------------

    def agree(self, limits: Mapping[str, int]) -> None:
        """Take these limits from now on; what is in the store already stays."""
        self._max_key_bytes = limits["max_key_bytes"]
        self._safe_key_length = self._max_key_bytes // 4
        """A key of so many characters cannot be too long in UTF-8."""
        self._max_value_bytes = limits["max_value_bytes"]
        self._max_scan_items = limits["max_scan_items"]
        self._max_scan_bytes = limits["max_scan_bytes"]
        self._max_reply_bytes = limits["max_reply_bytes"]
        self._long_key = refusal(f"the key is longer than {self._max_key_bytes} bytes")
        self._long_value = refusal(f"the value is longer than {self._max_value_bytes} bytes")

    def check(self, command: bytes) -> None:
        """Raises ValueError for a command that is not a list of operations."""
        operations = decode_operations(command)
        if len(command) <= _KEPT_BYTES:
            if len(self._checked) >= _KEPT_COMMANDS:
                self._checked.clear()
            self._checked[id(command)] = (command, operations)

    def cost(self, command: bytes) -> int:
        """About what the reads of a short command, or the operations of a long one, will take.

        (What a command reads is bounded by `max_reply_bytes`, however long it is.)
        """
        if len(command) > _MANY_OPERATIONS:
            count = count_operations(command)
            if count > _MANY_OPERATIONS:
                return len(command) + count * _OPERATION_BYTES
        checked = self._checked.get(id(command))
        if checked is None:
            return len(command)
        operations = checked[1]
        if len(operations) > _FEW_OPERATIONS or READS.isdisjoint(map(type, operations)):
            return len(command)
        cost = 0
        for operation in operations:
            if type(operation) is Get:
                cost += len(self._data.get(operation.key, b""))
            elif type(operation) is Scan:
                cost += min(operation.limit, len(self._data)) * _SCAN_ITEM_BYTES
        return len(command) + min(cost, self._max_reply_bytes)

    def apply(self, command: bytes) -> bytes:
        """Execute a list of operations, return the list of their results.

        Raises ValueError for a malformed command, before anything is changed.
        """
        checked = self._checked.pop(id(command), None) if self._checked else None
        operations = decode_operations(command) if checked is None else checked[1]
        self._version += 1
        self._reply_bytes = 0
        data = self._data
        safe_key_length, max_value_bytes = self._safe_key_length, self._max_value_bytes
        indexed = self._index is not None
        results: list[Result] = []
        done = results.append
        for operation in operations:
            if type(operation) is Put:  # by far the most frequent, so without a call
                key = operation.key
                if len(key) > safe_key_length and self._too_long(key):
                    done(self._long_key)
                    continue
                value = operation.value
                if len(value) > max_value_bytes:
                    done(self._long_value)
                    continue
                if indexed and key not in data:
                    self._unindexed.add(key)
                data[key] = value
                done(None)
            else:
                done(self._execute(operation))
                indexed = self._index is not None  # a scan may have built it
        if len(self._unindexed) > _INDEX_BACKLOG:
            self._update_index()
        return encode_results(results)

    def query(self, query: bytes) -> bytes:
        """Answer a list of gets and scans. Raises ValueError for anything else."""
        operations = decode_operations(query)
        if not only_reads(operations):
            raise ValueError("a query may only hold gets and scans: send writes as a command")
        self._reply_bytes = 0
        return encode_results([self._execute(operation) for operation in operations])

    def snapshot(self) -> bytes:
        # Encoded alike, whether bytes or bytearray.
        return _encoder.encode(_Image(_FORMAT, cast("dict[str, bytes]", self._data)))

    def restore(self, snapshot: bytes) -> None:
        """Become what `snapshot` holds. Raises ValueError if it is not a snapshot of a store."""
        try:
            image = _image_decoder.decode(snapshot)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ValueError(f"not a snapshot of a key-value store: {error}") from None
        if image.format != _FORMAT:
            raise ValueError(
                f"the snapshot has format {image.format}, this release reads {_FORMAT}: "
                "run the release that wrote it"
            )
        self._data = dict(image.data)
        self._index = None
        self._unindexed = set()
        self._version += 1

    def digest(self) -> str:
        """A fingerprint of the state, the same on servers that executed the same commands.

        It covers keys, values and the order in which keys came in (which is a function of the
        commands executed, snapshots included), so nothing has to be sorted. Computed when asked for
        and kept until the next command. Its cost is bounded by some 20 ms, for a server that is
        asked for its status stands still meanwhile: of a store with more than 50,000 keys or 8 MiB
        of values it covers the number of keys and what was put in last (10,000 of them), and begins
        with "~" to say so.
        """
        if self._digest[0] != self._version:
            self._digest = (self._version, self._compute_digest())
        return self._digest[1]

    def _compute_digest(self) -> str:
        data = self._data
        whole = len(data) <= _DIGEST_KEYS and sum(map(len, data.values())) <= _DIGEST_BYTES
        hashed = hashlib.blake2b(len(data).to_bytes(8, "big"), digest_size=16)
        if whole:
            hashed.update(_encoder.encode(data))
            return hashed.hexdigest()
        budget = _DIGEST_BYTES
        for key in islice(reversed(data), _DIGEST_PART_KEYS):
            value = data[key]
            hashed.update(_encoder.encode((key, value)))
            budget -= len(value)
            if budget < 0:
                break
        return "~" + hashed.hexdigest()

    # --- operations --------------------------------------------------------------------------

    def _execute(self, operation: Operation) -> Result:
        if isinstance(operation, Scan):
            return self._scan(operation)
        key = operation.key
        if len(key) > self._safe_key_length and self._too_long(key):
            return self._long_key
        match operation:
            case Get():
                return self._get(key)
            case Put(_, value):
                return self._set(key, value)
            case Append(_, value):
                return self._append(key, value)
            case Delete():
                return self._delete(key)
            case CompareAndSet():
                return self._compare_and_set(operation)

    def _get(self, key: str) -> Result:
        value = self._data.get(key)
        if value is None:
            return None
        return _as_it_is(value) if self._fits_reply(len(value)) else _LONG_REPLY

    def _set(self, key: str, value: bytes) -> Result:
        if len(value) > self._max_value_bytes:
            return self._long_value
        if self._index is not None and key not in self._data:
            self._unindexed.add(key)
        self._data[key] = value
        return None

    def _append(self, key: str, value: bytes) -> Result:
        held = self._data.get(key)
        if held is None:
            refused = self._set(key, value)
            return len(value) if refused is None else refused
        size = len(held) + len(value)
        if size > self._max_value_bytes:
            return self._long_value
        if size < _SHORT_VALUE and type(held) is bytes:
            self._data[key] = held + value
            return size
        if type(held) is bytes:
            held = self._data[key] = bytearray(held)
        assert type(held) is bytearray
        held += value
        return size

    def _delete(self, key: str) -> bool:
        if self._data.pop(key, None) is None:
            return False
        if self._index is not None:
            self._unindexed.add(key)
        return True

    def _compare_and_set(self, operation: CompareAndSet) -> Result:
        key, new = operation.key, operation.new
        if new is not None and len(new) > self._max_value_bytes:
            return self._long_value
        if self._data.get(key) != operation.expected:
            return False
        if new is None:
            self._delete(key)
        else:
            self._set(key, new)
        return True

    def _scan(self, scan: Scan) -> Result:
        if not 1 <= scan.limit <= _MOST_SCAN_LIMIT:
            return refusal(f"a scan's limit has to be from 1 to {_MOST_SCAN_LIMIT}")
        if self._reply_bytes >= self._max_reply_bytes:
            return _LONG_REPLY  # without having looked for anything
        limit = min(scan.limit, self._max_scan_items)  # the page says that there is more
        prefix, data = scan.prefix, self._data
        after = scan.start_after >= prefix and scan.start_after != ""
        first = scan.start_after if after else prefix
        found: list[tuple[str, bytes]] = []
        size = 0
        for key in self._up_to_date_index().starting(first, after=after):
            if not key.startswith(prefix):
                break
            if len(found) == limit or size >= self._max_scan_bytes:
                return self._page(True, found, size)
            value = data[key]
            found.append((key, _as_it_is(value)))
            size += len(key) + len(value)
        return self._page(False, found, size)

    def _page(self, more: bool, found: list[tuple[str, bytes]], size: int) -> Result:
        work = size + _SCAN_ITEM_BYTES * len(found)
        return [more, found] if self._fits_reply(work) else _LONG_REPLY

    def _fits_reply(self, size: int) -> bool:
        """Whether a read of this size may still go into the reply; the first one always may."""
        if self._reply_bytes and self._reply_bytes + size > self._max_reply_bytes:
            return False
        self._reply_bytes += size
        return True

    # --- the index ---------------------------------------------------------------------------

    def _up_to_date_index(self) -> KeyIndex:
        if self._index is None:
            self._index = KeyIndex(self._data)
        elif self._unindexed:
            self._update_index()
        return self._index

    def _update_index(self) -> None:
        index, data = self._index, self._data
        if index is not None:
            for key in self._unindexed:
                if key in data:
                    index.add(key)
                else:
                    index.discard(key)
        self._unindexed.clear()

    def _too_long(self, key: str) -> bool:
        return len(key.encode()) > self._max_key_bytes


def _as_it_is(value: bytes | bytearray) -> bytes:
    """A copy of what a read has found, if it may change.

    The command may append to the same value before its reply is encoded, and whether that is done
    in place differs between servers: one may have restored a snapshot.
    """
    return value if type(value) is bytes else bytes(value)
