"""Bugs planted in leases, locks, watches and transactions, each with the predicate that tells.

How many seeds each takes is in docs/planted-bugs.md, made by
`python -m tests.search.planted_table --no-search`.
"""

from __future__ import annotations

import pytest

from tests.protocol import test_lead
from tests.protocol.execution import test_log_time
from tests.search.bugs.coordination import COORDINATION
from tests.search.planted import PlantedBug
from tests.simulation.plan import draw_plan
from tests.simulation.runner import run

STEPS = 1000
SEEDS = 40
"""Within so many runs."""

CAUGHT_BY = {
    "lose an event on failover": (3, "watched once"),
    "tell an event twice on failover": (3, "watched once"),
    "cut history under a watcher": (48, "history kept"),
    "an answer lost before another": (203, "watched once"),
    "go on behind one event too many": (3, "watched once"),
    "expiry by the local clock": (1, "log time"),
    "log time that restarts at a takeover": (1, "log time"),
    "leap over another's reign": (147, "log time"),
    "a time of an older reign above a later one's": (156, "log time"),
    "make up for a pause": (14, "log time"),
    "a renewal after its expiry in one slot": (220, "as the model"),
    "count on a lease for too long": (9, "lost in time"),
    "a snapshot without leases": (11, "snapshots agree"),
    "history missing from a snapshot": (11, "snapshots agree"),
    "a nested transaction that is half applied": (22, "as the model"),
    "a guard that is not looked at": (3, "as the model"),
    "a lock granted twice": (3, "one holder"),
    "one lease for two acquisitions": (49, "one holder"),
    "a permit too many": (85, "one holder"),
    "a reader beside a writer": (98, "one holder"),
    "done by one that lost its claim": (46, "done once"),
    "a barrier that opens for one fewer": (12, "all there"),
    "a page of the present": (12, "as the model"),
    "frames of any cluster": (9, "history kept"),
}
"""The first seed to try, and the predicate that is broken there."""


BY_HAND = {
    "a time that was heard below what comes back":
        test_log_time.test_what_comes_back_of_an_older_reign_counts_more_than_what_was_heard_since,
    "a second batch before the first of a reign":
        test_lead.test_the_second_batch_of_a_reign_waits_until_the_first_is_chosen,
}  # fmt: skip
"""A leap of the log's time so rare that thousands of seeds do not meet it: by a test that does."""


def test_each_of_them_is_hunted() -> None:
    assert {bug.name for bug in COORDINATION} == {*CAUGHT_BY, *BY_HAND}


@pytest.mark.slow
@pytest.mark.parametrize("bug", COORDINATION, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_bug_planted_in_coordination_is_caught(bug: PlantedBug) -> None:
    if bug.name in BY_HAND:
        with bug.apply(), pytest.raises(AssertionError):
            BY_HAND[bug.name]()
        return
    first, predicate = CAUGHT_BY[bug.name]
    broken = ""
    with bug.apply():
        for seed in range(first, first + SEEDS):
            broken = run(draw_plan(seed, STEPS, about_coordination=True)).broken
            if broken:
                break
    assert broken == predicate
