"""Backups of the running cluster, and clusters restored from them (docs/running/backups.md).

A client saves with the code that `paxon backup` has, page by page, whatever befalls the servers
meanwhile. Later some servers are started on directories restored from that, perhaps enough to
serve: those are another cluster, with books of its own, on the addresses of the first one. That one
and its clients must have nothing to do with it.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from paxon.actors import ServerId
from paxon.actors.messages import NO_OP
from paxon.kvstore.client.agreement import ClusterSettings
from paxon.kvstore.client.calls.calls import Call, Range
from paxon.kvstore.client.leases.requests import LeaseIds, ReadLease
from paxon.kvstore.cluster import backup, recovery
from paxon.kvstore.store.image import decode_state
from tests.disks import MemoryDisk
from tests.invariants import ClusterWatch
from tests.simulation.about.coordinator import Coordinator, Steps
from tests.simulation.about.errands import do
from tests.simulation.machine import SimulatedDisk
from tests.simulation.node import CLUSTER

if TYPE_CHECKING:
    from tests.simulation.plan import Fault
    from tests.simulation.world import World

__all__ = ["save", "start_restored"]


class _Wanted(BaseException):
    """What is asked for next, whose answer is not known yet."""

    def __init__(self, call: Call[Any]) -> None:
        self.call = call


class _Known:
    """As a client to whoever saves, as far as its answers are known."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = iter(answers)

    def _ask(self, call: Call[Any]) -> Any:
        for answer in self._answers:
            return answer
        raise _Wanted(call)

    def settings(self) -> ClusterSettings:
        return ClusterSettings({}, 1)

    def range(self, **wanted: Any) -> Any:
        return self._ask(Range(**wanted))

    def leases(self) -> Any:
        return self._ask(LeaseIds())

    def lease_info(self, lease: int) -> Any:
        return self._ask(ReadLease(lease))


def save(client: Coordinator) -> Steps:
    """An errand: save all that is there, and see that it is what was there after that revision."""
    begun, answers = client.books.begin_saving(), list[Any]()
    while True:
        file = BytesIO()
        try:
            backup._write(_Known(answers), file, CLUSTER)  # type: ignore[arg-type]
            break
        except _Wanted as wanted:
            call = wanted.call
        answers.append((yield from do(call)))
    with TemporaryDirectory() as directory:
        path = Path(directory, "saved")
        path.write_bytes(file.getvalue())
        saved = backup.verify(path).revision
        application, agreed = _restored(path, client.world)
    state = decode_state(application.machine.snapshot())
    client.books.saved(saved, state, begun)
    client.world.saved = recovery.snapshot_of(application, agreed), agreed


def _restored(path: Path, world: World) -> Any:
    clock = SimpleNamespace(time_ns=lambda: int(world.now * 1e9))
    with patch.object(recovery, "time", clock):
        return backup._contents(path)


def start_restored(world: World, fault: Fault) -> list[ServerId]:
    """Start some servers on directories restored from the last backup; which ones."""
    nodes = world.nodes
    group = -1 if fault.amount > 0.5 else fault.group  # (all of them: it serves, most likely)
    chosen = [s for s in nodes if group >> s & 1 and nodes[s].newest is None]
    if world.saved is None or any(node.away is not None for node in nodes.values()):
        return []
    if any(disk.replaced for disk in world.watch.disks.values()):
        return []  # (it is empty, and would join whichever cluster answers)
    image, agreed = world.saved
    random = Random(f"restored {world.plan.seed} {fault.step}")
    disks = {
        server: MemoryDisk(CLUSTER, server, incarnation=random.getrandbits(62) + 1)
        for server in nodes
    }
    made = recovery.found_on(disks, CLUSTER, image, agreed, random.getrandbits(61) + 1)
    shortest = world.plan.settings.get("election_timeout_min", 0.3)
    watch = ClusterWatch(nodes, lambda s: nodes[s].clock.age(), shortest)
    watch.chosen[1] = NO_OP  # (what is in its snapshot)
    for in_force in (False, True):
        for server, disk in disks.items():
            watch.on_made_durable(server, disk.incarnation, made, in_force=in_force)
            watch.on_snapshot_durable(server, 1)
    world.pin_clients()
    for server in chosen:
        used = SimulatedDisk(CLUSTER, server, disks[server].incarnation, nodes[server], watch)
        used._inner, used.moved = disks[server].duplicate(), True
        nodes[server].stand_aside(used, watch)
    return chosen
