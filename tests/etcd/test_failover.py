"""The etcd API in front of real server processes: a killed leader, and `paxon up --etcd`."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from paxon import Client, ClusterError, LocalCluster, StateMachine
from paxon.kvstore.etcd.messages import message
from paxon.kvstore.store.operations import MAX_KEY_BYTES
from tests.cluster.helpers import PAXON, environment
from tests.etcd import test_api_faults, test_locks, test_streams
from tests.etcd.test_json import ask
from tests.etcd.test_locks import Services, b64, contenders, lease
from tests.etcd.test_streams import WatchStream
from tests.etcd.tools import Gateway, Grpc, refusal
from tests.faults.trial import at_once
from tests.ports import own_base, own_ports
from tests.soak import sized
from tests.waiting import wait_until

pytestmark = pytest.mark.process

SOON = 60
KEYS = 200
KILLED_AFTER = 50
MOST = (3 << 19) - 100
"""Bytes of the largest value that etcd takes."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(3, etcd=True) as cluster:
        yield cluster


class JsonWatch:
    """A watch by the JSON gateway; a thread reads a document a line."""

    def __init__(self, address: str, **wanted: bytes) -> None:
        self.events: list[Any] = []
        self._connection = http.client.HTTPConnection(address, timeout=SOON)
        body = {"create_request": {name: b64(value) for name, value in wanted.items()}}
        self._connection.request("POST", "/v3/watch", json.dumps(body))
        self._answer = self._connection.getresponse()
        assert json.loads(self._answer.readline())["result"]["created"]
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while line := self._answer.readline():
            self.events += json.loads(line)["result"].get("events", ())

    def close(self) -> None:
        assert self._connection.sock is not None
        self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(SOON)
        self._connection.close()


def test_a_killed_leader_costs_no_put_and_no_event(cluster: LocalCluster) -> None:
    address = cluster.etcd_address
    client, stream = Grpc(address), WatchStream(Grpc(address))
    stream.create(key=b"f/", range_end=b"f0")
    stream.wait(lambda s: s.answers)
    as_json = JsonWatch(address, key=b"f/", range_end=b"f0")
    term = client.kv("Range", key=b"x").header.raft_term
    leader = cluster.leader()
    killer = threading.Thread(target=lambda: cluster.kill(leader))
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
    wait_until(lambda: len(as_json.events) >= KEYS, "both are told")
    assert [event["kv"]["mod_revision"] for event in as_json.events] == list(map(str, revisions))
    assert client.kv("Range", key=b"x").header.raft_term >= term
    as_json.close()
    stream.close()
    client.close()
    cluster.restart(leader)


def test_gateways_agree_who_is_who_and_no_term_falls(cluster: LocalCluster) -> None:
    client = Grpc(cluster.etcd_address)
    header = client.kv("Put", key=b"h", value=b"1").header
    with Gateway(cluster.addresses) as second:
        other = Grpc(second.address)
        seen = other.kv("Range", key=b"h").header
        assert (seen.cluster_id, seen.revision >= header.revision) == (header.cluster_id, True)
        assert seen.member_id != header.member_id, "each stands for another member"
        members = other.call("Cluster/MemberList", message("MemberListRequest")(),
                             "MemberListResponse").members  # fmt: skip
        assert {header.member_id, seen.member_id} <= {member.ID for member in members}
        assert len(members) == 3
        terms = [header.raft_term], [seen.raft_term]
        while terms[0][-1] == header.raft_term or terms[1][-1] == seen.raft_term:
            leader = cluster.leader(SOON)  # (by now another may lead, so it may take a second one)
            cluster.kill(leader)
            for n in range(50):
                terms[0].append(client.kv("Put", key=b"h", value=b"%d" % n).header.raft_term)
                terms[1].append(other.kv("Range", key=b"h").header.raft_term)
            cluster.restart(leader)
        for of_one in terms:
            assert of_one == sorted(of_one)
        other.close()
    with Gateway(cluster.addresses) as third:
        other = Grpc(third.address)
        seen = other.kv("Range", key=b"h").header
        assert seen.cluster_id == header.cluster_id and seen.raft_term > header.raft_term
        other.close()
    client.close()


