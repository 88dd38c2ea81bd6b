"""A simulated server process: the real `PaxosServer`, stepped by hand."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, cast

import msgspec

from paxon.actors import Environment, PaxosServer, ServerId, Settings, StorageError
from paxon.actors.codecs import peer_codec, port_codec
from paxon.actors.disk.storage import PLENTY, Storage
from paxon.actors.execution.digests import Diverged
from paxon.actors.messages import (
    ClientMessage,
    CountAnswer,
    PeerMessage,
    QueryReply,
    ServerReply,
)
from paxon.actors.records.configuration import Configuration
from paxon.actors.records.making import NotAMember, Retired
from paxon.transport import Burst, BurstInbox, ForeignCluster
from tests.invariants import ClusterWatch, DiskBooks, InvariantBroken
from tests.protocol.watched import tap_leases
from tests.simulation.about.bounds import UnreadFrames
from tests.simulation.about.rarities import MOMENTS
from tests.simulation.machine import (
    SimulatedClock,
    SimulatedCrash,
    SimulatedDisk,
    WatchedStore,
    tap,
)
from tests.simulation.network import NodeNetwork

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["Node", "CLIENT_PLACE", "CLUSTER"]

CLUSTER = "simulated"
CLIENT_PLACE = 1000
"""Client n is at place 1000 + n of the network."""

INBOX_FRAMES = 1000
"""A paused server's sockets hold so many frames; what comes beyond is lost."""


