"""Each bug planted in the change of members is caught: by a search, a run, or a test by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from loguru import logger

from tests.protocol.members import test_changes as changes
from tests.protocol.members import test_confirmation as confirming
from tests.protocol.members import test_membership as membership
from tests.search.__main__ import run_start
from tests.search.bugs.membership import MEMBERSHIP
from tests.search.planted import PlantedBug
from tests.search.starts import STARTS
from tests.search.world import Violation
from tests.simulation import draw_plan, run

SEARCHED = {
    "no CONFIG is void": "a config and a value above it",
    "nothing is dropped above a CONFIG": "a value that a later config passes over",
    "a CONFIG is given up at a takeover": "one of three serves alone",
    "a no-op above a CONFIG that is taken over": "one of three serves alone",
    "a seal above a gap": "a change whose proposer fell",
    "a learner's vote counts": "a learner that is promoted",
    "a change answered when chosen": "a seal that one knows",
    "a change called settled by a follower": "a change whose proposer fell",
    "no slot of its own before it says so": "a change whose proposer fell",
    "reads above a CONFIG that is taken over": "one of three serves alone",
    "a promise before the prefix is there": "the sealer of three falls",
    "a later epoch's row before the seal": "one of three serves alone",
    "a value above a CONFIG": "three servers become one",
    "majority by the old configuration": "one server becomes two",
    "an unasked cluster is believed": "a server joins while the cluster is made",
}
"""By the search from this start."""

SIMULATED = {
    "a lease above a CONFIG": (5, "no reads after a CONFIG"),
    "a lease kept when a CONFIG is proposed again": (43, "no reads after a CONFIG"),
    "reads between seal and opening": (3, "reads by leaders"),
    "an epoch is entered by a ballot": (3, "sealed first"),
    "a removed server is obeyed": (3, "no failure"),
    "rows above the seal are kept": (32, "void above the seal"),
    "rows above the seal are kept, and epochs not compared": (32, "void above the seal"),
    "the newest configuration is not asked": (59, "progress"),
    "a CONFIG told before it is chosen": (7, "one value per slot"),
    "an epoch is entered unasked": (5, "confirmed first"),
    "no configuration in the image": (9, "progress"),
    "the old directory's late P2B counted": (239, "counts are told"),
    "a vote in another's name": (1, "no vote without a disk"),
    "a removed directory is taken back": (6, "removed for good"),
    "a seal behind a snapshot is stored later": (18, "sealed at once"),
}
"""By `draw_plan(seed, 1000, about_members=True)`: the first seed to try, and the predicate."""

BY_HAND: dict[str, Callable[[], None]] = {
    "a seal is told and ignored":
        membership.test_who_is_told_how_its_epoch_ends_needs_nobody_else_for_that,
    "a refusal is forgotten":
        changes.test_who_is_refused_once_is_so_for_good_in_that_reign,
    "a vote is lost and the lead is not":
        lambda: confirming.test_who_is_told_of_a_later_epoch_leads_no_more(majority=True),
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
