"""Random depth-first search: long walks, one event after another, with every invariant watched.

Breadth-first search covers everything near a start; what needs hundreds of events is looked for by
walking at random. At its end each walk heals everything and demands progress of all servers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from paxon.actors import ServerId
from paxon.actors.messages import Command, CommandReply, OpenSession, SessionOpened
from tests.harness import Packet
from tests.invariants import InvariantBroken, require
from tests.protocol.watched import WatchedCluster

__all__ = ["Walk", "walk"]

HEAL_SECONDS = 20.0
"""Simulated time in which a healed cluster has to have executed everything, everywhere."""


@dataclass(slots=True)
class Walk:
    """One walk, and where it led."""

    size: int
    seed: int
    events: int = 0
    chosen: int = 0
    """Slots that were chosen on the way."""
    broken: str = ""
    path: list[str] = field(default_factory=list)
    """Its last events, if something did not hold."""


class _Walker:
    def __init__(self, size: int, seed: int) -> None:
        self.random = random.Random(f"walk {size} {seed}")
        policy = self.random.choice(("stable", "random", "backoff"))
        small = self.random.random() < 0.5
        self.cluster = WatchedCluster(
            size,
            policy=policy,
            snapshot_slots=self.random.choice((3, 10, 1000)),
            retain_slots=5 if small else 1000,
            transfer_bytes=120 if small else 1 << 20,
            window=self.random.choice((1, 3, 16)),
        )
        self.cluster.start()
        self.next_number = 1
        self.path: list[str] = []
        self.pace = self.random.choice(((0.001, 0.005), (0.001, 0.02), (0.001, 0.02, 0.4)))
        """How many seconds pass at a time."""
        self.restless = self.random.choice((0.0, 0.01, 0.05))
        """How often servers fall, and links are cut."""
        self.lossy = self.random.choice((0.0, 0.05, 0.3))

    def note(self, text: str) -> None:
        self.path.append(text)

    def event(self) -> None:
        """Something happens: a message arrives, time passes, a client asks, a fault strikes."""
        cluster, chance = self.cluster, self.random.random()
        if chance < self.restless:
            self.fault()
        elif chance < 0.15:
            self.ask()
        elif chance < 0.25 or not cluster.packets:
            self.time()
        else:
            index = self.random.randrange(min(len(cluster.packets), 8))
            packet = cluster.packets.pop(index)
            if self.random.random() < self.lossy:
                self.note(f"lost: {packet}")
            else:
                self.arrive(packet)
                if self.random.random() < 0.05:
                    cluster.packets.append(packet)  # and once more, later

    def arrive(self, packet: Packet) -> None:
        self.note(str(packet))
        if packet.target in self.cluster.servers and not self.cluster._is_cut(packet):
            self.cluster.hand(packet.target, packet.source, packet.message)

    def time(self) -> None:
        self.cluster.clock.now += self.random.choice(self.pace)
        server = self.random.choice(self.cluster.ids)
        if server in self.cluster.servers:
            self.note(f"time of server {server}")
            self.cluster.step(server)

    def ask(self) -> None:
        server = self.random.choice(self.cluster.ids)
        if server not in self.cluster.servers:
            return
        sessions = self.cluster.told(SessionOpened)
        if not sessions or self.random.random() < 0.02:
            self.note(f"a session is asked of server {server}")
            self.cluster.request(server, OpenSession(self.random.getrandbits(40)))
            return
        session = self.random.choice(sessions[-2:]).session
        number = self.next_number
        if self.random.random() < 0.3:
            number = max(1, number - self.random.randrange(1, 6))  # asked before, perhaps
        else:
            self.next_number += 1
        after = number - 1 if self.random.random() < 0.3 else 0
        self.note(f"command {number} is asked of server {server}")
        command = Command(session, number, max(1, number - 50), after, b"%d" % number)
        self.cluster.request(server, command)

    def fault(self) -> None:
        cluster = self.cluster
        server = self.random.choice(cluster.ids)
        kind = self.random.choice(("crash", "start", "start", "cut", "heal", "flood"))
        self.note(f"{kind} {server}")
        if kind == "crash" and server in cluster.servers:
            cluster.crash(server)
        elif kind == "start" and server not in cluster.servers:
            cluster.start(server)
        elif kind == "cut":
            cluster.isolate(server)
        elif kind == "heal":
            cluster.heal()
        elif kind == "flood":
            cluster.packets.clear()

    def heal(self) -> None:
        """Everything runs and hears everything: soon all is executed everywhere."""
        cluster = self.cluster
        cluster.heal()
        cluster.packets.clear()
        for server in cluster.ids:
            if server not in cluster.servers:
                cluster.start(server)
        end = cluster.clock.now + HEAL_SECONDS
        nonce = 1 << 50
        while cluster.clock.now < end:
            cluster.pass_time(0.1, 0.02)
            leaders = [s for s in cluster.ids if cluster.servers[s].role == "leader"]
            if not leaders:
                continue
            if self._all_done(nonce, leaders[-1]):
                return
        require(False, "progress", "not in step %s s after everything was healed", HEAL_SECONDS)

    def _all_done(self, nonce: int, leader: ServerId) -> bool:
        cluster = self.cluster
        opened = [o for o in cluster.told(SessionOpened) if o.nonce == nonce]
        if not opened:
            cluster.request(leader, OpenSession(nonce))
            return False
        session = opened[-1].session
        if not any(r.session == session for r in cluster.told(CommandReply)):
            cluster.request(leader, Command(session, 1, 1, 0, b"at last"))
            return False
        servers = cluster.servers.values()
        done = {(s.application.executed, s.log.discarded) for s in servers}
        return len(done) == 1 and all(executed == discarded for executed, discarded in done)


def walk(size: int, seed: int, depth: int) -> Walk:
    """A walk of `depth` events with `size` servers; the same seed goes the same way."""
    result = Walk(size, seed)
    walker = _Walker(size, seed)
    try:
        for _ in range(depth):
            walker.event()
            result.events += 1
        walker.heal()
    except InvariantBroken as broken:
        result.broken = str(broken)
    except Exception as error:  # a server that stops by itself has broken an invariant too
        result.broken = f"a server stopped: {type(error).__name__}: {error}"
    if result.broken:
        result.path = walker.path[-60:]
    result.chosen = len(walker.cluster.watch.chosen)
    for server in walker.cluster.servers.values():
        server.actor_inbox.close()  # type: ignore[attr-defined]
    return result
