"""Watches and leases: the same to a real etcd and to Paxon, and what only one of them shows."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from paxon.kvstore.etcd.messages import encode, message
from tests.etcd.tools import Gateway, Grpc, refusal
from tests.waiting import wait_until


class WatchStream:
    """One stream of watches; what comes is collected by a thread."""

    def __init__(self, client: Grpc) -> None:
        self._requests: queue.Queue[Any] = queue.Queue()
        self._answers = client.stream(
            "Watch/Watch", iter(self._requests.get, None), "WatchResponse"
        )
        self.answers: list[Any] = []
        self.error: grpc.RpcError | None = None
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        try:
            for answer in self._answers:
                self.answers.append(answer)
        except grpc.RpcError as error:
            self.error = error

    def create(self, **fields: Any) -> None:
        self._requests.put(
            message("WatchRequest")(create_request=message("WatchCreateRequest")(**fields))
        )

    def cancel(self, number: int) -> None:
        self._requests.put(
            message("WatchRequest")(cancel_request=message("WatchCancelRequest")(watch_id=number))
        )

    def progress(self) -> None:
        self._requests.put(
            message("WatchRequest")(progress_request=message("WatchProgressRequest")())
        )

    def wait(self, condition: Callable[[WatchStream], Any]) -> None:
        wait_until(lambda: bool(self.error) or condition(self), "what the test waits for", 20)
        assert self.error is None

    def events(self, number: int) -> list[Any]:
        return [event for each in self.answers if each.watch_id == number for event in each.events]

    def close(self) -> None:
        self._answers.cancel()
        self._thread.join(10)


def plain(made: Any) -> Any:
    """Without what differs between any two clusters."""
    for key in ("cluster_id", "member_id", "raft_term"):
        setattr(made.header, key, 0)
    return json_format.MessageToDict(made, preserving_proto_field_name=True)


def scripted_watch(client: Grpc) -> list[Any]:
    """All answers to a script, those of each watch in their order."""
    client.kv("Put", key=b"w/0", value=b"before")
    stream = WatchStream(client)
    stream.create(key=b"w/", range_end=b"w0", prev_kv=True)
    stream.wait(lambda s: len(s.answers) == 1)
    stream.create(key=b"w/1", filters=[0])
    stream.wait(lambda s: len(s.answers) == 2)
    stream.create(key=b"w/1", filters=[1], watch_id=77)
    stream.wait(lambda s: len(s.answers) == 3)
    stream.create(key=b"w/1", watch_id=77)
    stream.wait(lambda s: len(s.answers) == 4)
    stream.create(key=b"b", range_end=b"a")
    stream.wait(lambda s: len(s.answers) == 5)
    stream.create(key=b"w/", range_end=b"w0", start_revision=2)
    stream.create(range_end=b"\0", start_revision=2)
    stream.wait(lambda s: len(s.events(2)) == 1 and len(s.events(3)) == 1)
    client.kv("Put", key=b"w/1", value=b"1")
    client.kv("Put", key=b"w/1", value=b"2")
    client.kv("DeleteRange", key=b"w/", range_end=b"w0")
    stream.wait(lambda s: len(s.events(0)) == 4 and len(s.events(3)) == 5)
    stream.wait(lambda s: len(s.events(1)) == 1 and len(s.events(77)) == 2)
    stream.cancel(0)
    stream.wait(lambda s: any(a.canceled and a.watch_id == 0 for a in s.answers))
    stream.cancel(0)
    stream.progress()
    stream.wait(lambda s: s.answers[-1].watch_id == -1 and not s.answers[-1].created)
    last = plain(stream.answers[-1])
    events = {
        number: [
            json_format.MessageToDict(each, preserving_proto_field_name=True)
            for each in stream.events(number)
        ]
        for number in (0, 1, 2, 3, 77)
    }
    others = [plain(answer) for answer in stream.answers if not answer.events]
    stream.close()
    return [events, others, last]


def test_watches_tell_what_etcds_tell(etcd: str) -> None:
    with Gateway(tells=False) as gateway:
        outcomes = []
        for address in (gateway.address, etcd):
            client = Grpc(address)
            outcomes.append(scripted_watch(client))
            client.close()
    assert outcomes[0] == outcomes[1]


def lease(client: Grpc, name: str, answer: str = "", **fields: Any) -> Any:
    try:
        made = client.call(
            f"Lease/Lease{name}",
            message(f"Lease{name}Request")(**fields),
            f"Lease{answer or name}Response",
        )
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return plain(made)


def keep_alive(client: Grpc, *numbers: int) -> list[Any]:
    requests = (message("LeaseKeepAliveRequest")(ID=number) for number in numbers)
    return [
        plain(answer)
        for answer in client.stream("Lease/LeaseKeepAlive", requests, "LeaseKeepAliveResponse")
    ]


def scripted_leases(client: Grpc) -> list[Any]:
    return [
        lease(client, "Grant", TTL=100, ID=7),
        lease(client, "Grant", TTL=100, ID=7),
        lease(client, "Grant", TTL=1, ID=8),
        lease(client, "Grant", TTL=-5, ID=9),
        lease(client, "Grant", TTL=9_000_000_001, ID=10),
        lease(client, "Grant", TTL=60, ID=(1 << 63) - 1),
        str(plain(client.kv("Put", key=b"leased", value=b"1", lease=7))),
        str(plain(client.kv("Put", key=b"kept", value=b"1", lease=7))),
        str(plain(client.kv("Range", key=b"leased"))),
        str(plain(client.kv("Put", key=b"kept", value=b"1"))),
        keep_alive(client, 7, 12345, (1 << 63) - 1),
        {**lease(client, "TimeToLive", ID=7, keys=True), "TTL": ""},
        lease(client, "TimeToLive", ID=12345, keys=True),
        {row["ID"] for row in lease(client, "Leases")["leases"]} >= {"7", str((1 << 63) - 1)},
        lease(client, "Revoke", ID=7),
        lease(client, "Revoke", ID=7),
        lease(client, "TimeToLive", ID=7),
        str(plain(client.kv("Range", key=b"k", range_end=b"m"))),
    ]


def test_leases_are_answered_as_etcd_answers(etcd: str, request: pytest.FixtureRequest) -> None:
    with Gateway(tells=False) as gateway:
        outcomes = []
        for address in (gateway.address, etcd):
            client = Grpc(address)
            # (The watches' test has written to the real one: both get as many revisions.)
            base = int(plain(client.kv("Range", key=b"x"))["header"]["revision"])
            for _ in range(50 - base):
                client.kv("Put", key=b"x", value=b"x")
            outcomes.append(scripted_leases(client))
            client.close()
    assert outcomes[0] == outcomes[1]


def test_a_lease_that_nobody_renews_ends_and_a_watch_tells(gateway: Gateway, client: Grpc) -> None:
    lease(client, "Grant", TTL=5, ID=55)
    stream = WatchStream(client)
    stream.create(key=b"mortal")
    stream.wait(lambda s: s.answers)  # from now on
    client.kv("Put", key=b"mortal", value=b"1", lease=55)
    stream.wait(lambda s: s.events(0))
    gateway.cluster.let_pass(6)
    stream.wait(lambda s: len(s.events(0)) == 2)
    assert stream.events(0)[1].type == 1
    stream.close()
    assert keep_alive(client, 55)[0].get("TTL", 0) == 0


def test_a_clients_renewals_go_together(
    gateway: Gateway, client: Grpc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader has each wait a little: one after the other they would come too late."""
    lease(client, "Grant", TTL=60, ID=66)
    kv, asked = gateway.served._front.kv, []
    renew = kv._ask_to_renew

    async def counted(body: bytes, timeout: float | None) -> bytes:
        asked.append(body)
        return await renew(body, timeout)

    monkeypatch.setattr(kv, "_ask_to_renew", counted)
    answers = keep_alive(client, *[66, 67, -1] * 100)
    assert [answer.get("TTL", "0") for answer in answers] == ["60", "0", "0"] * 100
    assert len(asked) < 30


