"""The checker's verdicts on histories known to be good or bad."""

from __future__ import annotations

import io
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.linearizability import (
    HistoryError,
    Kind,
    Operation,
    Recorder,
    Verdict,
    check,
    dump_history,
    load_history,
)
from tests.linearizability.brute_force import has_order
from tests.linearizability.generate import Shape, generate

ALL_KINDS: tuple[Kind, ...] = ("get", "put", "append", "delete", "cas", "scan")


def op(
    kind: str, call: float, returned: float | None, value: object = None, **more: object
) -> Operation:
    """One operation on key "x" (unless told another), by a client of its own."""
    fields: dict[str, object] = {"client": 1, "key": "x", "value": None, "result": None} | more
    if kind in {"put", "append", "cas"}:
        fields["value"] = value
    else:
        fields["result"] = value
    return Operation(kind=kind, call=call, returned=returned, **fields)  # type: ignore[arg-type] # shorthand of these tests


GOOD: dict[str, list[Operation]] = {
    "empty": [],
    "read_of_nothing": [op("get", 0, 1)],
    "overlapping_read_sees_the_write": [op("put", 0, 10, b"1"), op("get", 1, 2, b"1")],
    "overlapping_read_misses_the_write": [op("put", 0, 10, b"1"), op("get", 1, 2)],
    "concurrent_writes_either_order": [
        op("put", 0, 10, b"1"), op("put", 0, 10, b"2"), op("get", 11, 12, b"1"),
        op("get", 13, 14, b"1"),
    ],
    "herlihy_wing_queue_like_overlap": [
        op("put", 0, 5, b"1"), op("put", 1, 9, b"2"), op("get", 2, 3, b"2"),
        op("get", 4, 6, b"1"), op("get", 7, 8, b"1"),
    ],
    "unknown_write_takes_effect_late": [
        op("put", 0, None, b"1"), op("put", 1, 2, b"2"), op("get", 3, 4, b"2"),
        op("get", 100, 101, b"1"),
    ],
    "unknown_write_never_takes_effect": [op("put", 0, None, b"1"), op("get", 1, 2)],
    "unknown_append_twice_seen_once": [
        op("append", 0, None, b"a"), op("append", 0, None, b"a"), op("get", 1, 2, b"a"),
    ],
    "cas_chain": [
        op("cas", 0, 1, b"1", expected=None, result=True),
        op("cas", 2, 3, b"2", expected=b"1", result=True),
        op("cas", 2, 3, b"3", expected=b"1", result=False),
        op("get", 4, 5, b"2"),
    ],
    "unknown_cas_explains_the_value": [
        op("put", 0, 1, b"1"), op("cas", 2, None, b"2", expected=b"1"), op("get", 3, 4, b"2"),
    ],
    "chain_of_unknown_cas": [
        op("append", 0, None, b"0"), op("cas", 0, None, b"1", expected=None),
        op("cas", 0, None, b"3", expected=b"10"), op("get", 1, 2, b"3"),
    ],
    "scan_sees_one_instant": [
        op("put", 0, 1, b"1", key="a1"), op("put", 2, 9, b"2", key="a2"),
        op("put", 3, 9, b"3", key="a1"),
        op("scan", 4, 8, (("a1", b"3"),), key="a"),
    ],
    "scan_of_two_unknown_writes": [
        op("put", 0, None, b"1", key="a1"), op("put", 0, None, b"2", key="a2"),
        op("scan", 4, 8, (("a1", b"1"), ("a2", b"2")), key="a"),
    ],
    "delete_tells_what_was_there": [
        op("put", 0, 1, b"1"), op("delete", 2, 9, True), op("delete", 2, 9, False),
        op("get", 10, 11),
    ],
    "equal_times_are_unordered": [op("put", 0, 5, b"1"), op("get", 5, 6)],
}  # fmt: skip

