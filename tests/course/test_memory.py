"""The course's list: memory is given back."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.cluster.helpers import wait_until
from tests.course.support import LOSSY, PATIENCE, check_at_rest, retained_bytes
from tests.faults.networks.network import RelayedCluster
from tests.faults.probes import LogProbe

pytestmark = [pytest.mark.process, pytest.mark.slow]

VALUES = 20
VALUE_BYTES = 1_000_000
LEFT_OVER = 2 << 20


def clears_memory(
    five: RelayedCluster, probe: LogProbe, figure: Callable[[str], None], *, loss: float
) -> None:
    """Big values while one server is cut off, then heal and overwrite."""
    five.network.weather(loss=loss)
    options = LOSSY if loss else None
    with five.client(timeout=PATIENCE, options=options) as client:
        client.put("memory/first", "small")
        began = time.monotonic()
        start = retained_bytes(five)
        leader = five.leader()
        late = 1 + leader % 5
        five.network.isolate(late)
        for number in range(VALUES):
            client.put(f"memory/{number}", bytes([number]) * VALUE_BYTES)
        full = retained_bytes(five)
        for server in five.servers:
            held = full[server - 1] - start[server - 1]
            if server == late:
                assert held < LEFT_OVER, f"server {server} was cut off and holds {held} bytes"
        assert full[leader - 1] - start[leader - 1] >= VALUES * VALUE_BYTES
        five.network.join()
        for number in range(VALUES):
            client.put(f"memory/{number}", "small again")
        wait_until(
            lambda: all(
                now < then + LEFT_OVER
                for now, then in zip(retained_bytes(five), start, strict=True)
            ),
            "logs and sessions fall back to less than 2 MiB above the start",
        )
        took = time.monotonic() - began
        assert client.get("memory/0") == b"small again"
    five.network.heal()
    check_at_rest(five, probe)
    end = max(now - then for now, then in zip(retained_bytes(five), start, strict=True))
    peak = max(full) / 1e6
    figure(f"{peak:.1f} MB in logs at the peak, {end} bytes above the start after {took:.1f} s")


def test_clears_memory(
    five: RelayedCluster, probe: LogProbe, figure: Callable[[str], None]
) -> None:
    clears_memory(five, probe, figure, loss=0.0)


def test_clears_memory_under_20_percent_loss(
    five: RelayedCluster, probe: LogProbe, figure: Callable[[str], None]
) -> None:
    clears_memory(five, probe, figure, loss=0.2)
