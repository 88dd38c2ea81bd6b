"""`Client` and `CommandClient` over real sockets, against fake servers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import loguru
import pytest

from paxon.actors.execution.state_machine import StateMachine
from paxon.actors.limits.allowances import CHARGED_BYTES
from paxon.actors.messages import Command, OpenSession, Query, ReadMode, StatusRequest
from paxon.kvstore import (
    Client,
    ClusterUnavailable,
    CommandClient,
    Future,
    InvalidRequest,
    NotLeader,
    OperationFailed,
    PipelineError,
    RequestTimeout,
)
from paxon.kvstore.client.addresses import free_ports
from paxon.kvstore.client.links import Links
from paxon.kvstore.store.operations import (
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    count_operations,
    encode_operations,
)
from paxon.testing import MemoryCluster
from tests.kvstore.client.fake_cluster import SocketCluster

NOTHING = encode_operations([])
MODES: tuple[ReadMode, ...] = ("linearizable", "lease", "stale")


def commands(servers: SocketCluster) -> list[Command]:
    return [m for _, m in servers.cluster.received if isinstance(m, Command)]


def queries_of(servers: SocketCluster) -> list[tuple[ReadMode, bytes]]:
    """What was asked, once each, and by which mode.

    A busy machine may answer so late that the client asks again, and looks who answers at all (by a
    query of nothing).
    """
    asked = [m for _, m in servers.cluster.received if isinstance(m, Query)]
    return list(dict.fromkeys((m.mode, m.query) for m in asked if m.query != NOTHING))


def test_the_operations(servers: SocketCluster) -> None:
    with Client(servers.addresses) as kv:
        kv.put("motto", "fewer dictators")
        assert kv.append("motto", b", more quorums") == 29
        assert kv.get("motto") == b"fewer dictators, more quorums"
        assert kv.get("nothing") is None
        assert kv.cas("motto", None, b"x") is False
        assert kv.compare_and_set("new", None, "1") is True
        assert kv.compare_and_set("new", "1", None) is True
        assert kv.delete("motto") is True
        assert kv.delete("motto") is False
        kv.put("ü", "é")
        assert kv.get("ü") == "é".encode()


def test_reads_of_every_mode(servers: SocketCluster) -> None:
    with Client(servers.addresses[1]) as kv:
        kv.put("k", b"v")
        for mode in MODES:
            assert kv.get("k", mode=mode) == b"v"
            assert kv.scan(mode=mode) == [("k", b"v")]
    modes = [mode for mode, _ in queries_of(servers)]
    assert modes == ["linearizable"] * 2 + ["lease"] * 2 + ["stale"] * 2


def test_scans_go_on_over_pages(servers: SocketCluster) -> None:
    with Client(servers.addresses) as kv:
        with kv.pipeline() as p:
            for i in range(9):
                p.put(f"big/{i}", b"v" * 400_000)
            for i in range(50):
                p.put(f"small/{i:02}", b"v")
        assert [key for key, _ in kv.scan("big/")] == [f"big/{i}" for i in range(9)]
        assert [key for key, _ in kv.scan("small/", limit=3, start_after="small/07")] == [
            "small/08",
            "small/09",
            "small/10",
        ]
        assert len(kv.scan(limit=25_000)) == 59
        assert kv.scan("none") == []


@pytest.mark.parametrize(
    "call",
    [
        lambda kv: kv.put("", b"v"),
        lambda kv: kv.put("k", 5),
        lambda kv: kv.put("k" * (MAX_KEY_BYTES + 1), b"v"),
        lambda kv: kv.put("é" * (MAX_KEY_BYTES // 2 + 1), b"v"),
        lambda kv: kv.put("k", bytes(MAX_VALUE_BYTES + 1)),
        lambda kv: kv.put("\ud800", b"v"),
        lambda kv: kv.put("k", "\ud800"),
        lambda kv: kv.get(None),
        lambda kv: kv.get("k", mode="dirty"),
        lambda kv: kv.get("k", timeout=0),
        lambda kv: kv.get("k", timeout="soon"),
        lambda kv: kv.append("k", None),
        lambda kv: kv.delete(1),
        lambda kv: kv.cas("k", 1, None),
        lambda kv: kv.scan(limit=0),
        lambda kv: kv.scan(limit=2.5),
        lambda kv: kv.scan(5),
        lambda kv: kv.scan(start_after=5),
        lambda kv: kv.submit_put("k", 5),
        lambda kv: kv.pipeline(max_in_flight=0),
        lambda kv: kv.pipeline().put("k", 5),
        lambda kv: kv.pipeline().get(5),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_sent(
    servers: SocketCluster, call: Callable[[Any], Any]
) -> None:
    with Client(servers.addresses) as kv:
        with pytest.raises(InvalidRequest):
            call(kv)
        assert kv.get("k") is None
    assert len(queries_of(servers)) == 1
    assert {type(message) for _, message in servers.cluster.received} == {Query}


@pytest.mark.parametrize("servers_text", ["", "nonsense", "udp://a:1", "tcp://a", ["tcp://a:x"], 7])
def test_wrong_addresses_are_refused(servers_text: Any) -> None:
    with pytest.raises(InvalidRequest, match="servers"):
        Client(servers_text)


def test_values_of_many_kinds(servers: SocketCluster) -> None:
    with Client(servers.addresses) as kv:
        for value in (b"", bytes(range(256)), bytearray(b"a"), memoryview(b"b"), "text"):
            kv.put("k", value)  # type: ignore[arg-type]
            expected = value.encode() if isinstance(value, str) else bytes(value)
            assert kv.get("k") == expected
        kv.put(b"\xff\0", b"bytes for a key")
        assert kv.get(b"\xff\0") == kv.get("\udcff\0") == b"bytes for a key"
        assert kv.scan(b"\xff") == [("\udcff\0", b"bytes for a key")]
        kv.put("big", b"v" * MAX_VALUE_BYTES)
        assert len(kv.get("big") or b"") == MAX_VALUE_BYTES
        with pytest.raises(InvalidRequest, match="longer than"):
            kv.append("big", b"!")


def test_a_follower_sends_the_client_to_the_leader(servers: SocketCluster) -> None:
    with Client(servers.addresses[2]) as kv:
        kv.put("k", b"v")
        servers.cluster.leader = servers.addresses[1]
        kv.put("k", b"w")
        assert kv.get("k") == b"w"


def test_without_redirect_the_leader_is_named(servers: SocketCluster) -> None:
    with Client(servers.addresses[2], redirect=False) as kv:
        with pytest.raises(NotLeader) as caught:
            kv.put("k", b"v")
        assert caught.value.address == servers.addresses[0]
        with pytest.raises(NotLeader):
            kv.get("k")
        assert kv.get("k", mode="stale") is None


def test_a_silent_leader_is_replaced(servers: SocketCluster) -> None:
    with Client(servers.addresses) as kv:
        kv.put("k", b"v")
        with servers.lock:
            servers.silent.add(servers.addresses[0])
            servers.cluster.leader = servers.addresses[1]
        kv.append("k", b"w")
        assert kv.get("k") == b"vw"


def test_lost_answers_do_not_execute_twice(servers: SocketCluster) -> None:
    with Client(servers.addresses) as kv:
        kv.put("k", b"")
        servers.lose_replies.add(servers.addresses[0])
        future = kv.submit_append("k", b"x")
        with pytest.raises(TimeoutError, match="still going on"):
            future.result(timeout=0.3)
        servers.lose_replies.clear()
        assert future.result() == 1


def test_timeouts(servers: SocketCluster) -> None:
    with Client(servers.addresses, timeout=0.3) as kv:
        kv.put("k", b"v", timeout=60.0)
        servers.lose_replies.update(servers.addresses)
        started = time.monotonic()
        with pytest.raises(RequestTimeout, match="outcome is unknown") as caught:
            kv.put("k", b"w")
        assert time.monotonic() - started > 0.25
        assert caught.value.sent
        with pytest.raises(TimeoutError):
            kv.get("k", timeout=0.1)
        servers.lose_replies.clear()
        assert kv.get("k", timeout=60.0) == b"w"
        kv.put("k", b"again", timeout=60.0)
    assert len({(c.session, c.seq) for c in commands(servers)}) == 3


def test_no_server_at_all() -> None:
    with Client("tcp://127.0.0.1:9,tcp://127.0.0.1:10", timeout=0.3) as kv:
        with pytest.raises(ClusterUnavailable, match=r"127\.0\.0\.1:9") as caught:
            kv.put("k", b"v")
        assert not caught.value.sent
        with pytest.raises(ClusterUnavailable):
            kv.get("k")
        with pytest.raises(ClusterUnavailable):
            kv.status(timeout=0.2)


def test_a_server_that_comes_late_is_found(servers: SocketCluster) -> None:
    with Client(["tcp://127.0.0.1:9", servers.addresses[1]], timeout=5.0) as kv:
        kv.put("k", b"v")
        assert kv.get("k") == b"v"


def test_futures(servers: SocketCluster) -> None:
    with Client(servers.addresses) as kv:
        futures = [kv.submit_put(f"k{i}", b"%d" % i) for i in range(100)]
        assert [future.result() for future in futures] == list(range(2, 102))
        reads = [kv.submit_get(f"k{i}") for i in range(100)]
        assert [future.result() for future in reads] == [b"%d" % i for i in range(100)]
        assert kv.submit_append("k0", b"x").result() == 2
        assert kv.submit_delete("k0").result() is True
        assert kv.submit_compare_and_set("k0", None, b"n").result() is True
        future = kv.submit_append("big", b"v" * MAX_VALUE_BYTES)
        assert future.exception() is None
        failed = kv.submit_append("big", b"v")
        assert isinstance(failed.exception(), InvalidRequest)
        with pytest.raises(InvalidRequest):
            failed.result()
        for wait in (future.result, future.exception):  # (no outcome of what was submitted)
            with pytest.raises(InvalidRequest, match="the timeout has to be"):
                wait(-1)
    assert len(commands(servers)) < 60, "what was outstanding together travelled together"


def test_a_future_can_be_polled_and_calls_back(servers: SocketCluster) -> None:
    called: list[Any] = []
    with Client(servers.addresses) as kv:
        future = kv.submit_put("k", b"v")
        future.add_done_callback(lambda f: called.append(f.result()))
        end = time.monotonic() + 5
        while not future.done() and time.monotonic() < end:
            threading.Event().wait(0.001)
        assert future.done()
        assert called == [2]
        future.add_done_callback(lambda f: called.append(f.done()))
        assert called == [2, True]
        chained: list[Any] = []
        first = kv.submit_get("k")
        first.add_done_callback(lambda f: chained.append(kv.get("k")))
        assert first.result() == b"v"
        assert chained == [b"v"], "a callback may use the client"
        servers.drop = lambda _: True
        _, second, third = (kv.submit_get("k") for _ in range(3))
        second.add_done_callback(lambda _: called.remove("nothing like it"))
        third.add_done_callback(called.append)
        servers.drop = lambda _: False
        assert third.result() == b"v"
        assert called[2:] == [third], "one that raises takes no other's turn"
        for odd in (None, 3, asyncio.sleep):
            with pytest.raises(InvalidRequest, match="callback has to be a plain function"):
                third.add_done_callback(odd)  # type: ignore[arg-type]


class Mute(Exception):
    """Cannot be printed, nor can what raises it."""

    def __str__(self) -> str:
        raise SystemExit

    def __call__(self, future: object) -> None:
        raise self

    __repr__ = __str__


def test_a_callback_and_its_error_that_cannot_be_printed_are_logged_all_the_same() -> None:
    lines: list[str] = []
    sink = loguru.logger.add(lines.append, format="{message}")
    try:
        with MemoryCluster() as cluster, cluster.client() as kv:
            future = kv.submit_put("k", b"v")
            future.add_done_callback(Mute())
            assert future.result()
            lease = kv.lease(ttl=60, on_lost=lambda: Mute()(None))
            lease.revoke()
    finally:
        loguru.logger.remove(sink)
    assert "a future is done: Mute raised Mute\n" in lines
    assert any(line.startswith("lease ") and line.endswith(" raised Mute\n") for line in lines)


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_what_a_callback_raises_is_logged_whoever_comes_to_know(error: type[Exception]) -> None:
    """It ended the thread of a mirror, or of leases: these were stale, and renewed no more."""
    lines: list[str] = []
    called = threading.Event()

    def fails(future: Future[int]) -> None:
        called.set()
        raise error("of the caller")

    sink = loguru.logger.add(lines.append, format="{message}")
    try:
        with MemoryCluster() as cluster, cluster.client() as kv, kv.mirror("m") as mirror:
            kv.submit_put("k", b"v").add_done_callback(fails)  # the mirror's thread hears of it
            assert called.wait(20)
            with cluster.client() as other:
                other.put("m/1", b"1")
            assert mirror.wait(lambda m: m.get("m/1"), 20) == b"1"
    finally:
        loguru.logger.remove(sink)
    assert any(f"raised {error.__name__}: of the caller" in line for line in lines)


def test_a_callback_may_wait_for_operations_of_its_own(servers: SocketCluster) -> None:
    """It runs in the thread that does the client's I/O: nobody else would."""
    written: list[str] = []
    with Client(servers.addresses, timeout=2.0) as kv:

        def write_more(_: object) -> None:
            kv.put("second", b"2")
            written.append("second")

        future = kv.submit_put("first", b"1")
        future.add_done_callback(write_more)
        servers.silent.add(servers.addresses[2])
        with pytest.raises(ClusterUnavailable):
            kv.status(servers.addresses[2], timeout=1.0)  # waits for something else
        assert written == ["second"]
        assert kv.get("second") == b"2"


