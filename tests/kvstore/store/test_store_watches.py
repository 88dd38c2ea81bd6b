"""Which watches an event concerns, and what they are answered: the store's half of rule 14."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import paxon.kvstore.store.store as store_module
from paxon.kvstore.store import events, history, lately, watching
from paxon.kvstore.store.events import matcher
from paxon.kvstore.store.key_index import KeyIndex
from paxon.kvstore.store.operations import (
    Compact,
    Delete,
    DeleteRange,
    Events,
    Operation,
    Put,
    decode_results,
    encode_operations,
    is_split,
)
from paxon.kvstore.store.spans import EVERYTHING, contains, prefix_span
from paxon.kvstore.store.store import KVStore

KEY = [(b"k", None)]


def run(store: KVStore, *operations: Operation) -> list[Any]:
    """Execute a command; its results."""
    return decode_results(store.apply(encode_operations(operations)))


def watch(store: KVStore, number: int, after: int, spans: Any = KEY, **options: Any) -> Any:
    """What a watch is answered at once, None if it is kept."""
    answer = store.watch(number, encode_operations([Events(after, spans, **options)]))
    return None if answer is None else decode_results(answer)[0]


def happened(store: KVStore) -> dict[int, Any]:
    """The answers that are due, by the watches' numbers; nobody wants another."""
    found = {number: decode_results(answer)[0] for number, answer in store.happened()}
    for number in found:
        store.unwatch(number)
    return found


def test_a_watch_is_told_where_looking_ended_and_misses_nothing_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("paxon.kvstore.store.events._LOOKED_AT", 10)
    store = KVStore()
    assert watch(store, 1, 1) is None
    run(store, *(Put(b"x", b"") for _ in range(20)), Put(b"k", b""))
    assert happened(store) == {1: [11, []]}
    assert watch(store, 1, 11) == [21, []]


def test_an_answered_watch_goes_on_from_there() -> None:
    store = KVStore()
    assert watch(store, 1, 1) is None
    for value in (b"1", b"2"):
        run(store, Put(b"k", value), Put(b"x", b""))
        ((number, answer),) = store.happened()
        assert [row[1] for row, _ in decode_results(answer)[0][1]] == [value]
        assert store.keeps(number)
    store.restore(store.snapshot())
    assert not list(store.happened()), "what it was told before is not told again"


def test_a_watch_goes_on_only_if_its_answer_was_all_there_was() -> None:
    store = KVStore()
    most = {name: limit.most for name, limit in store.limits.items()}
    store.agree(most | {"max_scan_bytes": 1})
    assert watch(store, 1, 1) is None
    run(store, Put(b"k", b"1"), Put(b"k", b"2"))
    ((number, answer),) = store.happened()
    assert decode_results(answer)[0][0] == 2
    assert not store.keeps(number)
    run(store, Put(b"k", b"3"))
    assert not list(store.happened())


def keys(answer: Any) -> list[tuple[int, bytes, bool]]:
    """Of the events in an answer: revision, key, and whether it was put."""
    return [(item[3], item[0], item[4] > 0) for item, _ in answer[1]]


def test_an_event_answers_the_watches_of_its_key_and_no_others() -> None:
    store = KVStore()
    assert watch(store, 1, 1) is None
    assert watch(store, 2, 1, [(b"other", None)]) is None
    run(store, Put(b"k", b"v"))
    answers = happened(store)
    assert list(answers) == [1]
    assert answers[1][0] == 2
    assert keys(answers[1]) == [(2, b"k", True)]
    run(store, Put(b"k", b"w"))
    assert happened(store) == {}, "it was answered, and is kept no more"


def test_what_happened_before_is_answered_at_once() -> None:
    store = KVStore()
    run(store, Put(b"k", b"1"), Put(b"x", b"2"), Put(b"k", b"3"))
    assert keys(watch(store, 1, 1)) == [(2, b"k", True), (4, b"k", True)]
    assert keys(watch(store, 1, 2)) == [(4, b"k", True)]
    assert watch(store, 1, 4) is None


def test_a_start_above_the_stores_revision_waits_and_nothing_up_to_it_is_told() -> None:
    """Rule 13: a server that is late would tell 91 to 100 twice."""
    store = KVStore()
    assert watch(store, 1, 4) is None
    run(store, Put(b"k", b"1"))
    run(store, Put(b"k", b"2"), Put(b"k", b"3"))
    assert happened(store) == {}
    run(store, Put(b"k", b"4"))
    assert keys(happened(store)[1]) == [(5, b"k", True)]


