"""The etcd API in front of real server processes: a killed leader, and `paxon up --etcd`."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from typing import Any

import pytest

from paxon import ClusterError, LocalCluster, StateMachine
from tests.cluster.helpers import PAXON, environment
from tests.etcd.test_streams import WatchStream
from tests.etcd.tools import Grpc
from tests.ports import own_base, own_ports

pytestmark = pytest.mark.process

KEYS = 200
KILLED_AFTER = 50


def test_a_killed_leader_costs_no_put_and_no_event() -> None:
    with LocalCluster(3, etcd=True) as cluster:
        address = cluster.etcd_address
        client, stream = Grpc(address), WatchStream(Grpc(address))
        stream.create(key=b"f/", range_end=b"f0")
        stream.wait(lambda s: s.answers)
        term = client.kv("Range", key=b"x").header.raft_term
        killer = threading.Thread(target=lambda: cluster.kill(cluster.leader()))
        for n in range(KEYS):
            if n == KILLED_AFTER:
                killer.start()
            client.kv("Put", key=b"f/%d" % n, value=b"1")  # raises if it is not answered in time
        killer.join()
        stream.wait(lambda s: len(s.events(0)) >= KEYS)
        events = stream.events(0)
        assert [event.kv.key for event in events] == [b"f/%d" % n for n in range(KEYS)]
        assert {event.kv.version for event in events} == {1}, "a put took effect twice"
        revisions = [event.kv.mod_revision for event in events]
        assert revisions == sorted(revisions)
        assert client.kv("Range", key=b"x").header.raft_term >= term
        stream.close()
        client.close()
    assert "paxon-etcd" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))


def test_a_port_that_is_taken_leaves_nothing_running() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cluster = LocalCluster(1, durability="memory", etcd=port)
        with pytest.raises(ClusterError, match=rf"etcd API cannot be served: .*{port}"):
            cluster.start()
    with pytest.raises(ClusterError, match="not started"):
        cluster.status()


@pytest.mark.parametrize("wrong", [0, -1, 65_536, "2379", None, 1.5])
def test_what_is_no_port_is_refused(wrong: Any) -> None:
    with pytest.raises(ClusterError, match=r"etcd = .*: must be a port, True or False"):
        LocalCluster(1, etcd=wrong)


def test_a_machine_of_ones_own_has_no_etcd_api() -> None:
    with pytest.raises(ClusterError, match="leave out machine"):
        LocalCluster(1, etcd=True, machine=StateMachine)


def test_up_serves_etcds_clients() -> None:
    base, (port,) = own_base(1), own_ports(1)
    command = [*PAXON, "up", "--servers", "1", "--durability", "memory", "--etcd", str(port)]
    process = subprocess.Popen(
        [*command, "--port", str(base)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        assert process.stdout is not None
        assert any(f"--endpoints=127.0.0.1:{port}" in line for line in process.stdout)
        client = Grpc(f"127.0.0.1:{port}")
        assert client.kv("Put", key=b"a", value=b"1").header.revision
        client.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0
