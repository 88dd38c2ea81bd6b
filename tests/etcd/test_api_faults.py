"""What broke in others' API (docs/checks/faults.md), in front of Paxon and of a real etcd alike."""

from __future__ import annotations

import http.client
import json
import re
from operator import attrgetter
from typing import Any

import pytest

from paxon.kvstore import errors
from paxon.kvstore.etcd.calls import as_refusal
from paxon.kvstore.etcd.errors import Code, compacted
from paxon.kvstore.store.operations import MAX_KEY_BYTES
from paxon.kvstore.store.state import MAX_REVISION_EVENTS
from tests.etcd.test_json import ask
from tests.etcd.test_locks import b64, revoke
from tests.etcd.test_side_by_side import compare, put, read
from tests.etcd.test_streams import WatchStream
from tests.etcd.tools import Gateway, Grpc, refusal
from tests.waiting import wait_until

BESIDE_ETCD = True
TOO_LARGE = ("INVALID_ARGUMENT", "etcdserver: request is too large")
TOO_MANY = ("RESOURCE_EXHAUSTED", "etcdserver: too many requests")
KEYS = (b"\0", b"a", b"a\xff", b"a\xff\xff", b"a\xff\xff\x01", b"b", b"\xff", b"\xff\xff")
PREFIXES = {(b"a\xff", b"b"): 3, (b"\xff", b"\0"): 2, (b"\0", b"\0"): 8}
"""The ranges of the prefixes `a\\xff`, `\\xff` and nothing, and how many keys they have."""


def holds(client: Grpc, **comparison: Any) -> bool:
    done = client.kv("Txn", compare=[compare(**comparison)], success=[], failure=[])
    return bool(done.succeeded)


def test_a_missing_key_has_zeros_and_no_value(client: Grpc) -> None:
    """etcd #10566."""
    for target, field in enumerate(("version", "create_revision", "mod_revision")):
        assert holds(client, key=b"missing", target=target, result=0, **{field: 0})
        assert not holds(client, key=b"missing", target=target, result=3, **{field: 0})
    for result in range(4):
        for value in (b"", b"x"):
            assert not holds(client, key=b"missing", target=3, result=result, value=value)


def test_prefixes_that_end_in_the_highest_byte(client: Grpc) -> None:
    """python-etcd3 #1120, PR 1647: get, delete and watch."""
    for (first, end), count in PREFIXES.items():
        client.kv("DeleteRange", key=b"\0", range_end=b"\0")
        stream = WatchStream(client)
        stream.create(key=first, range_end=end)
        stream.wait(lambda s: s.answers)
        for key in KEYS:
            client.kv("Put", key=key, value=b"1")
        assert client.kv("Range", key=first, range_end=end).count == count
        assert client.kv("DeleteRange", key=first, range_end=end).deleted == count
        assert client.kv("Range", key=b"\0", range_end=b"\0", count_only=True).count == 8 - count
        wait_until(lambda s=stream, n=count: len(s.events(0)) == 2 * n)  # type: ignore[misc]
        stream.close()
    assert refusal(lambda: client.kv("Put", value=b"1"))[1] == "etcdserver: key is not provided"
    client.kv("Put", key=b"a", value=b"1")
    assert client.kv("Range", key=b"b", range_end=b"a").count == 0
    assert client.kv("DeleteRange", key=b"b", range_end=b"a").deleted == 0


def test_large_numbers_zeros_and_leases_that_ended_as_json(address: str, client: Grpc) -> None:
    """etcd3-gateway #1 and #13, etcd #14294 and #10743."""
    number = str((1 << 63) - 25)
    _, [granted], _ = ask(address, "POST", "/v3/lease/grant", {"TTL": "600", "ID": number})
    assert (granted["ID"], granted["TTL"]) == (number, "600")
    body = {"key": b64(b"json"), "value": b64(b"1"), "lease": number}
    assert ask(address, "POST", "/v3/kv/put", body)[0] == 200
    _, [found], _ = ask(address, "POST", "/v3/kv/range", {"key": b64(b"json")})
    assert found["kvs"][0]["lease"] == number
    assert isinstance(found["header"]["revision"], str)
    revoke(client, int(number))
    _, [renewed], _ = ask(address, "POST", "/v3/lease/keepalive", {"ID": number})
    assert "TTL" not in renewed["result"] and renewed["result"]["ID"] == number
    _, [none], _ = ask(address, "POST", "/v3/kv/range", {"key": b64(b"json")})
    assert none.keys() == {"header"}, "zeros are left out"


