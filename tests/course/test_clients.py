"""The course's list: many clients, and how many messages one costs."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.course.support import PATIENCE, check_at_rest, counters, together
from tests.faults.networks.network import RelayedCluster
from tests.faults.probes import LogProbe
from tests.soak import sized

pytestmark = [pytest.mark.process]


def test_synchronous_clients(five: RelayedCluster, probe: LogProbe) -> None:
    """15 clients in 20 rounds: in each all append, and then all see what all have appended."""
    clients, rounds = 15, sized(8, 20)
    barrier = threading.Barrier(clients)

    def work(me: int) -> None:
        with five.client(timeout=PATIENCE) as client:
            for turn in range(rounds):
                client.append(f"rounds/{turn}", f"{me};")
                barrier.wait(2 * PATIENCE)
                value = client.get(f"rounds/{turn}")
                assert value is not None
                assert sorted(value.split(b";")[:-1]) == sorted(b"%d" % n for n in range(clients))
                assert client.get(f"rounds/{turn + 1}") is None or turn + 1 < rounds
                barrier.wait(2 * PATIENCE)

    works = [lambda me=me: work(me) for me in range(clients)]
    together(works, 4 * PATIENCE)
    check_at_rest(five, probe)


def test_concurrent_appends(five: RelayedCluster, probe: LogProbe) -> None:
    """25 clients append 5 times each to one key: each takes effect once, in its client's order."""
    clients, appends = 25, 5
    lengths: dict[str, int] = {}

    def work(me: int) -> None:
        with five.client(timeout=PATIENCE) as client:
            for turn in range(appends):
                entry = f"{me}.{turn};"
                lengths[entry] = client.append("appends", entry)

    together([lambda me=me: work(me) for me in range(clients)])  # type: ignore[misc]  # lambda
    with five.client(timeout=PATIENCE) as client:
        value = (client.get("appends") or b"").decode()
    entries = value.split(";")[:-1]
    for me in range(clients):
        mine = [entry for entry in entries if entry.startswith(f"{me}.")]
        assert mine == [f"{me}.{turn}" for turn in range(appends)]
    assert len(entries) == clients * appends
    for entry, length in lengths.items():
        assert value[:length].endswith(entry)
    check_at_rest(five, probe)


def test_message_count(
    five: RelayedCluster, probe: LogProbe, figure: Callable[[str], None]
) -> None:
    """At most 75 messages to servers for each command; heartbeats and acknowledgements count."""
    names = ("peer_messages_received", "client_messages_received")
    with five.client(timeout=PATIENCE) as client:
        client.append("counted", "0")
        before = counters(five, *names)
        for _ in range(500):
            client.append("counted", "x")
        check_at_rest(five, probe)
        messages = counters(five, *names) - before
        assert client.get("counted") == b"0" + b"x" * 500
    each = messages / 500
    figure(f"{each:.1f} messages to servers a command (at most 75)")
    assert 8 <= each <= 75, "a command takes 4 requests and 4 answers at least"
