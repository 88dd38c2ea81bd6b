"""Bugs to plant in leases, locks, watches and transactions; the simulator's runs about
coordination find them.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import msgspec

from paxon.actors import PaxosServer
from paxon.actors.ballot import Ballot
from paxon.actors.execution.application import Application
from paxon.actors.log_time import LogTime
from paxon.actors.messages import Batch, QueryReply
from paxon.actors.records.candidacy import Candidacy
from paxon.actors.records.reign import Reign
from paxon.kvstore.client.leases.keeping import Held
from paxon.kvstore.client.watches import side
from paxon.kvstore.client.watches.side import WatchSide
from paxon.kvstore.recipes.barriers import Hall
from paxon.kvstore.recipes.contests import Contest
from paxon.kvstore.recipes.sharing import Permits, Sharing
from paxon.kvstore.store import store, transactions, watching
from paxon.kvstore.store.history import History
from paxon.kvstore.store.leases import LeaseTable
from paxon.kvstore.store.state import State
from paxon.kvstore.store.store import KVStore
from paxon.kvstore.store.transactions import Transaction
from paxon.kvstore.store.watching import Watches
from paxon.transport import FrameCodec
from tests.search.planted import Original, PlantedBug, planted
from tests.simulation.about import backups, errands, sharing
from tests.simulation.about.coordinator import Ask, Coordinator

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


def _unlooked(original: Original) -> Any:
    def compact(self: KVStore, operation: Any) -> Any:
        watches, self._watches = self._watches, Watches()
        try:
            return original(self, operation)
        finally:
            self._watches = watches

    return compact


_plant(
    "cut history under a watcher",
    "compacting in the slot of a write takes its events from those who watch",
    (KVStore, "_compact", _unlooked),
)


def _uncounted(original: Original) -> Any:
    def on_reply(self: WatchSide, address: str, reply: QueryReply, now: float, leader: str) -> Any:
        given = reply.id % side._ANSWERS
        watched = self._asked.get(reply.id - given)
        if watched is not None:
            watched.given = given
        return original(self, address, reply, now, leader)

    return on_reply


_plant(
    "an answer lost before another",
    "a client does not look whether the answer before this one has come",
    (WatchSide, "on_reply", _uncounted),
)


def _all_there_was(original: Original) -> Any:
    def read(state: State, wanted: Any, max_bytes: int, number: int | None = None) -> Any:
        return original(state, wanted, max_bytes, None if number is None else number + 1)

    return read


_plant(
    "go on behind one event too many",
    "a watch that goes on looks at what follows the first event after its last answer",
    (watching, "answer_events", _all_there_was),
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


def _whoever_told(original: Original) -> Any:
    def hear(self: LogTime, time: int, executed: int, ballot: Ballot) -> None:
        original(self, time, executed, min(ballot, self.heard_in))

    return hear


_plant(
    "leap over another's reign",
    "a leader begins with the time that it once heard, whatever others have stamped since",
    (LogTime, "hear", _whoever_told),
    (LogTime, "take_over", lambda _original: lambda self, *known: None),
)


def _whatever_comes_back(original: Original) -> Any:
    def take_over(self: LogTime, ballot: Ballot, lowest: Ballot, highest: Ballot) -> None:
        original(self, ballot, ballot, highest)

    return take_over


def _at_once(original: Original) -> Any:
    def propose_waiting(self: PaxosServer, reign: Reign) -> None:
        reign.takeover_end -= 1
        original(self, reign)
        reign.takeover_end += 1

    return propose_waiting


_plant(
    "a time that was heard below what comes back",
    "a leader begins with the time that it heard, though it takes over what another has stamped",
    (LogTime, "take_over", _whatever_comes_back),
)
_plant(
    "a second batch before the first of a reign",
    "a leader packs on while the first slot that it packed is not chosen",
    (PaxosServer, "_propose_waiting", _at_once),
)
_plant(
    "a time of an older reign above a later one's",
    "a new leader takes over what was packed in a lower ballot than what is below it, too",
    (Candidacy, "_out_of_order", lambda _original: lambda self, *known: set()),
)
_plant(
    "make up for a pause",
    "a leader that stamped a slot while its time stood still lets it leap afterwards",
    (LogTime, "stamp", lambda _original: LogTime.now),
)
_plant(
    "a renewal after its expiry in one slot",
    "what is due ends before the renewals of the same slot are executed",
    (Application, "_execute_renewals", lambda _original: lambda *_arguments: 0),
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
    def holds(compare: Any, found: Any) -> bool:
        return compare.target == "created" or bool(original(compare, found))

    return holds


_plant(
    "a guard that is not looked at",
    "a write succeeds although the lock that guards it is another's",
    (transactions, "_holds", _not_looked_at),
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


def _number_of_the_one(original: Original) -> Any:
    def number(client: Coordinator) -> int:
        shared = getattr(client, "shared", None)
        return int(original(client) if shared is None or shared.is_over(client.boot) else shared.id)

    return number


def _the_one_there_is(original: Original) -> Any:
    def new_lease(client: Coordinator, number: int, *first: Any) -> Generator[Any, Any, Any]:
        shared = getattr(client, "shared", None)
        if shared is not None and shared.id == number:
            return shared, (yield Ask(*first))
        found = yield from original(client, number, *first)
        client.shared = found[0] if first else None  # type: ignore[attr-defined]
        return found

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
    (errands, "_new_number", _number_of_the_one),
    (errands, "_new_lease", _the_one_there_is),
    (errands, "enter", _its_own_already),
)


# --- what is shared ------------------------------------------------------------------------------

_plant(
    "a permit too many",
    "one more holds a semaphore than it has permits",
    (Permits, "before", _one_may_stay),
)


def _beside(original: Original) -> Any:
    def before(self: Sharing, earlier: Any) -> Any:
        return ([], 0) if self.value == b"read" else original(self, earlier)

    return before


_plant(
    "a reader beside a writer",
    "a reader does not wait for the writers before it",
    (Sharing, "before", _beside),
)
_plant(
    "done by one that lost its claim",
    "an item is removed by whoever once had it, and what is done of it is done again",
    (sharing._Item, "conditions", lambda _original: lambda self: []),
)


def _one_fewer(original: Original) -> Any:
    def make(self: Hall, *arguments: Any) -> None:
        original(self, *arguments)
        self.parties -= 1

    return make


_plant(
    "a barrier that opens for one fewer",
    "who waits goes on before the last one is there",
    (Hall, "__init__", _one_fewer),
)

# --- backups -------------------------------------------------------------------------------------

_plant(
    "a page of the present",
    "each page of a backup is read as it is by then",
    (backups._Known, "range",
     lambda original: lambda self, **wanted: original(self, **wanted | {"revision": 0})),
)  # fmt: skip
_plant(
    "frames of any cluster",
    "servers and clients of a restored cluster and of the one that was saved count each other's",
    (FrameCodec, "_passes", lambda _original: lambda self, identity: True),
)
