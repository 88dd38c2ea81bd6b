"""The simulated network: delays, reorders, duplicates and drops real frames, and can be cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING

from paxon.actors import ServerId
from paxon.actors.messages import PeerMessage, ServerReply
from tests.quiet import QuietNetwork
from tests.simulation.about.bounds import UnreadFrames
from tests.simulation.about.rarities import KeptFrames
from tests.simulation.plan import NetworkPlan

if TYPE_CHECKING:
    from tests.simulation.node import Node

__all__ = ["Deliver", "SimulatedNetwork", "NodeNetwork"]

Deliver = Callable[[object], None]
"""Takes in a frame at its receiver: what was sent, with what the receiver needs to know."""


class SimulatedNetwork:
    """All links. Places are numbers: servers from 1, clients above 1000."""

    def __init__(
        self,
        plan: NetworkPlan,
        random: Random,
        schedule: Callable[[float, Deliver, object], None],
    ) -> None:
        self.plan = plan
        self.kept = KeptFrames(plan.kept, Random(f"kept {random.random()}")) if plan.kept else None
        """Frames that may come again, whenever a fault wants it."""
        self._random = random.random
        self._schedule = schedule
        self.drop = plan.drop
        """The share of frames lost now; a `lossy` fault raises it for a while."""
        self.cut: set[tuple[int, int]] = set()
        """Directed links that let nothing through."""
        self.stalled: dict[tuple[int, int], float] = {}
        """Directed links that deliver nothing before a time, and then all of it."""
        self._last: dict[tuple[int, int], float] = {}
        self.sent = self.dropped = self.duplicated = self.straggled = 0

    def transmit(
        self, source: int, target: int, at: float, deliver: Deliver, frame: object, *, twice: bool,
        stream: bool = False,
    ) -> bool:  # fmt: skip
        """Send a frame at a time; it arrives once, several times or never (then it is False).

        As part of a `stream` it overtakes nothing.
        """
        self.sent += 1
        link = (source, target)
        if link in self.cut or (self.drop and self._random() < self.drop):
            self.dropped += 1
            return False
        plan = self.plan
        self._arrive(link, at, deliver, frame, ordered=plan.ordered or stream)
        if twice and self.kept is not None:
            self.kept.keep(link, deliver, frame)
        if twice and plan.duplicate and self._random() < plan.duplicate:
            self.duplicated += 1
            late = at + plan.latency + self._random() * plan.ghost_time
            self._schedule(late, deliver, frame)
        return True

    def _arrive(
        self, link: tuple[int, int], at: float, deliver: Deliver, frame: object, *, ordered: bool
    ) -> None:
        plan = self.plan
        arrival = at + plan.latency * (0.5 + self._random())
        if plan.straggle and self._random() < plan.straggle:
            self.straggled += 1
            arrival += self._random() * plan.straggle_time
        if self.stalled and link in self.stalled:
            arrival = max(arrival, self.stalled[link])
        if ordered:
            arrival = max(arrival, self._last.get(link, 0.0))
            self._last[link] = arrival
        self._schedule(arrival, deliver, frame)

    def calm(self) -> None:
        """Heal: no link is cut, nothing is lost, doubled or late any more."""
        self.cut.clear()
        self.stalled.clear()
        self.drop = self.plan.drop = 0.0
        self.plan.duplicate = self.plan.straggle = 0.0


class NodeNetwork(QuietNetwork):
    """What a server is handed as its `Network`: encodes as sockets would, then transmits."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._open = True
        world = node.world
        random = Random(f"unread {world.plan.seed} {node.id}")
        self.unread = UnreadFrames(world.plan.bounds, random, lambda: world.now)

    def send(self, server: ServerId, messages: Sequence[PeerMessage]) -> None:
        self.broadcast((server,), messages)

    def broadcast(self, servers: Sequence[ServerId], messages: Sequence[PeerMessage]) -> None:
        node = self._node
        node.watch.on_send(node.id, messages, servers)
        if node.world.network.plan.split:
            for message in messages:
                node.transmit(servers, (message,), self.unread)
        else:
            node.transmit(servers, messages, self.unread)

    def reply(self, client: bytes, messages: Sequence[ServerReply]) -> None:
        self._node.watch.on_reply(self._node.id, messages)
        self._node.transmit_reply(client, messages, self.unread)

    def identify(self, identity: int, *, in_force: bool) -> None:
        self._node.peer_codec.identify(identity)
        if in_force:
            self._node.client_codec.identify(identity)

    def congested(self, client: bytes) -> bool:
        return self.unread.congested(client)

    def close(self) -> None:
        self._open = False
