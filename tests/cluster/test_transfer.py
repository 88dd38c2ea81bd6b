"""Leaders hand over on real processes: asked to, and before they stop (docs/design/elections.md).

Each operation's wait is measured and printed (`pytest -rP`), and asserted nowhere: that is the
machine's. What is asserted is that nobody had to be elected by a timeout.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from paxon.kvstore import AsyncClient, InvalidRequest, OperationFailed
from paxon.kvstore.cli import exit_codes
from paxon.kvstore.cluster.local_cluster import LocalCluster
from tests.cluster.helpers import are_level, one_sentence, paxon_here, wait_until
from tests.faults.load import Load
from tests.soak import sized
from tests.waiting import stall_meter

pytestmark = pytest.mark.process

ROUNDS = sized(1, 20)
"""Of restarts of all servers."""
CLIENTS = 4


def go_on(load: Load) -> None:
    """Every client has got something done from now on."""
    for client in range(CLIENTS):
        load.wait_for_more(1, clients=[client], seconds=60.0)


def longest_wait(load: Load, since: float) -> float:
    """Seconds that the slowest operation took of those that ended after that moment."""
    return max((took for began, took in list(load.waits) if began + took > since), default=0.0)


def handovers(directory: Path) -> int:
    logs = directory.glob("server-*/server.log")
    return sum(log.read_text().count("hands over to server") for log in logs)


def test_an_operator_lets_others_lead(tmp_path: Path) -> None:
    least, most = 3.0, 4.0  # (seconds, for busy machines)
    with (
        LocalCluster(3, tmp_path, election_timeout_min=least, election_timeout_max=most) as cluster,
        cluster.client(timeout=60.0) as kv,
    ):
        first, stood = cluster.leader(60.0), stall_meter()
        assert kv.transfer_leader(first) == first
        other = first % 3 + 1
        assert kv.transfer_leader(other) == other
        kv.put("a", "1")
        leads = kv.transfer_leader(only_from=first)  # who leads is not meant
        assert leads == other or stood() > least / 2
        with pytest.raises(OperationFailed, match="server 9 is no member of the cluster"):
            kv.transfer_leader(9)
        with pytest.raises(InvalidRequest, match="must be the id of a server, from 1"):
            kv.transfer_leader(0)

        async def asynchronous() -> int:
            async with AsyncClient(cluster.addresses, timeout=60.0) as store:
                found = await store.transfer_leader(first)
                assert await store.get("a") == b"1"
                return found

        assert asyncio.run(asynchronous()) == first
        servers = ",".join(cluster.addresses)
        told = paxon_here("leader", "transfer", "--to", str(other), "--cluster", servers)
        assert told.stdout == b"server %d leads\n" % other, told.stderr
        told = paxon_here("leader", "transfer", "--from", "77", "--json", "--cluster", servers)
        assert told.stdout == b'{"leader": %d}\n' % other or stood() > least / 2, told.stderr
        told = paxon_here("leader", "transfer", "--to", "9", "--cluster", servers)
        assert told.returncode == exit_codes.FAILED
        assert "server 9 is no member" in one_sentence(told)
        assert any(row.reply and row.reply.counters["handovers"] for row in cluster.status(60.0))


def test_all_servers_are_restarted_in_turn_and_clients_hardly_notice(tmp_path: Path) -> None:
    """Whoever leads hands over as it stops. Each client's operations succeed, one after another."""
    stops: list[float] = []
    starts: list[float] = []
    with LocalCluster(3, tmp_path) as cluster:
        led = cluster.leader()
        with Load(lambda _: cluster.client(timeout=60.0), clients=CLIENTS) as load:
            for done in range(5 * ROUNDS):
                if done >= ROUNDS and handovers(tmp_path):
                    break  # (a machine that stands still as a leader stops leaves no time for it)
                # The leader is the last: then the lead moves once a round.
                led = cluster.leader()
                for server in [*(s for s in cluster.servers if s != led), led]:
                    go_on(load)
                    wait_until(lambda: are_up(cluster), "all servers follow", 60.0)
                    stop = time.monotonic()
                    cluster.stop_server(server)
                    go_on(load)
                    start = time.monotonic()
                    stops.append(longest_wait(load, stop))
                    cluster.restart(server)
                    starts.append(longest_wait(load, start))
        handed = handovers(tmp_path)
        with cluster.client() as kv:
            load.verify(kv, tmp_path / "history.jsonl", seconds=600.0)
        assert load.timeouts == 0
        wait_until(lambda: are_level(cluster), "all servers are level")
    print(
        f"{len(stops)} restarts under load, {handed} handovers, {sum(load.answered)} operations: "
        f"longest wait of any while servers stopped {in_ms(stops)}, "
        f"while they started {in_ms(starts)} ms"
    )
    assert handed >= 1


def in_ms(seconds: list[float]) -> str:
    return ", ".join(f"{each * 1000:.0f}" for each in seconds)


def are_up(cluster: LocalCluster) -> bool:
    """Whether all servers take part, and hear whoever leads: what `paxon status` exits with 0 for.

    One that has only just started is not heard before others have said that its directory is no old
    copy. Who stops the next one meanwhile leaves no majority, for some tenths of a second.
    """
    replies = [row.reply for row in cluster.status()]
    if any(reply is None or reply.waits_for for reply in replies):
        return False
    return len({r.leader for r in replies if r} - {0}) == 1 == len({r.ballot for r in replies if r})
