"""What the demo measures and checks, without its processes."""

from __future__ import annotations

import io
from typing import cast
from unittest import mock

import pytest
from msgspec import structs
from rich.console import Console

from paxon.actors import NO_BALLOT
from paxon.actors.messages import StatusReply
from paxon.kvstore import Client
from paxon.kvstore.cli import demo
from paxon.kvstore.cli.demo_load import Load, Worker, missing_writes, outage, sparkline
from paxon.kvstore.cli.live_view import in_bytes, in_time
from paxon.kvstore.cluster.status import ServerStatus
from paxon.testing import MemoryCluster
from tests.waiting import wait_until


def test_the_outage_is_the_longest_pause_that_ends_after_the_kill() -> None:
    times = [0.0, 5.0, 5.1, 5.2, 5.21, 6.0, 6.1]
    assert outage(times, 5.2) == (5.21, 6.0)  # an answer under way at the kill does not end it
    assert outage(times, 5.05) == (5.21, 6.0)
    assert outage(times, 7.0) is None
    assert outage([], 1.0) is None


def test_a_sparkline_shows_pauses() -> None:
    times = [0.1, 0.2, 0.3, 2.5, 3.9]
    assert sparkline(times, 0.0, 4.0, 4, ascii_only=False) == "█ ▃▃"
    assert sparkline(times, 0.0, 4.0, 4, ascii_only=True) == "@ ::"
    assert sparkline([], 0.0, 1.0, 3, ascii_only=True) == "   "


class Store:
    """What the check reads, and no more of a client."""

    def __init__(self, content: dict[str, bytes]) -> None:
        self.content = content

    def get(self, key: str) -> bytes | None:
        return self.content.get(key)

    def scan(self, prefix: str, limit: int, start_after: str) -> list[tuple[str, bytes]]:
        found = sorted(
            (key, value)
            for key, value in self.content.items()
            if key.startswith(prefix) and key > start_after
        )
        return found[:limit]


@pytest.fixture
def load() -> Load:
    """A load of one worker that has three acknowledged writes."""
    idle = cast("Client", Store({}))
    made = Load(1, lambda: idle)
    worker: Worker = made.workers[0]
    worker.acknowledged = {"load/1/1": b"a", "load/1/2": b"b"}
    worker.journal = b"8;"
    return made


GOOD = {"load/1/1": b"a", "load/1/2": b"b", "load/1/3": b"unacknowledged", "journal/1": b"8;"}


def test_all_acknowledged_writes_are_found(load: Load) -> None:
    assert missing_writes(load, cast("Client", Store(GOOD))) == (3, [])


@pytest.mark.parametrize(
    "damage",
    [{"load/1/2": b"x"}, {"load/1/2": None}, {"journal/1": b""}, {"journal/1": b"8;8;"}],
)
def test_a_lost_changed_or_doubled_write_is_found(
    load: Load, damage: dict[str, bytes | None]
) -> None:
    content = {k: v for k, v in (GOOD | damage).items() if v is not None}
    found, wrong = missing_writes(load, cast("Client", Store(content)))
    assert found == 2
    assert len(wrong) == 1
    assert next(iter(damage)) in wrong[0]


def test_a_directory_that_has_seen_a_demo_shows_it_again() -> None:
    with MemoryCluster() as cluster, cluster.client() as kv:
        kv.put("journal/1", b"8;")
        load = Load(1, cluster.client)
        load.start()
        wait_until(lambda: load.reads > 0)
        load.end()
        assert missing_writes(load, kv) == (load.writes, [])


def test_sizes_and_times_for_people() -> None:
    assert [in_bytes(n) for n in (0, 1023, 1536, 200 << 20, 5 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "200 MiB",
        "5120 GiB",
    ]
    assert [in_time(s) for s in (0.4, 119, 120, 7200, 200_000)] == [
        "0 s",
        "119 s",
        "2 min",
        "2 h",
        "2 d",
    ]


@pytest.mark.parametrize("servers", [1, 2, 3])
def test_only_a_majority_that_is_left_fails_over(
    servers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = mock.MagicMock()
    parts = ("_introduce", "_first_data", "_kill_leader", "_fail_over", "_bring_back",
             "_show_timeline", "_compare", "_verify", "Load")  # fmt: skip
    for part in parts:
        monkeypatch.setattr(demo, part, getattr(told, part))
    demo._story(mock.MagicMock(), mock.MagicMock(servers=range(servers)), 1.0)
    assert told._fail_over.called == (servers == 3)
    assert told._bring_back.called and told._verify.called


def test_what_is_compared_is_what_agreed() -> None:
    """Asked once more, a busy machine may not answer in time."""
    status = StatusReply(
        id=0, server=1, cluster="c", role="leader", ballot=NO_BALLOT, leader=1, accepted=0,
        chosen=0, executed=7, discarded=0, snapshot=0, uptime=0.0, disk_bytes=0, state_digest="d",
        counters={},
    )  # fmt: skip
    late = ServerStatus(server=1, address="a", state="running")
    cluster = mock.MagicMock()
    cluster.status.side_effect = [[late], [structs.replace(late, reply=status)]]
    out = io.StringIO()
    demo._compare(demo.Story(Console(file=out, width=200)), cluster)
    assert "all 1 servers executed the same 7 slots" in out.getvalue()
