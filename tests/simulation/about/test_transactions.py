"""Clients that use transactions, ranges and the past, and bugs of the store that they notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from paxon.kvstore.store import history, image, store
from paxon.kvstore.store.operations import Delete, Put
from paxon.kvstore.store.state import State
from paxon.kvstore.store.store import KVStore
from paxon.kvstore.store.transactions import Transaction
from tests.kvstore.store.test_store import run as execute
from tests.simulation.about.coordination import short_history
from tests.simulation.plan import Plan, draw_plan
from tests.simulation.runner import Outcome, run
from tests.soak import sized

SEEDS = sized(8, 2000)
HUNT = 40
STEPS = 600


def plan_of(seed: int) -> Plan:
    """Any plan, with clients that do little else."""
    plan = draw_plan(seed, STEPS, about_coordination=False)
    plan.clients.weights = {"swap": 2, "pair": 4, "pairs": 3, "past": 3, "get": 1, "put": 1}
    plan.clients.roles = False
    plan.clients.think = min(plan.clients.think, 0.01)
    return plan


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_transactions_are_whole_and_linearizable(seed: int) -> None:
    with short_history():
        outcome = run(plan_of(seed))
    assert not outcome.broken, outcome.text


@contextmanager
def half_applied() -> Iterator[None]:
    """Of a transaction with another in it, the last write is left out."""
    original = Transaction._commit

    def commit(self: Transaction) -> None:
        if len(self._succeeded) > 1:
            self._view.changes.popitem()
        original(self)

    with patch.object(Transaction, "_commit", commit):
        yield


def restoring(spoil: Callable[[State], None]) -> Any:
    """A store that restores snapshots wrongly."""
    original = image.decode_state

    def decode(image: bytes) -> State:
        state = original(image)
        spoil(state)
        return state

    return patch.object(store, "decode_state", decode)


def _forget_history(state: State) -> None:
    now = state.history.now
    state.history = history.History(state.data)
    state.history.now = now


def history_missing() -> Any:
    """A snapshot brings the keys, and nothing of what was before."""
    return restoring(_forget_history)


def cut_by_the_server() -> Any:
    """Whoever restores a snapshot compacts by itself: not at a slot, so not alike."""
    return restoring(lambda state: state.history.compact(max(state.history.oldest, state.revision)))


@contextmanager
def digest_without_history() -> Iterator[None]:
    """It counts events and their bytes, and looks at none of them."""
    with patch.object(image, "encode_history", lambda _state: []):
        yield


BUGS = [half_applied, history_missing, cut_by_the_server]


def hunt(bug: Callable[[], Any], seeds: int = HUNT) -> tuple[int, Outcome] | None:
    """The first seed that shows it, counted from 1."""
    for seed in range(seeds):
        with short_history(), bug():
            outcome = run(plan_of(seed))
        if outcome.broken:
            return seed + 1, outcome
    return None


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_planted_bugs_of_the_store_are_caught(bug: Callable[[], Any]) -> None:
    found = hunt(bug)
    assert found is not None
    print(f"{bug.__name__}: {found[0]} seeds, {found[1].broken}: {found[1].text}")


def test_a_digest_covers_history() -> None:
    """Two stores alike in all but what was before; a digest that leaves it out is none."""

    def differ() -> bool:
        digests = []
        for before in (b"one", b"two"):
            machine = KVStore()
            execute(machine, Put(b"gone", before), Put(b"k", b"v"), Delete(b"gone"))
            digests.append(machine.digest())
        return digests[0] != digests[1]

    assert differ()
    with digest_without_history():
        assert not differ()
