"""Watches on real servers: cuts, compaction, pauses and kill -9, where others broke.

Each names the fault report of another system of which it is the case.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from paxon import Client, ClientClosed, Compacted, Event, PaxonError, Watch
from tests.cluster.helpers import are_level, wait_until
from tests.faults.networks.network import RelayedCluster
from tests.soak import sized

pytestmark = pytest.mark.process

SOON = 60.0
WRITER, WATCHER = "writer", "watcher"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RelayedCluster]:
    with RelayedCluster(3) as running:
        running.leader()
        yield running


@pytest.fixture
def writer(cluster: RelayedCluster) -> Iterator[Client]:
    with cluster.client(WRITER, timeout=SOON) as client:
        yield client
    cluster.network.heal()


@pytest.fixture
def watcher(cluster: RelayedCluster) -> Iterator[Client]:
    with cluster.client(WATCHER, timeout=SOON) as client:
        yield client


def told(events: Watch, count: int) -> list[tuple[int, str]]:
    """The next so many events: revision and value."""
    found = [events.next(SOON) for _ in range(count)]
    return [(event.revision, event.value.decode()) for event in found]


def reset(cluster: RelayedCluster) -> None:
    """End the watcher's connections to all servers."""
    for server in cluster.servers:
        cluster.network.reset(server, WATCHER)


def test_no_gap_and_nothing_twice_at_reconnects(
    cluster: RelayedCluster, writer: Client, watcher: Client
) -> None:
    """dotnet-etcd PR 310, jetcd #1227: once before any event, then five times on one watch."""
    with watcher.watch("gap") as events:
        reset(cluster)
        expected = [(writer.put("gap", "first"), "first")]
        assert told(events, 1) == expected
        for number in range(5):
            if number % 2:
                reset(cluster)
            else:
                cluster.network.partition([1, 2, 3, WRITER], [WATCHER])
            values = [f"{number}-{n}" for n in range(10)]
            expected = [(writer.put("gap", value), value) for value in values]
            cluster.network.join()
            assert told(events, 10) == expected
        with pytest.raises(TimeoutError):
            events.next(0.2)


def test_restarted_servers_leave_no_gap(
    cluster: RelayedCluster, writer: Client, watcher: Client
) -> None:
    with watcher.watch("restart") as events:
        for server in (*cluster.servers, cluster.leader()):
            cluster.kill(server)
            values = [f"{server}-{n}" for n in range(10)]
            expected = [(writer.put("restart", value), value) for value in values]
            cluster.restart(server)
            assert told(events, 10) == expected


def test_compacted_while_it_was_away(
    cluster: RelayedCluster, writer: Client, watcher: Client
) -> None:
    """etcd3-py #61: it hung; it has to be told, within seconds."""
    with watcher.watch("away") as events:
        writer.put("away", "seen")
        assert told(events, 1)[0][1] == "seen"
        cluster.network.partition([1, 2, 3, WRITER], [WATCHER])
        for number in range(100):
            last = writer.put("away", str(number))
        writer.compact(last)
        # (A server that has not executed that yet would tell all of it, and be right.)
        wait_until(lambda: are_level(cluster), "all servers have executed it")
        cluster.network.join()
        with pytest.raises(Compacted) as gone:
            told(events, 101)
        assert gone.value.oldest == last


def test_a_deletion_at_the_compacted_revision_is_told(
    cluster: RelayedCluster, writer: Client, watcher: Client
) -> None:
    """etcd #18089, #19179: and also after kill -9 of all."""
    for number in range(3):
        first = writer.put("deleted", str(number))
    writer.delete("deleted")
    deleted = first + 1
    put = writer.put("deleted", "again")
    writer.compact(deleted)
    for again in (False, True):
        if again:
            for server in cluster.servers:
                cluster.kill(server)
            for server in cluster.servers:
                cluster.restart(server)
        wait_until(lambda: are_level(cluster), "all servers have executed it")
        with watcher.watch("deleted", after=deleted - 1) as events:
            two = [events.next(SOON) for _ in range(2)]
            assert [(e.kind, e.revision) for e in two] == [("delete", deleted), ("put", put)]
        with watcher.watch("deleted", after=deleted - 2) as events, pytest.raises(Compacted):
            events.next(SOON)


def test_a_server_cut_off_from_the_others_holds_no_watch(
    cluster: RelayedCluster, writer: Client, watcher: Client
) -> None:
    """Rule 13: it would keep the client, which still reaches it, waiting for ever."""
    with watcher.watch("cut") as events:
        for server in cluster.servers:
            for other in cluster.servers:
                if other != server:
                    cluster.network.cut(server, other)
            value = f"without {server}"
            revision = writer.put("cut", value)
            assert told(events, 1) == [(revision, value)]
            cluster.network.join()


def test_a_stopped_server_keeps_no_watch(
    cluster: RelayedCluster, writer: Client, watcher: Client
) -> None:
    """Its connections stay open, and nothing but silence tells."""
    with watcher.watch("stopped") as events:
        for server in cluster.servers:
            cluster.pause(server)
            value = f"without {server}"
            revision = writer.put("stopped", value)
            assert told(events, 1) == [(revision, value)]
            cluster.resume(server)


class Follower(threading.Thread):
    """Notes all that a watch tells."""

    def __init__(self, client: Client, prefix: str) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.events = client.watch(prefix=prefix)
        self.told: list[Event] = []
        self.error: PaxonError | None = None

    def run(self) -> None:
        try:
            self.told.extend(self.events)
        except ClientClosed:
            pass
        except PaxonError as error:
            self.error = error


def test_every_watcher_sees_every_revision_once_while_servers_die(cluster: RelayedCluster) -> None:
    """kill -9 of leaders and followers, pauses and resets, under load."""
    groups = [f"group-{n}" for n in range(3)]
    clients = [cluster.client(group, timeout=SOON) for group in groups]
    followers = [Follower(client, "load/") for client in clients for _ in range(2)]
    for follower in followers:
        follower.start()
    revisions: list[tuple[int, ...]] = []
    ended = threading.Event()

    def write() -> None:
        with cluster.client(WRITER, timeout=SOON) as writer:
            while not ended.is_set():
                number = len(revisions)
                revision = writer.put_many(
                    {f"load/{number % 7}": str(number), f"load/x{number % 3}": str(number)}
                )
                revisions.append((revision, revision))
                time.sleep(0.002)  # (servers have one core between them)

    load = threading.Thread(target=write)
    load.start()
    for number in range(sized(3, 60)):
        before = len(revisions)
        wait_until(lambda: len(revisions) > before + 50, "the load goes on", SOON)  # noqa: B023
        victim = cluster.leader(timeout=SOON) if number % 2 else 1 + number % 3
        if number % 3 == 2:
            cluster.pause(victim)
            wait_until(lambda: len(revisions) > before + 80, "others serve", SOON)  # noqa: B023
            cluster.resume(victim)
        else:
            cluster.kill(victim)
            cluster.restart(victim)
        cluster.network.reset(1 + number % 3, groups[number % 3])
    ended.set()
    load.join(SOON)
    expected = [revision for pair in revisions for revision in pair]
    try:
        for follower in followers:
            wait_until(lambda: len(follower.told) >= len(expected), "all is told", SOON)  # noqa: B023
            assert [event.revision for event in follower.told] == expected
            assert follower.error is None
    finally:
        for client in clients:
            client.close()
