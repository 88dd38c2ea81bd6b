"""The methods of both clients that make conditions."""

from __future__ import annotations

from paxon.kvstore.client.arguments import Key
from paxon.kvstore.client.calls.conditions import Compared
from paxon.kvstore.client.calls.keys import Bounds, span_of

__all__ = ["Comparing"]


class Comparing:
    """`kv.modified("motto") == 7`, of a key, or of each key with a prefix or in a range.

    Of a missing key all numbers are 0, and a comparison of its value is false.
    """

    @staticmethod
    def value(
        key: Key | None = None,
        *,
        prefix: Key | None = None,
        range: Bounds | None = None,  # noqa: A002
    ) -> Compared:
        """The value; compared with ==, !=, < and >."""
        return Compared("value", span_of(key, prefix, range))

    @staticmethod
    def version(
        key: Key | None = None,
        *,
        prefix: Key | None = None,
        range: Bounds | None = None,  # noqa: A002
    ) -> Compared:
        """How often it was written since it was made."""
        return Compared("version", span_of(key, prefix, range))

    @staticmethod
    def created(
        key: Key | None = None,
        *,
        prefix: Key | None = None,
        range: Bounds | None = None,  # noqa: A002
    ) -> Compared:
        """The revision that made it."""
        return Compared("created", span_of(key, prefix, range))

    @staticmethod
    def modified(
        key: Key | None = None,
        *,
        prefix: Key | None = None,
        range: Bounds | None = None,  # noqa: A002
    ) -> Compared:
        """The revision of its last write."""
        return Compared("modified", span_of(key, prefix, range))

    @staticmethod
    def lease_of(
        key: Key | None = None,
        *,
        prefix: Key | None = None,
        range: Bounds | None = None,  # noqa: A002
    ) -> Compared:
        """The id of its lease; 0: none."""
        return Compared("lease", span_of(key, prefix, range))
