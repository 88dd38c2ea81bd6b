"""What must hold while a cluster is made, judged from what becomes durable on the disks."""

from __future__ import annotations

from dataclasses import dataclass, field

from paxon.actors import ServerId
from paxon.actors.messages import Made

__all__ = ["MakingBooks"]

DiskId = tuple[ServerId, int]
"""A server's id with the incarnation of its data directory."""


@dataclass
class MakingBooks:
    """Which disks have stored which making. Each method returns what is wrong, "" if nothing is."""

    stored: dict[DiskId, int] = field(default_factory=dict)
    """The identity of the cluster that each disk belongs to."""
    in_force: set[DiskId] = field(default_factory=set)
    identity: int = 0
    """Of the one cluster that ever came into force; 0: none has."""

    def on_made(self, disk: DiskId, made: Made, *, in_force: bool) -> str:
        """This is durable now."""
        if not in_force and made.incarnation(disk[0]) not in (disk[1], None):
            # (Who joins later stores it when it is in force.)
            return f"disk {disk} has stored the making of other disks: {made}"
        if self.stored.setdefault(disk, made.identity) != made.identity:
            return f"disk {disk} has stored a second making: {made}"
        if not in_force:
            return ""
        missing = [member for member in made.members if self.stored.get(member) != made.identity]
        if missing:
            return f"disk {disk} is in force, but members {missing} have not stored {made}"
        if self.identity not in (0, made.identity):
            return f"disk {disk}: cluster {made.identity} is in force beside {self.identity}"
        self.identity = made.identity
        self.in_force.add(disk)
        return ""

    def start_anew(self) -> None:
        """It is in force where no majority can be: all directories are emptied."""
        self.identity = 0
        self.in_force.clear()

    def on_promise(self, disk: DiskId) -> str:
        """A promise is durable now."""
        return "" if disk in self.in_force else f"disk {disk} promises before it is in force"
