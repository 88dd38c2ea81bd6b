"""The simulator's small bounds: runs are clean and reach them, and planted bugs are found."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from paxon.actors.execution.application import Application
from paxon.actors.execution.sessions import NOT_ACKNOWLEDGED, SLOT_IS_FULL
from paxon.actors.limits import allowances, turns
from paxon.actors.limits.turns import ClientTurns
from tests.search.bugs.bounds import BOUNDS
from tests.search.planted import PlantedBug
from tests.simulation.about.bounds import BOUNDS as NAMES
from tests.simulation.about.bounds import bounded, draw_bounds
from tests.simulation.plan import Plan, draw_plan
from tests.simulation.runner import run

PREDICATES = {
    "a bound on some servers only": {"equal prefixes", "snapshots agree"},
    "refuse what is in the log already": {"linearizable"},
    "drop a reply that nobody has acknowledged": {"at most once", "linearizable"},
    "forget at a restart how much is kept": {"snapshots agree", "equal prefixes"},
    "keep a refusal as the reply": {"progress"},
    "count the replies of a slot from slot to slot": {"progress", "equal prefixes"},
    "answer a read that waited from whatever there is": {"linearizable"},
}
"""How each of the planted bugs may show."""

SEEDS = 240
FIRST_SEED = {"answer a read that waited from whatever there is": 529}
"""Where to begin: it saves time, and decides nothing."""


def about_bounds(seed: int) -> Plan:
    return draw_plan(seed, 1000, about_bounds=True)


@pytest.mark.slow
@pytest.mark.parametrize("bug", BOUNDS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_is_caught(bug: PlantedBug) -> None:
    with bug.apply():
        first = FIRST_SEED.get(bug.name, 1)
        for seed in range(first, first + SEEDS):
            broken = run(about_bounds(seed)).broken
            if broken:
                assert broken in PREDICATES[bug.name]
                return
    raise AssertionError(f"{bug.name} escaped {SEEDS} runs")


@pytest.mark.slow
def test_runs_about_bounds_are_clean_and_reach_them(monkeypatch: pytest.MonkeyPatch) -> None:
    met: Counter[str] = Counter()

    def counts(owner: type, name: str, text: Any) -> None:
        original = getattr(owner, name)

        def counting(self: Any, *arguments: Any) -> Any:
            result = original(self, *arguments)
            met[text(arguments, result)] += 1
            return result

        monkeypatch.setattr(owner, name, counting)

    reasons = {NOT_ACKNOWLEDGED: "nobody acknowledged", SLOT_IS_FULL: "large replies"}
    counts(Application, "_put_off", lambda arguments, _: reasons.get(arguments[0], "no room"))
    counts(ClientTurns, "add", lambda _, result: f"waits: {result}")
    answered = 0
    for seed in range(17, 41):
        outcome = run(about_bounds(seed))
        assert not outcome.broken, f"seed {seed}: {outcome.text}"
        answered += outcome.answered
    assert answered > 500
    assert {"waits: True", "waits: False"} <= met.keys()
    assert {"nobody acknowledged", "large replies"} <= met.keys()


def test_all_bounds_that_may_be_drawn_are_there_and_are_given_back() -> None:
    every = {name: values[0] for name, values in NAMES.items()}
    before = dict(vars(allowances)), dict(vars(turns))
    with bounded(every):
        assert NAMES["KEPT_SHARE"][0] == allowances.KEPT_SHARE
        assert NAMES["MAX_MESSAGES"][0] == turns.MAX_MESSAGES
    assert (dict(vars(allowances)), dict(vars(turns))) == before


@pytest.mark.slow
def test_a_run_about_bounds_brings_no_frame_twice() -> None:
    for seed in range(20):
        plan = draw_plan(seed, 100, about_bounds=False)
        assert not plan.bounds.keys() & NAMES.keys()
        draw_bounds(plan, wanted=True)
        assert not plan.clients.duplicates
