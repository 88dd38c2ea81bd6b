"""A directory whose place another has runs all the same, under the same id and beside that one."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING, cast

import msgspec

from paxon.actors import ServerId
from paxon.actors.messages import P2A, Heartbeat, PeerMessage
from tests.books.count import COUNTED
from tests.simulation.node import Node

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.invariants import ClusterWatch, DiskBooks
    from tests.simulation.world import World

__all__ = ["Twin"]


JUDGED = (
    "on_promise_durable", "on_row_durable", "on_seal_durable", "after_seal", "on_chosen_durable",
    "on_snapshot_durable", "on_rows_discarded",
)  # fmt: skip
"""What becomes durable is judged like anybody's: its votes count in epochs in which it has one."""


class TwinBooks:
    """The books of a directory beside those of the one that has its place.

    Most of what its server does nobody judges: it is those who hear it that must not heed it. But
    while a majority knows of no other directory, as in an epoch before, its votes are good.
    """

    books = None

    def __init__(self, watch: ClusterWatch, disk: DiskBooks) -> None:
        self._watch, self._disk = watch, disk

    def __getattr__(self, name: str) -> object:
        return partial(self._judge, name) if name in JUDGED else self._note

    def _note(self, *_what: object, **_more: object) -> None:
        """Nothing is kept."""

    def _judge(self, name: str, server: ServerId, *what: object) -> None:
        disks = self._watch.disks
        others, disks[server] = disks[server], self._disk
        try:
            getattr(self._watch, name)(server, *what)
        finally:
            disks[server] = others

    def on_commit(self, _server: ServerId, count: int) -> None:
        """A transaction became durable."""
        self._disk.count = count

    def on_send(
        self, server: ServerId, messages: Sequence[PeerMessage], _targets: Sequence[ServerId]
    ) -> None:
        """Messages leave: what others make of them has to be known."""
        for message in messages:
            self._watch.note_promise(server, message)
            if isinstance(message, P2A | Heartbeat):
                self._watch._check_lead(server, message)
            if isinstance(message, (Heartbeat, *COUNTED)):
                self._judge("note_count", server, message)


class Twin(Node):
    """Somebody has switched on the machine whose disk was taken for lost, and replaced."""

    def __init__(self, world: World, of: Node) -> None:
        super().__init__(world, of.id, of.settings, of.clock.rate)
        assert of.lost is not None
        (self.disk, books), of.lost = of.lost, None
        self.settings = msgspec.structs.replace(of.settings, rejoin=False, join=False)
        self.watch = cast("ClusterWatch", TwinBooks(world.watch, books))
        self.random = Random(f"twin {world.plan.seed} {of.id}")
        self.disk.belong_to(self, self.watch)
        self._use(self.disk)

    def receivers(self, other: Node) -> Sequence[Node]:
        """Whom a frame for this id comes to: one of the two, or both."""
        return ((other,), (self,), (other, self))[int(self.random.random() * 3)]
