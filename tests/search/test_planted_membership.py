"""Each bug planted in the change of members is caught: by a search, a run, or a test by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from loguru import logger

from tests.protocol import test_changes as changes
from tests.protocol import test_membership as by_hand
from tests.search.__main__ import run_start
from tests.search.planted import PlantedBug
from tests.search.planted_membership import MEMBERSHIP
from tests.search.starts import STARTS
from tests.search.world import Violation
from tests.simulation import draw_plan, run

SEARCHED = {
    "no CONFIG is void": "a config and a value above it",
    "nothing is dropped above a CONFIG": "a value that a later config passes over",
    "a CONFIG is given up at a takeover": "a config and a value above it",
    "reads above a CONFIG that is taken over": "a config taken over while the next epoch serves",
    "a promise before the prefix is there": "a row of a later epoch comes before the seal",
    "a later epoch's row before the seal": "a row of a later epoch comes before the seal",
}
"""By the search from this start."""

SIMULATED = {
    "a value above a CONFIG": (7, "one configuration a slot"),
    "a lease above a CONFIG": (16, "no reads after a CONFIG"),
    "majority by the old configuration": (6, "leads by whole promises"),
    "no configuration in the image": (9, "progress"),
}
"""By `draw_plan(seed, 1000, about_members=True)`: the first seed to try, and the predicate."""

BY_HAND: dict[str, Callable[[], None]] = {
    "rows above the seal are kept": by_hand.test_rows_above_the_seal_are_gone_after_a_restart,
    "a seal above a gap": by_hand.test_a_seal_above_a_gap_is_not_known,
    "a removed server is obeyed": by_hand.test_a_removed_servers_p1a_counts_for_nothing,
    "the newest configuration is not asked": by_hand.test_who_heard_of_a_later_epoch_does_not_vote,
    "a learner's vote counts":
        by_hand.test_a_learner_takes_what_is_proposed_and_has_no_vote,
    "a change answered when chosen":
        changes.test_a_change_is_not_done_when_it_is_merely_chosen,
    "a change called settled by a follower":
        changes.test_only_a_leader_that_executed_its_own_slot_says_that_a_change_is_not_done,
    "no slot of its own before it says so":
        changes.test_only_a_leader_that_executed_its_own_slot_says_that_a_change_is_not_done,
    "a refusal is forgotten":
        changes.test_who_is_refused_once_is_so_for_good_in_that_reign,
    "the old directory's late P2B counted":
        changes.test_what_the_old_directory_of_a_replaced_server_says_counts_for_nothing,
    "a vote in another's name":
        changes.test_one_that_is_to_replace_another_does_not_vote_in_its_name,
    "a removed directory is taken back":
        changes.test_who_was_removed_stops_once_it_hears_the_next_leader_and_never_comes_back,
}  # fmt: skip
"""By a test of tests/protocol (test_membership.py, test_changes.py), told message by message."""
SEEDS = 30


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger.disable("paxon")
    yield
    logger.enable("paxon")


def test_each_of_them_is_hunted() -> None:
    assert {bug.name for bug in MEMBERSHIP} == {*SEARCHED, *SIMULATED, *BY_HAND}


@pytest.mark.parametrize("bug", MEMBERSHIP, ids=lambda bug: bug.name.replace(" ", "-"))
@pytest.mark.slow
def test_a_bug_planted_in_the_change_of_members_is_caught(bug: PlantedBug) -> None:
    with bug.apply():
        if bug.name in BY_HAND:
            with pytest.raises((AssertionError, KeyError, pytest.fail.Exception)):
                BY_HAND[bug.name]()
        elif bug.name in SEARCHED:
            start = next(s for s in STARTS if s.name == SEARCHED[bug.name])
            with contextlib.suppress(Violation):  # (in the story before the search)
                assert run_start(start, start.states).violation
        else:
            first, predicate = SIMULATED[bug.name]
            outcomes = (
                run(draw_plan(seed, 1000, about_members=True)).broken
                for seed in range(first, first + SEEDS)
            )
            assert next(filter(None, outcomes), "") == predicate
