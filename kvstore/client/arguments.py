"""Keys and values as callers write them, and as the store has them: checked before they are sent.

The store's keys are bytes. Callers may write text, which becomes UTF-8; bytes that are not UTF-8
come back as the surrogates that Python puts in their place (`surrogateescape`), in both directions.
"""

from __future__ import annotations

from typing import TypeAlias

from paxon.kvstore.errors import InvalidRequest
from paxon.kvstore.store.operations import MAX_KEY_BYTES, MAX_SCAN_ITEMS, MAX_VALUE_BYTES, Scan

__all__ = [
    "Key",
    "Value",
    "as_text",
    "check_key",
    "check_optional_value",
    "check_prefix",
    "check_scan",
    "check_value",
]

Key: TypeAlias = str | bytes
Value: TypeAlias = bytes | str


def as_text(key: bytes) -> str:
    """A key as callers see it."""
    return key.decode("utf-8", "surrogateescape")


def check_key(key: object, what: str = "key") -> bytes:
    """Return a proper key, else raise `InvalidRequest`."""
    if type(key) is str and key and key.isascii() and len(key) <= MAX_KEY_BYTES:
        return key.encode()  # as nearly all
    encoded = check_prefix(key, what)
    if not encoded:
        raise InvalidRequest(f"the {what} is empty")
    return encoded


def check_prefix(key: object, what: str = "prefix") -> bytes:
    """The same for what may be empty."""
    if isinstance(key, str):
        try:
            encoded = key.encode()
        except UnicodeEncodeError:
            encoded = _escaped(key, what)
    elif isinstance(key, bytes):
        encoded = bytes(key)
    else:
        raise InvalidRequest(f"the {what} has to be a str or bytes, not {type(key).__name__}")
    if len(encoded) > MAX_KEY_BYTES:
        raise InvalidRequest(
            f"the {what} has {len(encoded)} bytes; at most {MAX_KEY_BYTES} are allowed"
        )
    return encoded


def _escaped(key: str, what: str) -> bytes:
    try:
        return key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidRequest(f"the {what} cannot be written as UTF-8: {key!r}") from None


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
    return Scan(check_prefix(prefix), limit, check_prefix(start_after, "start_after"))