def test_status(servers: SocketCluster) -> None:
    with Client(servers.addresses) as kv:
        kv.put("k", b"v")
        rows = kv.status()
        assert {a: (r.server, r.role) for a, r in rows.items()} == {
            servers.addresses[0]: (1, "leader"),
            servers.addresses[1]: (2, "follower"),
            servers.addresses[2]: (3, "follower"),
        }
        servers.silent.add(servers.addresses[1])
        assert len(kv.status(timeout=0.3)) == 2
        assert list(kv.status(servers.addresses[2])) == [servers.addresses[2]]
        with pytest.raises(ClusterUnavailable) as caught:
            kv.status(servers.addresses[1], timeout=0.2)
        assert not caught.value.unknown


# --- pipelines ------------------------------------------------------------------------------------


def test_a_pipeline_executes_in_order(servers: SocketCluster) -> None:
    with Client(servers.addresses) as kv:
        with kv.pipeline() as p:
            for i in range(2000):
                assert p.append("k", b"x") == i
        assert p.results == list(range(1, 2001))
        assert list(p) == p.results
        assert len(p) == 2000
    assert len(commands(servers)) <= 10


def test_a_pipeline_of_everything(servers: SocketCluster) -> None:
    with Client(servers.addresses) as kv:
        p = kv.pipeline()
        p.put("a", "1")
        p.get("a")
        p.append("a", "2")
        p.cas("a", "12", None)
        p.delete("a")
        p.put("b", b"3")
        p.scan("")
        p.get("a")
        assert p.execute() == [2, b"1", 2, True, False, 5, [("b", b"3")], None]
        p.get("b")
        assert p.execute()[-1] == b"3"


