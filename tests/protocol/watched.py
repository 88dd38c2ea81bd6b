"""A cluster that `tests.invariants.ClusterWatch` looks at from outside, at every border crossed.

The same real servers as in `tests.harness`; here everything that becomes durable, leaves a server
or is executed is checked as it happens, and the process can be made to die in any sync.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from paxon.actors import PaxosServer, ServerId
from paxon.actors.environment import ClientToken
from paxon.actors.execution.application import Executed
from paxon.actors.messages import Batch, PeerMessage, Query, ServerReply
from paxon.transport import Burst
from tests.disks import MemoryDisk
from tests.harness import Cluster, Register, Wire
from tests.invariants import ClusterWatch

__all__ = ["Died", "WatchedCluster", "WatchedDisk", "tap_leases"]


class Died(BaseException):
    """The process is gone in the middle of a sync; nothing of the server may catch this."""


class WatchedDisk(MemoryDisk):
    """Reports what becomes durable, and dies where it is told to."""

    cluster_watch: ClusterWatch

    before_commit: Callable[[], None] = staticmethod(lambda: None)
    """May raise `Died` (or `StorageError`): nothing of the transaction becomes durable."""
    after_commit: Callable[[], None] = staticmethod(lambda: None)
    """May raise `Died`: the transaction is durable, and nobody has heard of it."""

    def commit(self) -> None:
        if not self.dirty and not self._lazy:
            super().commit()
            return
        self.before_commit()
        rows, marks = dict(self._rows), self._marks.copy()
        before = self.durable
        super().commit()
        watch, server = self.cluster_watch, self.server
        sealed = marks.configuration
        if sealed is not None and sealed != before.configuration:
            watch.on_seal_durable(server, sealed)
        watch.on_commit(server, self.count)
        watch.on_promise_durable(server, marks.promised)
        for slot, (ballot, value, _) in rows.items():
            watch.on_row_durable(server, slot, ballot, value)
        if marks.snapshot is not None and marks.snapshot != before.snapshot:
            watch.on_snapshot_durable(server, marks.snapshot.slot)
        if marks.chosen_to != before.chosen_to:
            watch.on_chosen_durable(server, marks.chosen_to)
        if marks.discarded != before.discarded:
            watch.on_rows_discarded(server, marks.discarded)
        self.after_commit()


class WatchedWire(Wire):
    """Checks each message as it leaves."""

    def send(self, server: ServerId, messages: Sequence[PeerMessage]) -> None:
        watched(self.cluster).watch.on_send(self.server, messages, (server,))
        super().send(server, messages)

    def reply(self, client: bytes, messages: Sequence[ServerReply]) -> None:
        watched(self.cluster).watch.on_reply(self.server, messages)
        super().reply(client, messages)


def watched(cluster: Cluster) -> WatchedCluster:
    assert isinstance(cluster, WatchedCluster)
    return cluster


class WatchedCluster(Cluster):
    """`Cluster` whose every step is checked; raises `InvariantBroken`."""

    watch: ClusterWatch

    def __init__(self, size: int = 3, **options: Any) -> None:
        self.watch = ClusterWatch(range(1, size + 1), lambda _server: self.clock.now)
        super().__init__(size, options, wire=WatchedWire)

    def new_disk(self, server: ServerId) -> MemoryDisk:
        disk = WatchedDisk(cluster="test", server=server)
        disk.cluster_watch = self.watch
        return disk

    def disk(self, server: ServerId) -> WatchedDisk:
        disk = self.storages[server]
        assert isinstance(disk, WatchedDisk)
        return disk

    def make(self, server: ServerId, **options: Any) -> PaxosServer:
        made = super().make(server, **options)
        tap(made, server, self.watch)
        return made

    def open(self, server: ServerId) -> None:
        self.watch.on_start(server)
        disk = self.storages[server]
        self.watch.on_life(server, made_disk=True, incarnation=disk.incarnation, count=disk.count)
        super().open(server)
        self.watch.on_opened(server, self.servers[server])

    def step(self, server: ServerId, burst: Burst[Any, Any] | None = None) -> None:
        self.watch.begin_step(server)
        super().step(server, burst)
        if server in self.servers:  # it has not stopped because it is no member any more
            self.watch.after_step(server, self.servers[server])


def tap(server: PaxosServer, number: ServerId, watch: ClusterWatch) -> None:
    """Tell `watch` of everything that a server executes, images and restores."""
    application = server.application
    execute, restore, image = application.execute, application.restore, application.image
    machine = application.machine
    assert isinstance(machine, Register)

    def watched_execute(
        slot: int, value: bytes, batch: Batch | None = None, checksum: int | None = None
    ) -> list[Executed]:
        before = len(machine.applied)
        results = execute(slot, value, batch, checksum)
        watch.on_execute(number, slot, value, results, machine.applied[before:])
        return results

    def watched_restore(data: bytes) -> None:
        restore(data)
        watch.on_restore(number, application.executed, application.digest())

    def watched_image() -> Iterable[bytes]:
        watch.on_snapshot_taken(number, application.executed, application.digest())
        return image()

    tap_leases(server, number, watch)
    for name, function in (
        ("execute", watched_execute), ("restore", watched_restore), ("image", watched_image),
    ):  # fmt: skip
        setattr(application, name, function)


def tap_leases(server: PaxosServer, number: ServerId, watch: ClusterWatch) -> None:
    """Tell `watch` whenever a server counts on its lease, or answers a read as the leader."""
    holds, answer = server._lease_holds, server._answer_query

    def watched_answer(client: ClientToken, query: Query) -> None:
        if query.mode != "stale":
            watch.on_read(number, server.promised)
        answer(client, query)

    def watched_holds() -> bool:
        held = holds()
        if held:
            watch.on_lease_used(number, server.promised)
        return held

    server._lease_holds = watched_holds  # type: ignore[method-assign]
    server._answer_query = watched_answer  # type: ignore[method-assign]