class Node:
    """A machine that runs one server process, or does not."""

    def __init__(self, world: World, server: ServerId, settings: Settings, rate: float) -> None:
        self.world = world
        self.watch = world.watch
        self.id = server
        self.settings = settings
        self.server: PaxosServer | None = None
        self.elapsed = 0.0
        """How long the step at hand has taken so far, seconds."""
        self.random = Random(f"server {world.plan.seed} {server}")
        self.clock = SimulatedClock(
            lambda: world.now, lambda: self.elapsed, self.random.uniform(0, 1e5), rate
        )
        self._disk_random = Random(f"disk {world.plan.seed} {server}")
        self._new_disk()
        self._burst: Burst[PeerMessage, ClientMessage] = Burst()
        self.busy_until = 0.0
        self.paused = 0
        """Pauses under way; they may overlap."""
        self.asleep = 0
        """How often its machine was suspended and has not woken up yet."""
        self._waking_at = float("inf")
        self._timer_at = float("inf")
        self._life = 0
        # Faults in force:
        self.falls = ("", "")
        """What the commit stores in which its process dies (`MOMENTS`; "": any), and where."""
        self._falls_now = False
        self.bad_snapshots = ""
        self.sync_time = world.plan.network.sync
        self.service_time = world.plan.network.service
        self.disk_full = False
        self.stays_down = False
        self.room = PLENTY
        self._snapshot_at = 0.0
        self.newest: tuple[SimulatedDisk, DiskBooks] | None = None
        """What an old copy has taken the place of, and its books."""
        self.lost: tuple[SimulatedDisk, DiskBooks] | None = None
        """A disk that was taken for lost while members change …"""
        self.away: tuple[SimulatedDisk, DiskBooks] | None = None
        """… and the one in use, while the server is started on that once more."""

    def _new_disk(self) -> None:
        incarnation = self._disk_random.getrandbits(63)
        self._use(SimulatedDisk(CLUSTER, self.id, incarnation, self, self.watch))

    def _use(self, disk: SimulatedDisk) -> None:
        """This disk from now on, and codecs that put its incarnation into every frame."""
        self.disk = disk
        self.peer_codec = peer_codec(self.id, disk.incarnation)
        self.client_codec = port_codec(self.id)

    def replace_disk(self, *, rejoin: bool = True, join: bool = False) -> None:
        """The disk is lost; the server will start with an empty one, perhaps told how."""
        sound = rejoin and self.newest is None
        self.lost = (self.disk, self.watch.disks[self.id]) if sound else None
        self.newest = None
        self.watch.on_disk_lost(self.id)
        self.settings = msgspec.structs.replace(self.settings, rejoin=rejoin, join=join)
        if rejoin or join:  # whoever starts it knows who the members are by now
            self.settings = msgspec.structs.replace(self.settings, servers=tuple(self.world.nodes))
        self._new_disk()

    def knows(self, disk: SimulatedDisk, identity: int = 0) -> bool:
        """Whether the cluster that is stored here, this one, has this disk among its members'."""
        found = self.disk.load()
        if found.made is None or identity not in (0, found.made.identity):
            return False
        configuration = found.configuration or Configuration.of(found.made)
        return disk.incarnation in configuration.incarnations.values()

    def put_back(self, copy: SimulatedDisk, books: DiskBooks, *, old: bool) -> None:
        """Somebody puts back a copy of the directory: of an earlier state, or of the newest."""
        self.crash("a copy of its directory is put back")
        if self.newest is None and old:
            self.newest = (self.disk, self.watch.disks[self.id])
        self.disk = copy
        self.watch.disks[self.id] = books.copy()
        self.watch.disks[self.id].old = old
        self.watch.disks[self.id].behind = copy.epoch < self.watch.epochs.last.epoch

    def may_take_back(self) -> bool:
        """Whether a disk was taken for lost, and another has its place by now."""
        replaced = self.watch.disks[self.id].replaced
        return self.lost is not None and self.newest is None and not replaced

    def take_back(self) -> bool:
        """Start on the disk that was taken for lost, though another has its place by now."""
        if not self.may_take_back() or self.lost is None:
            return False
        self.crash("a disk that was lost is found")
        self.away = (self.disk, self.watch.disks[self.id])
        disk, self.watch.disks[self.id] = self.lost
        self.lost = None
        self._use(disk)
        return True

    def stand_aside(self, disk: SimulatedDisk, watch: ClusterWatch) -> None:
        """Serve another cluster for a while, on this disk and by that one's books."""
        self.crash("another directory takes its place")
        self.away = (self.disk, self.watch.disks[self.id])
        self.watch = watch
        self._use(disk)

    def give_back(self) -> None:
        """The disk in use comes back in its place, if it is away."""
        if self.away is not None:
            self.crash("the disk in use comes back")
            self.watch = self.world.watch
            disk, self.watch.disks[self.id] = self.away
            self.away = None
            self._use(disk)

    def remedy(self, rejoin: bool) -> None:
        """The server has refused an old copy: its newest directory, or an empty one, comes back."""
        assert self.newest is not None
        (self.disk, self.watch.disks[self.id]), self.newest = self.newest, None
        if rejoin:
            self.replace_disk()

    @property
    def up(self) -> bool:
        return self.server is not None

    # --- a process's life ------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process; it may die at once if its disk will not do."""
        if self.server is not None:
            return
        own = self.world.plan.own
        if own:
            lives = own[self.id - 1]
            changed = lives[self._life % len(lives)]
            self.settings = msgspec.structs.replace(self.settings, **changed)
        self._life += 1
        self.peer_codec.identify(0)
        self.client_codec.identify(0)
        self.clock.origin += self.random.uniform(0, 100)  # as after a reboot
        environment = Environment(
            clock=self.clock,
            random=self.random,
            storage=lambda: cast("Storage", self.disk),  # (it wraps one)
            network=lambda: NodeNetwork(self),
        )
        server = PaxosServer(self.settings, WatchedStore(), environment)
        tap(server.application, self.id, self.watch)
        tap_leases(server, self.id, self.watch)
        self.watch.on_start(self.id)
        self.watch.on_life(
            self.id, made_disk=self.disk.created, incarnation=self.disk.incarnation,
            count=self.disk.count, in_force=self.disk.load().in_force,
        )  # fmt: skip
        self.server = server
        self.elapsed = 0.0
        self.busy_until = 0.0
        self._timer_at = self._waking_at = float("inf")
        if self._survives(server.open):
            self.watch.on_opened(self.id, server)
            self._after_step()

    def crash(self, why: str) -> None:
        """The process is gone, without a farewell; what was not synced is lost."""
        server, self.server = self.server, None
        if server is None:
            return
        self.world.note(self.id, "crashes (%s)", why)
        self.falls = ("", "")
        self._falls_now = False
        self.elapsed = 0.0  # (the step at hand is not at hand any more)
        self._burst = Burst()
        self.disk.crash()
        self.world.connections_end(self.id)
        for client in self.world.coordinators.values():
            client.break_off(self.id)
        if isinstance(server.actor_inbox, BurstInbox):
            server.actor_inbox.close()

    def ask_for_change(self, message: ClientMessage) -> None:
        """An operator's request arrives; the first client gets the answer, and wonders."""
        if self.server is not None:
            self._burst.clients.append((b"1", [message]))
            self.wake()

    def _survives(self, run: object, *arguments: object) -> bool:
        """Run a piece of the server; False if the process died of it."""
        assert callable(run)
        try:
            run(*arguments)
        except SimulatedCrash:
            self.world.down(self, "in a sync")
        except Diverged as error:
            if self.id not in self.world.fickle:
                raise InvariantBroken("none contradicted", str(error)) from error
            self.world.contradicted[self.id] = str(error)
            self.crash("contradicted by a majority")  # for good: its disk is marked
        except Retired as error:
            self.crash(str(error))
            self.world.retire(self)
        except StorageError as error:
            if isinstance(error, NotAMember):  # somebody does what the sentence says
                self.settings = msgspec.structs.replace(self.settings, rejoin=True)
            self.world.down(self, str(error))
        except InvariantBroken:
            raise
        except Exception as error:
            raise InvariantBroken(
                "no failure", f"server {self.id} stopped by {type(error).__name__}: {error}"
            ) from error
        else:
            return True
        return False

    # --- steps -----------------------------------------------------------------------------------

    def deliver_peer(self, frame: object) -> None:
        if self.server is None or self.asleep or len(self._burst.peers) > INBOX_FRAMES:
            return
        assert isinstance(frame, bytes)
        try:
            self._burst.peers.append(self.peer_codec.decode(frame))
        except ForeignCluster:
            return
        self.wake()

    def hear(self, sender: Node, message: PeerMessage) -> None:
        """Something comes from another server, which it has not sent."""
        self._burst.peers.append((sender.id, sender.disk.incarnation, [message]))
        self.wake()

    def deliver_client(self, frame: object) -> None:
        if self.server is None or self.asleep or len(self._burst.clients) > INBOX_FRAMES:
            return
        assert isinstance(frame, tuple)
        client, data = frame
        _, _, messages = self.client_codec.decode(data)
        self._burst.clients.append((client, messages))
        self.wake()

    @property
    def takes_clients(self) -> bool:
        """Whether what a client sends comes to its process."""
        return (
            self.server is not None and not self.asleep and len(self._burst.clients) < INBOX_FRAMES
        )

    @property
    def lives(self) -> int:
        """How often its process was started."""
        return self._life

    def lose_client(self, client: object) -> None:
        """The operating system reports that a client's connection has ended."""
        if self.server is not None:
            assert isinstance(client, bytes)
            self._burst.gone.append(client)
            self.wake()

    def lose_connection(self, server: object) -> None:
        """The operating system reports that the connection to a server has ended."""
        if self.server is not None:
            assert isinstance(server, int)
            self._burst.lost.append(server)
            self.wake()

    def wake(self) -> None:
        """Something has come: step now, or when the server is free again."""
        if self.paused or self.server is None:
            return
        if self.world.now >= self.busy_until:
            self.step()
        elif self._waking_at > self.busy_until:
            self._waking_at = self.busy_until
            self.world.schedule(self.busy_until, self._on_wake, self._life)

    def _on_wake(self, life: object) -> None:
        if life == self._life and self.world.now >= self._waking_at:
            self._waking_at = float("inf")
            self.wake()

    def step(self) -> None:
        """Hand over what has come, as one burst."""
        server = self.server
        assert server is not None
        burst, self._burst = self._burst, Burst()
        self.elapsed = 0.0
        self.world.on_step(self.id, burst)
        self.watch.begin_step(self.id)
        for sender, _, messages in burst.peers:
            for message in messages:
                if isinstance(message, CountAnswer):
                    self.watch.on_answer(self.id, sender, message)
        if self._survives(server.step, burst):
            self.watch.after_step(self.id, server)
            self._after_step()
            if self._falls_now:
                self.world.down(self, "when all was sent")

    def _after_step(self) -> None:
        server, world = self.server, self.world
        assert server is not None
        self.busy_until = world.now + self.elapsed + self.service_time
        self.elapsed = 0.0
        due = max(self.clock.when(server.next_deadline()), self.busy_until)
        if due < self._timer_at:
            self._timer_at = due
            world.schedule(due, self._on_timer, (self._life, due))

    def look_at_clock(self) -> None:
        """The clock was changed: timers may be due earlier than thought."""
        self._timer_at = max(self.busy_until, self.world.now)
        self.world.schedule(self._timer_at, self._on_timer, (self._life, self._timer_at))

    def _on_timer(self, key: object) -> None:
        if key != (self._life, self._timer_at) or self.server is None:
            return
        self._timer_at = float("inf")
        if self.paused:
            return  # resuming looks at the timers
        due = max(self.clock.when(self.server.next_deadline()), self.busy_until)
        if due <= self.world.now:
            self.step()
        else:
            self._timer_at = due
            self.world.schedule(due, self._on_timer, (self._life, due))

    def suspend(self) -> None:
        """The machine sleeps: nothing runs, what the network brings is lost."""
        self.paused += 1
        self.asleep += 1

    def wake_up(self, seconds: object) -> None:
        """The machine runs again after so many seconds."""
        if not self.asleep:
            return  # the healing of all faults came first
        assert isinstance(seconds, float)
        self.asleep -= 1
        self.clock.sleep_through(seconds)
        self.resume()

    def resume(self) -> None:
        """A pause is over; the server finds all that came meanwhile at once."""
        if not self.paused:
            return  # the healing of all faults came first
        self.paused -= 1
        if self.paused == 0 and self.server is not None:
            self.wake()

    # --- its network -----------------------------------------------------------------------------

    def transmit(
        self, servers: Sequence[ServerId], messages: Sequence[PeerMessage], unread: UnreadFrames
    ) -> None:
        world = self.world
        frame = self.peer_codec.encode(messages)
        at = world.now + self.elapsed
        if world.trace is not None:
            world.trace.sent(self.id, servers, messages)
        for server in servers:
            if not unread.takes(server, frame):
                continue
            for target in world.at(server):
                world.network.transmit(self.id, server, at, target.deliver_peer, frame, twice=True)

    def transmit_reply(
        self, client: bytes, messages: Sequence[ServerReply], unread: UnreadFrames
    ) -> None:
        world = self.world
        if world.administrators:
            messages = [m for m in messages if not self._told_administrator(m)]
        number = int(client.partition(b".")[0])
        place = CLIENT_PLACE + number
        if world.trace is not None:
            world.trace.sent(self.id, (place,), messages)
        body = self.client_codec.encode(messages)
        if not unread.takes(client, body):
            return  # it asks again
        if number in world.coordinators:
            world.coordinators[number].send_reply(self, client, body)
            return
        frame = (self.settings.client_addresses[self.id], body)
        world.network.transmit(
            self.id, place, world.now + self.elapsed, world.clients[number].deliver, frame,
            twice=world.plan.clients.duplicates,
        )  # fmt: skip

    def _told_administrator(self, message: ServerReply) -> bool:
        asker = self.world.administrators.get(getattr(message, "id", 0))
        if asker is None or not isinstance(message, QueryReply):
            return False
        asker.hear(message)
        return True

    # --- its disk (machine.DiskWorld) ------------------------------------------------------------

    def on_sync(self) -> None:
        """A sync takes its time; on a full disk it fails, and nothing of it counts."""
        if self.disk_full:
            raise StorageError("the disk is full")
        self.elapsed += self.sync_time * (0.5 + self.random.random())

    def crash_point(self, disk: SimulatedDisk) -> str:
        what, where = self.falls
        if what and not MOMENTS[what](disk):
            return ""
        self._falls_now = where == "sent"
        return "" if self._falls_now else where

    def on_snapshot_begun(self) -> None:
        self._snapshot_at = self.world.now + self.random.random() * 20 * self.sync_time

    def snapshot_ready(self) -> bool:
        return self.world.now >= self._snapshot_at
