"""Figures and health by HTTP: what is shown, and what strangers at that door can do (nothing)."""

from __future__ import annotations

import http.client
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pykka
import pytest
from msgspec import structs
from prometheus_client.parser import text_string_to_metric_families

from paxon.actors import NO_BALLOT, PaxosServer, ServerRef, Settings, StateMachine
from paxon.actors.embedding import AskFigures, Figures
from paxon.actors.messages import StatusReply
from paxon.actors.records.latencies import BOUNDS, Latencies
from paxon.kvstore.cli.live_view import counters_explained
from paxon.kvstore.client.client import CommandClient
from paxon.kvstore.cluster import door as door_module
from paxon.kvstore.cluster.door import Door
from paxon.kvstore.cluster.meanings import COUNTED, GAUGES, meaning_of
from paxon.kvstore.cluster.metrics import LATENCIES, STATUS, exposition, readiness
from paxon.kvstore.cluster.node import ServerStartError, start_server
from paxon.kvstore.cluster.options import OptionError, check_etcd, parse_listen
from paxon.kvstore.cluster.status import ServerStatus
from paxon.kvstore.recipes.clients import Client
from paxon.kvstore.store.store import KVStore
from tests.harness import Clock
from tests.ports import own_ports
from tests.waiting import wait_until


@contextmanager
def serving(
    machine: StateMachine | None = None,
    servers: int = 1,
    directory: Path | None = None,
    **more: Any,
) -> Iterator[tuple[ServerRef[PaxosServer], str]]:
    """A server of so many in this process, and where clients reach it."""
    ports = own_ports(2 * servers)
    addresses = [f"tcp://127.0.0.1:{port}" for port in ports]
    ids = range(1, servers + 1)
    settings = Settings(
        cluster="metrics", server=1, servers=tuple(ids),
        client_addresses=dict(zip(ids, addresses[servers:], strict=True)),
        session_min_idle=1.0,
    )  # fmt: skip
    reference = start_server(
        settings, machine or KVStore(), peers=dict(zip(ids, addresses, strict=False)),
        client_bind=addresses[servers], directory=directory,
        durability="memory" if directory is None else "disk", **more,
    )  # fmt: skip
    with reference:
        yield reference, addresses[servers]


@contextmanager
def opened(reference: Any, directory: Path | None = None) -> Iterator[Door]:
    door = Door("0", reference, directory)
    try:
        yield door
    finally:
        door.close()


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def samples(port: int) -> dict[str, float]:
    """By name, of what has no labels but the server's; buckets by name and end."""
    status, text = get(port, "/metrics")
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels["cluster"] == "metrics" and sample.labels["server"] == "1"
            found[sample.name + sample.labels.get("le", "")] = sample.value
    return found


def test_all_that_a_server_counts_and_times_is_shown(tmp_path: Path) -> None:
    with (
        serving(directory=tmp_path) as (reference, address),
        opened(reference, tmp_path) as door,
    ):
        with Client(address) as kv, kv.lease(ttl=60) as lease:
            for number in range(5):
                kv.put(f"key-{number}", b"value", lease=lease)
            kv.get("key-1")
            shown = samples(door.port)
        assert shown["paxon_leader"] == 1
        assert shown["paxon_leases"] == 1
        assert shown["paxon_keys"] == 5
        assert shown["paxon_slots_chosen_total"] >= 5
        assert shown["paxon_executed_slot"] == shown["paxon_chosen_slot"] >= 5
        assert shown["paxon_queries_answered_total"] >= 1
        for name in LATENCIES:
            assert shown[f"paxon_{name}_seconds_count"] >= 5, name
            assert shown[f"paxon_{name}_seconds_bucket+Inf"] == shown[f"paxon_{name}_seconds_count"]
        assert shown["paxon_sync_seconds_sum"] > 0
        assert 0 < shown["paxon_disk_free_bytes"] < shutil.disk_usage(tmp_path).total
        expected = {f"paxon_{name}" for name in (*GAUGES, *STATUS)}
        assert not expected - set(shown)


def test_health(tmp_path: Path) -> None:
    with serving() as (reference, _), opened(reference) as door:
        assert get(door.port, "/health/live") == (200, "alive\n")
        wait_until(lambda: get(door.port, "/health/ready")[0] == 200)
        assert get(door.port, "/health/ready", "HEAD") == (200, "")
    with serving(servers=3) as (reference, _), opened(reference) as door:
        assert get(door.port, "/health/live")[0] == 200
        status, text = get(door.port, "/health/ready")
        assert status == 503 and "waits for servers 2 and 3" in text
        assert samples(door.port)["paxon_waiting"] == 1


