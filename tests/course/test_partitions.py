"""The course's list: progress with and without a majority."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from paxon.kvstore import RequestTimeout
from tests.course.support import PATIENCE, check_at_rest, within
from tests.faults.load import Load
from tests.faults.networks.network import MAIN, Node, RelayedCluster
from tests.faults.probes import LogProbe, check_logs
from tests.soak import sized

pytestmark = [pytest.mark.process]


def test_basic(five: RelayedCluster, probe: LogProbe) -> None:
    with five.client(timeout=PATIENCE) as client:
        assert client.get("basic/absent") is None
        client.put("basic/a", "1")
        assert client.get("basic/a") == b"1"
        assert client.append("basic/a", "23") == 3
        assert client.append("basic/new", "4") == 1
        assert client.get("basic/a") == b"123"
        assert client.delete("basic/a")
        assert client.get("basic/a") is None
        assert client.get("basic/new") == b"4"
    check_at_rest(five, probe)
    probed = probe.slot(1, 1)
    assert (probed.status, probed.value) == ("CLEARED", b"")
    beyond = probe.slot(1, probed.last_non_empty + 1)
    assert (beyond.status, beyond.value) == ("EMPTY", b"")


def test_no_partition(
    five: RelayedCluster, probe: LogProbe, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    with Load(lambda _: five.client(timeout=PATIENCE), clients=3, prefix="whole/") as load:
        load.run_for(sized(1.0, 10.0))
    with five.client(timeout=PATIENCE) as client:
        found = load.verify(client, tmp_path / "history.jsonl")
    assert (found.unknown, load.timeouts) == (0, 0)
    assert found.longest_wait < 2.0
    check_at_rest(five, probe)
    figure(f"{found.operations} operations, longest wait {found.longest_wait:.3f} s")


def test_progress_in_majority(five: RelayedCluster, probe: LogProbe) -> None:
    before = probe.slot(4, 0).last_non_empty
    five.network.partition([1, 2, 3, MAIN], [4, 5])
    with five.client(timeout=PATIENCE) as client:
        with within(3.0):
            client.put("majority", "reached")
        with within(3.0):
            assert client.get("majority") == b"reached"
    logs = probe.logs()
    check_logs(logs)
    slot = logs[1].last_non_empty()
    assert slot > before
    assert [logs[server].status(slot) == "EMPTY" for server in (4, 5)] == [True, True]
    five.network.heal()
    check_at_rest(five, probe)


def test_no_progress_in_minority(five: RelayedCluster, probe: LogProbe) -> None:
    five.network.partition([1, 2, MAIN], [3, 4, 5])
    chosen = {server: probe.log(server) for server in (1, 2)}
    with five.client(timeout=PATIENCE) as client:
        began = time.monotonic()
        with pytest.raises(RequestTimeout):
            client.put("minority", "never", timeout=2)
        assert time.monotonic() - began >= 2
        with pytest.raises(RequestTimeout):
            client.get("minority", timeout=sized(0.5, 2.0))
        logs = probe.logs()
        check_logs(logs)
        for server, before in chosen.items():
            for slot in range(before.last_non_empty() + 1, logs[server].last_non_empty() + 1):
                assert logs[server].status(slot) in ("EMPTY", "ACCEPTED")
        five.network.heal()
        # What nobody saw acknowledged may have happened, or may not.
        with within(3.0):
            assert client.get("minority") in (None, b"never")
    check_at_rest(five, probe)


def test_progress_after_heal(five: RelayedCluster, probe: LogProbe) -> None:
    five.network.partition([1, 2, MAIN], [3, 4, 5])
    with five.client(timeout=PATIENCE) as client:
        write = client.submit_put("healed", "late")
        with pytest.raises(TimeoutError):
            write.result(timeout=2)
        five.network.heal()
        with within(3.0):
            write.result()
        assert client.get("healed") == b"late"
    check_at_rest(five, probe)


def test_server_switches_partitions(five: RelayedCluster, probe: LogProbe) -> None:
    """What was decided with server 3 on one side is known to the other once it switches."""
    left: list[Node] = [1, 2, 3, MAIN]
    right: list[Node] = [3, 4, 5, MAIN]
    with five.client(timeout=PATIENCE) as client:
        five.network.partition(left, [4, 5])
        client.put("switch", "a")
        five.network.partition(right, [1, 2])
        assert client.append("switch", "b") == 2
        check_logs(probe.logs())
        five.network.partition(left, [4, 5])
        assert client.get("switch") == b"ab"
        assert client.append("switch", "c") == 3
        five.network.partition(right, [1, 2])
        assert client.get("switch") == b"abc"
        check_logs(probe.logs())
    five.network.heal()
    check_at_rest(five, probe)
