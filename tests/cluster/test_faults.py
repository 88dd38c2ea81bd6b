"""Faults on real processes under load: nothing acknowledged is lost, nobody sees two leaders."""

from __future__ import annotations

import os
import random
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
import zmq

from paxon.actors.messages import PROTOCOL_VERSION
from paxon.kvstore import Client, NotLeader, PaxonError, RequestTimeout
from paxon.kvstore.cluster.local_cluster import LocalCluster
from paxon.transport import FrameCodec
from tests.cluster.helpers import wait_until, wait_until_equal
from tests.faults.load import Load
from tests.waiting import stall_meter

pytestmark = pytest.mark.process


def at_work(cluster: LocalCluster, clients: int = 4) -> Load:
    """Clients that write and read until the end of a `with` statement."""
    return Load(lambda _: cluster.client(timeout=60), clients=clients)


def acknowledged(load: Load, cluster: LocalCluster) -> int:
    """How many writes were: every operation was answered, and all of it is linearizable."""
    with cluster.client(timeout=60) as client:
        found = load.verify(client, cluster.directory / "history.jsonl")
    assert load.timeouts == found.unknown == 0
    return found.acknowledged


def test_kill_9_of_the_leader_and_of_a_follower_under_load(tmp_path: Path) -> None:
    with LocalCluster(3, tmp_path) as cluster:
        with at_work(cluster) as load:
            load.wait_for_more(200, seconds=60)
            for who in ("leader", "follower", "leader"):
                leader = cluster.leader()
                victim = leader if who == "leader" else 1 + leader % 3
                cluster.kill(victim)
                load.wait_for_more(100, seconds=60)
                assert cluster.leader() != victim
                cluster.restart(victim)
                load.wait_for_more(100, seconds=60)
        assert acknowledged(load, cluster) > 400
        wait_until_equal(cluster)


def test_all_killed_at_once_come_back_with_all_that_was_acknowledged(tmp_path: Path) -> None:
    with LocalCluster(3, tmp_path) as cluster:
        with at_work(cluster) as load:
            for _ in range(2):
                load.wait_for_more(250, seconds=60)
                killers = [threading.Thread(target=cluster.kill, args=(s,)) for s in (1, 2, 3)]
                for killer in killers:
                    killer.start()
                for killer in killers:
                    killer.join()
                assert [row.state for row in cluster.status()] == ["killed"] * 3
                for server in cluster.servers:
                    cluster.restart(server)
                load.wait_for_more(250, seconds=60)
        assert acknowledged(load, cluster) > 600
        wait_until_equal(cluster)
        digests = {row.reply.state_digest for row in cluster.status(60.0) if row.reply}
    # And once more in order, with a new LocalCluster in the same directory.
    with LocalCluster(3, tmp_path) as cluster:
        cluster.leader()
        acknowledged(load, cluster)
        wait_until_equal(cluster)
        assert len(digests) == 1


def test_a_leader_that_is_stopped_and_comes_back_splits_nothing(tmp_path: Path) -> None:
    with LocalCluster(3, tmp_path) as cluster:
        with at_work(cluster) as load:
            load.wait_for_more(300, seconds=60)
            old = cluster.leader()
            cluster.pause(old)
            wait_until(lambda: cluster.leader() != old, "another leads")
            load.wait_for_more(300, seconds=60)
            seen: list[str] = []
            reader = threading.Thread(target=read_at, args=(cluster, old, seen))
            with cluster.client(timeout=60) as client:
                client.put("news", "after the pause")
            reader.start()
            time.sleep(
                0.2
            )  # lets the question reach the paused server's socket; no test hangs on it
            cluster.resume(old)
            reader.join()
            assert seen in (["not leader"], ["after the pause"]), seen
            load.wait_for_more(300, seconds=60)
        assert acknowledged(load, cluster) > 500
        wait_until_equal(cluster)

        def leaders() -> int:
            return [row.reply.role for row in cluster.status(60.0) if row.reply].count("leader")

        wait_until(lambda: leaders() == 1, "one leads, and the others know it")


def read_at(cluster: LocalCluster, server: int, seen: list[str]) -> None:
    """Ask one server, and follow to no other."""
    address = cluster.addresses[server - 1]
    with Client(address, redirect=False, timeout=60) as client:
        try:
            value = client.get("news")
        except NotLeader:
            seen.append("not leader")
        except PaxonError as error:
            seen.append(str(error))
        else:
            seen.append("nothing" if value is None else value.decode())


