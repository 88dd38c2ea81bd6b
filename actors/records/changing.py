"""From one epoch to the next: a change that a leader was asked for, and a seal that is known.

Plain data (docs/membership.md).
"""

from __future__ import annotations

from paxon.actors.ballot import ServerId
from paxon.actors.messages import Sealed
from paxon.actors.records.configuration import Configuration, Member

__all__ = ["Changing", "Opening"]


class Changing:
    """What the next configuration is to be, until its CONFIG is proposed (M5)."""

    def __init__(self, members: tuple[Member, ...], request: int) -> None:
        """`request` is the random number of the change: the next configuration keeps it."""
        self.members = members
        self.request = request


class Opening:
    """Whom to tell that an epoch has ended, until a leader of a later one is heard (M9)."""

    def __init__(
        self, configuration: Configuration, server: ServerId, named: ServerId, now: float
    ) -> None:
        """`configuration` is the one that begins; `named` is to lead it, 0: nobody is known."""
        both = {member.server for member in (*configuration.members, *configuration.leaving)}
        self.tell = tuple(sorted(both - {server}))
        self.named = named
        self.due = now
        """When to tell them (again), monotonic seconds."""
        self._sealed = Sealed(configuration.epoch - 1, configuration.sealed_at)

    def message(self, server: ServerId) -> Sealed:
        """What to tell one of them."""
        epoch, slot = self._sealed.epoch, self._sealed.slot
        return Sealed(epoch, slot, start=server == self.named)
