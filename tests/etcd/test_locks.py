"""The services Lock and Election: by gRPC and as JSON, and in the layout that others use."""

from __future__ import annotations

import asyncio
import functools
import http.client
import json
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from paxon import Client, NotAcquired
from paxon.kvstore.etcd.messages import decode, encode, message
from tests.etcd.others.test_etcdctl import Etcdctl
from tests.etcd.tools import Gateway, Grpc, refusal
from tests.waiting import wait_until

SOON = 20.0
BESIDE_ETCD = True


class Services:
    """Calls both services, by gRPC."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1)]
        )

    def call(self, path: str, timeout: float = SOON, **fields: Any) -> Any:
        """Such as `Lock/Lock`."""
        return self.begin(path, timeout, **fields)(SOON)

    def begin(self, path: str, timeout: float = SOON, **fields: Any) -> Callable[[float], Any]:
        """Ask, and wait with what is returned."""
        service, name = path.split("/")
        method = self._channel.unary_unary(
            f"/v3{service.lower()}pb.{path}", encode,
            functools.partial(decode, message(f"{name}Response")),
        )  # fmt: skip
        future = method.future(message(f"{name}Request")(**fields), timeout=timeout)
        self.last = future
        return future.result  # type: ignore[no-any-return]

    def observe(self, name: bytes) -> Any:
        method = self._channel.unary_stream(
            "/v3electionpb.Election/Observe", encode,
            functools.partial(decode, message("LeaderResponse")),
        )  # fmt: skip
        return method(message("LeaderRequest")(name=name))

    def close(self) -> None:
        self._channel.close()


@pytest.fixture
def services(address: str) -> Iterator[Services]:
    services = Services(address)
    yield services
    services.close()


def lease(client: Grpc, seconds: int = 60) -> int:
    granted = client.call(
        "Lease/LeaseGrant", message("LeaseGrantRequest")(TTL=seconds), "LeaseGrantResponse"
    )
    return int(granted.ID)


def revoke(client: Grpc, number: int) -> None:
    client.call(
        "Lease/LeaseRevoke", message("LeaseRevokeRequest")(ID=number), "LeaseRevokeResponse"
    )


def contenders(client: Grpc, name: bytes) -> list[bytes]:
    found = client.kv("Range", key=name + b"/", range_end=name + b"0", sort_target=2, sort_order=1)
    return [each.key for each in found.kvs]


def test_a_lock_is_a_key_of_its_lease_and_the_next_waits(client: Grpc, services: Services) -> None:
    first, second = lease(client), lease(client)
    held = services.call("Lock/Lock", name=b"turn", lease=first)
    assert held.key == b"turn/%x" % first
    (row,) = client.kv("Range", key=held.key).kvs
    assert (row.lease, row.value) == (first, b"")
    again = services.call("Lock/Lock", name=b"turn", lease=first)
    assert again.key == held.key, "who holds it already is told so"
    waiting = services.begin("Lock/Lock", name=b"turn", lease=second)
    wait_until(lambda: len(contenders(client, b"turn")) == 2)
    assert not services.last.done()
    services.call("Lock/Unlock", key=held.key)
    assert waiting(SOON).key == b"turn/%x" % second
    revoke(client, second)
    assert not contenders(client, b"turn")


def test_a_lock_without_a_lease_gets_one_of_a_minute(client: Grpc, services: Services) -> None:
    held = services.call("Lock/Lock", name=b"minute")
    (row,) = client.kv("Range", key=held.key).kvs
    left = client.call(
        "Lease/LeaseTimeToLive", message("LeaseTimeToLiveRequest")(ID=row.lease),
        "LeaseTimeToLiveResponse",
    )  # fmt: skip
    assert left.grantedTTL == 60 and held.key == b"minute/%x" % row.lease
    services.call("Lock/Unlock", key=held.key)


def test_etcdctl_takes_a_lock_although_its_lease_has_ended(
    address: str, client: Grpc, services: Services
) -> None:
    """So a race's leases have to outlive what a busy machine keeps waiting (test_lock_racer.py)."""
    first = lease(client)
    held = services.call("Lock/Lock", name=b"late", lease=first)
    with Etcdctl(address).running("lock", "--ttl=60", "late", "echo", "entered") as late:
        wait_until(lambda: len(contenders(client, b"late")) == 2)
        (own,) = {*contenders(client, b"late")} - {held.key}
        revoke(client, int(own.rpartition(b"/")[2], 16))
        assert contenders(client, b"late") == [held.key]
        services.call("Lock/Unlock", key=held.key)
        assert late.stdout is not None and late.stdout.readline() == "entered\n"
    revoke(client, first)