def test_a_revision_is_told_whole() -> None:
    store = KVStore()
    run(store, *(Put(b"k%d" % n, b"") for n in range(5)))
    watch(store, 1, store.revision, [prefix_span(b"k")])
    run(store, DeleteRange(*prefix_span(b"k")))
    assert keys(happened(store)[1]) == [(7, b"k%d" % n, False) for n in range(5)]


def test_puts_alone_deletes_alone_and_what_was_before() -> None:
    store = KVStore()
    for number, options in enumerate(({"deletes": False}, {"puts": False}, {"previous": True})):
        assert watch(store, number, 1, **options) is None
    run(store, Put(b"k", b"v"))
    assert list(happened(store)) == [0, 2]
    run(store, Delete(b"k"))
    assert keys(happened(store)[1]) == [(3, b"k", False)]
    ((_, previous),) = watch(store, 3, 2, previous=True)[1]
    assert previous[1] == b"v"


def test_one_watch_of_several_spans_is_told_of_an_event_once() -> None:
    store = KVStore()
    watch(store, 1, 1, [(b"k", None), (b"k", None), prefix_span(b"k"), (b"a", b"z"), EVERYTHING])
    run(store, Put(b"k", b"v"))
    assert keys(happened(store)[1]) == [(2, b"k", True)]


def test_what_is_dropped_is_told_nothing() -> None:
    store = KVStore()
    spans = [(b"k", None), prefix_span(b"k"), (b"a", b"z")]
    watch(store, 1, 1, spans)
    watch(store, 2, 1, spans)
    store.unwatch(1)
    store.unwatch(1)
    run(store, Put(b"k", b"v"))
    assert list(happened(store)) == [2]
    assert vars(store._watches)["_by_key"] == vars(store._watches)["_by_prefix"] == {}
    assert vars(store._watches)["_by_span"] == vars(store._watches)["_lengths"] == {}


def test_compaction_takes_no_event_from_a_watch_that_waits() -> None:
    """Only who really missed something is told so, even if it happens in one command."""
    store = KVStore()
    run(store, Put(b"k", b"0"))
    watch(store, 1, 2)
    run(store, Put(b"k", b"1"), Delete(b"k"), Put(b"x", b""), Compact(5))
    assert keys(happened(store)[1]) == [(3, b"k", True), (4, b"k", False)]
    refused = watch(store, 1, 2)
    assert refused["kind"] == "compacted"
    assert refused["oldest"] == 5
    assert watch(store, 1, 4) is None, "what follows 4 is all there"


def test_a_watch_is_answered_once_however_often_a_slot_compacts() -> None:
    """Else a short command would make watches times compactions of answers."""
    store = KVStore()
    for number in range(3):
        watch(store, number, 1)
    for revision in range(2, 12):
        run(store, Put(b"k", b""), Compact(revision))
    answers = list(store.happened())
    assert [number for number, _ in answers] == [0, 1, 2]
    assert keys(decode_results(answers[0][1])[0]) == [(2, b"k", True)]
    assert not any(map(store.keeps, range(3))), "their clients ask again from there"


def test_a_quiet_watch_is_not_overtaken_by_compaction() -> None:
    store = KVStore()
    watch(store, 1, 1)
    for _ in range(3):
        run(store, *(Put(b"x", b"") for _ in range(10)), Compact(store.revision or 1))
        assert happened(store) == {}
    run(store, Put(b"k", b"v"))
    assert keys(happened(store)[1]) == [(store.revision, b"k", True)]


def test_after_a_snapshot_each_watch_goes_on_from_its_own_position() -> None:
    """Rule 15: of what happened between, nothing is lost and nothing told twice."""
    late, current = KVStore(), KVStore()
    for store in (late, current):
        run(store, Put(b"k", b"1"), Put(b"k", b"2"))
    watch(late, 1, 3)
    watch(late, 2, 5)
    watch(late, 3, 3, [(b"quiet", None)])
    run(current, Put(b"k", b"3"), Put(b"k", b"4"), Put(b"k", b"5"))
    late.restore(current.snapshot())
    answers = happened(late)
    assert keys(answers[1]) == [(4, b"k", True), (5, b"k", True), (6, b"k", True)]
    assert keys(answers[2]) == [(6, b"k", True)]
    assert list(answers) == [1, 2]
    run(late, Put(b"quiet", b""))
    assert keys(happened(late)[3]) == [(7, b"quiet", True)]


