"""The loops that put load on a cluster, against a client that answers as the test wants."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from paxon.bench.harness.child import Children, obey
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.load import (
    ClientLink,
    ClosedLoop,
    Job,
    PipelinedLoop,
    open_client_load,
    put_load,
)
from paxon.bench.harness.workloads import Workload
from paxon.bench.scale.load import SessionLink
from paxon.kvstore import InvalidRequest, PaxonError
from tests.kvstore.client.fake_cluster import SocketCluster


class FakeFuture:
    """Done once somebody has waited for it."""

    def __init__(self, client: FakeClient, error: PaxonError | None) -> None:
        self._client = client
        self._error = error
        self._done = False

    def done(self) -> bool:
        return self._done

    def exception(self, timeout: float | None = None) -> PaxonError | None:
        if not self._done:
            self._client.waited(timeout)
            self._done = True
            self._client.under_way -= 1
        return self._error


class FakePipeline:
    """Answers in lots of 100."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.queued = 0

    def put(self, key: str, value: bytes) -> int:
        self.queued += 1
        if self.queued % 100 == 0:
            self.results += [None] * 100
        return self.queued - 1

    def get(self, key: str) -> int:
        return self.put(key, b"")

    def __len__(self) -> int:
        return self.queued

    def execute(self) -> list[Any]:
        self.results += [None] * (self.queued - len(self.results))
        return self.results


class FakeClient:
    """Counts what is asked of it; time passes only while it is waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.under_way = 0
        self.most_under_way = 0
        self.asked: list[tuple[str, object]] = []
        self.answers: Callable[[int], PaxonError | None] = lambda _number: None
        self.stuck_after = 10**9
        monkeypatch.setattr("paxon.bench.harness.load.clock", self.tick)

    def tick(self) -> float:
        self.now += 1e-6
        return self.now

    def waited(self, timeout: float | None) -> None:
        if len(self.asked) >= self.stuck_after:
            assert timeout is not None
            self.now += timeout
            raise TimeoutError
        self.now += 0.001

    def _submit(self, key: str, what: object) -> FakeFuture:
        self.asked.append((key, what))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        return FakeFuture(self, self.answers(len(self.asked)))

    def submit_put(self, key: str, value: bytes) -> FakeFuture:
        return self._submit(key, value)

    def submit_get(self, key: str, *, mode: str) -> FakeFuture:
        return self._submit(key, mode)

    def pipeline(self, *, max_in_flight: int, mode: str) -> FakePipeline:
        self.pipe = FakePipeline()
        return self.pipe


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fresh client, whose clock is everybody's."""
    return FakeClient(monkeypatch)


def make_loop(client: Any, workload: Workload, seed: int) -> ClosedLoop | PipelinedLoop:
    """As a client process does."""
    if workload.pipelined:
        return PipelinedLoop(client, workload, seed)
    return ClosedLoop(ClientLink(client, workload, seed))