def test_without_a_majority_a_write_ends_as_etcds_does_and_takes_effect_at_most_once(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Grpc(cluster.etcd_address)
    services = Services(cluster.etcd_address)
    client.kv("Put", key=b"before", value=b"1")
    leases = [lease(client, 600) for _ in range(3)]
    leader = cluster.leader()
    halted = [server for server in cluster.servers if server != leader]
    for server in halted:
        cluster.pause(server)
    try:
        with monkeypatch.context() as patch:
            patch.setattr("paxon.kvstore.etcd.grpc.TIMEOUT", 1.0)
            timed_out = ("UNAVAILABLE", "etcdserver: request timed out")
            assert refusal(lambda: client.kv("Put", key=b"lost", value=b"1")) == timed_out
            assert refusal(lambda: client.kv("Range", key=b"lost")) == timed_out
            put = message("PutRequest")(key=b"own", value=b"1")
            with pytest.raises(grpc.RpcError) as caught:
                client.call("KV/Put", put, "PutResponse", 0.3)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            for number in leases:  # whoever gives up must not come to hold without knowing it
                with pytest.raises(grpc.RpcError):
                    services.call("Lock/Lock", 0.3, name=b"given-up", lease=number)
    finally:
        for server in halted:
            cluster.resume(server)
    client.kv("Put", key=b"after", value=b"1")
    for key in (b"lost", b"own"):
        assert all(row.version == 1 for row in client.kv("Range", key=key).kvs)
    wait_until(lambda: not contenders(client, b"given-up"), "nobody is left who gave up")
    services.close()
    client.close()


def test_a_read_right_after_a_server_goes_on_is_the_newest(cluster: LocalCluster) -> None:
    """etcd #20418, #741: it led, and does not know that another has led since."""
    client = Grpc(cluster.etcd_address)
    for n in range(sized(2, 200)):
        leader = cluster.leader()
        with Gateway(cluster.addresses, tells=False) as asleep:  # it will ask the old one first
            other = Grpc(asleep.address)
            other.kv("Range", key=b"s")
            cluster.pause(leader)
            try:
                client.kv("Put", key=b"s", value=b"%d" % n)
            finally:
                cluster.resume(leader)
            assert other.kv("Range", key=b"s").kvs[0].value == b"%d" % n
            other.close()
    client.close()


def test_what_came_in_by_one_door_is_there_by_all_of_them_after_a_restart(
    cluster: LocalCluster,
) -> None:
    """etcd #14025, #14997: the largest, by each way in."""
    address = cluster.etcd_address
    client = Grpc(address)
    values = {b"door/%d" % n: b"v" * size for n, size in enumerate((0, 1, 65_536, MOST, MOST))}
    *by_grpc, by_json = values
    for key in by_grpc:
        client.kv("Put", key=key, value=values[key])
    body = {"key": b64(by_json), "value": b64(values[by_json])}
    assert ask(address, "POST", "/v3/kv/put", body)[0] == 200
    longest = b"k" * MAX_KEY_BYTES
    client.kv("Put", key=longest, value=b"1")
    values[longest] = b"1"
    at_once(cluster.kill, cluster.servers)
    at_once(cluster.restart, cluster.servers)
    for key, value in values.items():
        assert client.kv("Range", key=key).kvs[0].value == value
        _, [found], _ = ask(address, "POST", "/v3/kv/range", {"key": b64(key)})
        assert found["kvs"][0].get("value", "") == b64(value)
    for server in cluster.addresses:  # each has it
        with Client([server], redirect=False) as kv:
            wait_until(lambda kv=kv: all(kv.get(k, mode="stale") == values[k] for k in values))  # type: ignore[misc]
    client.close()


def test_what_is_so_in_memory_is_so_on_servers_after_a_takeover(cluster: LocalCluster) -> None:
    """The cases at which others broke: etcd #6278, #10566, #18089, #19179, python-etcd3 #1120."""
    gateway: Any = SimpleNamespace(address=cluster.etcd_address)
    client, services = Grpc(gateway.address), Services(gateway.address)
    leader = cluster.leader()
    cluster.kill(leader)
    test_api_faults.test_a_missing_key_has_zeros_and_no_value(client)
    test_api_faults.test_prefixes_that_end_in_the_highest_byte(client)
    test_api_faults.test_large_numbers_zeros_and_leases_that_ended_as_json(gateway.address, client)
    test_streams.test_a_watch_from_before_the_compaction_is_ended_with_where_to_begin(client)
    test_locks.test_who_gives_up_leaves_no_contender(client, services)
    test_locks.test_a_waiter_whose_lease_ends_is_told(gateway)
    test_locks.test_names_that_begin_alike_do_not_touch_each_other(gateway)
    test_locks.test_an_election(client, services)
    cluster.restart(leader)
    services.close()
    client.close()


def test_with_the_cluster_its_gateway_ends() -> None:
    with LocalCluster(1, durability="memory", etcd=True) as cluster:
        address = cluster.etcd_address
        client = Grpc(address)
        client.kv("Put", key=b"a", value=b"1")
        client.close()
        ours = threading.active_count()
    wait_until(lambda: threading.active_count() < ours, "its thread has ended")
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
