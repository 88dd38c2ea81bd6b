"""Clients that lease, lock, watch and transact, under every fault (docs/checks/simulation.md)."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.plan import draw_plan
from tests.simulation.runner import run
from tests.soak import sized

SEEDS = sized(10, 5000)
STEPS = 800
SHARE = 200


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_what_coordinating_clients_are_told_holds(seed: int) -> None:
    outcome = run(draw_plan(seed, STEPS, about_coordination=True))
    assert not outcome.broken, outcome.text


def test_nobody_watches_for_good_at_a_server_that_hears_and_is_not_heard() -> None:
    assert not run(draw_plan(60307, 1000, about_coordination=True)).broken


@pytest.mark.slow
def test_it_comes_to_all_that_may_happen() -> None:
    met: Counter[str] = Counter()
    for seed in (384, 601):
        met.update(run(draw_plan(seed, STEPS, about_coordination=True)).coordination)
    assert set(met) == {
        "backups saved", "events watched", "guarded writes", "guarded reads", "items claimed",
        "items done", "leases expired", "leases revoked", "locks held", "looks beside news",
        "meetings", "places held", "watches cut off",
    }  # fmt: skip


def test_a_share_of_all_runs_is_about_coordination() -> None:
    """And of those that were asked for as about something else none is."""
    plans = [draw_plan(seed, STEPS) for seed in range(SHARE)]
    assert 0.1 < sum(plan.coordination is not None for plan in plans) / SHARE < 0.4
    about = [draw_plan(seed, STEPS, about_leases=True) for seed in range(SHARE)]
    about += [draw_plan(seed, STEPS, about_bounds=True) for seed in range(SHARE)]
    assert all(plan.coordination is None for plan in about)
