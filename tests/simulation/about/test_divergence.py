"""State machines that go wrong in the simulator, and who finds out (docs/design/digests.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from loguru import logger

from tests.search.bugs.digests import DIGESTS, DigestBug
from tests.simulation.about.divergence import (
    CASES,
    answer_with_texts_that_differ,
    flip_bits,
    forget_to_be_deterministic,
    hunt,
    offer_snapshots_that_differ,
    plans,
    raise_errors_that_hold_addresses,
    restart_from_snapshots,
)
from tests.simulation.node import Node


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger.disable("paxon")
    yield
    logger.enable("paxon")


def hunt_all(case: str, go_wrong: Callable[[Node], None]) -> None:
    servers, who = CASES[case]
    for plan in plans(servers):
        hunt(plan, who, go_wrong)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_who_forgets_to_be_deterministic_stops(case: str) -> None:
    hunt_all(case, forget_to_be_deterministic)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_whose_memory_fails_stops_once_a_reply_shows_it(case: str) -> None:
    hunt_all(case, flip_bits)


@pytest.mark.slow
def test_restarts_from_snapshots_are_no_difference() -> None:
    for plan in plans(3, 2):
        restart_from_snapshots(plan)


@pytest.mark.slow
def test_texts_of_errors_are_no_difference() -> None:
    for plan in plans(3, 3):
        raise_errors_that_hold_addresses(plan)
        answer_with_texts_that_differ(plan)


@pytest.mark.slow
def test_who_is_brought_up_takes_no_snapshot_that_another_contradicts() -> None:
    for plan in plans(3, 2):
        offer_snapshots_that_differ(plan)


@pytest.mark.slow
@pytest.mark.parametrize("planted", DIGESTS, ids=lambda planted: planted.bug.name)
def test_a_planted_bug_is_caught(planted: DigestBug) -> None:
    """The checks bite."""
    assert planted.hunt()
