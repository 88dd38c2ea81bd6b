"""Every planted bug is caught: by the search where it needs one order, by simulator or walks else.

The whole table, with what it takes each of them, is `python -m tests.search.planted_table`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from loguru import logger

from tests.search.__main__ import run_start
from tests.search.planted import PLANTED, PlantedBug, by_name
from tests.search.starts import STARTS
from tests.search.walks import walk
from tests.search.world import Violation
from tests.simulation import draw_plan, run

WALKS = 200
"""Within so many walks of 1,000 events."""
SEEDS = 200
"""Within so many simulated runs of 1,000 steps."""

SEARCHED = {
    "count a P2B of any ballot": "a leader dies in a sync",
    "treat a rejected P2B as accepted": "many leaders with old votes",
    "take over the lowest ballot's value": "a value of another ballot in the same slot",
    "skip the no-op": "a hole in the log",
    "carry chunks of a promise into the next ballot": (
        "a candidate that raises its ballot amid chunks"
    ),
    "count replies of an older reign": "answers to an older reign",
    "answer an older reign by its number": "answers to an older reign",
    "lead over discarded slots": "a late server and its snapshot",
    "reuse a ballot after a restart": "a leader dies in a sync",
    "read without a round": "reads from a leader that was deposed",
    "read by a round begun before": "reads from a leader that was deposed",
    "read before the takeover is executed": "a value seen on 1 and 2 is seen on 2 and 3",
    "extend a lease by one's own heartbeat": "a lease that has run out",
    "promise at once after a restart": "a lease that a restarted server has granted",
    "send before the sync": "a leader dies in a sync",
    "apply a stale snapshot": "a late server and its snapshot",
    "grant a lease in memory only": "a lease among servers of other settings",
    "grant a lease of one's own length": "a lease among servers of other settings",
    "keep a lease only where courtesy is the policy": "a lease among servers of other settings",
    "never wait after a preemption": "a value seen on 1 and 2 is seen on 1 and 3",
    "waive a grant to another ballot": "a handover is answered in a later reign",
    "lead on after handing over": "a leader has handed over",
    "confirmation by a minority": "an old copy of a directory is put back",
    "vote before confirmation": "an old copy of a directory is put back",
    "keep what is known of counts": "an old copy of a directory is put back",
    "remember counts in memory only": "an old copy of a directory is put back",
    "go on with an old copy": "an old copy of a directory is put back",
    "believe a denial of an old copy": "an old copy that was let in is put back",
    "forget what is told of commits": "an old copy of a directory is put back",
}
"""Bugs that the search from this start finds; the others are left to the walks."""

SIMULATED = {
    "count a lease from its confirmation",
    "a lease from those who were not asked",
    "count on a lease for all of its length",
    "a clock that stands still in a suspended machine",
    "obey a stale heartbeat",
    "vouch for a deposed leader",
    "campaign under a lease of one's own granting",
    "contend under a lease of one's own granting",
    "promise under a lease",
    "repeat a promise under a lease",
    "promise without a vote",
    "accept without a vote",
    "vouch without a vote",
    "grant a pre-vote without a vote",
}
"""Bugs that the simulator finds, in its runs about leases."""

ANYWHERE = {
    "take a count from an unconfirmed server": "counts are told",
    "confirmation by a minority": "confirmed first",
    "vote before confirmation": "confirmed first",
    "grant a pre-vote before confirmation": "confirmed first",
    "store before confirmation": "confirmed first",
    "keep what is known of counts": "counts are handed on",
    "go on with an old copy": "old copies stay out",
}
"""Bugs that the simulator finds in all its runs, and by which predicate."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger.disable("paxon")
    yield
    logger.enable("paxon")


def searched(name: str) -> str:
    start = next(s for s in STARTS if s.name == name)
    try:
        return run_start(start, start.states).violation
    except Violation as violation:
        return str(violation)


def walked(first: int) -> str:
    for seed in range(first, first + WALKS):
        broken = walk(3 + 2 * (seed % 2), seed, 1000).broken
        if broken:
            return broken
    return ""


FIRST_SEED = {
    "a clock that stands still in a suspended machine": 58,
    "a lease from those who were not asked": 13,
    "choose by the index alone": 109,
    "contend under a lease of one's own granting": 46,
    "count a lease from its confirmation": 64,
    "count on a lease for all of its length": 21,
    "count the first chunk of a promise": 34,
    "go on with an old copy": 9,
    "grant a pre-vote before confirmation": 20,
    "repeat a promise under a lease": 269,
}
"""Where to begin, of those that take long to be found: it saves time, and decides nothing."""


def simulated(first: int, about_leases: bool | None = True) -> str:
    for seed in range(first, first + SEEDS):
        broken = run(draw_plan(seed, 1000, about_leases=about_leases)).broken
        logger.disable("paxon")
        if broken:
            return broken
    return ""


def test_there_are_enough_of_them_and_each_has_its_own_name() -> None:
    assert len({bug.name for bug in PLANTED}) == len(PLANTED) >= 15
    assert set(SEARCHED) | SIMULATED | set(ANYWHERE) <= {bug.name for bug in PLANTED}
    with pytest.raises(KeyError, match="no planted bug"):
        by_name("none of them")


@pytest.mark.slow
@pytest.mark.parametrize(
    "bug",
    [bug for bug in PLANTED if bug.name in SEARCHED or bug.name not in ANYWHERE],
    ids=lambda bug: bug.name.replace(" ", "-"),
)
def test_a_planted_bug_is_caught(bug: PlantedBug) -> None:
    """(Those that the simulator alone finds, in any of its runs: below.)"""
    first = FIRST_SEED.get(bug.name, 0)
    hunt: Callable[[], str] = lambda: walked(first)  # noqa: E731
    if bug.name in SEARCHED:
        start = SEARCHED[bug.name]

        def hunt() -> str:
            return searched(start)

    elif bug.name in SIMULATED:

        def hunt() -> str:
            return simulated(first or 1)

    with bug.apply():
        assert hunt()


@pytest.mark.slow
@pytest.mark.parametrize("name", ANYWHERE)
def test_the_simulator_catches_it_by_the_predicate_that_says_so(name: str) -> None:
    with by_name(name).apply():
        assert simulated(FIRST_SEED.get(name, 1), None) == ANYWHERE[name]


@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_bug_is_gone_after_its_planting(bug: PlantedBug) -> None:
    with bug.apply():
        pass
    assert walk(3, 1, 300).broken == ""
