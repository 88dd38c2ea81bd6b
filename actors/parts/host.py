"""What the parts have in common, and what they ask of their server, and no more.

The protocol is none of their business.
"""

from __future__ import annotations

from typing import Protocol

from paxon.actors.ballot import Ballot, ServerId
from paxon.actors.disk.storage import SnapshotInfo, Storage
from paxon.actors.environment import ClientToken, Random
from paxon.actors.execution.application import Application
from paxon.actors.log import SlotLog
from paxon.actors.messages import Made
from paxon.actors.outbox import Outbox
from paxon.actors.records.catching_up import CatchingUp
from paxon.actors.records.configuration import Configuration
from paxon.actors.records.oddities import Oddities
from paxon.actors.records.places import Places
from paxon.actors.records.reign import Reign
from paxon.actors.records.snapshots import Snapshots
from paxon.actors.settings import Settings

__all__ = ["Host", "Part"]


class Host(Protocol):
    """The server, as far as its parts know it."""

    settings: Settings
    application: Application
    log: SlotLog
    promised: Ballot
    leader: ServerId
    configuration: Configuration
    is_member: bool
    catching_up: CatchingUp
    snapshots: Snapshots
    places: Places
    _outbox: Outbox
    _counters: dict[str, int]
    _oddities: Oddities
    _random: Random
    _storage: Storage
    """Once the disk is open."""
    _reign: Reign | None
    _others: tuple[ServerId, ...]
    _majority: int

    def _serves(self) -> Reign | None:
        """The reign of one that has executed all that it took over."""

    def _led_at(self) -> float:
        """When it heard a leader last, or, leading, a majority."""

    def _refuse(self, client: ClientToken) -> None:
        """Tell a client who leads."""

    def _count_work(self, client: ClientToken, size: int) -> None:
        """Reckon to a client what it is told."""

    def come_into_force(self, made: Made) -> None:
        """Every member has stored the making: take part from here on."""

    def look_for_vote(self) -> None:
        """Something was said about whether this server is a voter."""

    def confirmed(self) -> None:
        """This server's directory is no old copy: take part from here on."""

    def hear_of_cluster(self, server: ServerId, chosen_to: int) -> None:
        """A server of the cluster says how far it holds the log: it may be asked for slots."""

    def become(self, info: SnapshotInfo) -> None:
        """Take over the state of a snapshot that has come whole."""


class Part:
    """Something that goes on beside the protocol, with a state of its own."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._settings = host.settings
        self._application = host.application
        self._outbox = host._outbox
        self._counters = host._counters
        self._oddities = host._oddities