@pytest.mark.parametrize(("value", "puts"), [(10, 512), (60, 512), (200, 454)])
def test_a_pipeline_packs_many_puts_as_long_as_they_are_small(
    servers: SocketCluster, value: int, puts: int
) -> None:
    """Or it would be held back for the snapshots that its commands make due."""
    with Client(servers.addresses) as kv, kv.pipeline() as p:
        for _ in range(2500):
            p.put("k", bytes(value))
    sent = commands(servers)
    assert max(count_operations(command.command) for command in sent) == puts
    assert max(len(command.command) for command in sent) < CHARGED_BYTES


def test_a_pipeline_of_reads_writes_nothing(servers: SocketCluster) -> None:
    with Client(servers.addresses) as kv:
        with kv.pipeline() as p:
            for i in range(1000):
                p.get(f"k{i}")
        assert p.results == [None] * 1000
    assert {type(message) for _, message in servers.cluster.received} == {Query}


def test_reads_before_writes_do_not_see_them(servers: SocketCluster) -> None:
    lost = iter([True])
    servers.drop = lambda message: isinstance(message, Query) and next(lost, False)
    with Client(servers.addresses) as kv, kv.pipeline(max_in_flight=10_000) as p:
        for _ in range(600):
            p.get("k")
        for _ in range(600):
            p.put("k", b"v")
        for _ in range(600):
            p.get("k")
    assert p.results == [None] * 600 + list(range(2, 602)) + [b"v"] * 600


