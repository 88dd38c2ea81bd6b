"""The state search, sized down: nothing is violated, and everything that should be is reached.

`make soak` searches forty times as many states, or more, and takes 45 times as many walks.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from loguru import logger

from paxon.actors.messages import OpenSession
from paxon.actors.records.thrift import Thrift
from tests.harness import reign_of
from tests.search.__main__ import main, run_start
from tests.search.breadth import breadth_first
from tests.search.images import OBJECTS, freeze, thaw
from tests.search.starts import MAKING_STARTS, STARTS, Start, Story, command
from tests.search.walks import walk
from tests.search.world import Budget, Search
from tests.soak import sized


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger.disable("paxon")
    yield
    logger.enable("paxon")


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.name.replace(" ", "-"))
def test_no_order_of_events_breaks_anything(start: Start) -> None:
    short = start.states // (4 if not start.goals else 1 if start.name in MAKING_STARTS else 2)
    found = run_start(start, sized(short, 20 * start.states))
    assert found.violation == "", "\n".join(found.path)
    assert found.complete or found.depth >= 4


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 5])
def test_long_random_walks_break_nothing_and_get_somewhere(size: int) -> None:
    walks = [walk(size, seed, 1000) for seed in range(sized(40, 1800))]
    assert [(w.seed, w.broken) for w in walks if w.broken] == []
    assert sum(w.chosen for w in walks) > 200


def test_the_same_seed_walks_the_same_way() -> None:
    first, second = walk(3, 7, 500), walk(3, 7, 500)
    assert (first.events, first.chosen, first.broken) == (
        second.events, second.chosen, second.broken,
    )  # fmt: skip


def test_a_minority_is_searched_to_its_end() -> None:
    start = next(s for s in STARTS if s.name == "no progress in a minority")
    found = run_start(start, 40_000)
    assert found.complete


def test_symmetry_leaves_out_what_differs_in_numbers_only() -> None:
    """Two acceptors that never lead are alike: fewer states, the same depth, the same verdict."""
    found = {}
    for alike in ((), (2, 3)):
        search = Search(3, alike=alike)
        world = search.say(search.start(Budget(campaigns=(2, 0, 0))), 1, OpenSession(1))
        found[alike] = breadth_first(search, world, max_states=100_000, max_depth=7)
    assert found[()].depth == found[(2, 3)].depth == 7
    assert found[(2, 3)].states < 0.65 * found[()].states


def test_an_image_of_thrift_leaves_nothing_out() -> None:
    search = Search(3, thrifty_delay=0.01)
    story = Story(search)
    story.lead(1)
    live = search.steps.peek(1, story.world.images[0])
    assert set(vars(reign_of(live).thrift)) == set(OBJECTS[Thrift])


def test_an_image_of_a_server_makes_the_same_server() -> None:
    search = Search(3)
    story = Story(search)
    story.lead(1)
    story.request(1, command(1))
    for server in search.ids:
        frozen = search.steps.attributes(story.world.images[server - 1])
        assert all(freeze(thaw(frozen[name])) == frozen[name] for name in frozen)
        outcome = search.steps.outcome(server, story.world.images[server - 1], ("beat", 0))
        again = search.steps._compute(server, story.world.images[server - 1], ("beat", 0))
        assert outcome == again


def test_the_command_says_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--start", "minority", "--states", "2000"]) == 0
    printed = capsys.readouterr().out
    assert "complete" in printed
    assert "states/s" in printed
    assert printed.endswith("violations: 0\n")
    assert main(["--start", "no such start", "--walks", "0"]) == 0
