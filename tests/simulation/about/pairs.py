"""Keys that only transactions write, two at a time: who sees one of two has seen half of one.

Their keys come after all others, and none begins with `k`, so scans of clients leave them out.
"""

from __future__ import annotations

from random import Random
from typing import Any

from paxon.kvstore.store.operations import Put, Range, Txn, is_refusal
from tests.invariants import InvariantBroken

__all__ = ["PAIRS", "Pairs", "pair"]

PAIRS = Range(b"~", b"\x7f")
"""All of them."""


def pair(number: int, value: bytes) -> Txn:
    """Write both keys of a pair, the second in a transaction within the first."""
    return Txn([], [Put(b"~a%d" % number, value), Txn([], [Put(b"~b%d" % number, value)], [])], [])


class Pairs:
    """What was acknowledged of pairs, and whether what is read later fits."""

    def __init__(self) -> None:
        self._written: dict[int, tuple[bytes, bytes]] = {}
        """By revision, the first key and its value."""
        self._newest: dict[bytes, int] = {}
        """By first key the revision of the last that was acknowledged."""

    def written(self, key: bytes, value: bytes, result: Any) -> None:
        """A pair's transaction was acknowledged."""
        succeeded, revision, [first, [inner, inner_revision, [second]]] = result
        self._require(
            succeeded and inner and revision == inner_revision == first == second,
            f"the transaction at {key!r} is of several revisions: {result}",
        )
        self._written[revision] = key, value
        self._newest[key] = max(revision, self._newest.get(key, 0))

    def read(self, result: Any, floor: int) -> None:
        """All pairs, read after all revisions up to `floor` had been acknowledged."""
        _, _, _, rows, _ = result
        found = {row[0]: row for row in rows}
        for key, value, _, modified, version, _ in rows:
            twin = found.get((b"~b" if key[:2] == b"~a" else b"~a") + key[2:])
            self._require(
                twin is not None and (twin[1], twin[3], twin[4]) == (value, modified, version),
                f"half of a transaction is seen: {key!r} in revision {modified}, beside {twin}",
            )
        for revision, (key, _) in self._written.items():
            if revision <= floor:
                seen = found[key][3] if key in found else 0
                self._require(seen >= revision, f"{key!r} is of {seen}, {revision} was told before")

    def draw_past(self, random: Random) -> Range:
        """A key as it was after the revision that wrote it; sometimes only the present."""
        if not self._written:
            return PAIRS
        revision = random.choice(list(self._written)[-30:])
        return Range(self._written[revision][0], revision=revision)

    def read_past(self, asked: Range, result: Any) -> None:
        """What `draw_past` asked for: what was written then, or that it is gone."""
        if is_refusal(result):
            self._require(result.get("kind") == "compacted", f"{asked} was refused: {result}")
            return
        key, value = self._written[asked.revision]
        rows = [(row[0], row[1], row[3]) for row in result[3]]
        self._require(
            rows == [(key, value, asked.revision)],
            f"{key!r} was {value!r} in revision {asked.revision}, and is said to have been {rows}",
        )

    @staticmethod
    def _require(holds: bool, text: str) -> None:
        if not holds:
            raise InvariantBroken("transactions", text)