MALFORMED = [
    b"{", b"[]", b'"x"', b"\xff\xfe", b'{"key": 1}', b'{"key": "%%%"}', b'{"nothing": 1}',
    b'{"key": "YQ"}', b'{"key": "_-8="}', b'{"key": "YQ==", "limit": 1.0}', b"null", b"",
    b'{"key": "YQ==", "sort_order": "1"}', b'{"key": "YQ==", "serializable": "true"}',
    b'{"limit": "x"}', b'{"limit": "1_0"}', b'{"limit": 1e30}', b'{"limit": 9223372036854775808}',
    b'{"sort_order": "UP"}', b'x{"key": "YQ=="}', b"[" * 20_000,
    b'{"key":' * 10_000, b'{"key": "YQ==", "x": NaN}',
]  # fmt: skip


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: repr(body[:30]))
def test_malformed_json_is_refused_and_the_next_is_served(address: str, body: bytes) -> None:
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("POST", "/v3/kv/range", body)
    answer = connection.getresponse()
    said = json.loads(answer.read())
    assert (answer.status, said["code"]) == (400, 3), said
    connection.request("POST", "/v3/kv/range", b'{"key": "YQ=="}')
    assert "header" in json.loads(connection.getresponse().read())
    connection.close()


def test_sizes_around_each_limit_of_a_request(client: Grpc) -> None:
    """etcd #14025, #14997: the same ones that etcd has. (Restarts: test_failover.py.)"""
    most = (3 << 19) - 100
    client.kv("Put", key=b"most", value=b"v" * most)
    assert len(client.kv("Range", key=b"most").kvs[0].value) == most
    revision = client.kv("Range", key=b"most").header.revision
    assert refusal(lambda: client.kv("Put", key=b"most", value=b"v" * (3 << 19))) == TOO_LARGE
    code, text = refusal(lambda: client.kv("Put", key=b"most", value=b"v" * (3 << 20)))
    assert code == "RESOURCE_EXHAUSTED" and "larger than max" in text
    many = [put(b"many/%d" % n) for n in range(129)]
    client.kv("Txn", success=many[:128])
    assert refusal(lambda: client.kv("Txn", success=many)) == (
        "INVALID_ARGUMENT", "etcdserver: too many operations in txn request",
    )  # fmt: skip
    assert client.kv("Range", key=b"most").header.revision == revision + 1
    parts = [put(b"parts/%d" % n, b"v" * 200_000) for n in range(12)]
    for part in (parts[:6], parts[6:]):
        client.kv("Txn", success=part)
    found = client.kv("Txn", success=[read(b"parts/", b"parts0")]).responses[0].response_range
    assert [len(each.value) for each in found.kvs] == [200_000] * 12
    client.kv("Put", key=b"parts/3", value=b"w" * 200_000)
    wanted = {"key": b"parts/", "range_end": b"parts0"}
    by_key = client.kv("Range", **wanted).kvs
    for target, field in (1, "version"), (2, "create_revision"), (3, "mod_revision"), (4, "value"):
        for order, limit, keys_only in (1, 0, False), (2, 7, False), (2, 5, True):
            in_order = sorted(by_key, key=attrgetter(field), reverse=order == 2)
            found = client.kv(
                "Range", **wanted, sort_target=target, sort_order=order, limit=limit,
                keys_only=keys_only,
            )  # fmt: skip
            assert [row.key for row in found.kvs] == [row.key for row in in_order[: limit or 12]]
            assert (found.count, found.more) == (12, limit > 0)
            assert {len(row.value) for row in found.kvs} == {0 if keys_only else 200_000}


