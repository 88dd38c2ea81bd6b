"""A directory whose place another has runs all the same, under the same id and beside that one."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, cast

import msgspec

from tests.simulation.node import Node

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.invariants import ClusterWatch
    from tests.simulation.world import World

__all__ = ["Twin"]


class Unwatched:
    """The books of a server that nobody judges: it is those who hear it that must not heed it."""

    books = None

    def __getattr__(self, name: str) -> object:
        return self._note

    def _note(self, *_what: object, **_more: object) -> None:
        """Nothing is kept."""


class Twin(Node):
    """Somebody has switched on the machine whose disk was taken for lost, and replaced."""

    def __init__(self, world: World, of: Node) -> None:
        super().__init__(world, of.id, of.settings, of.clock.rate)
        assert of.lost is not None
        (self.disk, _), of.lost = of.lost, None
        self.settings = msgspec.structs.replace(of.settings, rejoin=False, join=False)
        self.watch = cast("ClusterWatch", Unwatched())
        self.random = Random(f"twin {world.plan.seed} {of.id}")
        self.disk.belong_to(self, self.watch)
        self._use(self.disk)

    def receivers(self, other: Node) -> Sequence[Node]:
        """Whom a frame for this id comes to: one of the two, or both."""
        return ((other,), (self,), (other, self))[int(self.random.random() * 3)]
