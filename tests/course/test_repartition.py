"""The course's list: how long clients wait while partitions come and go."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.course.support import LOSSY, PATIENCE, check_at_rest
from tests.faults.load import Load
from tests.faults.networks.network import MAIN, RelayedCluster
from tests.faults.probes import LogProbe, check_logs
from tests.soak import sized

pytestmark = [pytest.mark.process, pytest.mark.slow]

Figure = Callable[[str], None]

LOSS = sized(0.05, 0.1)
"""Of all messages. In eight runs of 30 s at 10 % the longest wait was from 0.8 to 1.7 s."""


def test_single_partition(
    five: RelayedCluster, probe: LogProbe, tmp_path: Path, figure: Figure
) -> None:
    """The leader is cut off with one other; no client waits longer than 3 s."""
    with Load(lambda _: five.client(timeout=PATIENCE), clients=3, prefix="single/") as load:
        load.run_for(1.0)
        leader = five.leader()
        companion = 1 + leader % 5
        others = [server for server in five.servers if server not in (leader, companion)]
        five.network.partition([*others, MAIN], [leader, companion])
        load.run_for(sized(1.5, 10.0))
        five.network.heal()
        load.run_for(1.0)
    with five.client(timeout=PATIENCE) as client:
        found = load.verify(client, tmp_path / "history.jsonl")
    assert (found.unknown, load.timeouts) == (0, 0)
    assert found.longest_wait < 3.0
    figure(f"longest wait {found.longest_wait:.2f} s (under 3 s)")
    check_at_rest(five, probe)


def repartition(five: RelayedCluster, load: Load, seconds: float, every: float, seed: int) -> int:
    """A new random majority, with the clients, every so often; how many there were."""
    draw = random.Random(seed)
    count = 0
    while seconds > 0:
        majority = draw.sample(five.servers, 3)
        rest = [server for server in five.servers if server not in majority]
        five.network.partition([*majority, MAIN], rest)
        load.run_for(min(every, seconds))
        seconds -= every
        count += 1
    return count


@pytest.mark.parametrize("lossy", [False, True], ids=["reliable", "with_loss"])
def test_constant_repartition(
    lossy: bool, five: RelayedCluster, probe: LogProbe, tmp_path: Path, figure: Figure
) -> None:
    """A new majority every 2 s; no client waits longer than 2 s."""
    five.network.weather(loss=LOSS if lossy else 0.0)
    options = LOSSY if lossy else None
    name = f"repartition/{lossy}/"
    with Load(
        lambda _: five.client(timeout=PATIENCE, options=options), clients=3, prefix=name
    ) as load:
        times = repartition(five, load, sized(6.0, 30.0), 2.0, seed=13 if lossy else 3)
    check_logs(probe.logs())
    five.network.heal()
    with five.client(timeout=PATIENCE) as client:
        found = load.verify(client, tmp_path / "history.jsonl")
    figure(
        f"{times} majorities, {found.operations} operations, "
        f"longest wait {found.longest_wait:.2f} s (under 2 s)"
    )
    assert (found.unknown, load.timeouts) == (0, 0)
    assert found.longest_wait < 2.0
    check_at_rest(five, probe)


def test_repartition_full_throughput(
    five: RelayedCluster, probe: LogProbe, tmp_path: Path, figure: Figure
) -> None:
    """Clients as fast as they can, a new majority every 2 s, for 50 s."""
    seconds = sized(4.0, 50.0)
    with Load(
        lambda _: five.client(timeout=PATIENCE), clients=10, keys=20, pause=0.0, prefix="fast/"
    ) as load:
        repartition(five, load, seconds, 2.0, seed=5)
    five.network.heal()
    with five.client(timeout=PATIENCE) as client:
        found = load.verify(client, tmp_path / "history.jsonl")
    each = found.operations / seconds
    figure(f"{each:.0f} operations a second, longest wait {found.longest_wait:.2f} s")
    assert (found.unknown, load.timeouts) == (0, 0)
    check_at_rest(five, probe)