def test_an_answer_that_is_too_long_is_refused_as_grpc_does(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 128 MiB; a page of it is not."""
    client = Grpc(gateway.address)
    for n in range(5):
        client.kv("Put", key=b"long/%d" % n, value=b"v" * 1_000_000)
    wanted = {"key": b"long/", "range_end": b"long0"}
    body = {name: b64(value) for name, value in wanted.items()}
    with monkeypatch.context() as patch:
        patch.setattr("paxon.kvstore.etcd.kv._MAX_ANSWER", 4_500_000)
        code, text = refusal(lambda: client.kv("Range", **wanted))
        assert code == "RESOURCE_EXHAUSTED"
        assert re.fullmatch(
            r"grpc: trying to send message larger than max \(5\d+ vs. 4500000\)", text
        )
        status, [said], _ = ask(gateway.address, "POST", "/v3/kv/range", body)
        assert (status, said["code"]) == (429, 8)
        assert len(client.kv("Range", **wanted, limit=4).kvs) == 4
        patch.setattr("paxon.kvstore.etcd.kv._MOST_GATHERED", 2_500_000)
        assert refusal(lambda: client.kv("Range", **wanted, limit=4)) == TOO_MANY
    with monkeypatch.context() as patch:
        patch.setattr("paxon.kvstore.etcd.http2._MOST_BLOCKED", 2_000_000)
        status, [said], _ = ask(gateway.address, "POST", "/v3/kv/range", body)
        assert (status, said["error"]) == (429, TOO_MANY[1])
    monkeypatch.setattr("paxon.kvstore.etcd.kv._MOST_GATHERED", 7_000_000)
    for _ in range(2):  # nothing is held of what was answered or refused
        status, [found], _ = ask(gateway.address, "POST", "/v3/kv/range", body)
        assert (status, len(found["kvs"])) == (200, 5)
        assert len(client.kv("Range", **wanted).kvs) == 5
    wait_until(lambda: gateway.served._listener.tally.blocked == 0)
    client.close()


def test_what_is_compacted_while_it_is_read_in_parts_is_read_anew(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paxon keeps 16 MiB of history: that may be written while a long answer comes."""
    client = Grpc(gateway.address)
    for n in range(3):
        client.kv("Put", key=b"anew/%d" % n, value=b"v" * 1_000_000)
    front, refused = gateway.served._front, 0
    ask_one = front.ask_one

    async def compacting(operation: Any, *rest: Any) -> Any:
        nonlocal refused
        if getattr(operation, "key", b"") == b"anew/2" and refused < 2:
            refused += 1
            raise compacted()
        return await ask_one(operation, *rest)

    monkeypatch.setattr(front, "ask_one", compacting)
    wanted = {"key": b"anew/", "range_end": b"anew0"}
    found = client.kv("Range", **wanted)
    assert ([len(row.value) for row in found.kvs], refused) == ([1_000_000] * 3, 2)
    refused = 0
    at = found.header.revision
    assert "compacted" in refusal(lambda: client.kv("Range", **wanted, revision=at))[1]
    client.close()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Compacted(""), Code.OUT_OF_RANGE),
        (errors.FutureRevision(""), Code.OUT_OF_RANGE),
        (errors.TooLarge(""), Code.INVALID_ARGUMENT),
        (errors.InvalidRequest(""), Code.INVALID_ARGUMENT),
        (errors.LeaseExpired(""), Code.NOT_FOUND),
        (errors.Overloaded(""), Code.RESOURCE_EXHAUSTED),
        (errors.ClientClosed(""), Code.UNAVAILABLE),
        (errors.RequestTimeout(""), Code.UNAVAILABLE),
        (errors.OperationFailed(""), Code.UNAVAILABLE),
        (TimeoutError(), Code.DEADLINE_EXCEEDED),
    ],
)
def test_each_error_has_a_code_of_etcds(error: Exception, code: int) -> None:
    assert as_refusal(error).code == code


def test_limits_of_paxons_own_are_refused_cleanly(gateway: Gateway) -> None:
    client = Grpc(gateway.address)
    longest = b"k" * MAX_KEY_BYTES
    client.kv("Put", key=longest, value=b"1")
    assert client.kv("Range", key=longest).count == 1
    assert refusal(lambda: client.kv("Put", key=longest + b"k")) == TOO_LARGE
    assert client.kv("Range", key=longest + b"k").count == 0
    for first in range(0, MAX_REVISION_EVENTS + 1, 127):
        some = range(first, min(first + 127, MAX_REVISION_EVENTS + 1))
        client.kv("Txn", success=[put(b"d/%05d" % n, b"") for n in some])
    revision = client.kv("Range", key=b"x").header.revision
    assert refusal(lambda: client.kv("DeleteRange", key=b"d/", range_end=b"d0")) == TOO_LARGE
    assert client.kv("Range", key=b"x").header.revision == revision
    assert client.kv("DeleteRange", key=b"d/", range_end=b"d/1").deleted == MAX_REVISION_EVENTS
    assert client.kv("DeleteRange", key=b"d/", range_end=b"d0").deleted == 1
    client.close()
