"""What clients ask of the cluster itself: its settings (docs/settings.md), and another leader."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from paxon.actors.ballot import Ballot, ServerId
from paxon.actors.execution.agreed import Change, Number, encode_change
from paxon.kvstore.errors import InvalidRequest, OperationFailed

__all__ = [
    "ClusterSettings",
    "check_new_values",
    "decode_settings",
    "read_transfer",
    "settings_request",
    "transfer_request",
]


class ClusterSettings(msgspec.Struct, frozen=True):
    """What all servers of a cluster agree on."""

    values: dict[str, Number]
    """By name, the limits of the state machine among them. Times are seconds."""
    from_slot: int
    """The first slot of the log that was executed with these values."""

    def __getitem__(self, name: str) -> Number:
        return self.values[name]


def check_new_values(new: Mapping[str, object]) -> dict[str, Number]:
    """New values that can be sent; names and ranges are the servers' to know.

    Raises `InvalidRequest`.
    """
    checked: dict[str, Number] = {}
    for name, value in new.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or abs(value) >= 1 << 63:  # type: ignore[arg-type]
            raise InvalidRequest(f"{name} = {value!r}: must be a number")
        checked[name] = value  # type: ignore[assignment]
    if not checked:
        raise InvalidRequest("name at least one setting and its new value")
    return checked


def settings_request(known: ClusterSettings | None, new: Mapping[str, Number]) -> bytes:
    """The body of a request: change what is `known` to `new`, or (both empty) only ask."""
    changed_at = 0 if known is None else known.from_slot - 1
    return encode_change(Change(changed_at, dict(new)))


def decode_settings(payload: bytes) -> ClusterSettings:
    """The servers' answer. Raises `OperationFailed` if it is none."""
    try:
        found: dict[str, Any] = msgspec.msgpack.decode(payload, type=dict[str, Any])
        limits, changed_at = found.pop("machine"), found.pop("changed_at")
        return ClusterSettings(found | limits, changed_at + 1)
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise OperationFailed(f"the servers' answer is malformed: {error}") from None


def transfer_request(reign: Ballot, to: ServerId | None) -> bytes:
    """The body of a request to end a reign; `to`: who is to lead instead, None: anybody.

    Raises `InvalidRequest`.
    """
    if to is not None and (type(to) is not int or to < 1):
        raise InvalidRequest(f"to = {to!r}: must be the id of a server, from 1")
    return msgspec.msgpack.encode((reign, to or 0))


def read_transfer(body: bytes) -> tuple[Ballot, ServerId]:
    """What such a request holds."""
    return msgspec.msgpack.decode(body, type=tuple[Ballot, ServerId])
