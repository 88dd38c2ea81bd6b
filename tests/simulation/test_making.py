"""The simulator finds what may go wrong while a cluster is made, each by a bug planted for it."""

from __future__ import annotations

import pytest

from tests.search.bugs.making import MAKING
from tests.search.planted import PlantedBug
from tests.simulation.plan import draw_plan
from tests.simulation.runner import run

SEEDS = [seed for seed in range(1, 241) if not draw_plan(seed, 60).made]


@pytest.mark.slow
@pytest.mark.parametrize("bug", MAKING, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: PlantedBug) -> None:
    with bug.apply():
        for seed in SEEDS:
            outcome = run(draw_plan(seed, 60))
            if outcome.broken in ("made once", "no failure"):
                return
    raise AssertionError(f"{bug.name} escaped {len(SEEDS)} seeds")


@pytest.mark.slow
def test_clusters_are_made_under_faults() -> None:
    assert len(SEEDS) > 60
    for seed in SEEDS[:25]:
        outcome = run(draw_plan(seed, 60))
        assert not outcome.broken, outcome.text
