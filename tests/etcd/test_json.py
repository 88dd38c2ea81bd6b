"""The JSON gateway, beside that of a real etcd: status, body, and what it says of itself."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paxon.kvstore.etcd.http1 import Documents
from paxon.kvstore.etcd.messages import from_json, message
from tests.etcd.tools import Gateway

CALLS: list[tuple[str, str, Any]] = [
    ("POST", "/v3/kv/put", {"key": "Zm9v", "value": "YmFy"}),
    ("POST", "/v3/kv/put", {"key": "Zm9v", "value": "YmF6", "prev_kv": True}),
    ("POST", "/v3/kv/put", {"key": "Zm9v", "value": "YmF6", "prevKv": True}),
    ("POST", "/v3/kv/range", {"key": "Zm9v"}),
    ("POST", "/v3/kv/range", {"key": "Zm9v", "revision": "2"}),
    ("POST", "/v3/kv/range", {"key": "Zm9v", "revision": 2}),
    ("POST", "/v3/kv/range", {"key": "Zm9v", "range_end": "Zm9w", "sort_order": "DESCEND"}),
    ("POST", "/v3/kv/range", {"key": "Zm9v", "range_end": "Zm9w", "sort_order": 2, "limit": 1}),
    ("POST", "/v3/kv/range", {"key": "AA==", "range_end": "AA==", "count_only": True}),
    ("POST", "/v3/kv/range", {}),
    ("POST", "/v3/kv/range", ""),
    ("POST", "/v3/kv/range", {"key": "bm9uZQ=="}),
    ("POST", "/v3/kv/put", {"key": ""}),
    ("POST", "/v3/kv/range", {"key": "Zm9v", "revision": "999"}),
    ("POST", "/v3/kv/txn", {
        "compare": [{"target": "VALUE", "result": "EQUAL", "key": "Zm9v", "value": "YmF6"}],
        "success": [{"request_put": {"key": "Zm9v", "value": "MQ=="}},
                    {"requestRange": {"key": "Zm9v"}}],
        "failure": [{"request_range": {"key": "Zm9v"}}],
    }),
    ("POST", "/v3/kv/deleterange", {"key": "Zm9v", "prev_kv": True}),
    ("POST", "/v3/kv/deleterange", {"key": "Zm9v"}),
    ("POST", "/v3/lease/grant", {"TTL": 60, "ID": "9223372036854775807"}),
    ("POST", "/v3/lease/grant", {"TTL": "60", "ID": 77}),
    ("POST", "/v3/lease/grant", {"TTL": "60", "ID": 77}),
    ("POST", "/v3/lease/keepalive", {"ID": "77"}),
    ("POST", "/v3/lease/keepalive", {"ID": "12345"}),
    ("POST", "/v3/lease/timetolive", {"ID": "12345"}),
    ("POST", "/v3/kv/lease/timetolive", {"ID": "12345"}),
    ("POST", "/v3/lease/revoke", {"ID": "77"}),
    ("POST", "/v3/lease/revoke", {"ID": "77"}),
    ("POST", "/v3/kv/compaction", {"revision": "3"}),
    ("POST", "/v3/kv/compaction", {"revision": "3"}),
    ("POST", "/v3/kv/range", {"key": "Zm9v", "revision": "2"}),
    ("POST", "/v3/auth/authenticate", {"name": "root", "password": "x"}),
    ("POST", "/v3/kv/range", {"key": "Zm9v", "nothing": {"x": 1}}),
    ("POST", "/v3/kv/range", {"key": "Zm9v", "limit": None}),
    ("POST", "/v3/kv/range", '{"key": "Zm9v"} and more'),
    ("POST", "/v3/kv/range", '{"key": "Zm9v", "key": "YmFy"}'),
    ("POST", "/v3/kv/range?x=1", {"key": "Zm9v"}),
    ("POST", "/v3/kv/range/", {"key": "Zm9v"}),
    ("POST", "/v3beta/kv/range", {"key": "Zm9v"}),
    ("POST", "/v3beta/nothing", {}),
    ("POST", "/v3alpha/kv/range", {"key": "Zm9v"}),
    ("POST", "/v3/kv/txn", {}),
    ("POST", "/v3/kv/txn", {"success": [{}]}),
    ("POST", "/v3/kv/txn", {"success": [{"request_put": {}}]}),
    ("POST", "/v3/kv/txn", {
        "compare": [{"key": "Zm9v", "target": "CREATE", "createRevision": "0"}],
        "success": [{"requestTxn": {"success": [{"requestRange": {"key": "Zm9v"}}]}},
                    {"requestDeleteRange": {"key": "bm8="}}],
    }),
    ("POST", "/v3/kv/put", {"key": "Zm9v", "value": "PD4m", "lease": "5"}),
    ("POST", "/v3/kv/put", {"key": "Zm9v", "value": "PD4m", "ignore_value": True}),
    ("POST", "/v3/kv/put", {"key": "Zm9v", "value": "PD4m"}),
    ("POST", "/v3/kv/deleterange", {}),
    ("POST", "/v3/kv/compaction", {"revision": "99999"}),
    ("POST", "/v3/lease/grant", {"TTL": "9000000001", "ID": "1234"}),
    ("POST", "/v3/lease/keepalive", {}),
    ("POST", "/v3/lock/unlock", {}),
    ("POST", "/v3/lock/lock", {"name": "eA==", "lease": "99"}),
    ("POST", "/v3/election/leader", {"name": "bm9uZQ=="}),
    ("POST", "/v3/election/proclaim", {}),
    ("POST", "/v3/election/resign", {}),
    ("POST", "/v3/election/campaign", {"name": "bm9uZQ==", "lease": "99"}),
    ("POST", "/v3/maintenance/alarm", {}),
    ("POST", "/v3/maintenance/defragment", {}),
    ("PUT", "/v3/kv/range", {}),
    ("DELETE", "/v3/kv/range", None),
    ("POST", "/health", {}),
    ("POST", "/version", {}),
    ("GET", "/v2/keys", None),
    ("GET", "/v3/kv/range", None),
    ("POST", "/v3/nothing", {}),
    ("GET", "/nothing", None),
    ("GET", "/version", None),
    ("GET", "/health", None),
]  # fmt: skip


def ask(address: str, method: str, path: str, body: Any) -> Any:
    connection = http.client.HTTPConnection(address, timeout=20)
    text = None if body is None else body if isinstance(body, str) else json.dumps(body)
    connection.request(method, path, text)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    try:
        documents = [json.loads(line) for line in data.splitlines()]
    except ValueError:
        return answer.status, data
    for document in documents:
        hide(document)
    return answer.status, documents, answer.headers.get("Content-Type")


def hide(document: Any) -> None:
    """What differs between any two clusters."""
    if isinstance(document, dict):
        if "header" in document:
            for name in ("cluster_id", "member_id", "raft_term"):
                assert isinstance(document["header"].pop(name), str)
        for each in document.values():
            hide(each)


def test_every_answer_is_etcds(etcd: str) -> None:
    wrong = []
    with Gateway(tells=False) as gateway:
        for method, path, body in CALLS:
            ours = ask(gateway.address, method, path, body)
            theirs = ask(etcd, method, path, body)
            if ours != theirs:
                wrong.append((method, path, body, ours, theirs))
    assert not wrong, "\n".join(map(str, wrong))


def test_a_timeout_in_the_head_is_the_requests(etcd: str, gateway: Gateway) -> None:
    for address in (gateway.address, etcd):
        for said, status in (("20S", 200), ("20000m", 200), ("1n", 504), ("x", 400)):
            connection = http.client.HTTPConnection(address, timeout=20)
            connection.request("POST", "/v3/kv/range", '{"key": "YQ=="}', {"Grpc-Timeout": said})
            answer = connection.getresponse()
            told = json.loads(answer.read())
            assert answer.status == status
            if status != 200:
                assert told["error"] == {
                    504: "context deadline exceeded", 400: "invalid grpc-timeout: x"
                }[status]  # fmt: skip
            connection.close()


def test_what_a_library_would_make_the_best_of_is_refused() -> None:
    good = {"key": "Zm9v", "limit": "1", "sort_order": "DESCEND"}
    assert from_json(message("RangeRequest"), json.dumps(good).encode()).limit == 1
    for wrong in (
        {"key": "Zm9v!"}, {"key": "Zm9"}, {"key": 5}, {"limit": 1.0}, {"limit": "1.0"},
        {"sort_order": "1"}, {"sort_order": "UP"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="has"):
            from_json(message("RangeRequest"), json.dumps(wrong).encode())


@pytest.mark.parametrize("path", ["/v3/watch", "/v3/lease/keepalive"])
def test_what_is_no_json_is_refused_before_a_stream_begins(
    etcd: str, gateway: Gateway, path: str
) -> None:
    for address in (gateway.address, etcd):
        status, (said,), _ = ask(address, "POST", path, "nonsense")
        assert (status, said["code"]) == (500, 2)


def test_a_watch_is_a_document_a_line(gateway: Gateway) -> None:
    connection = http.client.HTTPConnection(gateway.address, timeout=20)
    connection.request("POST", "/v3/watch", json.dumps({"create_request": {"key": "dw=="}}))
    answer = connection.getresponse()
    assert json.loads(answer.readline())["result"]["created"] is True
    ask(gateway.address, "POST", "/v3/kv/put", {"key": "dw==", "value": "MQ=="})
    event = json.loads(answer.readline())["result"]["events"][0]
    assert event["kv"]["value"] == "MQ=="
    connection.close()


@given(
    st.lists(
        st.recursive(
            st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(
                st.text(), inner
            ), max_leaves=8,
        ).map(lambda inner: {"a": inner}), max_size=4,
    ),
    st.sampled_from(["", " ", "\n"]), st.integers(1, 7),
)  # fmt: skip
def test_a_stream_is_cut_into_its_documents_wherever_it_is_cut(
    documents: list[Any], between: str, size: int
) -> None:
    text = between.join(json.dumps(each, ensure_ascii=False) for each in documents).encode()
    coming = Documents()
    found: list[bytes] = []
    for at in range(0, len(text), size):
        found += coming.take(text[at : at + size])
    assert [json.loads(each) for each in found] == documents
    assert not coming.left.strip()


def test_one_connection_carries_one_request_after_the_other(gateway: Gateway) -> None:
    connection = http.client.HTTPConnection(gateway.address, timeout=20)
    for _ in range(5):
        connection.request("POST", "/v3/kv/range", json.dumps({"key": "bm8="}))
        assert json.loads(connection.getresponse().read())["header"]["revision"]
    connection.close()
