"""Which writers an observed value is made of, where only one set of them can have made it.

Tests write values that are all distinct, so what a read returned mostly tells exactly which put (or
compare-and-set) it began with and which appends followed: its *chain*. A search that knows the
chains sees at once that a writer placed elsewhere can never be seen where it was seen. And a writer
that is in nobody's chain leaves nothing that anybody could tell from any other value of its length,
so its bytes can be made the same as all others': that makes many configurations one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.linearizability.model import Step

__all__ = ["Chains"]

MAX_VALUE_BYTES = 512
"""Longer values are not taken apart."""

Link = tuple[int, int]
"""A writer (`Step.ident`) and the length of the value after it."""


class Chains:
    """The chains of the values that somebody observed of one key."""

    def __init__(self, writers: Sequence[Step], values: Iterable[bytes | None]) -> None:
        self.of_writer: dict[int, list[tuple[bytes, int]]] = {}
        """Per writer (`Step.ident`) the values it is a link of, and their length after it."""
        self.of_prefix: dict[bytes, list[bytes]] = {}
        """Per state on the way to observed values, those values."""
        self.complete = all(writer.new != b"" for writer in writers)
        """Every value has its one chain, or can't be made at all (then nothing depends on it)."""
        if not self.complete:
            return
        first: dict[bytes, list[Step]] = {}
        following: dict[bytes, list[Step]] = {}
        for writer in writers:
            if writer.new is not None:
                first.setdefault(writer.new, []).append(writer)
                if writer.kind == "append":
                    following.setdefault(writer.new, []).append(writer)
        for value in values:
            if value is None:
                continue
            chain = _chain(value, first, following)
            if chain is None:
                self.complete = False
            else:
                self._add(value, chain)

    def _add(self, value: bytes, chain: list[Link]) -> None:
        for ident, end in chain:
            self.of_writer.setdefault(ident, []).append((value, end))
            self.of_prefix.setdefault(value[:end], []).append(value)


def _chain(
    value: bytes, first: dict[bytes, list[Step]], following: dict[bytes, list[Step]]
) -> list[Link] | None:
    """The one chain of a value; empty if there is none, None if there may be several."""
    if not value or len(value) > MAX_VALUE_BYTES:
        return None
    lengths = sorted({len(piece) for piece in (*first, *following)})
    back: list[list[Step]] = [[] for _ in range(len(value) + 1)]
    """Per length the writers that may have ended there, at most two (then it is ambiguous)."""
    for start in range(len(value)):
        if start and not back[start]:
            continue
        table = following if start else first
        for length in lengths:
            end = start + length
            if end > len(value):
                break
            for writer in table.get(value[start:end], ()):
                if len(back[end]) < 2 and _may_end_at(writer, end):
                    back[end].append(writer)
    chain: list[Link] = []
    end = len(value)
    if not back[end]:
        return []
    while end:
        if len(back[end]) > 1:
            return None
        writer = back[end][0]
        chain.append((writer.ident, end))
        end -= len(writer.new or b"")
    return chain


def _may_end_at(writer: Step, end: int) -> bool:
    """An append that was told the new length ends there and nowhere else."""
    told = writer.source.result
    return writer.kind != "append" or not writer.told or told is None or told == end


def make_alike(writers: Sequence[Step], chains: Chains, values: Iterable[bytes | None]) -> None:
    """Give the same bytes to all writers that are in no chain (where all chains are known)."""
    if not chains.complete:
        return
    used = {byte for value in values if value is not None for byte in value}
    filler = next((byte for byte in range(256) if byte not in used), None)
    if filler is None:
        return
    for writer in writers:
        if writer.new is not None and writer.ident not in chains.of_writer:
            writer.new = bytes([filler]) * len(writer.new)
