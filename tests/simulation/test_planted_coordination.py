"""Bugs planted in leases, locks, watches and transactions, each with the predicate that tells.

How many seeds each takes is in docs/planted-bugs.md, made by
`python -m tests.search.planted_table --no-search`.
"""

from __future__ import annotations

import pytest

from tests.search.planted import PlantedBug
from tests.search.planted_coordination import COORDINATION
from tests.simulation.plan import draw_plan
from tests.simulation.runner import run

STEPS = 1000
SEEDS = 40
"""Within so many runs."""

CAUGHT_BY = {
    "lose an event on failover": (1, "watched once"),
    "tell an event twice on failover": (1, "watched once"),
    "expiry by the local clock": (1, "none contradicted"),
    "log time that restarts at a takeover": (1, "log time"),
    "count on a lease for too long": (5, "lost in time"),
    "a snapshot without leases": (10, "snapshots agree"),
    "history missing from a snapshot": (8, "snapshots agree"),
    "a nested transaction that is half applied": (1, "watched once"),
    "a guard that is not looked at": (9, "as the model"),
    "a lock granted twice": (1, "one holder"),
    "one lease for two acquisitions": (5, "one holder"),
}
"""The first seed to try, and the predicate that is broken there."""


def test_each_of_them_is_hunted() -> None:
    assert {bug.name for bug in COORDINATION} == set(CAUGHT_BY)


@pytest.mark.parametrize("bug", COORDINATION, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_bug_planted_in_coordination_is_caught(bug: PlantedBug) -> None:
    first, predicate = CAUGHT_BY[bug.name]
    broken = ""
    with bug.apply():
        for seed in range(first, first + SEEDS):
            broken = run(draw_plan(seed, STEPS, about_coordination=True)).broken
            if broken:
                break
    assert broken == predicate
