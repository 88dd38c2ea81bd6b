"""What almost never happens: bugs that show in such runs alone, and what these runs consist of."""

from __future__ import annotations

from random import Random

import pytest
from loguru import logger

from paxon.actors.limits import bounds
from paxon.actors.log import SlotLog
from tests.search.bugs.rarities import RARITIES
from tests.search.planted import PlantedBug
from tests.simulation.about.bounds import bounded
from tests.simulation.about.rarities import FAULTS, LIMITS, KeptFrames
from tests.simulation.plan import Plan, draw_plan
from tests.simulation.runner import run

SEEDS = 30
CAUGHT_BY = {
    "a damaged snapshot is taken over": (8, "no failure"),
    "a ballot out of reach is never come nearer to": (211, "progress"),
    "a commit index out of reach is not heard": (67, "progress"),
    "a commit index is taken back by nobody": (1, "commits are taken back"),
    "who was told of more chosen slots than a majority holds leads": (
        1,
        "commits are taken back",
    ),
    "a count that was never told is denied by nobody": (6, "counts are taken back"),
    "a count is denied once": (6, "counts are taken back"),
    "a leader takes no count back": (12, "counts are taken back"),
    "a learner is not told that a count was denied": (6, "counts are taken back"),
}
"""The first seed to try, and the predicate that is broken there."""


def rare(seed: int, *, members: bool | None = None) -> Plan:
    return draw_plan(seed, 1000, about_rarities=True, about_members=members)


@pytest.mark.slow
@pytest.mark.parametrize("bug", RARITIES, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_bug_that_shows_only_where_something_rare_happens_is_caught(bug: PlantedBug) -> None:
    first, predicate = CAUGHT_BY[bug.name]
    members = True if "snapshot" in bug.name or "learner" in bug.name else None  # somebody joins
    broken = ""
    with bug.apply():
        for seed in range(first, first + SEEDS):
            broken = run(rare(seed, members=members)).broken
            logger.disable("paxon")
            if broken:
                break
    logger.enable("paxon")
    assert broken == predicate


@pytest.mark.slow
def test_runs_about_what_is_rare_have_all_of_it() -> None:
    plans = [rare(seed) for seed in range(40)]
    assert {fault.kind for plan in plans for fault in plan.faults} >= set(FAULTS)
    assert {name for plan in plans for name in plan.bounds} >= set(LIMITS)
    outcomes = [run(plan) for plan in plans[:6]]
    assert not any(outcome.broken for outcome in outcomes)
    assert sum(outcome.faults.get("frames_back", 0) for outcome in outcomes) > 50


@pytest.mark.slow
def test_members_change_above_rows_that_were_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    above = []
    seal = SlotLog.seal

    def sealed(self: SlotLog, slot: int) -> None:
        above.append(self.last > slot)
        seal(self, slot)

    monkeypatch.setattr(SlotLog, "seal", sealed)
    plans = [rare(seed, members=True) for seed in range(13, 60)]
    for plan in plans:
        if any(fault.kind == "strand" for fault in plan.faults) and not any(above):
            assert not run(plan).broken
    assert any(above)


def test_limits_are_small_for_the_run_alone() -> None:
    with bounded({"MAX_SLOTS_AHEAD": 2}):
        assert bounds.MAX_SLOTS_AHEAD == 2
    assert bounds.MAX_SLOTS_AHEAD > 2


def test_any_frame_that_was_ever_sent_may_come_back() -> None:
    kept = KeptFrames(10, Random(1))
    for number in range(1000):
        kept.keep((1 + number % 3, 4), lambda _: None, number)
    back = [frame for _, frame in kept.come_back(0, 1.0)]
    assert len(back) == 10
    assert any(isinstance(frame, int) and frame < 500 for frame in back)
    assert all(isinstance(frame, int) and frame % 3 == 1 for _, frame in kept.come_back(2, 1.0))
