"""What the books refuse to believe: for each of their predicates a lie, told to them directly.

The planted bugs (test_planted.py) are caught by whichever predicate sees them first; these are the
others, so that none can be broken without a test that fails.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from paxon.actors import NO_BALLOT, Ballot
from paxon.actors.execution.application import encode_batch
from paxon.actors.execution.sessions import Reply
from paxon.actors.messages import (
    NO_OP,
    P1A,
    P2B,
    Accepted,
    Batch,
    CatchUp,
    CommandReply,
    Entry,
    Handover,
    Made,
    ReplyStatus,
)
from paxon.actors.records.configuration import Configuration
from paxon.kvstore.store.operations import Events, Put, Range, encode_operations, encode_results
from tests.books.store import GUARDED, StoreBooks
from tests.invariants import ClusterWatch
from tests.kvstore.store import model
from tests.messages import beat, promise
from tests.predicates import InvariantBroken
from tests.simulation.test_lost_disks import knows, sealed

ONE, TWO, HIGHER = Ballot(1, 1), Ballot(1, 2), Ballot(2, 1)
NEXT = Ballot.first_of(1).next_for(1)
"""Of the epoch that `sealed` begins."""
MADE = Made(1, "books", ((1, 11), (2, 12), (3, 13)), b"")
BEAT = beat(ONE, incarnations=((1, 0, 0),))
VALUE = encode_batch(Batch(0, [Entry(0, 1, 0, 0, b"")]))


def changed() -> ClusterWatch:
    """Server 1 has heard that server 4 has a vote from slot 3 on, and promised its own ballot."""
    watch = sealed((1, 2, 3), holders=())
    knows(watch, 1)
    watch.disks[1].promised = NEXT
    return watch


def led(watch: ClusterWatch) -> ClusterWatch:
    """Server 1 leads."""
    for server in (1, 2):
        watch.on_promise_durable(server, ONE)
    watch.on_send(1, [P1A(ONE, 1)], (2, 3))
    watch.on_send(2, [promise(ONE)], (1,))
    watch.on_send(1, [BEAT], (2, 3))
    return watch


def live(**said: Any) -> Any:
    """A server that has just started, as far as the books look at it."""
    known = {
        "promised": NO_BALLOT, "leader": 0, "is_member": True,
        "disks": SimpleNamespace(counts={}, incarnations={}),
        "log": SimpleNamespace(accepted_from=lambda _slot: said.pop("accepted", []), discarded=0),
        "configuration": Configuration.of(MADE), "application": SimpleNamespace(executed=0),
    }  # fmt: skip
    return SimpleNamespace(**(known | said))


def accept(watch: ClusterWatch, server: int, ballot: Ballot, value: bytes = b"v") -> None:
    watch.disks[server].promised = max(ballot, watch.disks[server].promised)
    watch.on_row_durable(server, 1, ballot, value)


def chosen(watch: ClusterWatch, *values: bytes) -> ClusterWatch:
    watch.chosen.update(enumerate(values, 1))
    return watch


def twice(method: Callable[..., None], one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    method(*one)
    method(*other)


def _count(watch: ClusterWatch) -> None:
    twice(watch.on_commit, (1, 2), (1, 2))


def _old_copy(watch: ClusterWatch) -> None:
    disk = watch.disks[1]
    disk.promised, disk.old, disk.behind = ONE, True, True
    watch.on_send(1, [promise(ONE)], (2,))


def _foreign_promise(_: ClusterWatch) -> None:
    watch = ClusterWatch((1, 2, 3, 4), members=(1, 2, 3))
    watch.on_promise_durable(4, ONE)
    watch.on_send(4, [promise(ONE)], (1,))


def _other_value(watch: ClusterWatch) -> None:
    accept(watch, 1, ONE)
    accept(watch, 2, ONE, b"w")


def _lower_row(watch: ClusterWatch) -> None:
    accept(watch, 1, HIGHER)
    accept(watch, 1, ONE)


def _void_row(_: ClusterWatch) -> None:
    changed().on_row_durable(1, 3, ONE, b"v")


def _early_seal(_: ClusterWatch) -> None:
    watch = sealed((1, 2, 3), holders=())
    watch.disks[1].epoch = 1
    watch.after_seal(1)


def _no_seal(_: ClusterWatch) -> None:
    sealed((1, 2, 3), holders=(1,)).on_chosen_durable(1, 2)


def _memory_forgets(watch: ClusterWatch) -> None:
    twice(watch.after_step, (1, live(promised=TWO)), (1, live(promised=ONE)))


def _void_row_comes_back(_: ClusterWatch) -> None:
    left = [Accepted(3, ONE, b"v")]
    changed().on_opened(1, live(promised=NEXT, accepted=left))


def _epoch_forgotten(_: ClusterWatch) -> None:
    changed().on_opened(1, live(promised=NEXT))


def _state_forgotten(watch: ClusterWatch) -> None:
    watch.disks[1].replayable = 5
    watch.on_opened(1, live())


def _denied_and_chosen(_: ClusterWatch) -> None:
    watch = sealed((1, 2, 3), holders=())
    watch.epochs.denied[7] = "refused"
    for server in (1, 2):
        accept(watch, server, TWO, b"first")


def _told_of_a_few(_: ClusterWatch) -> None:
    watch = changed()
    watch._leading.add(NEXT)
    watch.on_change_told(7, "done")


def _row_that_is_not_there(watch: ClusterWatch) -> None:
    watch.disks[1].promised = TWO
    watch.on_send(1, [promise(TWO, [Accepted(1, ONE, b"v")])], (2,))


def _after_handover(watch: ClusterWatch) -> None:
    led(watch).on_send(1, [Handover(ONE), BEAT], (2, 3))


def _lease_after_handover(watch: ClusterWatch) -> None:
    led(watch).on_send(1, [Handover(ONE)], (2,))
    watch.on_lease_used(1, ONE)


def _session_twice(watch: ClusterWatch) -> None:
    opened = [(Entry(0, 1, 0, 0, b""), Reply(ReplyStatus.OK, bytes(8)))]
    chosen(watch, VALUE, VALUE)
    twice(watch.on_execute, (1, 1, VALUE, opened, []), (1, 2, VALUE, opened, []))


LIES: list[tuple[str, str, Callable[[ClusterWatch], Any]]] = [
    ("restart loses nothing", "comes after 2", _count),
    ("restart loses nothing", "came back in 0", _epoch_forgotten),
    ("restart loses nothing", "came back at 0", _state_forgotten),
    ("old copies stay out", "sent P1B", _old_copy),
    ("made once", "have not stored", lambda w: w.on_made_durable(1, 11, MADE, in_force=True)),
    ("made once", "before it is in force", lambda w: w.on_first_promise(1, 11)),
    ("sealed first", "in epoch 0, promised e1", lambda w: w.on_promise_durable(1, NEXT)),
    ("sealed first", "in epoch 0, stored e1", lambda w: accept(w, 1, NEXT)),
    ("sealed first", "was not chosen", lambda w: w.on_seal_durable(1, Configuration(1, 2, ()))),
    ("sealed first", "its disk reaches to slot 0", _early_seal),
    ("sealed at once", "the CONFIG in slot 2", _no_seal),
    ("promise never falls", "promise fell",
        lambda w: twice(w.on_promise_durable, (1, TWO), (1, ONE))),
    ("promise never falls", "acceptance in slot 1 fell", _lower_row),
    ("promise never falls", "promise fell", _memory_forgets),
    ("accepts under promise", "above its promise", lambda w: w.on_row_durable(1, 1, ONE, b"v")),
    ("void above the seal", "stored slot 3", _void_row),
    ("void above the seal", "comes back with", _void_row_comes_back),
    ("one value per ballot", "two values", _other_value),
    ("nothing needed discarded", "deleted rows up to 1", lambda w: w.on_rows_discarded(1, 1)),
    ("over for good", "sent Heartbeat", _after_handover),
    ("over for good", "reads by a lease", _lease_after_handover),
    ("own ballot", "server 2 sent", lambda w: led(w).on_send(
        2, [beat(ONE, incarnations=((2, 0, 0),))], (1,))),
    ("executes only chosen", "commit index", lambda w: led(w).on_send(
        1, [beat(ONE, commit=7, incarnations=((1, 0, 0),))], (2,))),
    ("executes only chosen", "chosen is None", lambda w: w.on_execute(1, 1, b"v", [], [])),
    ("durable before sent", "sent P1A", lambda w: w.on_send(1, [P1A(ONE, 1)], (2,))),
    ("durable before sent", "sent P2B", lambda w: w.on_send(1, [P2B(ONE, 1, 1)], (2,))),
    ("durable before sent", "nothing in slot 1", lambda w: led(w).on_send(2, [P2B(ONE, 1, 1)], ())),
    ("durable before sent", "its disk has None", _row_that_is_not_there),
    ("only voters vote", "server 4 has none", _foreign_promise),
    ("one value per slot", "chosen is None", lambda w: w.on_send(
        1, [CatchUp([Accepted(1, ONE, b"v")], 1)], (2,))),
    ("acknowledged is durable", "slot 0", lambda w: w.on_reply(
        1, [CommandReply(1, 1, ReplyStatus.OK, b"")])),
    ("in order", "slot 2 after 0", lambda w: w.on_execute(1, 2, b"v", [], [])),
    ("in order", "from slot 5 to 3", lambda w: twice(w.on_restore, (1, 5, "a"), (1, 3, "b"))),
    ("at most once", "comes twice", _session_twice),
    ("at most once", "carried out more",
        lambda w: chosen(w, b"v").on_execute(1, 1, b"v", [], [b"a command"])),
    ("equal settings", "another on b'a'", lambda w: twice(w.on_agreed, (1, 1, b"a"), (2, 1, b"b"))),
    ("changes end as told", "somebody was told 'refused'", _denied_and_chosen),
    ("changes end as told", "told as 'refused'", lambda w: changed().on_change_told(7, "refused")),
    ("changes end as told", "never was", lambda w: w.on_change_told(7, "done")),
    ("changes end as told", "nobody leads", lambda w: changed().on_change_told(7, "done")),
    ("changes end as told", "only servers []", _told_of_a_few),
]  # fmt: skip
"""The predicate, how it puts it, and the lie."""


@pytest.mark.parametrize(("predicate", "words", "lie"), LIES, ids=[words for _, words, _ in LIES])
def test_the_books_over_servers_refuse(
    predicate: str, words: str, lie: Callable[[ClusterWatch], Any]
) -> None:
    with pytest.raises(InvariantBroken) as broken:
        lie(ClusterWatch((1, 2, 3)))
    assert broken.value.predicate == predicate
    assert words in str(broken.value)


# --- what the log makes of the store -------------------------------------------------------------

LOCK = GUARDED + b"~lock"
ITEM, CLAIM = b"~queue/.queue/items/1", b"~queue/.queue/claims/1"
WATCH = Events(1, [(b"k", None)])
LOOK = Events(1, [(b"k", None)], look=Range(b"k", limit=1))
ROW = [b"k", b"v", 2, 2, 1, 0]


def executed(books: StoreBooks, *puts: Put, time: int = 0) -> StoreBooks:
    """Server and model have executed these, each in a slot of its own."""
    for put in puts:
        entry = Entry(1, books.slot + 1, 0, 0, encode_operations([put]))
        reply = Reply(ReplyStatus.OK, encode_results([books.model.revision + 1]))
        value = encode_batch(Batch(time, [entry], ONE))
        books.on_execute(books.slot + 1, value, [(entry, reply)], [entry.command])
    return books


def claimed(books: StoreBooks) -> None:
    """A lease holds an item, and two consumers have it."""
    books.model.states[1] = {CLAIM: model.Entry(b"", 1, 1, 1, 5)}
    twice(books.claimed, (ITEM, 1, 5), (ITEM, 1, 5))


K = Put(b"k", b"v")
GONE = {"kind": "compacted"}
STORE_LIES: list[tuple[str, str, Callable[[StoreBooks], Any]]] = [
    ("in order", "executed after 0", lambda b: b.on_execute(2, NO_OP, [], [])),
    ("log time", "have passed", lambda b: executed(b, K, time=9_000_000_000)),
    ("as the model", "it has not", lambda b: b.lease_gone(5)),
    ("as the model", "to live for 3000 ms", lambda b: b.time_left(5, 0, [3000, 2000, None])),
    ("as the model", "no slot after 0", lambda b: b.acknowledged(K, 0, 2)),
    ("as the model", "no slot after 1", lambda b: executed(b, K).acknowledged(K, 1, 2)),
    ("as the model", "5 was told", lambda b: b.read(Range(b"k"), 5, [1, 0, False, [], None])),
    ("as the model", "it was [1, 0,", lambda b: b.read(Range(b"k"), 1, [1, 1, False, [], None])),
    ("history kept", "was refused", lambda b: b.read(Range(b"k"), 1, GONE)),
    ("watched once", "told nothing", lambda b: executed(b, K).quiet(WATCH, 1, 2)),
    ("watched once", "it saw 1, before 2", lambda b: executed(b, K).watched(
        LOOK, 1, [2, [], [1, 1, False, [ROW], None]])),
    ("watched once", "beside news", lambda b: executed(b, K).watched(
        LOOK, 1, [2, [], [2, 0, False, [], None]])),
    ("guarded", "its holders are []", lambda b: executed(b, Put(LOCK, b"7 x"))),
    ("guarded", "has read", lambda b: b.read_under("~rw0", 3, b"4 x")),
    ("done once", "is done twice", lambda b: executed(b, *[Put(b"~done/1", b"")] * 2)),
    ("done once", "by lease 5: None", lambda b: b.claimed(ITEM, 1, 5)),
    ("done once", "two consumers", claimed),
    ("done once", "are done with", lambda b: twice(b.finished, (ITEM,), (ITEM,))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("predicate", "words", "lie"), STORE_LIES, ids=[words for _, words, _ in STORE_LIES]
)
def test_the_books_over_the_store_refuse(
    predicate: str, words: str, lie: Callable[[StoreBooks], Any]
) -> None:
    with pytest.raises(InvariantBroken) as broken:
        lie(StoreBooks(lambda: 1.0, 1.0, in_time=True))
    assert broken.value.predicate == predicate
    assert words in str(broken.value)


def test_books_that_begin_anew_know_which_directories_are_in_use() -> None:
    """Else what a server tells that runs on already would be told by nobody (seed 980219)."""
    watch = ClusterWatch((1, 2))
    watch.on_life(1, made_disk=True, incarnation=7, count=2, in_force=False)
    watch.start_anew()
    assert (watch.disks[1].incarnation, watch.disks[1].count) == (7, 2)