class Stuck(StateMachine):
    """Executes a command once it may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.entered = threading.Event()

    def apply(self, command: bytes) -> bytes:
        self.entered.set()
        self.may.wait(60)
        return b""

    def snapshot(self) -> bytes:
        return b""

    def restore(self, snapshot: bytes) -> None: ...

    def figures(self) -> dict[str, int]:
        raise RuntimeError("no figures")


def test_a_server_that_is_stuck_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "ALIVE_SECONDS", 0.2)
    monkeypatch.setattr(door_module, "REQUEST_SECONDS", 0.6)
    machine = Stuck()
    with serving(machine) as (reference, address), opened(reference) as door:
        wait_until(lambda: get(door.port, "/health/ready")[0] == 200)  # (figures raise: no matter)
        with CommandClient(address) as client:
            asked = threading.Thread(target=client.execute, args=(b"wait",))
            asked.start()
            machine.entered.wait(60)
            wait_until(lambda: get(door.port, "/health/live")[0] == 503)
            wait_until(lambda: get(door.port, "/metrics")[0] == 503)
            machine.may.set()
            asked.join()
        wait_until(lambda: get(door.port, "/health/live")[0] == 200)


def say(port: int, request: bytes) -> bytes:
    """What comes back to these bytes, until the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    return answer


def test_requests_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "REQUEST_SECONDS", 1.0)
    monkeypatch.setattr(door_module, "CONNECTIONS", 4)
    with serving() as (reference, _), opened(reference) as door:
        port = door.port
        assert get(port, "/nothing")[0] == 404
        body = b"Content-Length: 999999\r\n\r\n" + b"x" * 999_999
        answer = say(port, b"POST /metrics HTTP/1.1\r\n" + body)
        assert answer.startswith(b"HTTP/1.1 405 ") and b"\r\nAllow: GET, HEAD\r\n" in answer
        answer = say(port, b"\r\nHEAD http://h:1/health/live?x HTTP/1.0\nHost: h\n\n")
        assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"close\r\n\r\n")
        assert say(port, b"\n" * 100_000).startswith(b"HTTP/1.1 431 ")
        assert say(port, b"\xff\x00 rubbish\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert say(port, b"GET /metrics?a=b HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        assert say(port, b"GET / HTTP/1.1\r\n").startswith(b"HTTP/1.1 408 ")
        long = b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"
        assert say(port, long).startswith(b"HTTP/1.1 431 ")
        wait_until(lambda: not door.talking)
        # Beyond the bound those who came first go: probes are answered beside a crowd that waits.
        monkeypatch.setattr(door_module, "REQUEST_SECONDS", 60.0)
        silent = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(4)]
        wait_until(lambda: len(door.talking) == 4)
        assert get(port, "/health/live")[0] == 200
        assert [_hung_up_on(each) for each in silent] == [True, False, False, False]
        for connection in silent:
            connection.close()
        wait_until(lambda: not door.talking)


