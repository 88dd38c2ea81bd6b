"""Bugs to plant in leases, locks, watches and transactions; the simulator's runs about
coordination find them.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import msgspec

from paxon.actors import PaxosServer
from paxon.actors.execution.application import Application
from paxon.actors.log_time import LogTime
from paxon.actors.messages import Batch
from paxon.kvstore.client.leases.keeping import Held
from paxon.kvstore.client.watches.side import WatchSide
from paxon.kvstore.recipes.contests import Contest
from paxon.kvstore.store import store
from paxon.kvstore.store.history import History
from paxon.kvstore.store.leases import LeaseTable
from paxon.kvstore.store.state import State
from paxon.kvstore.store.transactions import Transaction
from tests.search.planted import Original, PlantedBug, planted
from tests.simulation import errands
from tests.simulation.coordinator import Coordinator

__all__ = ["COORDINATION"]

COORDINATION: list[PlantedBug] = []


def _plant(name: str, description: str, *patches: Any) -> None:
    COORDINATION.append(planted(name, description, *patches))


# --- watches -------------------------------------------------------------------------------------


def _one_further(original: Original) -> Any:
    def move(self: WatchSide, now: float) -> None:
        original(self, now)
        for watched in self._watches.values():
            watched.position += 1

    return move


_plant(
    "lose an event on failover",
    "a client that goes on at another server asks for what comes after the next revision",
    (WatchSide, "move", _one_further),
)


def _one_back(original: Original) -> Any:
    def move(self: WatchSide, now: float) -> None:
        original(self, now)
        for watched in self._watches.values():
            watched.position = max(0, watched.position - 1)

    return move


_plant(
    "tell an event twice on failover",
    "a client that goes on at another server asks for the last revision once more",
    (WatchSide, "move", _one_back),
)


# --- leases and the log's time -------------------------------------------------------------------


def _with_a_clock(original: Original) -> Any:
    def on_recovered(self: PaxosServer, *, fresh: bool) -> None:
        original(self, fresh=fresh)
        self.application.local = self._clock  # type: ignore[attr-defined]

    return on_recovered


def _by_it(original: Original) -> Any:
    def execute(self: Application, slot: int, batch: Batch) -> Any:
        clock = getattr(self, "local", None)
        time = batch.time if clock is None else max(batch.time, clock.awake())
        return original(self, slot, Batch(time, batch.entries))

    return execute


_plant(
    "expiry by the local clock",
    "each server ends leases by its own clock and not by the time in the slot",
    (PaxosServer, "_on_recovered", _with_a_clock),
    (Application, "_execute_batch", _by_it),
)


def _from_zero(original: Original) -> Any:
    def run(self: LogTime, executed: int, clock: int) -> None:
        self.latest = 0
        original(self, 0, clock)

    return run


_plant(
    "log time that restarts at a takeover",
    "a new leader's time begins at nothing",
    (LogTime, "run", _from_zero),
)


def _counted_too_long(original: Original) -> Any:
    def renewed(self: Held, sent: float) -> None:
        original(self, sent + 0.3 * self.ttl)

    return renewed


_plant(
    "count on a lease for too long",
    "an owner counts its lease from the answer to a renewal, not from when it asked",
    (Held, "renewed", _counted_too_long),
)


# --- snapshots -----------------------------------------------------------------------------------


def _restored(spoil: Any) -> Any:
    def mutate(original: Original) -> Any:
        def decode(image: bytes) -> State:
            state: State = original(image)
            spoil(state)
            return state

        return decode

    return mutate


def _without_leases(state: State) -> None:
    state.leases = LeaseTable()
    for key, item in state.data.items():
        if item.lease:
            state.data[key] = msgspec.structs.replace(item, lease=0)


def _without_history(state: State) -> None:
    now, state.history = state.history.now, History(state.data)
    state.history.now = now


_plant(
    "a snapshot without leases",
    "whoever starts from a snapshot has the keys, and no leases",
    (store, "decode_state", _restored(_without_leases)),
)
_plant(
    "history missing from a snapshot",
    "whoever starts from a snapshot has the keys, and nothing of what was before",
    (store, "decode_state", _restored(_without_history)),
)


# --- transactions and locks ----------------------------------------------------------------------


def _half(original: Original) -> Any:
    def commit(self: Transaction) -> None:
        if len(self._succeeded) > 1 and self._view.changes:
            self._view.changes.popitem()
        original(self)

    return commit


_plant(
    "a nested transaction that is half applied",
    "of a transaction with another in it the last write is left out",
    (Transaction, "_commit", _half),
)


def _not_looked_at(original: Original) -> Any:
    def compare(self: Transaction, compare: Any) -> bool:
        return compare.target == "created" or bool(original(self, compare))

    return compare


_plant(
    "a guard that is not looked at",
    "a write succeeds although the lock that guards it is another's",
    (Transaction, "_compare", _not_looked_at),
)


def _one_may_stay(original: Original) -> Any:
    def before(self: Contest, earlier: Any) -> Any:
        others, most = original(self, earlier)
        return others, most + 1

    return before


_plant(
    "a lock granted twice",
    "a contender holds although the one before it does",
    (Contest, "before", _one_may_stay),
)


def _the_one_there_is(original: Original) -> Any:
    def new_lease(client: Coordinator, number: int) -> Generator[Any, Any, Held]:
        shared = getattr(client, "shared", None)
        if shared is None or shared.is_over(client.boot):
            shared = yield from original(client, number)
            client.shared = shared  # type: ignore[attr-defined]
        return shared  # type: ignore[no-any-return]

    return new_lease


def _its_own_already(original: Original) -> Any:
    def enter(contest: Contest, number: int, value: bytes) -> Any:
        found = yield contest.all()
        own = [each for each in contest.contenders(found)[:1] if each.lease == number]
        if own:
            return own[0].fence
        return (yield from original(contest, number, value))

    return enter


_plant(
    "one lease for two acquisitions",
    "two acquisitions of a client contend with one lease, and both hold with its key",
    (errands, "_new_lease", _the_one_there_is),
    (errands, "enter", _its_own_already),
)