def test_a_server_that_lost_its_disk_rejoins(tmp_path: Path) -> None:
    with LocalCluster(3, tmp_path) as cluster, cluster.client(timeout=60) as client:
        with client.pipeline() as many:
            for number in range(500):
                many.put(f"key/{number}", "value")
        follower = 1 + cluster.leader() % 3
        cluster.kill(follower)
        shutil.rmtree(tmp_path / f"server-{follower}")
        client.put("while", "away")
        cluster.restart(follower, rejoin=True)
        wait_until_it_votes(cluster, follower)
        wait_until_equal(cluster)
        # It counts again: with it and one other server there is a majority.
        cluster.kill(next(s for s in cluster.servers if s not in (follower, cluster.leader())))
        client.put("after", "that")
        assert client.get("while") == b"away"


def test_in_memory_a_killed_server_rejoins_by_itself() -> None:
    with LocalCluster(3, durability="memory") as cluster, cluster.client(timeout=60) as client:
        client.put("key", "value")
        for _ in range(3):
            leader = cluster.leader()
            cluster.kill(leader)
            client.append("key", "!")
            cluster.restart(leader)
            wait_until_it_votes(cluster, leader)
            wait_until_equal(cluster)
        assert client.get("key") == b"value!!!"


def wait_until_it_votes(cluster: LocalCluster, server: int) -> None:
    """A server that rejoins gets its place by a change of members (docs/membership.md)."""

    def votes() -> bool:
        reply = cluster.status()[server - 1].reply
        return reply is not None and reply.part == "voter" and reply.epoch > 0

    wait_until(votes, f"server {server} has rejoined")


def test_no_majority_no_answer_and_no_loss(tmp_path: Path) -> None:
    with LocalCluster(3, tmp_path) as cluster, cluster.client(timeout=60) as client:
        client.put("before", "1")
        leader = cluster.leader()
        others = [server for server in cluster.servers if server != leader]
        for server in others:
            cluster.kill(server)
        with pytest.raises(RequestTimeout):
            client.put("during", "2", timeout=1.0)
        with pytest.raises(RequestTimeout):
            client.get("before", timeout=1.0)
        for server in others:
            cluster.restart(server)
        client.put("after", "3")
        assert client.get("before") == b"1"
        assert client.get("during") in (None, b"2")
        wait_until_equal(cluster)


def test_random_bytes_at_both_ports(tmp_path: Path) -> None:
    draw = random.Random(7)
    least, most = 3.0, 5.0  # (seconds, for busy machines)
    with LocalCluster(
        3, tmp_path, election_timeout_min=least, election_timeout_max=most
    ) as cluster:
        leader, stood = cluster.leader(), stall_meter()
        targets = [cluster.addresses[leader - 1], cluster.peer_addresses[leader - 1]]
        with at_work(cluster, clients=2) as load:
            for address in targets:
                throw_bytes(address, draw)
                throw_frames(address, draw)
            load.wait_for_more(200, seconds=60)
        acknowledged(load, cluster)
        assert cluster.leader() == leader or stood() > least / 2
        reply = cluster.status(60.0)[leader - 1].reply
        assert reply is not None
        # At both ports: random frames, truncated ones, and those of another cluster.
        assert reply.counters["malformed_frames"] >= 2 * 20
        assert reply.counters["foreign_frames"] >= 1
        assert "malformed" in cluster.log_path(leader).read_text()


def throw_bytes(address: str, draw: random.Random) -> None:
    """Random bytes at the bare TCP port, and connections that say nothing."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    for _ in range(5):
        with socket.create_connection((host, int(port))) as connection:
            try:
                connection.sendall(draw.randbytes(draw.randint(1, 5000)))
            except OSError:
                continue  # it hung up on us amid the nonsense


def throw_frames(address: str, draw: random.Random) -> None:
    """Well-formed ZeroMQ with nonsense inside."""
    codec: FrameCodec[object, object] = FrameCodec(
        object, object, protocol_version=PROTOCOL_VERSION, identity=77, sender=2
    )
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 2000)
        dealer.connect(address)
        proper = codec.encode([])
        for _ in range(20):
            dealer.send(draw.randbytes(draw.randint(0, 300)))
        for cut in (1, 10, 23):
            dealer.send(proper[:cut])
        dealer.send(proper)
        dealer.send(proper[:28] + os.urandom(100))
        dealer.send_multipart([b"", proper, b"more", b"parts"])
