"""The same calls to a real etcd and to Paxon: every field of every answer is the same.

But for ids and terms. Both begin empty, so even the revisions are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paxon.kvstore.etcd.errors import Refused
from paxon.kvstore.etcd.kv import _txn
from paxon.kvstore.etcd.messages import message
from tests.etcd.tools import Gateway, Grpc
from tests.soak import sized

Call = tuple[str, dict[str, Any]]


class Pair:
    """Asks both."""

    def __init__(self, ours: Grpc, theirs: Grpc) -> None:
        self.ours, self.theirs = ours, theirs

    def same(self, name: str, **fields: Any) -> Any:
        """Both answer alike; what they answer."""
        theirs = outcome(self.theirs, name, fields)
        ours = outcome(self.ours, name, fields)
        assert ours == theirs, f"{name} {fields}"
        return ours


def outcome(client: Grpc, name: str, fields: dict[str, Any]) -> Any:
    try:
        answer = client.kv(name, **fields)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    for key in ("cluster_id", "member_id", "raft_term"):
        assert getattr(answer.header, key), key
        setattr(answer.header, key, 0)
    return json_format.MessageToDict(answer, preserving_proto_field_name=True)


@pytest.fixture(scope="module")
def pair(etcd: str) -> Iterator[Pair]:
    with Gateway(tells=False) as gateway:
        ours, theirs = Grpc(gateway.address), Grpc(etcd)
        yield Pair(ours, theirs)
        ours.close()
        theirs.close()


KEYS = (b"\0", b"a", b"a\xff", b"a\xff\xff", b"a\xff\xff\x01", b"b", b"\xff", b"\xff\xff")


def test_reading_and_writing(pair: Pair) -> None:
    same = pair.same
    same("Range", key=b"nothing")
    for key in KEYS:
        same("Put", key=key, value=key * 2)
        same("Put", key=key, value=b"2", prev_kv=True)
    for key, end in [
        (b"a\xff", b"b"), (b"\xff", b"\0"), (b"\0", b"\0"), (b"b", b"a"), (b"a", b"a"),
    ]:  # fmt: skip
        for more in (
            {}, {"limit": 2}, {"count_only": True}, {"keys_only": True},
            {"limit": 1, "revision": 5},
            {"sort_order": 2}, {"sort_order": 2, "sort_target": 3, "limit": 3},
            {"sort_order": 1, "sort_target": 2}, {"sort_target": 4},
            {"sort_order": 2, "sort_target": 1},
            {"min_mod_revision": 4, "max_mod_revision": 9}, {"min_create_revision": 4, "limit": 2},
            {"max_create_revision": 6}, {"max_create_revision": -1}, {"limit": -1},
            {"serializable": True}, {"revision": -4},
        ):  # fmt: skip
            same("Range", key=key, range_end=end, **more)
    same("Put", value=b"x")
    same("Range")
    same("Range", range_end=b"b")
    same("DeleteRange", range_end=b"b")
    same("Put", key=b"a", ignore_value=True, value=b"x")
    same("Put", key=b"a", ignore_lease=True, lease=7)
    same("Put", key=b"missing", ignore_value=True)
    same("Put", key=b"missing", ignore_lease=True, value=b"1")
    same("Put", key=b"a", ignore_value=True, prev_kv=True)
    same("Put", key=b"a", value=b"1", lease=12345)
    same("Range", key=b"a", revision=10_000)
    same("DeleteRange", key=b"a\xff", range_end=b"b", prev_kv=True)
    same("DeleteRange", key=b"a\xff", range_end=b"b", prev_kv=True)
    same("DeleteRange", key=b"b")


def test_a_limit_without_an_order_counts_in_the_order_of_keys(pair: Pair) -> None:
    """etcd takes the first keys, and one more, and only then sorts by what is named."""
    for number, key in enumerate((b"cut/d", b"cut/c", b"cut/b", b"cut/e", b"cut/a")):
        pair.same("Put", key=key, value=b"%d" % number)
    wanted: dict[str, Any] = {"key": b"cut/", "range_end": b"cut0"}
    for target in range(1, 5):
        for limit in (1, 2, 4, 5, 2**63 - 1):
            fields = {**wanted, "sort_target": target, "limit": limit}
            for more in ({}, {"keys_only": True}, {"sort_order": 1}, {"max_mod_revision": 10_000}):
                pair.same("Range", **fields, **more)
            pair.same("Range", **fields, serializable=True, count_only=True)
            pair.same("Txn", success=[inner([], [read(b"cut/", b"cut0", **fields_of(fields))])])


def fields_of(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: fields[name] for name in ("sort_target", "limit")}


def compare(**fields: Any) -> Any:
    return message("Compare")(**fields)


def put(key: bytes, value: bytes = b"v", **more: Any) -> Any:
    return message("RequestOp")(request_put=message("PutRequest")(key=key, value=value, **more))


def read(key: bytes, end: bytes = b"", **more: Any) -> Any:
    return message("RequestOp")(
        request_range=message("RangeRequest")(key=key, range_end=end, **more)
    )


def delete(key: bytes, end: bytes = b"", **more: Any) -> Any:
    return message("RequestOp")(
        request_delete_range=message("DeleteRangeRequest")(key=key, range_end=end, **more)
    )


def txn(compares: list[Any], success: list[Any], failure: list[Any] | None = None) -> Any:
    return message("TxnRequest")(compare=compares, success=success, failure=failure or [])


def inner(*parts: Any) -> Any:
    return message("RequestOp")(request_txn=txn(*parts))


def test_transactions(pair: Pair) -> None:
    def same(compares: list[Any], success: list[Any], failure: list[Any] | None = None) -> Any:
        return pair.same("Txn", compare=compares, success=success, failure=failure or [])

    same([], [put(b"t", b"1"), read(b"t"), put(b"u", prev_kv=True), read(b"", b"")])
    same([], [put(b"t", b"1"), read(b"t"), put(b"u", prev_kv=True), read(b"\0", b"\0")])
    for result in range(4):
        for target, field in enumerate(
            ("version", "create_revision", "mod_revision", "value", "lease")
        ):
            for key in (b"t", b"missing"):
                for operand in (0, 1, 10**6):
                    value: Any = str(operand).encode() if field == "value" else operand
                    same(
                        [compare(result=result, target=target, key=key, **{field: value})],
                        [read(b"t", keys_only=True)], [read(b"u", count_only=True)],
                    )  # fmt: skip
    same([compare(key=b"t", range_end=b"v", target=0, result=1, version=0)], [put(b"x")])
    same([compare(key=b"zz", range_end=b"zzz", target=0, result=0, version=0)], [put(b"x")])
    same([compare(key=b"zz", range_end=b"zzz", target=3, result=0, value=b"")], [put(b"x")])
    same([compare(key=b"", version=0)], [put(b"x")])
    same([], [put(b"x"), put(b"x")])
    same([], [put(b"x"), delete(b"x")])
    same([], [delete(b"a", b"z"), put(b"x")])
    same([], [delete(b"a", b"z"), delete(b"x")])
    same([], [put(b"")])
    same([], [put(b"y", lease=99)])
    same([], [put(b"nope", b"", ignore_value=True)])
    same([], [inner([compare(key=b"t", version=1, target=0)], [put(b"n1")], [put(b"n2")])])
    same([], [put(b"w"), inner([], [put(b"n3"), inner([], [read(b"w")])]), delete(b"n3x")])
    same([], [put(b"%d" % n) for n in range(128)])
    same([], [put(b"%d" % n) for n in range(129)])
    same([compare(key=b"t")] * 129, [])
    same([], [read(b"t", revision=10_000)])
    same([], [])
    same([], [delete(b"\0", b"\0", prev_kv=True)])
    same([], [read(b"\0", b"\0")])


keys = st.sampled_from([b"a", b"b", b"c", b"ca", b"d\xff"])
ends = st.sampled_from([b"", b"", b"b", b"cb", b"\0", b"e"])
values = st.sampled_from([b"", b"1", b"2", b"long" * 30])
small = st.integers(0, 3)

Strategy = st.SearchStrategy[dict[str, Any]]
puts: Strategy = st.fixed_dictionaries(
    {"key": keys, "value": values}, optional={"prev_kv": st.booleans()}
)
ranges: Strategy = st.fixed_dictionaries(
    {"key": keys, "range_end": ends},
    optional={
        "limit": small, "sort_order": st.integers(0, 2), "keys_only": st.booleans(),
        "count_only": st.booleans(), "serializable": st.booleans(),
        "sort_target": st.sampled_from([0, 2, 3]),
    },
)  # fmt: skip
deletes: Strategy = st.fixed_dictionaries(
    {"key": keys, "range_end": ends}, optional={"prev_kv": st.booleans()}
)
operations = st.one_of(
    puts.map(lambda fields: put(**fields)),
    ranges.map(lambda fields: read(fields.pop("key"), fields.pop("range_end"), **fields)),
    deletes.map(lambda fields: delete(fields.pop("key"), fields.pop("range_end"), **fields)),
)
compares = st.builds(
    lambda key, end, result, version: compare(
        key=key, range_end=end, target=0, result=result, version=version
    ),
    keys, ends, st.integers(0, 3), small,
)  # fmt: skip
txns = st.recursive(
    st.builds(txn, st.lists(compares, max_size=2), st.lists(operations, max_size=3),
              st.lists(operations, max_size=2)),
    lambda nested: st.builds(
        lambda first, of, then: txn(
            first, [*then, message("RequestOp")(request_txn=of)], then
        ),
        st.lists(compares, max_size=1), nested, st.lists(operations, max_size=2),
    ),
    max_leaves=2,
)  # fmt: skip
calls: st.SearchStrategy[Call] = st.one_of(
    puts.map(lambda fields: ("Put", fields)),
    ranges.map(lambda fields: ("Range", fields)),
    deletes.map(lambda fields: ("DeleteRange", fields)),
    txns.map(
        lambda made: (
            "Txn",
            {"compare": list(made.compare), "success": list(made.success),
             "failure": list(made.failure)},
        )
    ),
)  # fmt: skip


def stricter(fields: dict[str, Any]) -> bool:
    """Whether Paxon refuses what etcd may take: a key put and deleted by one transaction.

    etcd does not look for that in nested ones, nor in a deletion up to the last key.
    """
    parts = [*fields["success"], *fields["failure"]]
    if not any(
        part.HasField("request_txn") or part.request_delete_range.range_end == b"\0"
        for part in parts
    ):
        return False
    try:
        _txn(message("TxnRequest")(**fields), 128)
    except Refused as refused:
        return "duplicate key" in refused.text
    return False


@settings(
    max_examples=sized(15, 500),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(st.lists(calls, min_size=3, max_size=8))
def test_random_calls(pair: Pair, sequence: list[Call]) -> None:
    for name, fields in sequence:
        if name != "Txn" or not stricter(fields):
            pair.same(name, **fields)


def test_where_paxon_is_stricter_a_key_would_have_two_events_in_one_revision(pair: Pair) -> None:
    """And only there: what does not meet is taken by both."""
    fields: list[dict[str, Any]] = [
        {"success": [delete(b"b", b"\0"), put(b"c")]},
        {"success": [put(b"c"), delete(b"b", b"\0")]},
        {"success": [inner([], [put(b"c")]), inner([], [delete(b"b", b"d")])]},
    ]
    for each in fields:
        assert stricter({"failure": [], **each})
        assert outcome(pair.ours, "Txn", each) == (
            "INVALID_ARGUMENT", "etcdserver: duplicate key given in txn request",
        )  # fmt: skip
    for operations in (
        [delete(b"b", b"\0"), put(b"a")],
        [put(b"a"), delete(b"b", b"\0")],
        [inner([], [put(b"c")]), inner([], [delete(b"d", b"e")])],
        [inner([compare(key=b"a", version=0)], [put(b"c")], [put(b"c")])],
        [inner([], [put(b"c")]), put(b"c")],
        [inner([], [delete(b"b", b"d")]), put(b"c")],
        [delete(b"b", b"d"), inner([], [put(b"c")])],
    ):
        pair.same("Txn", success=operations)


def test_compaction(pair: Pair) -> None:
    """(After the others: it is for good.)"""
    same = pair.same
    for value in (b"1", b"2", b"3"):
        done = same("Put", key=b"k", value=value)
    head = int(done["header"]["revision"])
    same("Compaction", revision=head + 100)
    same("Compaction", revision=head - 1)
    same("Compaction", revision=head - 1)
    same("Compaction", revision=head - 2)
    same("Compaction", revision=-1)
    same("Range", key=b"k", revision=head - 2)
    same("Range", key=b"k", revision=head - 1)
    same("Txn", success=[read(b"k", revision=head - 2)])
    same("Put", key=b"k", value=b"4")