def test_a_closed_loop_keeps_so_many_under_way(client: Any) -> None:
    outcome = make_loop(client, Workload(name="w", outstanding=8), seed=1).run(1.0)
    assert client.most_under_way == 8
    assert client.under_way == 0  # all were waited for at the end
    assert outcome.operations == pytest.approx(1000, rel=0.02)
    assert outcome.unfinished == 8
    assert outcome.seconds == pytest.approx(1.0, abs=0.01)
    # Each is answered when the seven before it have been: 8 ms.
    assert sorted(outcome.latencies)[len(outcome.latencies) // 2] == pytest.approx(0.008, abs=1e-4)


def test_failures_are_counted_apart(client: Any) -> None:
    client.answers = lambda number: InvalidRequest("no") if number % 4 == 0 else None
    outcome = make_loop(client, Workload(name="w"), seed=1).run(0.1)
    assert outcome.failed == pytest.approx(25, abs=2)
    assert outcome.operations == len(outcome.latencies) == pytest.approx(75, abs=3)
    assert outcome.first_error == "no"


def test_what_is_stuck_ends_the_stretch_in_time_and_is_not_forgotten(client: Any) -> None:
    client.stuck_after = 50
    outcome = make_loop(client, Workload(name="w", outstanding=4), seed=1).run(1.0)
    assert outcome.seconds == pytest.approx(1.0, abs=0.01)
    assert outcome.operations == 46
    assert outcome.unfinished == 4
    assert outcome.oldest == pytest.approx(0.95, abs=0.02)


def test_what_is_stuck_counts_in_the_next_stretch(client: Any) -> None:
    loop = make_loop(client, Workload(name="w", outstanding=4), seed=1)
    client.stuck_after = 50
    loop.run(1.0)
    client.stuck_after = 10**9
    outcome = loop.run(0.5)
    assert client.most_under_way == 4
    assert max(outcome.latencies) > 1.0


def test_reads_are_asked_in_their_mode(client: Any) -> None:
    load = Workload(name="w", kind="get", mode="lease", keys=10)
    make_loop(client, load, seed=1).run(0.05)
    assert {what for _, what in client.asked} == {"lease"}
    assert len({key for key, _ in client.asked}) == 10


@pytest.mark.parametrize("kind", ["put", "get"])
def test_a_pipeline_counts_all_and_times_a_sample(client: Any, kind: Any) -> None:
    load = Workload(name="w", kind=kind, outstanding=4096, pipelined=True)
    outcome = make_loop(client, load, seed=1).run(0.001)
    assert outcome.operations == client.pipe.queued > 1000
    assert len(outcome.latencies) == pytest.approx(client.pipe.queued / 64, rel=0.02)
    assert outcome.unfinished == outcome.failed == 0


def test_failures_in_a_pipeline(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(self: FakePipeline) -> list[Any]:
        self.results += [InvalidRequest("no")] * (self.queued - len(self.results))
        raise InvalidRequest("no")

    monkeypatch.setattr(FakePipeline, "execute", execute)
    load = Workload(name="w", outstanding=4096, pipelined=True)
    outcome = make_loop(client, load, seed=1).run(0.001)
    queued = client.pipe.queued
    assert outcome.failed == queued % 100 > 0
    assert outcome.operations == queued - queued % 100
    assert outcome.first_error == "no"


# --- many sessions over one socket ---------------------------------------------------------------


@pytest.fixture
def servers() -> Iterator[SocketCluster]:
    cluster = SocketCluster(3)
    yield cluster
    cluster.close()


def session_job(address: str) -> Job:
    return Job(
        workload=Workload(name="sessions", outstanding=4, value_bytes=8),
        addresses=[address],
        redirect=False,
        warmup=0.0,
        timeout=10.0,
        seed=1,
        open_load=open_client_load,
    )


def test_sessions_are_opened_where_the_leader_is_by_now(servers: SocketCluster) -> None:
    link = SessionLink(session_job(servers.addresses[2]), 700)
    loop = ClosedLoop(link)
    for leader in (0, 1):  # … and go on where it is later
        with servers.lock:
            servers.cluster.leader = servers.addresses[leader]
        while not (outcome := loop.run(0.05)).operations:  # (a busy machine may need longer)
            assert not outcome.failed
        assert not outcome.failed
    link.close()


def test_sessions_that_are_too_many_at_once_are_asked_for_again(servers: SocketCluster) -> None:
    servers.cluster.busy = 40
    link = SessionLink(session_job(servers.addresses[0]), 100)
    loop = ClosedLoop(link)
    while not (outcome := loop.run(0.05)).operations:
        assert not outcome.failed
    link.close()


def test_an_election_is_waited_for(servers: SocketCluster) -> None:
    servers.cluster.hint = "nobody yet"
    elected = threading.Timer(0.2, setattr, (servers.cluster, "hint", None))
    elected.start()
    link = SessionLink(session_job(servers.addresses[1]), 3)
    assert servers.cluster.hint is None
    link.close()
    elected.join()


# --- the process around a loop -------------------------------------------------------------------


@pytest.mark.parametrize("busy", [True, False])
def test_a_process_ends_in_silence_when_its_parent_is_gone(busy: bool) -> None:
    """After Ctrl-C the other end of the pipe may be closed at any moment."""
    ours, theirs = multiprocessing.Pipe()
    if busy:
        ours.send((time.sleep, (0.05,)))
        closing = threading.Thread(target=ours.close)  # while it is at work
        closing.start()
    else:
        theirs.send("an answer that nobody read")
        ours.close()
    obey(theirs)  # after which a child just ends
    with pytest.raises((EOFError, ConnectionError)):
        theirs.recv()


def test_what_a_child_raises_is_told_in_its_parent() -> None:
    with Children("the dividing process") as children:
        (child,) = children.take(1)
        child.tell(put_load, 1.0)
        with pytest.raises(BenchError, match="the dividing process failed: it was given no job"):
            child.answer()
        child.tell(divmod, 7, 2)
        assert child.answer() == (3, 1)
        child.tell(divmod, 7, 0)
        with pytest.raises(BenchError, match="the dividing process has died"):
            child.answer()