def test_a_watch_from_before_the_compaction_is_ended_with_where_to_begin(client: Grpc) -> None:
    for value in (b"1", b"2", b"3"):
        head = client.kv("Put", key=b"c", value=value).header.revision
    client.kv("DeleteRange", key=b"c")
    client.kv("Put", key=b"c", value=b"4")
    client.kv("Compaction", revision=head + 1)
    stream = WatchStream(client)
    stream.create(key=b"c", start_revision=head)
    stream.create(key=b"c", start_revision=head + 1)
    stream.wait(lambda s: len(s.events(1)) == 2)
    assert [(e.type, e.kv.mod_revision) for e in stream.events(1)] == [(1, head + 1), (0, head + 2)]
    stream.wait(lambda s: any(a.canceled for a in s.answers))
    (ended,) = [answer for answer in stream.answers if answer.canceled]
    assert (ended.watch_id, ended.compact_revision) == (0, head + 1)
    stream.close()


def test_a_large_answer_comes_in_fragments_where_that_is_wanted(client: Grpc) -> None:
    at = client.kv("Range", key=b"big").header.revision
    requests = [
        message("RequestOp")(
            request_put=message("PutRequest")(key=b"big/%d" % n, value=b"v" * 9000)
        )
        for n in range(100)
    ]
    for part in (requests[:50], requests[50:]):
        client.kv("Txn", success=part)
    for fragment in (True, False):
        stream = WatchStream(client)
        stream.create(key=b"big/", range_end=b"big0", start_revision=at + 1, fragment=fragment)
        stream.wait(lambda s: len(s.events(0)) == 100)
        told = [answer for answer in stream.answers if answer.events]
        assert all(answer.ByteSize() < 2 << 20 for answer in told)
        assert not told[-1].fragment
        stream.close()


def numbers_in_turn() -> Iterator[int]:
    yield from range(200)


def test_many_watches_in_one_stream(client: Grpc) -> None:
    stream = WatchStream(client)
    for n in numbers_in_turn():
        stream.create(key=b"many/%d" % n)
    stream.wait(lambda s: len(s.answers) == 200)
    for n in numbers_in_turn():
        client.kv("Put", key=b"many/%d" % n, value=b"1")
    stream.wait(lambda s: all(len(s.events(n)) == 1 for n in numbers_in_turn()))
    stream.close()


def test_who_calls_what_is_not_there_or_in_a_wrong_way_is_told_as_by_etcd(
    etcd: str, gateway: Gateway
) -> None:
    body = encode(message("RangeRequest")(key=b"a"))
    paths = (
        "/etcdserverpb.KV/Nothing", "/nothing.X/Range", "/x", "/", "/etcdserverpb.KV/", "//",
        "/a/b/c", "/etcdserverpb.KV/Range/", "/v3lockpb.Lock/Foo", "/grpc.health.v1.Health/Check",
        "/etcdserverpb.Maintenance/Downgrade",
    )  # fmt: skip
    told: list[list[Any]] = []
    for address in (gateway.address, etcd):
        channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        calls = [(path, grpc.Compression.NoCompression) for path in paths]
        calls += [("/etcdserverpb.KV/Range", grpc.Compression.Gzip)]
        told.append([
            refusal(lambda: channel.unary_unary(path)(body, timeout=20, compression=compression))  # noqa: B023
            for path, compression in calls
        ])  # fmt: skip
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20) == b"\x08\x01"
        channel.close()
    assert told[0] == told[1]
