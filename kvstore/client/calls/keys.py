"""Which keys a request is about: one, those with a prefix, or those from one key up to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias, runtime_checkable

from paxon.kvstore.client.arguments import Key, Value, check_key, check_prefix
from paxon.kvstore.errors import InvalidRequest
from paxon.kvstore.store.operations import MAX_NUMBER
from paxon.kvstore.store.spans import EVERYTHING, TO_THE_END, prefix_span

__all__ = ["Bounds", "Leased", "Values", "check_lease", "check_number", "span_of"]

Bounds: TypeAlias = tuple[Key | None, Key | None]
"""From the first key on, up to but without the second; None: no bound on that side."""


Values: TypeAlias = Mapping[str, Value] | Mapping[bytes, Value] | Mapping[Key, Value]
"""Values by key."""


@runtime_checkable
class Leased(Protocol):
    """A lease, to those who attach keys to it."""

    @property
    def id(self) -> int:
        """The number by which the store knows it."""


def span_of(
    key: Key | None, prefix: Key | None, bounds: Bounds | None
) -> tuple[bytes, bytes | None]:
    """The span that exactly one of the three names, else `InvalidRequest`."""
    if (key is not None) + (prefix is not None) + (bounds is not None) != 1:
        raise InvalidRequest("give one of: a key, prefix=…, range=(first, end)")
    if key is not None:
        return check_key(key), None
    if prefix is not None:
        return prefix_span(check_prefix(prefix))
    if not isinstance(bounds, tuple) or len(bounds) != 2:
        raise InvalidRequest(f"a range is a pair (first, end), not {bounds!r}")
    first = check_prefix("" if bounds[0] is None else bounds[0], "first key") or EVERYTHING[0]
    if bounds[1] is None:
        return first, TO_THE_END
    end = check_prefix(bounds[1], "end of the range")
    # No key is below `\0`; on the wire it would mean "to the end".
    return first, first if end <= TO_THE_END else end


def check_number(number: object, what: str) -> int:
    """A revision, version or limit, else `InvalidRequest`."""
    if type(number) is not int:
        raise InvalidRequest(f"the {what} has to be an int, not {type(number).__name__}")
    if not 0 <= number <= MAX_NUMBER:
        raise InvalidRequest(f"the {what} has to be from 0 to 2^63 - 1, not {number}")
    return number


def check_lease(lease: Leased | int) -> int:
    """The id of a lease. Raises `InvalidRequest`."""
    if not isinstance(lease, int) and isinstance(lease, Leased):
        lease = lease.id
    if type(lease) is not int:
        raise InvalidRequest(
            "a lease has to be one that `lease` has granted (entered or awaited), or its id, an "
            f"int, not {type(lease).__name__}"
        )
    number = check_number(lease, "lease")
    if not number:
        raise InvalidRequest("a lease's id is not 0: leave it out for none")
    return number
