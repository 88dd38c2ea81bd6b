"""`paxon bench coordination`: what it shows, etcd's side against a few lines, and a short run."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paxon.bench.coordination.etcd import open_etcd
from paxon.bench.coordination.run import (
    CoordinationReport,
    CoordinationSettings,
    coordination_notes,
    coordination_sections,
)
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.load import Job, open_client_load
from paxon.bench.harness.report import markdown, read_json
from paxon.bench.harness.workloads import Workload
from paxon.bench.peers.grpc_wire import frame_message
from paxon.bench.peers.run import PeerNote, PeerRow, peer_row
from paxon.kvstore.etcd.messages import message
from tests.bench.test_peers import taken
from tests.bench.test_peers_wire import (
    DATA,
    HEADERS,
    FakeEtcd,
    answer,
    frame,
    frames,
    fresh,
)
from tests.bench.test_runs import bench

# --- what is shown -------------------------------------------------------------------------------


def report(*, etcd: bool = True) -> CoordinationReport:
    """Paxon does 300 operations a second and etcd 100, in 2 and 4 ms at the median."""
    settings = CoordinationSettings(quick=True)
    ours, theirs = {0: taken(300.0, 0.002)}, {0: taken(100.0, 0.004)} if etcd else {}
    rows = [peer_row(load, ("Paxon", "etcd"), ours, theirs) for load in settings.loads()]
    note = PeerNote(peer="etcd", skipped="" if etcd else "etcd was left out: so it is.")
    return CoordinationReport(bench="coordination", settings=settings, rows=[note, *rows])


def test_paxon_stands_beside_etcd() -> None:
    loads, idle = coordination_sections(report())
    rows = {row[0]: row[1:] for row in loads.rows}
    assert rows["lock handover (4 contenders)"] == [
        "300", "2.00", "2.00", "0.000", "100", "4.00", "4.00", "0.000", "3.00", "0.50", "0",
    ]  # fmt: skip
    assert idle.rows == [["Paxon", "1.00", "1.00"], ["etcd", "1.00", "1.00"]]


def test_without_etcd_the_reason_stands_there() -> None:
    alone = report(etcd=False)
    assert "etcd was left out: so it is." in coordination_notes(alone)
    text = markdown(alone, coordination_sections(alone), coordination_notes(alone))
    assert (
        "| lock handover (4 contenders) | 300 | 2.00 | 2.00 | 0.000 | - | - | - | - | - | - | 0 |"
        in text
    )


# --- etcd's side ---------------------------------------------------------------------------------


def test_a_call_that_stays_open_is_answered_message_by_message() -> None:
    connection = fresh()
    stream = connection.request(b"\0\0\0\0\1a", stays_open=True)
    connection.say(stream, b"\0\0\0\0\1b")
    sent = [(kind, flags) for kind, flags, *_ in frames(bytes(connection.outgoing))]
    assert sent == [(HEADERS, 0x4), (DATA, 0), (DATA, 0)]
    told = b"".join(b"\0" + struct.pack(">L", len(text)) + text for text in (b"one", b"", b"two"))
    for cut in range(len(told)):
        connection = fresh()
        connection.request(b"", stays_open=True)
        data = frame(DATA, 0, 1, told[:cut]) + frame(DATA, 0, 1, told[cut:])
        assert connection.feed(data) == [(1, b"one"), (1, b""), (1, b"two")]
        assert connection.feed(frame(HEADERS, 0x5, 1, b"\x88")) == [(1, None)]


def told_of(**fields: Any) -> bytes:
    """A message to a watcher."""
    return frame_message(message("WatchResponse")(**fields).SerializeToString())


class FakeWatches(FakeEtcd):
    """Takes watches on one connection and writes on the other, and tells of them."""

    def __init__(self, *, twice: bool = False) -> None:
        self.watches = 0
        self.revision = 0
        self.watching: socket.socket | None = None
        self.twice = twice
        super().__init__()

    def answer(self, link: socket.socket, calls: list[tuple[int, bytes]]) -> None:
        for stream, body in calls:
            if not body[5:].startswith(b"\x0a\x07watched"):  # a write begins so: its key
                self.watching = link
                self.watches += 1
                link.sendall(frame(DATA, 0, 1, told_of(created=True)))
                continue
            self.revision += 1
            header = message("ResponseHeader")(revision=self.revision)
            done = message("PutResponse")(header=header).SerializeToString()
            link.sendall(answer(stream, done))
            event = message("Event")(kv=message("KeyValue")(mod_revision=self.revision))
            for number in range(self.watches):
                told = told_of(watch_id=number, events=[event] * (1 + self.twice))
                assert self.watching is not None
                self.watching.sendall(frame(DATA, 0, 1, told))


@pytest.fixture
def locks() -> Iterator[FakeEtcd]:
    server = FakeEtcd(message("LockResponse")(key=b"lock/1").SerializeToString())
    yield server
    server.listener.close()


def job(fake: FakeEtcd, workload: Workload) -> Job:
    return Job(workload, [fake.address], True, 0.0, 1.0, 1, open_client_load)


def test_a_handover_is_from_one_holders_release_to_the_next_ones_lock(locks: FakeEtcd) -> None:
    loop, close = open_etcd(job(locks, Workload(name="l", kind="lock", outstanding=2)))
    while not (outcome := loop.run(0.2)).operations:  # (a busy machine may need longer)
        pass
    close()
    assert outcome.failed == 0
    unlocks = locks.requests.count(message("UnlockRequest")(key=b"lock/1").SerializeToString())
    assert unlocks >= outcome.operations


def test_an_event_counts_once_all_watchers_have_it() -> None:
    fake = FakeWatches()
    loop, close = open_etcd(job(fake, Workload(name="f", kind="watch", watches=3)))
    outcome = loop.run(0.2)
    close()
    fake.listener.close()
    assert fake.watches == 3
    assert 0 < outcome.operations <= fake.revision <= outcome.operations + 1


def test_an_event_that_comes_twice_is_an_error() -> None:
    fake = FakeWatches(twice=True)
    loop, close = open_etcd(job(fake, Workload(name="f", kind="watch", watches=1)))
    with pytest.raises(BenchError, match="twice"):
        loop.run(0.2)
    close()
    fake.listener.close()


def test_transactions_compare_and_write(locks: FakeEtcd) -> None:
    loop, close = open_etcd(job(locks, Workload(name="t", kind="txn", outstanding=4, keys=5)))
    while not loop.run(0.1).operations:  # (a busy machine may need longer)
        pass
    close()
    txn = message("TxnRequest").FromString(locks.requests[0])
    assert [(each.result, each.target) for each in txn.compare] == [(1, 0)]
    assert txn.success == txn.failure
    assert txn.success[0].request_put.key == txn.compare[0].key


# --- a run ---------------------------------------------------------------------------------------


@pytest.mark.process
def test_a_short_run(tmp_path: Path) -> None:
    """In memory; etcd is in it where it is installed."""
    for _ in range(5):  # (while a machine stands still for two seconds, leases of two seconds end)
        finished = bench(
            "coordination", "--quick", "--durability", "memory", "--seconds", 0.5, "--warmup", 0.3,
            "--watchers", 5, "--idle", 50, "--leases", 20, "--json", tmp_path / "r.json",
        )  # fmt: skip
        kept = read_json(tmp_path / "r.json", CoordinationReport)
        (note,) = (row for row in kept.rows if isinstance(row, PeerNote))
        if not note.problems:
            break
    rows = [row for row in kept.rows if isinstance(row, PeerRow)]
    assert [row.load.name for row in rows] == [
        "lock handover (4 contenders)", "watch", "fan-out (5 watchers)",
        "transactions, 64 outstanding", "writes, 64 outstanding",
        "writes beside idle watches (50)", "renewals (20 leases)",
    ]  # fmt: skip
    assert not note.problems
    assert (note.skipped or f"etcd {note.version}: ") in finished.stdout
    for row in rows:
        assert (row.other is None) == bool(note.skipped)
        for system in (row.paxon, row.other):
            assert system is None or (system.rate.median > 0 and system.failed == 0), row.load.name
    assert 20 <= rows[-1].paxon.repeats[0].operations <= 4 * 20, "each three times in its life"
