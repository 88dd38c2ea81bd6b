"""A replicated class whose code is replaced while the cluster runs: its two versions, as text."""

from __future__ import annotations

__all__ = ["FIRST", "SECOND"]

FIRST = """
from paxon import Replicated, command, query

class Tally(Replicated, name="tally"):
    def __init__(self) -> None:
        self.total: int = 0

    @command
    def add(self, by: int = 1) -> int:
        self.total += by
        return self.total

    @query
    def sum(self) -> int:
        return self.total
"""

SECOND = """
from typing import Annotated
from paxon import Replicated, command, query, since

class Tally(Replicated, name="tally"):
    def __init__(self) -> None:
        self.total: int = 0
        self.by: Annotated[dict[str, int], since(2)] = {}

    @command(name="add")
    def add_1(self, by: int = 1) -> int:
        self.total += by
        return self.total

    @command(since=2)
    def add(self, by: int = 1, who: str = "") -> int:
        self.total += by
        self.by[who] = self.by.get(who, 0) + by
        return self.total

    @query
    def sum(self) -> int:
        return self.total

    @query(since=2)
    def of(self, who: str) -> int:
        return self.by.get(who, 0)
"""
