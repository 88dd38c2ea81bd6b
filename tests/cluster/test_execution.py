"""Rule 15 and digests on real processes: the same everywhere, or the odd one stops and says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from paxon.actors.disk.data_directory import CONDEMNED_NAME
from paxon.actors.execution.machine_errors import ALLOWANCE
from paxon.kvstore.cluster.local_cluster import LocalCluster
from paxon.kvstore.errors import InvalidRequest, OperationFailed
from tests.cluster.helpers import paxon_here, wait_until, wait_until_equal
from tests.cluster.machines import Moody, Recursing, Unrestorable

pytestmark = pytest.mark.process


def restart_leader(cluster: LocalCluster) -> None:
    leader = cluster.leader()
    cluster.kill(leader)
    wait_until(lambda: cluster.leader() != leader, "another leads")
    cluster.restart(leader)


def test_a_surplus_element_is_refused_however_deep_it_nests(tmp_path: Path) -> None:
    """Refused by a leader and applied by its followers it was, at some 980."""
    with LocalCluster(3, tmp_path) as cluster:
        for _ in range(2):
            with cluster.command_client(timeout=60) as client, cluster.client(timeout=60) as kv:
                for depth in (1, 500, *range(940, 1000, 6), 2000, 100_000):
                    surplus = b"\x91" * depth + b"\xc0"
                    with pytest.raises(InvalidRequest, match="store operations"):
                        client.execute(b"\x91\x94\x01\xa1k\xc4\x01v" + surplus)
                    assert kv.get("k") is None
            wait_until_equal(cluster)
            restart_leader(cluster)
        with cluster.client(timeout=60) as kv:
            assert kv.get("k") is None
        wait_until_equal(cluster)


def test_recursion_is_the_commands_error_on_all(tmp_path: Path) -> None:
    with LocalCluster(3, tmp_path, machine=Recursing, snapshot_slots=10) as cluster:
        edge: list[str] = []
        for _ in range(2):
            with cluster.command_client(timeout=60) as client:
                said = []
                for calls in range(ALLOWANCE - 20, ALLOWANCE + 10):
                    try:
                        said.append(client.execute(b"%d" % calls).decode())
                    except OperationFailed as error:
                        assert (
                            str(error) == "RecursionError: the command nested more than 1000 calls"
                        )
                        said.append("failed")
                assert {"failed", str(ALLOWANCE - 20)} < set(said)
                assert not edge or edge == said, "the next leader says the same"
                edge = said
                with pytest.raises(
                    OperationFailed, match=r"Recursing\.apply\(\) returned NoneType"
                ):
                    client.execute(b"none")
            wait_until_equal(cluster)
            restart_leader(cluster)
        wait_until_equal(cluster)


def failed(cluster: LocalCluster) -> dict[int, str]:
    return {row.server: row.reason for row in cluster.status() if row.state == "failed"}


@pytest.mark.parametrize("leads", [False, True], ids=["a follower", "the leader"])
def test_a_server_that_executes_otherwise_stops_and_says_so(tmp_path: Path, leads: bool) -> None:
    with LocalCluster(3, tmp_path, machine=Moody) as cluster:
        leader = cluster.leader()
        odd = leader if leads else leader % 3 + 1
        with cluster.command_client(timeout=60) as client:
            assert client.execute(b"a") == b"a"
            (tmp_path / f"server-{odd}" / "odd").touch()
            client.execute(b"b")
            wait_until(lambda: odd in failed(cluster), "the odd server has stopped", 60)
            reason = failed(cluster)[odd]
            assert f"server {odd} executed something else from slot " in reason
            assert "--rejoin" in reason
            assert client.execute(b"c") == b"c"  # the others go on
        assert list(failed(cluster)) == [odd]
        assert (tmp_path / f"server-{odd}" / CONDEMNED_NAME).exists()
        with pytest.raises(Exception, match="executed something else from slot"):
            cluster.restart(odd)
        with pytest.raises(Exception, match="executed something else from slot"):
            cluster.restart(odd, rejoin=True)  # the directory has to be emptied first
        # What the sentence says to do: and then it counts for a majority again.
        shutil.rmtree(tmp_path / f"server-{odd}")
        cluster.restart(odd, rejoin=True)

        def votes() -> bool:
            replies = {row.server: row.reply for row in cluster.status() if row.reply is not None}
            return odd in replies and replies[odd].part == "voter" and not replies[odd].alarm

        wait_until(votes, "the odd server votes again", 60)
        cluster.kill(next(s for s in cluster.servers if s not in (odd, cluster.leader())))
        with cluster.command_client(timeout=60) as client:
            assert client.execute(b"d") == b"d"
        assert failed(cluster) == {}


def test_of_two_that_differ_both_go_on_and_the_status_tells(tmp_path: Path) -> None:
    with LocalCluster(2, tmp_path, machine=Moody) as cluster:
        servers = ",".join(cluster.addresses)
        with cluster.command_client(timeout=60) as client:
            client.execute(b"a")
            wait_until(
                lambda: paxon_here("status", "-c", servers).returncode == 0, "all is well", 60
            )
            (tmp_path / "server-2" / "odd").touch()
            client.execute(b"b")

            def alarmed() -> bool:
                return all(row.reply and row.reply.alarm for row in cluster.status())

            wait_until(alarmed, "both have noticed", 60)
            client.execute(b"c")
        assert failed(cluster) == {}
        done = paxon_here("status", "-c", servers)
        assert done.returncode == 1
        said = done.stderr.decode()
        assert "servers have executed different things up to slot" in said
        assert "server 1 says: server 2 executed something else than server 1 from slot" in said
        assert "ALARM" in cluster.log_path(1).read_text()


def test_a_snapshot_that_cannot_be_restored_is_never_kept(tmp_path: Path) -> None:
    with LocalCluster(1, tmp_path, machine=Unrestorable, snapshot_slots=5) as cluster:
        with cluster.command_client(timeout=60) as client:
            for total in range(1, 30):
                assert client.execute(b"1") == b"%d" % total
        log = cluster.log_path(1)
        wait_until(lambda: "could not take a snapshot" in log.read_text(), "it was tried", 60)
        assert "Unrestorable.restore() raised ValueError" in log.read_text()
        assert not list((tmp_path / "server-1").glob("snapshot-*.paxon"))
        cluster.kill(1)
        cluster.restart(1)
        with cluster.command_client(timeout=60) as client:
            assert client.execute(b"1") == b"30"
