"""Answers of the store as callers see them, and refusals as errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from paxon.kvstore import errors
from paxon.kvstore.client.arguments import as_text
from paxon.kvstore.store.items import Row
from paxon.kvstore.store.operations import MAX_REPLY_BYTES, Result, is_refusal, is_split

__all__ = ["Entry", "RangeResult", "TxnResult", "accepted", "entry_of"]

_TOO_MUCH = (
    f"the reply would exceed {MAX_REPLY_BYTES} bytes, for which keys that are compared or skipped "
    "count, too: ask for less in one request, or in one pipeline"
)


class Entry(msgspec.Struct, frozen=True):
    """A key with all that belongs to it."""

    key: str
    """Bytes that are not UTF-8 stand in it as surrogates, as in file names (`surrogateescape`)."""
    value: bytes
    created: int
    """The revision that made the key."""
    modified: int
    """The revision of its last write."""
    version: int
    """Writes since it was made, from 1."""
    lease: int
    """The id of the lease with which it goes; 0: none."""


class RangeResult(msgspec.Struct, frozen=True):
    """The content of a range; all of it is of one revision, however long it is."""

    entries: list[Entry]
    count: int
    """Keys in the range, whatever the limit and the filters."""
    more: bool
    """Whether the limit left something out."""
    revision: int
    """The store's when it was read: a watch may go on after it."""

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


class TxnResult(msgspec.Struct, frozen=True):
    """The outcome of a transaction."""

    succeeded: bool
    """Whether all conditions held, so that `then` was done and not `else_`."""
    revision: int
    """The store's afterwards."""
    results: list[Any]
    """Of each operation of the branch that was taken, in order; of what type, its class says."""


def entry_of(row: Row) -> Entry:
    """An item as it was answered, as callers see it."""
    return Entry(as_text(row[0]), *row[1:])


def accepted(result: Result) -> Any:
    """The result of an operation. Raises the error that it stands for if it was refused."""
    if not is_refusal(result):
        return result
    text = str(result.get("error", "refused"))
    revision = result.get("revision", 0)
    match result.get("kind", ""):
        case "compacted":
            raise errors.Compacted(text, oldest=result.get("oldest", 0), revision=revision)
        case "future":
            raise errors.FutureRevision(text, revision=revision)
        case "large":
            raise errors.TooLarge(text)
        case "lease":
            raise errors.LeaseExpired(text)
        case "exists" | "missing":
            raise errors.OperationFailed(text)
        case _:
            raise errors.InvalidRequest(_TOO_MUCH if is_split(result) else text)
