"""Replicated classes in the simulator, and bugs planted in them."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from tests.search.bugs.objects import OBJECTS, ObjectBug, in_an_upgrade
from tests.simulation.about.divergence import CASES, hunt, plans
from tests.simulation.about.objects import (
    StoreWithObject,
    change_its_state,
    object_plans,
    run_with_object,
)

RUNS = 12
FIRST_SEED = {"lose the order of dicts in the snapshot": 30}
"""Where to begin: it saves time, and decides nothing."""


@pytest.mark.slow
def test_objects_are_equal_on_all_servers_through_every_fault() -> None:
    for plan in object_plans(RUNS):
        outcome = run_with_object(plan)
        assert not outcome.broken, f"seed {plan.seed}: {outcome.text}"
    assert in_an_upgrade(1, 1) == ()


@pytest.mark.slow
@pytest.mark.parametrize("special", OBJECTS, ids=lambda special: special.bug.name)
def test_bugs_planted_in_objects_are_caught(special: ObjectBug) -> None:
    assert special.hunt(first=FIRST_SEED.get(special.bug.name, 1))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_whose_state_differs_stops_though_no_reply_shows_it(case: str) -> None:
    servers, who = CASES[case]
    with patch("tests.simulation.node.WatchedStore", StoreWithObject):
        for plan in plans(servers):
            hunt(plan, who, change_its_state)