BAD: dict[str, list[Operation]] = {
    "value_from_nowhere": [op("get", 0, 1, b"1")],
    "stale_read": [op("put", 0, 1, b"1"), op("put", 2, 3, b"2"), op("get", 4, 5, b"1")],
    "lost_write": [op("put", 0, 1, b"1"), op("get", 2, 3)],
    "reads_go_back_in_time": [
        op("put", 0, 10, b"1"), op("get", 1, 2, b"1"), op("get", 3, 4),
    ],
    "two_readers_disagree_on_the_order": [
        op("put", 0, 10, b"1"), op("put", 0, 10, b"2"),
        op("get", 11, 12, b"1"), op("get", 13, 14, b"2"),
    ],
    "read_before_the_write": [op("get", 0, 1, b"1"), op("put", 2, 3, b"1")],
    "unknown_write_used_twice": [
        op("put", 0, None, b"1"), op("get", 1, 2, b"1"), op("put", 3, 4, b"2"),
        op("get", 5, 6, b"2"), op("get", 7, 8, b"1"),
    ],
    "append_executed_twice": [op("append", 0, 1, b"a"), op("get", 2, 3, b"aa")],
    "append_length_of_another_order": [
        op("append", 0, 1, b"a", result=1), op("append", 2, 3, b"b", result=1),
    ],
    "both_cas_won": [
        op("cas", 0, 9, b"1", expected=None, result=True),
        op("cas", 0, 9, b"2", expected=None, result=True),
    ],
    "cas_failed_for_nothing": [
        op("put", 0, 1, b"1"), op("cas", 2, 3, b"2", expected=b"1", result=False),
    ],
    "torn_scan": [
        op("put", 0, 1, b"1", key="a1"), op("put", 2, 3, b"2", key="a2"),
        op("scan", 4, 8, (("a2", b"2"),), key="a"),
    ],
    "scans_disagree_on_the_order": [
        op("put", 0, 9, b"1", key="a1"), op("put", 0, 9, b"2", key="a2"),
        op("scan", 1, 8, (("a1", b"1"),), key="a"), op("scan", 1, 8, (("a2", b"2"),), key="a"),
    ],
    "scan_beyond_its_limit": [
        op("put", 0, 1, b"1", key="a1"), op("put", 0, 1, b"2", key="a2"),
        op("scan", 2, 3, (("a1", b"1"), ("a2", b"2")), key="a", limit=1),
    ],
    "scan_of_a_key_that_nobody_wrote": [op("scan", 0, 1, (("a1", b"1"),), key="a")],
    "scan_out_of_order": [
        op("put", 0, 1, b"1", key="a1"), op("put", 0, 1, b"2", key="a2"),
        op("scan", 2, 3, (("a2", b"2"), ("a1", b"1")), key="a"),
    ],
    "deleted_twice": [
        op("put", 0, 1, b"1"), op("delete", 2, 9, True), op("delete", 2, 9, True),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_good_history(name: str) -> None:
    result = check(GOOD[name])
    assert result.verdict is Verdict.OK, result.explanation
    assert has_order(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_bad_history(name: str) -> None:
    result = check(BAD[name])
    assert result.verdict is Verdict.VIOLATION
    assert result.explanation
    assert result.operations


shapes = st.builds(
    Shape,
    operations=st.integers(2, 7),
    clients=st.integers(2, 5),
    keys=st.integers(1, 2),
    kinds=st.sampled_from(
        [ALL_KINDS, ("get", "put"), ("get", "put", "append"), ("put", "append", "scan")]
    ),
    unknown=st.sampled_from([0.0, 0.2, 0.5]),
    distinct=st.booleans(),
)


def bend(random: Random, history: list[Operation]) -> None:
    """Change one or a few results; what comes out may be linearizable or not."""
    for _ in range(random.randint(1, 3)):
        told = [o for o in history if o.returned is not None]
        if not told:
            return
        one, other = random.choice(told), random.choice(told)
        if one.kind == other.kind and one.limit == other.limit:
            one.result, other.result = other.result, one.result
        elif one.kind in {"cas", "delete"}:
            one.result = not one.result
        elif one.kind == "append":
            one.result = random.choice([None, 1, 3, 4, 6])


@given(shapes, st.integers(0, 1 << 32), st.booleans())
@settings(max_examples=600)
def test_agrees_with_brute_force(shape: Shape, seed: int, bent: bool) -> None:
    random = Random(seed)
    history = generate(random, shape)
    if bent:
        bend(random, history)
    wanted = has_order(history)
    result = check(history)
    assert result.verdict is (Verdict.OK if wanted else Verdict.VIOLATION)
    if not wanted:
        # The explanation is itself a contradiction, not only a part of the history.
        assert not has_order(result.operations)


@given(st.integers(0, 1 << 32), st.sampled_from([0.0, 0.05]), st.booleans())
@settings(max_examples=40)
def test_accepts_what_a_real_store_answered(seed: int, unknown: float, distinct: bool) -> None:
    shape = Shape(300, 6, 4, ALL_KINDS, unknown, distinct)
    result = check(generate(Random(seed), shape))
    assert result.verdict is Verdict.OK, result.explanation


@pytest.mark.parametrize(
    "shape",
    [
        Shape(10_000, 15, 20, ("get", "put", "append", "delete", "cas")),
        Shape(10_000, 15, 20, ("get", "put"), distinct=False),
        Shape(10_000, 15, 20, ("get", "put", "append", "delete", "cas"), unknown=0.02),
        Shape(10_000, 15, 1, ("get", "put")),
        Shape(10_000, 15, 1, ("get", "append")),
        Shape(2_000, 100, 1, ("get", "put", "cas")),
        Shape(3_000, 15, 1, ("get", "put"), unknown=0.3),
        Shape(1_000, 15, 1, ("get", "put", "append"), unknown=0.3),
        Shape(1_000, 30, 1, ("get", "put", "append", "delete", "cas")),
    ],
    ids=str,
)
def test_large_histories_are_judged_within_a_minute(shape: Shape) -> None:
    history = generate(Random(7), shape)
    assert check(history, seconds=60).verdict is Verdict.OK


def test_a_fault_in_a_large_history_is_found_and_shown_in_few_operations() -> None:
    history = generate(Random(3), Shape(10_000, 15, 20, ("get", "put")))
    reads = [o for o in history if o.kind == "get" and o.key == "k5" and o.result]
    reads[-1].result = reads[-40].result
    result = check(history)
    assert result.verdict is Verdict.VIOLATION
    assert len(result.operations) <= 4
    assert "client" in result.explanation


def test_gives_up_rather_than_calling_it_fine() -> None:
    hard = generate(Random(0), Shape(1_000, 30, 1, distinct=False))
    result = check(hard, configurations=500)
    assert result.verdict is Verdict.UNDECIDED
    assert "1000 operations" in result.explanation
    assert check(hard, seconds=0.1, configurations=1 << 60).verdict is Verdict.UNDECIDED


def test_json_lines_round_trip() -> None:
    history = generate(Random(1), Shape(200, 5, 3, ALL_KINDS, unknown=0.1))
    history.append(op("put", 1, 2, b"\xff\x00", key="schlüssel"))
    file = io.StringIO()
    dump_history(history, file)
    file.seek(0)
    assert load_history(file) == history


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("nonsense", "line 1"),
        ("[1]", "one JSON object"),
        ('{"client": 1, "op": "get", "key": "x", "call": 1}', "'return' is missing"),
        ('{"client": 1, "op": "got", "key": "x", "call": 1, "return": 2}', "the kinds are"),
        ('{"client": 1, "op": "get", "key": "x", "call": 3, "return": 2}', "before its call"),
        ('{"client": 1, "op": "put", "key": "x", "call": 1, "return": 2}', "carry a value"),
        ('{"client": 1, "op": "get", "key": "x", "call": 1, "return": 2, "z": 0}', "'z'"),
        (
            '{"client": 1, "op": "put", "key": "x", "value": 7, "call": 1, "return": 2}',
            "a value is a string",
        ),
    ],
)
def test_a_bad_line_is_named(line: str, text: str) -> None:
    with pytest.raises(HistoryError, match="line 1") as caught:
        load_history(io.StringIO(line + "\n"))
    assert text in str(caught.value)


def test_recorder_orders_what_happens_at_one_time() -> None:
    recorder = Recorder(lambda: 5.0)
    first = recorder.call(1, "put", "x", b"1")
    recorder.ok(first)
    second = recorder.call(2, "get", "x")
    recorder.ok(second, None)
    dropped = recorder.call(3, "put", "x", b"1")
    recorder.failed(dropped)
    assert check(recorder.operations()).verdict is Verdict.VIOLATION
    assert recorder.operations() == [first, second]
