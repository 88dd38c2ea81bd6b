"""Contests in which several may hold at once: semaphores, and locks of readers and writers. No I/O.

A later one never holds before an earlier one, so nobody waits for ever: not even a writer behind
readers that come and go.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Literal

from paxon.kvstore.client.arguments import Key
from paxon.kvstore.client.calls.answers import Entry
from paxon.kvstore.errors import InvalidRequest
from paxon.kvstore.recipes.contests import Contender, Contest

__all__ = ["Permits", "Sharing"]

_MOST_READ = 100


class Permits(Contest):
    """The `limit` oldest hold. A contender's value is its limit: all have to agree on it."""

    def __init__(self, name: Key, limit: int, ttl: float) -> None:
        super().__init__(name, "semaphore", ttl, ".sem/")
        if type(limit) is not int or limit < 1:
            raise InvalidRequest(f"a semaphore's limit has to be an int from 1, not {limit!r}")
        self.limit = limit
        self.value = b"%d" % limit
        self.reading = min(limit, _MOST_READ)

    def _is_ours(self, entry: Entry) -> bool:
        return entry.value.isdigit()

    def holding(self, contenders: Sequence[Contender]) -> Sequence[Contender]:
        return contenders[: self.limit]

    def decides(self, earlier: Sequence[Contender]) -> bool:
        return [each.value for each in earlier[-self.limit :]] == [self.value] * self.limit

    def before(self, earlier: Sequence[Contender]) -> tuple[Sequence[Contender], int]:
        if earlier and earlier[0].value != self.value:
            raise InvalidRequest(
                f"semaphore {self.name!r} has a limit of {earlier[0].value.decode()} to those who "
                f"contend for it, not of {self.limit}"
            )
        return earlier, self.limit - 1


class Sharing(Contest):
    """Readers wait for the writers before them, a writer for all. The value says which one is."""

    def __init__(self, name: Key, mode: Literal["read", "write"], ttl: float) -> None:
        super().__init__(name, "rwlock", ttl, ".rw/")
        self.value = mode.encode()

    def _is_ours(self, entry: Entry) -> bool:
        return entry.value in {b"read", b"write"}

    def holding(self, contenders: Sequence[Contender]) -> Sequence[Contender]:
        return list(takewhile(_reads, contenders)) or contenders[:1]

    def decides(self, earlier: Sequence[Contender]) -> bool:
        return bool(self.before(earlier)[0])

    def before(self, earlier: Sequence[Contender]) -> tuple[Sequence[Contender], int]:
        """The last one of those: when it is gone, one looks whether others are still there."""
        others = earlier if self.value == b"write" else [e for e in earlier if not _reads(e)]
        return others[-1:], 0


def _reads(contender: Contender) -> bool:
    return contender.value == b"read"