def test_a_snapshot_without_what_a_watch_waits_for_says_so() -> None:
    late, current = KVStore(), KVStore()
    watch(late, 1, 1)
    run(current, Put(b"k", b"1"), Put(b"k", b"2"), Compact(3))
    late.restore(current.snapshot())
    assert happened(late)[1]["kind"] == "compacted"


def test_watches_are_no_part_of_the_state() -> None:
    store, other = KVStore(), KVStore()
    watch(store, 1, 1)
    for one in (store, other):
        run(one, Put(b"k", b"v"))
    assert store.snapshot() == other.snapshot()
    assert store.digest() == other.digest()
    happened(store)
    assert store.snapshot() == other.snapshot()


@pytest.mark.parametrize("query", [b"", b"\x90", encode_operations([Put(b"k", b"v")]), b"\xc1"])
def test_what_is_no_watch_is_refused(query: bytes) -> None:
    with pytest.raises(ValueError, match=r"list of store operations|a watch is one"):
        KVStore().watch(1, query)


def keys_looked_at(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[bytes]:
    """Of which events this module asks for the key, from now on."""
    found: list[bytes] = []
    key_of = history.key_of

    def noted(before: Any) -> bytes:
        found.append(key_of(before))
        return found[-1]

    monkeypatch.setattr(module, "key_of", noted)
    return found


def test_looking_for_whom_an_event_concerns_reads_nothing_older(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It took as long as the block of history that the event is in: 22 us of a put's 25."""
    store = KVStore()
    run(store, *(Put(b"%d" % number, b"") for number in range(100)))
    assert watch(store, 1, 101, [(b"idle", None)]) is None
    assert watch(store, 2, 101, [prefix_span(b"k")]) is None
    looked_at = keys_looked_at(monkeypatch, history)
    monkeypatch.setattr(history.Block, "revisions", None)
    run(store, Put(b"new", b""))
    assert happened(store) == {}
    assert looked_at == [b"new"]


def test_watches_that_come_back_late_look_at_each_event_once_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a failover: each looked at all that had happened, 2 ms for 5,000 events."""
    store = KVStore()
    for number in range(5000):
        run(store, Put(b"busy/%d" % (number % 100), b""))
    looked_at = keys_looked_at(monkeypatch, lately)
    monkeypatch.setattr(history.History, "since", None)
    for number in range(1000):
        span = (b"%d" % number, None) if number % 2 else prefix_span(b"idle/%d/" % number)
        assert watch(store, number, 100 + number, [span]) is None
    run(store, Put(b"busy/0", b""), Put(b"7", b""))
    monkeypatch.undo()
    assert list(happened(store)) == [7]
    assert len(looked_at) == 4901


def test_one_watch_of_many_keys_that_comes_back_looks_at_no_more_than_the_events_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thousand spans that overlap looked at all keys a thousand times: 11 s in one step."""
    store = KVStore()
    for number in range(3000):
        run(store, Put(b"k%04d" % number, b""))
    assert watch(store, 1, 1, [(b"idle", None)]) is None  # every key is noted now
    run(store, *(Put(b"other", b"") for _ in range(300)))
    looked_at: list[bytes] = []
    between = KeyIndex.between

    def noted(*args: Any) -> Iterator[bytes]:
        for key in between(*args):
            looked_at.append(key)
            yield key

    monkeypatch.setattr(KeyIndex, "between", noted)
    assert watch(store, 2, 3001, [(b"k%03d" % n, b"l") for n in range(50)]) is None
    assert watch(store, 3, 3001, [(b"k29%02d" % n, b"l") for n in range(50)]) is None
    assert len(looked_at) == 100, "of the second watch alone, and each key once"


def test_what_was_noted_of_an_old_state_is_forgotten() -> None:
    store = KVStore()
    for number in range(300):
        run(store, Put(b"k%d" % number, b""))
    for replaced in (True, False):
        assert watch(store, 1, 1, [(b"idle", None)]) is None
        assert store._watches._lately is not None
        if replaced:
            store.restore(store.snapshot())
            assert store._watches._lately is None
        store.unwatch(1)
        assert store._watches._lately is None


def test_a_thousand_watches_of_one_key_share_one_answer() -> None:
    store = KVStore()
    for number in range(1000):
        watch(store, number, 1)
    run(store, Put(b"k", b"v"))
    answers = [answer for _, answer in store.happened()]
    assert len(answers) == 1000
    assert len(set(map(id, answers))) == 1


small_keys = st.sampled_from([b"", b"a", b"ab", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff"])
spans = st.one_of(
    st.tuples(small_keys, st.none()),
    small_keys.map(prefix_span),
    st.tuples(small_keys, small_keys),
)


@settings(max_examples=100)
@given(
    st.lists(st.lists(st.tuples(small_keys, small_keys), max_size=9), max_size=9),
    st.lists(small_keys, min_size=1),
)
def test_spans_are_found_by_the_keys_that_they_hold(groups: list[list[Any]], these: Any) -> None:
    trees = watching.Trees()
    for group in groups:
        trees.add(group)
    every = [span for group in groups for span in group]

    def hold(key: bytes) -> set[tuple[bytes, bytes]]:
        return {(first, end) for first, end in every if contains(first, end, key)}

    wanted = set[tuple[bytes, bytes]]().union(*map(hold, these))
    assert set(trees.holding(sorted(these))) == wanted
    matches = matcher(every)
    assert all(matches(key) == bool(hold(key)) for key in these)
    trees.tidy(wanted)
    assert set(trees.holding(sorted(these))) >= wanted


def test_events_that_do_not_match_take_room_like_those_that_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A query of two thousand such looks, 32 KB, stopped its server for nine seconds."""
    store, looks = KVStore(), 0
    run(store, *[Put(b"k", b"")] * 100)
    monkeypatch.setattr(events, "_LOOK_BYTES", 80_000)
    answer = events.answer_events

    def counted(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return answer(*arguments)

    monkeypatch.setattr(store_module, "answer_events", counted)
    query = encode_operations([Events(1, [(b"other", None)])] * 50)
    results = decode_results(store.query(query))
    assert [is_split(result) for result in results] == [False] * 2 + [True] * 48
    assert looks == 3
    assert store.cost(encode_operations([Compact(0)] * 500)) < 10_000  # it has not been checked
    command = encode_operations([Compact(0)] * 500)
    store.check(command)
    assert store.cost(command) > 500_000


def test_who_waits_for_a_revision_to_come_costs_nothing_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twenty thousand of them were asked at each write of their key, and none was answered."""
    store = KVStore()
    for number in range(1, 101):
        assert watch(store, number, 5) is None
    assert watch(store, 101, 3) is None
    store.unwatch(100)
    monkeypatch.setattr(watching, "answer_events", None)
    run(store, Put(b"k", b"2"), Put(b"k", b"3"))
    assert happened(store) == {}
    monkeypatch.undo()
    run(store, Put(b"k", b"4"))
    assert keys(happened(store)[101]) == [(4, b"k", True)]
    run(store, Put(b"k", b"5"), Put(b"k", b"6"))
    assert [keys(answer) for answer in happened(store).values()] == [[(6, b"k", True)]] * 99
    for number in range(200):
        watch(store, 1, 99 + number)
        store.unwatch(1)
    assert len(store._watches._reached) < 100


def test_who_waits_for_deletions_alone_costs_a_put_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = KVStore()
    run(store, Put(b"k", b"1"), Put(b"gone", b""))
    assert watch(store, 1, 3, [EVERYTHING], puts=False) is None
    assert watch(store, 2, 3, [(b"gone", None)], deletes=False) is None
    monkeypatch.setattr(watching, "_answer", None)
    run(store, Put(b"k", b"2"), Delete(b"gone"), Put(b"k", b"3"))
    with pytest.raises(TypeError):  # the first is asked
        store.happened()
    monkeypatch.undo()
    assert list(happened(store)) == [1]
    monkeypatch.setattr(watching, "_answer", None)
    run(store, Put(b"k", b"4"), Delete(b"k"), Put(b"k", b"5"))
    assert happened(store) == {}


def test_a_write_looks_at_few_of_very_many_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were all gone through: a client with a million of them stopped everybody's writes."""
    store, visits = KVStore(), 0
    for number in range(1, 41):
        wide = [(b"%02d.%04d" % (number, n), b"%02d.%04dx" % (number, n)) for n in range(1000)]
        assert watch(store, number, 1, wide) is None
    lengths = [prefix_span(b"p" * length) for length in range(1, 1000)]
    assert watch(store, 41, 1, lengths) is None
    find = watching.Tree.find

    def counted(*arguments: Any) -> None:
        nonlocal visits
        visits += 1
        find(*arguments)

    monkeypatch.setattr(watching.Tree, "find", counted)
    run(store, Put(b"others", b""))
    assert happened(store) == {}
    assert visits < 200
    wide = [(b"%05d" % n, b"%05dx" % n) for n in range(1000)]
    answers = [watch(store, number, 2, wide) for number in range(100, 120)]
    assert "watch 4 spans at once" in answers[-1]["error"]
    assert watch(store, 200, 2, wide[:4]) is None  # whoever asks for few is not kept out
    for number in range(1, 42):
        store.unwatch(number)
    assert watch(store, 201, 2, wide) is None


@settings(max_examples=200)
@example(
    wanted=[([(b"a", None), (b"a", b""), (b"a", b"")], 0)], writes=[(b"a", True)], cuts=set(),
    at_once=0,
)  # fmt: skip
@example(wanted=[([(b"a", None)], 0)], writes=[(b"a", True), (b"b", True)], cuts=set(), at_once=1)
@example(wanted=[([(b"a", b"b")], 0)], writes=[(b"b", True), (b"a", True)], cuts={0}, at_once=4)
@example(
    wanted=[([(b"x", None)], 3), ([(b"x", None)], 0), ([(b"a", None)], 3)],
    writes=[(b"a", True), (b"b", True), (b"a", True)], cuts=set(), at_once=4,
)  # fmt: skip
@given(
    wanted=st.lists(st.tuples(st.lists(spans, max_size=3), st.integers(0, 8)), max_size=6),
    writes=st.lists(st.tuples(small_keys.filter(len), st.booleans()), max_size=12),
    cuts=st.sets(st.integers(0, 12)),
    at_once=st.integers(0, 4),
)
def test_who_waits_is_told_what_a_read_would_tell(
    wanted: list[tuple[list[Any], int]], writes: list[tuple[bytes, bool]], cuts: set[int],
    at_once: int,
) -> None:  # fmt: skip
    """The index finds exactly the watches whose spans hold a key that was written.

    So do those who come back after many events, of which some are taken in for each question.
    """
    store = KVStore()
    patches = pytest.MonkeyPatch()
    patches.setattr(watching, "_MANY_EVENTS", 0 if at_once else len(writes))
    patches.setattr(lately, "_AT_ONCE", at_once)
    told: dict[int, list[Any]] = {n: [] for n in range(len(wanted))}
    position = {n: after for n, (_, after) in enumerate(wanted)}

    def take(number: int, answer: Any) -> None:
        while answer is not None:
            through, _ = answer
            told[number] += keys(answer)
            position[number] = max(position[number], through)
            answer = watch(store, number, position[number], wanted[number][0])

    def come_back(these: list[Any], after: int) -> list[Any]:
        found = []
        while (answer := watch(store, 100, after, these)) is not None:
            after = answer[0]
            found += keys(answer)
        store.unwatch(100)
        return found

    for number, (these, after) in enumerate(wanted):
        take(number, watch(store, number, after, these))
    for index, (key, puts) in enumerate(writes):
        run(store, Put(key, b"") if puts else Delete(key))
        if index in cuts:
            for each in wanted:
                come_back(*each)
            for number, answer in happened(store).items():
                take(number, answer)
    for number, answer in happened(store).items():
        take(number, answer)
    again = [come_back(*each) for each in wanted]
    patches.undo()
    everything = keys(watch(store, 99, 0, [EVERYTHING])) if store.revision > 1 else []
    for number, (these, after) in enumerate(wanted):
        due = [
            event for event in everything
            if event[0] > after and any(contains(first, end, event[1]) for first, end in these)
        ]  # fmt: skip
        assert told[number] == again[number] == due
