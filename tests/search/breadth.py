"""Breadth-first search from a start: every world within reach, nearest first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeAlias

from tests.search.making import MakingSearch, MakingWorld
from tests.search.world import Fact, Happening, Search, Violation, World

__all__ = ["Found", "Goal", "breadth_first"]


@dataclass(slots=True)
class Found:
    """What a search came to."""

    states: int = 0
    """Distinct worlds, after symmetry."""
    transitions: int = 0
    depth: int = 0
    """Every world that so many events can reach was visited."""
    complete: bool = False
    """There are no more worlds within the budget."""
    seconds: float = 0.0
    computed: int = 0
    """Steps that a real server had to take; the others were known."""
    violation: str = ""
    path: list[str] = field(default_factory=list)
    """The shortest way to the violation, an event a line."""
    reached: dict[str, int] = field(default_factory=dict)
    """Goals, and after how many events they can be reached at the earliest."""

    @property
    def states_per_second(self) -> float:
        return self.states / self.seconds if self.seconds else 0.0


Goal = tuple[str, Callable[[frozenset[Fact]], bool]]
"""What must be reachable, or must not be: in words, and of what was seen."""


AnyWorld: TypeAlias = Any
"""A world of the kind that the search knows."""


class _BreadthFirst:
    def __init__(
        self,
        search: Any,
        start: AnyWorld,
        goals: list[Goal],
        never: list[Goal],
    ) -> None:
        self.search = search
        self.found = Found(states=1)
        self.visited = {search.key(start)}
        self.origins: list[tuple[int, Happening | None]] = [(-1, None)]
        self.goals = goals
        self.never = never
        self.judged: set[int] = set()
        """Facts that goals were looked at for."""

    def expand(self, world: AnyWorld, index: int) -> list[tuple[AnyWorld, int]]:
        """All new worlds that one event leads to; stops at a violation."""
        search, found, visited = self.search, self.found, self.visited
        following = []
        for happening in search.happenings(world):
            found.transitions += 1
            try:
                reached = search.happen(world, happening)
                if reached.facts not in self.judged:
                    self.judge(reached)
            except Violation as violation:
                found.violation = str(violation)
                found.path = [*self.path(index), search.describe(happening)]
                break
            if reached == world:
                continue
            key = search.key(reached)
            if key in visited:
                continue
            visited.add(key)
            self.origins.append((index, happening))
            following.append((reached, len(self.origins) - 1))
            found.states += 1
        return following

    def judge(self, world: AnyWorld) -> None:
        self.judged.add(world.facts)
        facts = self.search.facts(world)
        for text, holds in self.never:
            if holds(facts):
                raise Violation(text)
        for text, holds in self.goals:
            if text not in self.found.reached and holds(facts):
                self.found.reached[text] = self.found.depth + 1

    def path(self, index: int) -> list[str]:
        """How the world of that number was reached."""
        events: list[str] = []
        while index > 0:
            index, happening = self.origins[index]
            if happening is not None:
                events.append(self.search.describe(happening))
        events.reverse()
        return events


def breadth_first(
    search: Search | MakingSearch,
    start: World | MakingWorld,
    *,
    max_states: int,
    max_depth: int = 10_000,
    goals: Iterable[Goal] = (),
    never: Iterable[Goal] = (),
    on_level: Callable[[Found], None] = lambda _found: None,
) -> Found:
    """Visit worlds level by level until the limits, the end, or a violation."""
    running = _BreadthFirst(search, start, list(goals), list(never))
    found = running.found
    begun = perf_counter()
    level: list[tuple[AnyWorld, int]] = [(start, 0)]
    while level and found.depth < max_depth:
        following: list[tuple[AnyWorld, int]] = []
        whole = True
        for world, index in level:
            following += running.expand(world, index)
            if found.violation or found.states >= max_states:
                whole = False
                break
        found.depth += whole
        found.complete = whole and not following
        found.seconds = perf_counter() - begun
        found.computed = search.steps.computed
        on_level(found)
        if not whole:
            break
        level = following
    return found