def test_a_small_window_is_kept(servers: SocketCluster) -> None:
    with Client(servers.addresses) as kv:
        with kv.pipeline(max_in_flight=7) as p:
            for i in range(100):
                p.put(f"k{i}", b"v")
        assert p.results == list(range(2, 102))


def test_errors_in_a_pipeline_name_their_places(servers: SocketCluster) -> None:
    with Client(servers.addresses) as kv:
        kv.put("big", b"v" * MAX_VALUE_BYTES)
        p = kv.pipeline()
        p.put("a", b"1")
        p.append("big", b"!")
        p.put("b", b"2")
        with pytest.raises(PipelineError, match="operation 1 of the pipeline") as caught:
            p.execute()
        assert list(caught.value.errors) == [1]
        assert isinstance(p.results[1], InvalidRequest)
        assert (p.results[0], p.results[2]) == (3, 4)
        assert kv.get("b") == b"2"


def test_a_pipeline_that_times_out(servers: SocketCluster) -> None:
    with Client(servers.addresses) as kv:
        kv.put("a", b"")
        servers.silent.update(servers.addresses)
        p = kv.pipeline(timeout=0.3, max_in_flight=512)
        p.put("first", b"")
        for i in range(1200):
            p.append("a", b"%d" % i)
        with pytest.raises(PipelineError) as caught:
            p.execute()
        assert len(caught.value.errors) == 1201
        servers.silent.clear()
        assert kv.get("a") == b""


