"""The searches from fresh directories find what may go wrong while a cluster is made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from loguru import logger

from tests.search.__main__ import run_start
from tests.search.bugs.making import MAKING
from tests.search.making import MakingBudget, MakingSearch
from tests.search.planted import PlantedBug
from tests.search.starts import MAKING_STARTS, STARTS
from tests.search.world import Violation

CAUGHT = {
    "in force before all have stored it": ("lost amid", "but members"),
    "store a second making": ("lost amid", "a second making"),
    "store the making of another disk": ("lost amid", "the making of other disks"),
    "promise before it is in force": ("from fresh", "promises before it is in force"),
}
"""From which start each planted bug is found, and what is seen then."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger.disable("paxon")
    yield
    logger.enable("paxon")


@pytest.mark.parametrize("bug", MAKING, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_is_caught(bug: PlantedBug) -> None:
    name, seen = CAUGHT[bug.name]
    start = next(s for s in STARTS if name in s.name and s.name in MAKING_STARTS)
    with bug.apply():
        try:
            found = run_start(start, start.states).violation
        except Violation as violation:  # on the way to where the search begins
            found = str(violation)
    assert seen in found


def test_a_server_comes_back_as_its_directory_has_it() -> None:
    """Whoever had stored the making has it after a crash, and whoever lost it does not."""
    search = MakingSearch(1)
    world = search.start(MakingBudget(0, crashes=1, losses=1, campaigns=0))
    assert search.facts(world)
    for event in ("crash", "start"):
        world = search.happen(world, (1, (event, 0)))
    kept = search.steps.state(world.images[0])
    assert (kept.incarnation, kept.runs, kept.in_force) == (1, True, True)
    world = search.happen(world, (1, ("lose", 0)))
    empty = search.steps.state(world.images[0])
    assert (empty.incarnation, empty.history, empty.runs) == (101, (), False)
