"""Versions of a class: who raises them, when, and what is in force at a slot."""

from __future__ import annotations

from typing import Any

import pytest

import paxon
from paxon import Replicated, calls
from paxon.actors.execution.machine_errors import MachineFailure
from paxon.actors.messages import ChangeSettings, QueryReply, ReplyStatus
from paxon.kvstore.objects.machine import COMPARED_PARTS, VERSION, ObjectMachine, machine_of
from paxon.kvstore.objects.sampling import PARTS
from paxon.testing import MemoryCluster
from tests.harness import Cluster
from tests.objects.classes import OldShop, Shop
from tests.objects.test_machine import call, restored, value


def at_version(new: Replicated, version: int) -> ObjectMachine:
    machine = machine_of(new)
    machine.agree({VERSION: version, COMPARED_PARTS: PARTS})
    return machine


def test_the_version_in_force_chooses_bodies_arguments_and_fields() -> None:
    old, new = machine_of(OldShop()), at_version(Shop(), 1)
    for machine in (old, new):
        assert value(machine, "sell", what="tea") == 1
        assert "it has no argument to" in call(machine, "sell", what="tea", to="ann").text
    assert "from version 2 on, and version 1 is in force" in call(new, "refund", what="tea").text
    assert old.digest() == new.digest()
    assert old.snapshot() == new.snapshot()
    restored(new, OldShop())
    upgraded = machine_of(Shop())
    upgraded.agree({VERSION: 1, COMPARED_PARTS: PARTS})
    upgraded.restore(old.snapshot())
    upgraded.object.buyers["eve"] = 1  # type: ignore[attr-defined]  # (by an old body: not kept)
    upgraded.agree({VERSION: 2, COMPARED_PARTS: PARTS})
    assert value(upgraded, "sell", what="tea", to="ann") == 102
    assert upgraded.object.buyers == {"ann": 1}  # type: ignore[attr-defined]
    again = machine_of(Shop())
    again.restore(upgraded.snapshot())
    assert again.digest() == upgraded.digest()


def test_a_server_without_the_version_in_force_stops_with_a_sentence() -> None:
    with pytest.raises(MachineFailure) as caught:
        machine_of(OldShop()).agree({"version": 2})
    assert str(caught.value) == (
        "version 2 of shop is in force and this server has version 1: start it with the code that "
        "the other servers run"
    )


def test_an_upgrade_from_beginning_to_end() -> None:
    code: list[type[Replicated]] = [OldShop]

    def installed() -> Replicated:
        return code[0]()

    with MemoryCluster(installed) as cluster:
        with cluster.proxy(OldShop) as old, cluster.proxy(Shop) as shop:
            assert old.sell("tea") == 1
            with pytest.raises(
                paxon.InvalidRequest, match="version = 2: the leader's state machine knows none"
            ):
                calls(shop).raise_version()
            code[0] = Shop
            cluster.restart()
            assert shop.sell("tea") == 2  # version 1 stays in force until it is raised
            with pytest.raises(paxon.InvalidRequest, match="version 1 is in force"):
                shop.refund("tea")
            with pytest.raises(paxon.InvalidRequest, match="it has no argument to"):
                shop.sell("tea", to="ann")
            assert (calls(shop).version(), calls(shop).raise_version()) == (1, 2)
            assert shop.sell("tea", to="ann") == 103
            assert old.sell("tea") == 104  # programs of the first version go on
            with pytest.raises(paxon.InvalidRequest, match="is 2 and is never set to less"):
                calls(shop).raise_version(1)
            with pytest.raises(paxon.InvalidRequest, match="sell_1 is an old body of sell"):
                shop.sell_1("tea")
            shop.refund("tea")
            cluster.restart()
            assert shop.count("tea") == 0
        code[0] = OldShop
        with pytest.raises(paxon.ServerStartError, match="version 2 of shop is in force"):
            cluster.restart()


def test_a_new_cluster_begins_with_the_newest_version() -> None:
    with MemoryCluster(Shop) as cluster, cluster.proxy(Shop) as shop:
        assert calls(shop).version() == 2
        assert shop.sell("tea") == 101


def rolling(machines: dict[int, Any]) -> Cluster:
    """Three servers made with the first version's code; each runs its own now."""
    made = iter([OldShop, *(machines[server] for server in (1, 2, 3))])
    cluster = Cluster(3, machine=lambda: machine_of(next(made)()))
    return cluster.start()


def raise_version(cluster: Cluster) -> QueryReply:
    cluster.lead(1)
    cluster.pass_time(0.2)
    cluster.request(1, ChangeSettings(1, 0, {"version": 2}))
    cluster.stabilize()
    [reply] = [m for _, _, m in cluster.replies if isinstance(m, QueryReply)]
    return reply


def test_no_version_is_raised_before_every_server_has_the_code() -> None:
    reply = raise_version(rolling({1: Shop, 2: Shop, 3: OldShop}))
    assert reply.status == ReplyStatus.INVALID
    assert b"server 3 is running a state machine with other limits" in reply.payload


def test_it_is_raised_at_the_same_slot_on_every_server() -> None:
    cluster = rolling({1: Shop, 2: Shop, 3: Shop})
    assert raise_version(cluster).status == ReplyStatus.OK
    cluster.pass_time(0.2)
    for server in cluster.servers.values():
        machine = server.application.machine
        assert isinstance(machine, ObjectMachine)
        assert (machine.version, server.application.agreed.changed_at) == (2, 1)