def test_a_block_that_raises_sends_no_more(servers: SocketCluster) -> None:
    with Client(servers.addresses) as kv:
        with pytest.raises(KeyError), kv.pipeline() as p:
            p.put("a", b"1")
            raise KeyError
        assert kv.get("a") is None


def test_a_leader_change_in_a_pipeline(servers: SocketCluster) -> None:
    with Client(servers.addresses) as kv:
        leaders = iter([1, 2, 0, 1])
        with kv.pipeline(max_in_flight=1000) as p:
            for i in range(4000):
                p.append("k", b"%04d" % i)
                if i % 1000 == 500:
                    with servers.lock:
                        servers.cluster.leader = servers.addresses[next(leaders)]
        assert p.results == list(range(4, 16_001, 4))
        assert kv.get("k") == b"".join(b"%04d" % i for i in range(4000))


def test_garbage_from_a_server_is_ignored(servers: SocketCluster) -> None:
    servers.raw_reply = b"PAXNgarbage"
    with Client(servers.addresses) as kv:
        kv.put("k", b"v")
        assert kv.get("k") == b"v"


# --- any state machine ----------------------------------------------------------------------------


class Counter(StateMachine):
    """Adds up numbers."""

    def __init__(self) -> None:
        self.total = 0

    def apply(self, command: bytes) -> bytes:
        self.total += int(command)
        return b"%d" % self.total

    def query(self, query: bytes) -> bytes:
        return query + b"%d" % self.total

    def snapshot(self) -> bytes:
        return b"%d" % self.total

    def restore(self, snapshot: bytes) -> None:
        self.total = int(snapshot)


def test_commands_of_an_embedders_own() -> None:
    servers = SocketCluster(3, Counter())
    try:
        with CommandClient(servers.addresses[1]) as client:
            assert client.execute(b"5") == b"5"
            assert client.execute(b"-2") == b"3"
            assert client.query(b"total: ") == b"total: 3"
            with pytest.raises(OperationFailed, match="invalid literal"):
                client.execute(b"five")
            futures = [client.submit_execute(b"1") for _ in range(50)]
            assert [future.result() for future in futures] == [b"%d" % i for i in range(4, 54)]
            for wrong in (b"", "text", None):
                with pytest.raises(InvalidRequest):
                    client.execute(wrong)  # type: ignore[arg-type]
            assert client.status(timeout=60)
        assert [type(m) for _, m in servers.cluster.received].count(OpenSession) == 2  # + redirect
    finally:
        servers.close()


def test_an_address_that_cannot_be_used_leaves_nothing_open() -> None:
    """A server may hint at anything, and more than once."""
    links = Links(lambda _: None, lambda *_: None, trouble=lambda *_: True)
    try:
        [context] = links._contexts
        assert links._open("tcp://*:5") is None
        assert not context.unclosed
    finally:
        links.close()


def test_names_that_are_told_to_a_client_of_numbers_are_looked_up_by_threads_of_their_own() -> None:
    """A look-up that takes its time would hold up the link to the leader that answers."""
    for given, told, contexts in (
        ("tcp://127.0.0.1:9", "tcp://told.example:9", 2),
        ("tcp://localhost:9", "tcp://127.0.0.1:8", 1),
        ("tcp://given.example:9", "tcp://told.example:9", 1),
    ):
        links = Links(lambda _: None, lambda *_: None, trouble=lambda *_: True)
        try:
            one, other, last = (links._open(address) for address in (given, told, told + "8"))
            assert one is not None and other is not None and last is not None
            assert len(links._contexts) == contexts
            assert (one.socket.context is other.socket.context) == (contexts == 1)
            assert other.socket.context is last.socket.context
        finally:
            links.close()


def test_what_waits_for_a_connection_is_forgotten_once_it_is_obsolete() -> None:
    links = Links(lambda _: None, lambda *_: None, trouble=lambda *_: True)
    (port,) = free_ports(1)
    try:
        for epoch in (1, 1, 2):
            (link,) = links.send([(f"tcp://127.0.0.1:{port}", [StatusRequest(epoch)])], epoch)
        assert len(link.backlog) == 1
    finally:
        links.close()
