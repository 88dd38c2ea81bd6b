"""The simulated world: time, machines, links and clients, and the faults that befall them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from random import Random
from typing import Any, cast

import msgspec

from paxon.actors import NO_BALLOT, Settings
from paxon.actors.codecs import ClientCodec, client_codec
from paxon.actors.disk.storage import NO_ROOM, PLENTY, Storage
from paxon.actors.execution.agreed import first_agreed
from paxon.actors.members import ChangeMembers
from paxon.actors.messages import ChangeSettings, TransferLeader
from paxon.actors.records import reads
from paxon.kvstore.store.store import KVStore
from paxon.transport import Burst
from tests.books.store import StoreBooks
from tests.harness import change_members, make_cluster
from tests.invariants import ClusterWatch, require
from tests.linearizability import Recorder
from tests.simulation.about.coordinator import Coordinator
from tests.simulation.about.membership import (
    Administrator,
    changes_for,
    leads_for_itself,
    members_after,
    notices,
    was_member,
)
from tests.simulation.about.pairs import Pairs
from tests.simulation.about.rarities import MOMENTS, PLACES
from tests.simulation.about.variety import new_values
from tests.simulation.client import SimulatedClient
from tests.simulation.machine import SimulatedDisk
from tests.simulation.network import SimulatedNetwork
from tests.simulation.node import CLUSTER, Node
from tests.simulation.plan import LEADER, Fault, Plan
from tests.simulation.trace import Trace
from tests.simulation.twin import Twin

__all__ = ["World"]

Action = Callable[[object], None]


class World:
    """Everything of one run. Time moves from event to event; nothing else moves it."""

    def __init__(self, plan: Plan, write_trace: Callable[[str], object] | None = None) -> None:
        self.plan = plan
        self.now = 0.0
        self.steps = 0
        """Bursts handled by servers, and faults."""
        self.trace = None if write_trace is None else Trace(lambda: self.now, write_trace)
        self._events: list[tuple[float, int, Action, object]] = []
        self._scheduled = 0
        ids = tuple(range(1, plan.servers + plan.spare + 1))
        members = ids[: plan.servers]
        self.watch = ClusterWatch(
            ids, lambda s: self.nodes[s].clock.age(),
            plan.settings.get("election_timeout_min", 0.3), members,
        )  # fmt: skip
        self.history = Recorder(lambda: self.now)
        self.revisions: set[int] = set()
        """Those of the puts that were acknowledged …"""
        self.revision = 0
        """… and the highest of them."""
        self.pairs = Pairs()
        self.saved: Any = None
        """The last backup that a client made, as a snapshot for a new cluster (`backups`) …"""
        self.restored = False
        """… and whether such a one has been started."""
        self.network = SimulatedNetwork(plan.network, Random(f"network {plan.seed}"), self.schedule)
        self.addresses = {server: f"sim-{server}" for server in ids}
        self.coordinators: dict[int, Coordinator] = {}
        self.twins: dict[int, Twin] = {}
        """Directories that have lost their place and run all the same, by their id."""
        self.nodes = {
            server: Node(self, server, self._settings(server, members), rate)
            for server, rate in zip(ids, plan.clock_rates, strict=True)
        }
        self.clients = {
            number: SimulatedClient(self, number) for number in range(1, plan.clients.clients + 1)
        }
        if plan.coordination is not None:
            self.watch.books = StoreBooks(
                self._now_in_a_step if plan.spare else lambda: self.now,
                max(plan.clock_range[1], *plan.clock_rates),
                in_time=plan.coordination.drift, least_ttl=plan.coordination.least_ttl,
            )  # fmt: skip
            coordinators = [Coordinator(self, n + 1) for n in range(plan.coordination.clients)]
            self.coordinators = {client.number: client for client in coordinators}
        if plan.made:
            disks = {server: cast("Storage", node.disk) for server, node in self.nodes.items()}
            settings = self.nodes[1].settings
            agreed = first_agreed(settings.agreed_given, KVStore.limits)
            make_cluster(disks, agreed, members=members)
        if plan.lease_in_use:
            self._lease_in_use = reads.LEASE_IN_USE
            reads.LEASE_IN_USE = plan.lease_in_use
        self.healing = False
        self.administrators: dict[int, Administrator] = {}
        """By the numbers of the changes that they ask for."""
        self.fickle: set[int] = set()
        """Servers whose state machine is at fault (tests/simulation/about/test_divergence.py)."""
        self.contradicted: dict[int, str] = {}
        """Of these, who has stopped because a majority executed something else; and why."""
        self.answered = 0
        self.unanswered = 0
        self.faults: Counter[str] = Counter()
        self._next_fault = 0

    def _settings(self, server: int, ids: tuple[int, ...]) -> Settings:
        return Settings(
            cluster=CLUSTER,
            server=server,
            servers=tuple(sorted({*ids, server})),
            client_addresses=self.addresses,
            policy=self.plan.policy,
            **self.plan.settings,
        )

    # --- time ------------------------------------------------------------------------------------

    def _now_in_a_step(self) -> float:
        """With what the step at hand has taken: a server left alone syncs several times in one."""
        return self.now + max(node.elapsed for node in self.nodes.values())

    def schedule(self, at: float, action: Action, argument: object) -> None:
        """Have `action(argument)` called at a time; things of one time happen in this order."""
        self._scheduled += 1
        heappush(self._events, (at, self._scheduled, action, argument))

    def advance(self) -> bool:
        """Let the next event happen; False if nothing will ever happen again."""
        if not self._events:
            return False
        self.now, _, action, argument = heappop(self._events)
        action(argument)
        return True

    def start(self) -> None:
        for node in self.nodes.values():
            node.start()
        for client in self.clients.values():
            client.start()
        for coordinator in self.coordinators.values():
            coordinator.start()

    def on_step(self, server: int, burst: Burst[Any, Any]) -> None:
        self.steps += 1
        if self.trace is not None:
            self.trace.step(self.steps, server, burst)

    def note(self, place: int, text: str, *values: object) -> None:
        """A line of the trace, if there is one."""
        if self.trace is not None:
            self.trace.line(place, text % values if values else text)

    # --- faults ----------------------------------------------------------------------------------

    def run_faults(self) -> None:
        """Let strike what the plan has for the steps up to here."""
        faults = self.plan.faults
        while self._next_fault < len(faults) and faults[self._next_fault].step <= self.steps:
            fault = faults[self._next_fault]
            self._next_fault += 1
            self.steps += 1
            self.faults[fault.kind] += 1
            self.note(0, "fault: %s", fault)
            getattr(self, f"_fault_{fault.kind}")(fault)

    def _later(self, fault: Fault, action: Action, argument: object) -> None:
        self.schedule(self.now + fault.seconds, action, argument)

    def _node(self, fault: Fault) -> Node:
        if fault.server != LEADER:
            return self.nodes[fault.server]
        leaders = [n for n in self.nodes.values() if n.server and n.server.role == "leader"]
        if not leaders:
            return self.nodes[fault.group % len(self.nodes) + 1]
        return max(leaders, key=lambda n: n.server.promised if n.server else None)  # type: ignore[arg-type,return-value] # only those that run are in the list

    def down(self, node: Node, why: str) -> None:
        """A process died of something: somebody starts it again a little later."""
        node.crash(why)
        if isinstance(node, Twin):
            self._end_twin(node)
            return
        if node.away is not None:
            node.give_back()
        elif "is an old copy" in why:
            require(node.newest is not None, "no failure", "server %d: %s", node.id, why)
            self._remedy(node)
        elif "start once with --rejoin" in why:  # it came into force as this disk was being lost
            node.replace_disk()
        self.schedule(self.now + 0.01 + node.random.random() * 0.5, self.start_node, node)

    def retire(self, node: Node) -> None:
        """A server was taken out of the cluster: its machine is there for another one."""
        self.faults["retired"] += 1
        if isinstance(node, Twin):
            self._end_twin(node)
            return
        if node.away is not None:
            node.give_back()
        else:
            node.replace_disk(rejoin=False, join=True)
        self.schedule(self.now + 0.01 + node.random.random() * 0.5, self.start_node, node)

    def connections_end(self, server: int) -> None:
        """The others' machines notice that a server's process is gone, if word gets through."""
        for node in self.nodes.values():
            if node.id != server and (server, node.id) not in self.network.cut:
                self.schedule(self.now + self.plan.network.latency, node.lose_connection, server)

    def at(self, server: int) -> Sequence[Node]:
        """The machines that a frame for a server comes to."""
        node = self.nodes[server]
        return self.twins[server].receivers(node) if server in self.twins else (node,)

    def start_node(self, node: object) -> None:
        assert isinstance(node, Node)
        if not node.up and not node.stays_down:
            self.note(node.id, "starts")
            node.start()

    def _fault_crash(self, fault: Fault) -> None:
        node = self._node(fault)
        node.crash("killed")
        self._later(fault, self.start_node, node)

    def _fault_crash_before_sync(self, fault: Fault) -> None:
        self._node(fault).falls = ("", "before")

    def _fault_crash_after_sync(self, fault: Fault) -> None:
        self._node(fault).falls = ("", "after")

    def _fault_crash_at(self, fault: Fault) -> None:
        """Servers fall in the next commit of each that stores this, whenever that is."""
        one, what = self._node(fault), sorted(MOMENTS)[int(fault.amount * 100) % len(MOMENTS)]
        for node in self.nodes.values():
            if node is one or (fault.amount < 0.5 and fault.group >> node.id & 1):
                node.falls = (what, PLACES[int(fault.amount * 10_000) % len(PLACES)])

    def _fault_replay(self, fault: Fault) -> None:
        """Copies of frames come, to or from a server or of any link, however old."""
        if self.network.kept is None:
            return
        place = self._node(fault).id if fault.group & 2 else 0
        for deliver, frame in self.network.kept.come_back(place, fault.amount):
            self.faults["frames_back"] += 1
            self.schedule(self.now + fault.seconds * fault.amount / 50, deliver, frame)

    def _fault_bad_snapshots(self, fault: Fault) -> None:
        """For a while no snapshot is taken, or none is taken over."""
        troubles = ("unwritten", "no room", "damaged")
        for node in self.nodes.values() if fault.group & 2 else (self._node(fault),):
            node.bad_snapshots = troubles[int(fault.amount * 100) % 3]
            self._later(fault, self._mend, node)

    def _fault_crash_all(self, fault: Fault) -> None:
        for node in self.nodes.values():
            node.crash("killed with all others")
            self._later(fault, self.start_node, node)

    def _fault_pause(self, fault: Fault) -> None:
        node = self._node(fault)
        node.paused += 1
        self._later(fault, lambda _: node.resume(), None)

    def _fault_suspend(self, fault: Fault) -> None:
        """A whole machine sleeps, and wakes up with all that it knew."""
        node = self._node(fault)
        node.suspend()
        self._later(fault, node.wake_up, fault.seconds)

    def _fault_drift(self, fault: Fault) -> None:
        """A clock is faster or slower from now on, within what the run allows."""
        slowest, fastest = self.plan.clock_range
        node = self._node(fault)
        node.clock.run_at(slowest + fault.amount * (fastest - slowest))
        if node.up:
            node.look_at_clock()

    def _fault_sever(self, fault: Fault) -> None:
        """A server's connections break, some others notice, and none comes back for a while."""
        node = self._node(fault).id
        for other in self.nodes.values():
            if other.id != node and fault.group >> other.id & 1:
                self.schedule(self.now + self.plan.network.latency, other.lose_connection, node)
        self._cut(fault, [link for o in self.nodes if o != node for link in ((node, o), (o, node))])

    def _fault_partition(self, fault: Fault) -> None:
        """Two groups that do not hear each other, clients falling on either side."""
        side = [place for place in self._places() if fault.group >> place % 32 & 1]
        other = [place for place in self._places() if not fault.group >> place % 32 & 1]
        self._cut(
            fault, [(a, b) for a in side for b in other] + [(b, a) for a in side for b in other]
        )

    def _fault_isolate(self, fault: Fault) -> None:
        """One server cut off from all others; clients may still reach it, or not."""
        node = self._node(fault).id
        others = self._places() if fault.amount < 0.3 else list(self.nodes)
        self._cut(fault, [link for o in others if o != node for link in ((node, o), (o, node))])

    def _fault_strand(self, fault: Fault) -> None:
        """The leader and one that follows it are cut off; clients send on to it."""
        leaders = [n.id for n in self.nodes.values() if n.server and n.server.role == "leader"]
        voters = [voter for voter in self.watch.epochs.last.voters if voter not in leaders]
        side = {*leaders[:1], *voters[fault.group % len(voters) :][:1]} if voters else set()
        others = [other for other in self.nodes if other not in side]
        self._cut(fault, [link for a in side for b in others for link in ((a, b), (b, a))])
        end = self.now + fault.seconds

        def change(_: object) -> None:
            servers = [self.nodes[other].server for other in others]
            if any(server is not None and server.role == "leader" for server in servers):
                self._fault_change(msgspec.structs.replace(fault, server=0))
            elif self.now < end and not self.healing:
                self.schedule(self.now + 0.005, change, None)

        if self.plan.spare:
            change(None)

    def _fault_cut_one_way(self, fault: Fault) -> None:
        node = self._node(fault).id
        others = [o for o in self.nodes if o != node and fault.group >> o & 1]
        deaf = fault.amount < 0.5
        self._cut(fault, [(o, node) if deaf else (node, o) for o in others])

    def _fault_cut_two_way(self, fault: Fault) -> None:
        node = self._node(fault).id
        others = [o for o in self.nodes if o != node and fault.group >> o & 1]
        self._cut(fault, [link for o in others for link in ((node, o), (o, node))])

    def _fault_bridge(self, fault: Fault) -> None:
        """Two groups of servers that hear each other only through one server."""
        bridge = self._node(fault).id
        side = [s for s in self.nodes if s != bridge and fault.group >> s & 1]
        other = [s for s in self.nodes if s != bridge and not fault.group >> s & 1]
        self._cut(fault, [link for a in side for b in other for link in ((a, b), (b, a))])

    def _fault_stall(self, fault: Fault) -> None:
        """Links to or from a server hold everything back, and deliver it late."""
        node = self._node(fault).id
        others = [o for o in self.nodes if o != node and fault.group >> o & 1]
        end = self.now + fault.seconds
        for other in others:
            link = (other, node) if fault.amount < 0.7 else (node, other)
            self.network.stalled[link] = max(end, self.network.stalled.get(link, 0.0))

    def _places(self) -> list[int]:
        from tests.simulation.node import CLIENT_PLACE

        clients = (*self.clients, *self.coordinators)
        return [*self.nodes, *(CLIENT_PLACE + number for number in clients)]

    def _cut(self, fault: Fault, links: list[tuple[int, int]]) -> None:
        if self.plan.network.moving:
            self.network.cut.clear()
        fresh = [link for link in links if link not in self.network.cut]
        self.network.cut.update(fresh)
        self._later(fault, self._uncut, fresh)

    def _uncut(self, links: object) -> None:
        assert isinstance(links, list)
        self.network.cut.difference_update(links)

    def _fault_disconnect(self, fault: Fault) -> None:
        """Connections break and are made again at once; nobody's process has ended."""
        self.connections_end(self._node(fault).id)

    def _fault_lossy(self, fault: Fault) -> None:
        self.network.drop = fault.amount
        self._later(fault, self._restore_loss, None)

    def _restore_loss(self, _: object) -> None:
        self.network.drop = self.plan.network.drop

    def _fault_slow_disk(self, fault: Fault) -> None:
        node = self._node(fault)
        node.sync_time = fault.amount
        self._later(fault, self._mend, node)

    def _fault_full_disk(self, fault: Fault) -> None:
        node = self._node(fault)
        node.disk_full = True
        self._later(fault, self._mend, node)

    def _fault_little_room(self, fault: Fault) -> None:
        """A disk has room for a few values a transaction, for small ones alone, or for none."""
        node = self._node(fault)
        node.room = NO_ROOM if fault.amount < 0.2 else int(600 * (fault.amount - 0.5))
        self._later(fault, self._mend, node)

    def _fault_slow_server(self, fault: Fault) -> None:
        node = self._node(fault)
        node.service_time = fault.amount / 10
        self._later(fault, self._mend, node)

    def _mend(self, node: object) -> None:
        assert isinstance(node, Node)
        node.disk_full = False
        node.room = PLENTY
        node.bad_snapshots = ""
        node.sync_time = self.plan.network.sync
        node.service_time = self.plan.network.service

    def _fault_jump_clock(self, fault: Fault) -> None:
        self._node(fault).clock.wall_offset += (fault.amount - 0.5) * 2e6

    def _fault_leap(self, fault: Fault) -> None:
        """A server's monotonic clock leaps ahead, as of a virtual machine that was put aside."""
        node = self._node(fault)
        node.clock.origin += fault.amount
        if node.up:
            node.look_at_clock()

    def _fault_lose_disk(self, fault: Fault) -> None:
        """A disk breaks; its server comes back with an empty one, and wants its place back.

        Only when the cluster promises to survive that (docs/membership.md): the others know the
        disk that is lost, no other is, and nobody is about to decide who needs it.
        """
        node = self._node(fault)
        if node.newest is not None or node.away is not None:
            return
        others = [other for other in self.nodes.values() if other is not node]
        if not self.watch.chosen and not any(other.disk.load().in_force for other in others):
            self._empty_all(fault, node)
            return
        if not self._can_spare(node):
            self.note(node.id, "keeps its disk: the cluster could not afford to lose it now")
            return
        node.crash("its disk is lost")
        node.replace_disk()
        self._later(fault, self.start_node, node)

    def _fault_lost_disk_is_back(self, fault: Fault) -> None:
        """A server is started on a disk that was taken for lost, for a while, or until it stops."""
        old = any(node.newest is not None for node in self.nodes.values())
        for node in () if old else self.nodes.values():
            if node.take_back():
                self.faults["lost_disk_was_back"] += 1
                self.schedule(self.now + 0.01, self.start_node, node)
                self._later(fault, self._give_back, node)
                return

    def _fault_twin(self, fault: Fault) -> None:
        """A disk that was taken for lost runs under its id beside the one that has its place."""
        old = any(node.newest is not None for node in self.nodes.values())
        for node in () if old else self.nodes.values():
            if node.may_take_back() and node.id not in self.twins:
                self.faults["twins"] += 1
                twin = self.twins[node.id] = Twin(self, node)
                self.start_node(twin)
                self._later(fault, self._end_twin, twin)
                return

    def _end_twin(self, twin: object) -> None:
        assert isinstance(twin, Twin)
        twin.crash("it is switched off")
        if self.twins.get(twin.id) is twin:
            del self.twins[twin.id]

    def _give_back(self, node: object) -> None:
        assert isinstance(node, Node)
        node.give_back()
        self.start_node(node)

    def _fault_restored(self, fault: Fault) -> None:
        """Some machines are taken for a cluster that is restored from a backup, for a while."""
        from tests.simulation.about.backups import start_restored

        for server in start_restored(self, fault):
            self.faults["restored_server"] += 1
            self.schedule(self.now + 0.01, self.start_node, self.nodes[server])
            self._later(fault, self._give_back, self.nodes[server])

    def new_client_codec(self) -> ClientCodec:
        """Of a client; beside a restored cluster it is told to which one it belongs."""
        codec = client_codec()
        if self.restored:
            codec.identify(self.watch.making.identity)
        return codec

    def pin_clients(self) -> None:
        """A restored cluster is started: whoever has no answer so far belongs to the first one."""
        self.restored = True
        everybody: list[Any] = [*self.clients.values(), *self.coordinators.values()]
        for client in everybody:
            if not client.codec.identity:
                client.codec.identify(self.watch.making.identity)

    def _fault_change_settings(self, fault: Fault) -> None:
        """What all servers agree on is changed, if whoever is asked leads and all are known."""
        node = self._node(fault)
        if node.server is None:
            return
        since, values = new_values(self.plan, fault.amount, node.server.application.agreed)
        node.ask_for_change(ChangeSettings(node.random.getrandbits(63), since, values))

    def _fault_change(self, fault: Fault) -> None:
        """Somebody who takes itself for the leader is asked for other members."""
        leader = leads_for_itself([n.server for n in self.nodes.values() if n.server], fault)
        if leader is None:
            return
        me = leader.settings.server
        removed = leader.configuration.removed  # (these never come back: M14)
        disks = {node.id: node.disk.incarnation for node in self.nodes.values()}
        disks = {server: number for server, number in disks.items() if number not in removed}
        for member in leader.configuration.members:  # (whose machine has an older disk just now)
            disks.setdefault(member.server, member.incarnation)
        members = members_after(leader.configuration, disks, me, fault)
        number = fault.step + (1 << 30) if fault.kind == "strand" else self._next_fault
        if int(fault.amount * 10_000) % 2:  # at once, with no look at who could serve
            change_members(leader, members, number)
            self.nodes[me].wake()
            return
        changes = changes_for(leader.configuration, members)
        asked = ChangeMembers((1 << 61) + number, leader.promised, changes)
        self.administrators[asked.id] = Administrator(self, asked)
        self.administrators[asked.id].ask(self.nodes[me])

    def _empty_all(self, fault: Fault, node: Node) -> None:
        """A disk is lost before the cluster is in force at the others: nothing was acknowledged.

        The server begins again with an empty one. Where the lost disk had a part in the making, it
        cannot come into force any more, and servers say so: after a while somebody empties those
        that hold it, as they are told to.
        """
        lost = [node.disk]
        node.crash("its disk is lost")
        node.replace_disk(rejoin=False)
        self._later(fault, self.start_node, node)
        if self.watch.making.in_force and not self._holders_of_the_making():
            self._start_anew()  # all have lost theirs

        def remedy(_: object) -> None:
            holders = [other for other in self.nodes.values() if any(map(other.knows, lost))]
            if self.watch.making.in_force:
                able = self._holders_of_the_making()  # (others may be making another cluster)
                serves = any(other.disk.load().in_force for other in able)
                if not holders or (serves and 2 * len(able) > len(self.nodes)):
                    return
                self._start_anew()
                holders = list(self.nodes.values())
            for other in holders:
                lost.append(other.disk)  # others may have made a cluster with it meanwhile
                other.crash("its directory is emptied")
                other.replace_disk(rejoin=False)
                self._later(fault, self.start_node, other)
            self.schedule(self.now + 1.0, remedy, None)  # what is under way may be taken in yet

        self.schedule(self.now + 2 * fault.seconds, remedy, None)

    def _holders_of_the_making(self) -> list[Node]:
        """Whose disks are of the cluster that is in force."""
        made = self.watch.making.identity
        return [node for node in self.nodes.values() if node.knows(node.disk, made)]

    def _start_anew(self) -> None:
        """The cluster that was in force is no more; another may be made."""
        self.watch.start_anew()
        everybody: list[SimulatedClient | Coordinator] = [*self.clients.values()]
        for client in [*everybody, *self.coordinators.values()]:
            client.restart()  # the first cluster that it met is no more

    def _fault_transfer(self, fault: Fault) -> None:
        """An operator wants another server to lead, this one or whichever the leader finds fit.

        Whom the request reaches does not lead, maybe, or leads in a later ballot.
        """
        node = self._node(fault)
        ballot = node.server.promised if node.server is not None else NO_BALLOT
        to = fault.group % (len(self.nodes) + 1)
        node.ask_for_change(TransferLeader(fault.step, ballot, to))

    def _fault_old_copy(self, fault: Fault) -> None:
        """Somebody copies a server's directory, to put it back later."""
        node = self._node(fault)
        books = self.watch.disks[node.id].copy()
        self._later(fault, self._put_back, (node, node.disk.copy(), books, fault))

    def _put_back(self, what: Any) -> None:
        """The copy takes the directory's place, if the cluster promises to notice (old-copies.md).

        That is when those who remember a later state, on their disks, meet every majority: then
        whatever they forget in crashes, one of them is among those that have to confirm. So it is
        for every old copy that is put back at the moment. A copy of the newest state is always
        fine. Others may go down in the same moment.
        """
        node, copy, books, fault = what  # as scheduled above
        stale = copy.count < node.disk.count and was_member(self, node, copy)
        if not copy.load().in_force:  # (then it is refused, too: actors/records/making.py)
            return
        if node.away is not None or self.twins:
            return
        if self.healing or node.newest is not None or copy.incarnation != node.disk.incarnation:
            return
        if stale and not self._notices(node, copy):
            self.note(node.id, "keeps its directory: too few know of a later state than the copy's")
            return
        self.faults["old_copy_put_back" if stale else "newest_copy_put_back"] += 1
        node.put_back(copy, books, old=stale)
        self.schedule(self.now + 0.05, self.start_node, node)
        for other in self.nodes.values():
            if other is not node and fault.group >> other.id & 1 and fault.amount < 0.4:
                other.crash("goes down while an old copy comes up")
                self._later(fault, self.start_node, other)

    def _notices(self, node: Node, copy: SimulatedDisk) -> bool:
        if self.plan.spare:
            return notices(self, node, copy)
        disks = {n.id: n.disk for n in self.nodes.values()} | {node.id: copy}
        old = [n.id for n in self.nodes.values() if n.newest is not None] + [node.id]
        enough = len(disks) - (len(disks) // 2 + 1) + 1
        if any(self.watch.disks[server].replaced for server in disks):
            return False
        return all(
            sum(
                disk.remembers().get(server) is not None
                and disk.remembers()[server][0] == disks[server].incarnation
                and disk.remembers()[server][1] > disks[server].count
                for other, disk in disks.items()
                if other != server
            )
            >= enough
            for server in old
        )

    def _remedy(self, node: Node) -> None:
        """What the sentence tells an operator to do, one or the other."""
        others_old = any(n.newest is not None for n in self.nodes.values() if n is not node)
        assert node.newest is not None
        old_books = self.watch.disks[node.id]
        self.watch.disks[node.id] = node.newest[1]
        afford = not self.healing and not others_old and self._can_spare(node)
        self.watch.disks[node.id] = old_books
        node.remedy(rejoin=afford and node.random.random() < 0.3)
        self.faults["old_copy_refused"] += 1

    def _can_spare(self, node: Node) -> bool:
        """Whether the cluster promises to go on without this disk: nobody is about to need it."""
        changing = any(
            server is not None and server._reign is not None and server._reign.changing is not None
            for server in (other.server for other in self.nodes.values())
        )
        if any(other.watch is not self.watch for other in self.nodes.values()):
            return False  # (an empty one would join whichever cluster answers)
        members = self.watch.epochs.last.servers
        known = all(self.nodes[member].knows(node.disk) for member in members)
        return not changing and known and self.watch.may_lose_disk(node.id)

    def _fault_restart_client(self, fault: Fault) -> None:
        number = fault.server or 1
        if number in self.clients:
            self.clients[number].restart()
        for coordinator in self.coordinators.values():
            if fault.amount < 0.5 and coordinator.number % 3 == number % 3:
                coordinator.restart()

    def heal(self) -> None:
        """Everything works from now on, and the clients ask for nothing new."""
        self.note(0, "all faults are healed")
        self.healing = True
        self.network.calm()
        self.plan.bounds.pop("unread_seconds", None)
        for twin in list(self.twins.values()):
            self._end_twin(twin)
        for node in self.nodes.values():
            self._mend(node)
            node.falls = ("", "")
            while node.asleep:
                node.wake_up(0.0)
            while node.paused:
                node.resume()
            node.give_back()
        for node in self.nodes.values():
            self.start_node(node)

    def close(self) -> None:
        """Give back what the servers hold of the real machine."""
        for node in self.nodes.values():
            node.crash("the run is over")
        if self.plan.lease_in_use:
            reads.LEASE_IN_USE = self._lease_in_use