def test_who_gives_up_leaves_no_contender(client: Grpc, services: Services) -> None:
    first, second = lease(client), lease(client)
    held = services.call("Lock/Lock", name=b"given-up", lease=first)
    services.begin("Lock/Lock", name=b"given-up", lease=second)
    wait_until(lambda: len(contenders(client, b"given-up")) == 2)
    services.last.cancel()
    wait_until(lambda: contenders(client, b"given-up") == [held.key], "its key is gone")
    with pytest.raises(grpc.RpcError):
        services.call("Lock/Lock", 0.3, name=b"given-up", lease=second)
    wait_until(lambda: contenders(client, b"given-up") == [held.key], "its key is gone")
    revoke(client, first)


@pytest.mark.parametrize("how", ["cancelled", "late", "gone", "gone as JSON", "too slow"])
def test_who_gives_up_while_his_key_is_being_made_gets_none(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The gateway is told that it is made only when nobody waits for a turn any more."""
    front, client = gateway.served._front, Grpc(gateway.address)
    services = Services(gateway.address)
    number, name = lease(client), f"early/{how}".encode()
    made, told, ask_one = threading.Event(), asyncio.Event(), front.ask_one

    async def slow(operation: Any, *rest: Any) -> Any:
        result = await ask_one(operation, *rest)
        if getattr(operation, "compare", None) and not made.is_set():
            made.set()
            await told.wait()
        return result

    monkeypatch.setattr(front, "ask_one", slow)
    if how == "too slow":
        monkeypatch.setattr("paxon.kvstore.etcd.locks.TIMEOUT", 0.3)
    if how == "gone as JSON":
        link = http.client.HTTPConnection(gateway.address, timeout=SOON)
        body = {"name": b64(name), "lease": str(number)}
        link.request("POST", "/v3/lock/lock", json.dumps(body))
    else:
        timeout = 0.3 if how == "late" else SOON
        services.begin("Lock/Lock", timeout, name=name, lease=number)
    assert made.wait(SOON)
    (first,) = client.kv("Range", key=name + b"/%x" % number).kvs
    match how:
        case "cancelled":
            services.last.cancel()
        case "gone":
            services.close()
        case "gone as JSON":
            link.close()
        case _:
            pass
    wait_until(gateway.is_idle, "nobody waits for a turn")
    again = Services(gateway.address)
    trying = again.begin("Lock/Lock", name=name, lease=number)
    wait_until(lambda: not gateway.is_idle(), "he tries again")
    gateway.call(told.set)
    held = client.kv("Range", key=trying(SOON).key).kvs[0]
    assert held.create_revision > first.create_revision, "it is a key of his own"
    again.call("Lock/Unlock", key=held.key)
    revoke(client, number)


def test_a_waiter_whose_lease_ends_is_told(gateway: Gateway) -> None:
    """(A real etcd's waits until its turn comes.)"""
    client, services = Grpc(gateway.address), Services(gateway.address)
    first, second = lease(client), lease(client)
    services.call("Lock/Lock", name=b"ended", lease=first)
    waiting = services.begin("Lock/Lock", name=b"ended", lease=second)
    wait_until(lambda: len(contenders(client, b"ended")) == 2)
    revoke(client, second)
    with pytest.raises(grpc.RpcError) as caught:
        waiting(SOON)
    assert caught.value.details() == "mutex: session is expired"
    assert refusal(lambda: services.call("Lock/Lock", name=b"x", lease=12345)) == (
        "UNKNOWN", "etcdserver: requested lease not found",
    )  # fmt: skip
    revoke(client, first)


def test_a_lease_has_one_part_under_a_name(gateway: Gateway) -> None:
    """(A real etcd makes a candidate of the lock's holder, silently.)"""
    client, services = Grpc(gateway.address), Services(gateway.address)
    number = lease(client)
    services.call("Lock/Lock", name=b"both", lease=number)
    code, text = refusal(
        lambda: services.call("Election/Campaign", name=b"both", lease=number, value=b"v")
    )
    assert code == "UNKNOWN" and "take a lease for each" in text
    revoke(client, number)


def test_names_that_begin_alike_do_not_touch_each_other(gateway: Gateway) -> None:
    """etcd #6278: in a real one they do."""
    client, services = Grpc(gateway.address), Services(gateway.address)
    client.kv("Put", key=b"nam", value=b"1")
    client.kv("Put", key=b"name/config", value=b"1")
    for number in range(3):  # more than one answer can hold
        client.kv("Put", key=b"name/x%d" % number, value=b"v" * 1_000_000)
    assert refusal(lambda: services.call("Election/Leader", name=b"name")) == (
        "UNKNOWN", "election: no leader",
    )  # fmt: skip
    held = [
        services.call("Lock/Lock", name=name, lease=lease(client)).key
        for name in (b"n", b"name", b"name/a", b"na", b"name/config")
    ]
    assert len(set(held)) == 5
    for key in held:
        services.call("Lock/Unlock", key=key)


def test_one_lock_with_paxons_own(gateway: Gateway) -> None:
    client, services = Grpc(gateway.address), Services(gateway.address)
    with Client(gateway.cluster.addresses) as kv:
        with kv.lock("shared", timeout=SOON) as held:
            waiting = services.begin("Lock/Lock", name=b"shared", lease=lease(client))
            wait_until(lambda: len(contenders(client, b"shared")) == 2)
            assert not services.last.done()
            held.check()
        taken = waiting(SOON)
        with pytest.raises(NotAcquired):
            kv.lock("shared", timeout=0.2).acquire()
        services.call("Lock/Unlock", key=taken.key)
        with kv.lock("shared", timeout=SOON):
            pass
    services.close()
    client.close()


def test_an_election(client: Grpc, services: Services) -> None:
    number = lease(client)
    assert refusal(lambda: services.call("Election/Leader", name=b"chair")) == (
        "UNKNOWN", "election: no leader",
    )  # fmt: skip
    told: list[bytes] = []
    observing = services.observe(b"chair")
    watching = threading.Thread(target=collect, args=(observing, told), daemon=True)
    watching.start()
    leader = services.call("Election/Campaign", name=b"chair", lease=number, value=b"a").leader
    assert (leader.name, leader.key, leader.lease) == (b"chair", b"chair/%x" % number, number)
    said = services.call("Election/Leader", name=b"chair").kv
    assert (said.key, said.value, said.create_revision) == (leader.key, b"a", leader.rev)
    second = lease(client)
    waiting = services.begin("Election/Campaign", name=b"chair", lease=second, value=b"b")
    wait_until(lambda: len(contenders(client, b"chair")) == 2)
    services.call("Election/Proclaim", leader=leader, value=b"a2")
    wait_until(lambda: told[-1:] == [b"a2"], "observers are told")
    services.call("Election/Resign", leader=leader)
    following = waiting(SOON).leader
    assert following.lease == second
    wait_until(lambda: told[-1:] == [b"b"], "observers are told")
    assert refusal(lambda: services.call("Election/Proclaim", leader=leader, value=b"x")) == (
        "UNKNOWN", "election: not leader",
    )  # fmt: skip
    services.call("Election/Resign", leader=leader)  # who leads no more resigns in vain
    assert services.call("Election/Leader", name=b"chair").kv.value == b"b"
    services.call("Election/Resign", leader=following)
    assert refusal(lambda: services.call("Election/Leader", name=b"chair"))[1] == (
        "election: no leader"
    )
    assert refusal(lambda: services.call("Election/Resign")) == (
        "UNKNOWN", '"leader" field must be provided',
    )  # fmt: skip
    observing.cancel()
    watching.join(SOON)
    assert sorted(set(told)) == [b"a", b"a2", b"b"]


def collect(observing: Any, told: list[bytes]) -> None:
    try:
        for answer in observing:
            told.append(answer.kv.value)  # noqa: PERF401 (seen at once)
    except grpc.RpcError:
        pass


def test_a_candidate_without_a_value_leads_alone(client: Grpc, services: Services) -> None:
    """Neither who proclaims nothing, nor who campaigns with nothing, makes room for another."""
    number, second, third = lease(client), lease(client), lease(client)
    leader = services.call("Election/Campaign", name=b"mute", lease=number, value=b"a").leader
    services.call("Election/Proclaim", leader=leader, value=b"")
    waiting = services.begin("Election/Campaign", name=b"mute", lease=second)
    wait_until(lambda: len(contenders(client, b"mute")) == 2)
    later = services.begin("Election/Campaign", name=b"mute", lease=third, value=b"c")
    wait_until(lambda: len(contenders(client, b"mute")) == 3)
    assert services.call("Election/Leader", name=b"mute").kv.key == leader.key
    services.call("Election/Resign", leader=leader)
    silent = waiting(SOON).leader
    assert (silent.lease, services.call("Election/Leader", name=b"mute").kv.value) == (second, b"")
    services.call("Election/Resign", leader=silent)
    assert later(SOON).leader.lease == third


def test_campaigning_again_with_another_value_proclaims_it(
    client: Grpc, services: Services
) -> None:
    number = lease(client)
    first = services.call("Election/Campaign", name=b"again", lease=number, value=b"1").leader
    second = services.call("Election/Campaign", name=b"again", lease=number, value=b"2").leader
    assert first == second
    assert services.call("Election/Leader", name=b"again").kv.value == b"2"
    revoke(client, number)


def post(address: str, path: str, **fields: Any) -> Any:
    connection = http.client.HTTPConnection(address, timeout=SOON)
    connection.request("POST", path, json.dumps(fields))
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def b64(text: bytes) -> str:
    return b64encode(text).decode()


def test_both_as_json(address: str, client: Grpc) -> None:
    number = lease(client)
    ask = functools.partial(post, address)
    key = ask("/v3/lock/lock", name=b64(b"json"), lease=str(number))["key"]
    assert b64decode(key) == b"json/%x" % number
    assert "header" in ask("/v3/lock/unlock", key=key)
    leader = ask("/v3/election/campaign", name=b64(b"j"), lease=str(number), value=b64(b"v"))[
        "leader"
    ]
    assert (leader["name"], leader["lease"]) == (b64(b"j"), str(number))
    assert ask("/v3/election/leader", name=b64(b"j"))["kv"]["value"] == b64(b"v")
    ask("/v3/election/proclaim", leader=leader, value=b64(b"w"))
    connection = http.client.HTTPConnection(address, timeout=SOON)
    connection.request("POST", "/v3/election/observe", json.dumps({"name": b64(b"j")}))
    told = json.loads(connection.getresponse().readline())["result"]
    assert told["kv"]["value"] == b64(b"w")
    connection.close()
    ask("/v3/election/resign", leader=leader)
    assert ask("/v3/election/leader", name=b64(b"j"))["message"] == "election: no leader"
    revoke(client, number)