def _hung_up_on(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


class Counting:
    """Answers as a server does, and counts how often it is asked."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.asked = 0

    def is_alive(self) -> bool:
        return True

    def ask(self, _question: object, *, block: bool) -> pykka.Future[object]:
        assert not block
        self.asked += 1
        future: pykka.Future[object] = pykka.ThreadingFuture()
        future.set(self.answer)
        return future


def test_where_few_descriptors_are_left_few_talk_and_a_probe_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door_module, "takes_the_last", lambda _: True)
    with serving() as (reference, _), opened(reference) as door:
        silent = [socket.create_connection(("127.0.0.1", door.port), timeout=30) for _ in range(9)]
        wait_until(lambda: _hung_up_on(silent[0]) and len(door.talking) == 2)
        assert get(door.port, "/health/live")[0] == 200
        for connection in silent:
            connection.close()


def test_however_many_ask_the_server_is_asked_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "FRESH_SECONDS", 3600.0)
    with serving() as (reference, _):
        figures = reference.ask(AskFigures())
    counting = Counting(figures)
    with opened(cast("Any", counting)) as door:
        for _ in range(30):
            assert get(door.port, "/metrics")[0] == 200
    assert counting.asked == 1


def test_a_port_in_use_and_a_port_that_is_none(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(
                ServerStartError, match=f"metrics: {port} cannot be listened at: it is in"
            ),
            serving(metrics=str(port)),
        ):
            pass
    for wrong, words in (("often", "write PORT or HOST:PORT"), ("a..b:1", "host is not known")):
        with pytest.raises(ServerStartError, match=words), serving(metrics=wrong):
            pass
    (port,) = own_ports(1)
    with serving(directory=tmp_path, metrics=f"127.0.0.1:{port}"):
        assert get(port, "/health/live")[0] == 200
        assert "\npaxon_disk_free_bytes{" in get(port, "/metrics")[1]


@pytest.mark.parametrize("whose", ["paxon-metrics", ""])
def test_where_no_thread_can_be_had_no_server_is_left(
    monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    start, before = threading.Thread.start, pykka.ActorRegistry.get_all()

    def few(thread: threading.Thread) -> None:
        if thread.name.startswith(whose):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", few)
    with pytest.raises(ServerStartError, match="too few threads"), serving(metrics="0"):
        pass
    assert pykka.ActorRegistry.get_all() == before


def test_where_to_listen() -> None:
    assert parse_listen("9100") == ("127.0.0.1", 9100)
    assert parse_listen("*:9100") == ("", 9100)
    assert parse_listen("[::1]:9100") == ("::1", 9100)
    for wrong in ("", "9100x", "a:b", "1:2:70000", "-1", "9\N{SUPERSCRIPT TWO}"):
        with pytest.raises(OptionError):
            parse_listen(wrong)
    assert [check_etcd(port, True) for port in (True, False, 65_535)] == [True, False, 65_535]
    assert check_etcd(False, False) is False  # without the store there is no API to serve
    for port, of_the_store in ((0, True), (65_536, True), ("2379", True), (2379, False)):
        with pytest.raises(OptionError):
            check_etcd(port, of_the_store)  # type: ignore[arg-type]


def test_buckets() -> None:
    latencies, clock = Latencies(), Clock()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] * 1.01, 1e9):
        latencies.proposed(1, 0.0, [])
        clock.now = seconds
        latencies.chosen(1, clock)
    histogram = latencies.commit
    assert histogram.counts[0] == 2 and histogram.counts[1] == 1 and histogram.counts[-1] == 1


def test_a_commit_is_timed_from_its_proposal_and_waiting_from_its_beginning() -> None:
    latencies = Latencies()
    clock = Clock()
    latencies.waiting(1.0)
    latencies.waiting(2.0)  # others came; the first one counts
    latencies.proposed(5, 3.0, [b"two"])
    latencies.proposed(6, 4.0, [])
    latencies.proposed(7, 9.0, [])  # nothing waited
    assert latencies.queue.total == pytest.approx(2.0 + 1.0)
    assert sum(latencies.queue.counts) == 2
    clock.now = 10.0
    latencies.chosen(6, clock)
    assert latencies.commit.total == pytest.approx(7.0 + 6.0)
    latencies.reigns()  # what the reign before had under way is nobody's any more
    latencies.chosen(7, clock)
    assert sum(latencies.commit.counts) == 2


def test_each_number_that_a_server_counts_says_what_it_means() -> None:
    """All of them: a new one without a sentence is found here, and so is a sentence of none."""
    with serving() as (reference, _):
        counters = cast("Any", reference.ask(AskFigures())).status.counters
    assert set(counters) == {*COUNTED, *GAUGES}
    assert not set(COUNTED) & set(GAUGES)
    row = ServerStatus(server=1, address="tcp://a:1", reply=reference_reply(counters))
    lines = counters_explained([row]).splitlines()
    assert lines[0].split() == ["server", "1"]
    assert [line.split()[0] for line in lines[1:]] == sorted(counters)
    assert all(line.rstrip().endswith((".", ")")) for line in lines[1:])
    assert (
        meaning_of("renewals") == COUNTED["renewals"] and meaning_of("leases") == GAUGES["leases"]
    )
    assert meaning_of("orders_open") == "Orders open, as the state machine says."


def test_figures_of_a_machine_of_ones_own_may_fall_and_touch_no_other() -> None:
    """Of a counter that falls Prometheus takes it that the server was started again."""
    shown = exposition(Figures(reference_reply({"orders_open": 3, "leader": 7}), {})).decode()
    assert "# TYPE paxon_machine_orders_open gauge\n" in shown
    assert 'paxon_machine_leader{cluster="metrics",server="1"} 7.0\n' in shown
    assert 'paxon_leader{cluster="metrics",server="1"} 1.0\n' in shown


def test_a_server_without_a_leader_is_not_ready() -> None:
    led = reference_reply({})
    assert readiness(led) == ""
    follows = structs.replace(led, role="follower")
    for leader, reason, known in ((2, "", 1), (0, "it knows of no leader", 0)):
        reply = structs.replace(follows, leader=leader)
        assert readiness(reply) == reason
        text = exposition(Figures(reply, {})).decode()
        assert f'paxon_knows_leader{{cluster="metrics",server="1"}} {known:.1f}\n' in text
        assert 'paxon_info{cluster="metrics",' in text and f'version="{reply.version}"' in text


def reference_reply(counters: dict[str, int]) -> StatusReply:
    return StatusReply(
        1, 1, "metrics", "leader", NO_BALLOT, 1, 0, 0, 0, 0, 0, 1.0, 0, "", counters
    )  # fmt: skip
