"""What travels: calls to the servers, outcomes back. Plain data."""

from __future__ import annotations

from typing import Final

import msgspec

from paxon.actors.limits.allowances import FAILURE_BYTES
from paxon.kvstore.store.operations import MAX_OPERATIONS, count_operations

__all__ = [
    "CallRecord",
    "Outcome",
    "Answer",
    "RETURNED",
    "RAISED",
    "REFUSED",
    "comparable",
    "cost_of",
    "counted",
    "decode_answer",
    "decode_calls",
    "decode_value",
    "encode",
    "encode_answer",
    "no_value",
    "text_bytes",
]


class CallRecord(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One call. A command or query is a list of them, executed in order."""

    method: str
    arguments: msgspec.Raw
    """A map of those that were given, by name: a server of another version of the class finds
    those that its own body has."""


RETURNED: Final = 0
RAISED: Final = 1
REFUSED: Final = 2
"""The call fits no method: nothing was executed."""


class Outcome(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """How a call ended."""

    kind: int
    value: msgspec.Raw
    """The result; of a declared exception its arguments, a list, or None if they cannot be carried:
    its text, which may differ from server to server, stands for them."""
    name: str = ""
    """The exception's class, "" if none was raised."""
    text: str = ""
    """For people. Not compared among servers: it may hold an address in memory."""
    declared: bool = False
    """The method says that it raises this, so it comes back as itself."""


class Answer(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The reply to a list of calls."""

    failed: bool
    """Whether any of them did not return."""
    outcomes: list[Outcome]


_encoder = msgspec.msgpack.Encoder()
_calls = msgspec.msgpack.Decoder(list[CallRecord])
_answer = msgspec.msgpack.Decoder(Answer)
_value = msgspec.msgpack.Decoder()
_TRUE = 0xC3
_CALL_BYTES = 1024
"""What each call of many counts for: about as long as one that does nothing takes."""
_NOTHING = msgspec.Raw(_encoder.encode(None))

encode = _encoder.encode
"""Those that decode raise `msgspec.DecodeError`."""
decode_answer = _answer.decode
decode_value = _value.decode


def decode_calls(command: bytes) -> list[CallRecord]:
    """The calls of a command or query. Raises ValueError, too, if there are too many."""
    if count_operations(command) > MAX_OPERATIONS:
        raise ValueError(f"it holds more than {MAX_OPERATIONS} calls: send fewer at once")
    return _calls.decode(command)


def cost_of(command: bytes) -> int:
    """About how long a command takes, as the bytes that are copied meanwhile."""
    return len(command) + _CALL_BYTES * count_operations(command)


def encode_answer(outcomes: list[Outcome]) -> bytes:
    """The reply to the calls that ended so."""
    return encode(Answer(any(outcome.kind != RETURNED for outcome in outcomes), outcomes))


def comparable(reply: bytes) -> bytes:
    """The part of a reply that is the same on every server: all but the texts of errors."""
    if reply[1] != _TRUE:
        return reply
    answer = decode_answer(reply)
    for outcome in answer.outcomes:
        outcome.text = ""
    return encode(answer)


def text_bytes(calls: int) -> int:
    """What an error's text may have, and counts for, among the answers to so many calls.

    Texts differ from server to server, and what is counted must not.
    """
    return max(256, min(FAILURE_BYTES, 16 * FAILURE_BYTES // max(1, calls)))


def counted(reply: bytes) -> int:
    """The bytes that a reply counts for, the same on every server."""
    if reply[1] != _TRUE:
        return len(reply)
    outcomes = decode_answer(reply).outcomes
    failed = sum(outcome.kind != RETURNED for outcome in outcomes)
    return len(comparable(reply)) + failed * text_bytes(len(outcomes))


def no_value() -> msgspec.Raw:
    """For an outcome that has none."""
    return _NOTHING
