"""Bugs to plant in the making of a cluster; the simulator's seeds that make one find them."""

from __future__ import annotations

from typing import Any

from paxon.actors import PaxosServer
from paxon.actors.disk.storage import Storage
from paxon.actors.messages import Introduction, Made
from paxon.actors.parts.membership import Membership
from paxon.actors.records.configuration import Configuration
from paxon.actors.records.making import Making
from tests.search.planted import Original, PlantedBug, planted

__all__ = ["MAKING"]

MAKING: list[PlantedBug] = []


def _some_have_stored_it(original: Original) -> Any:
    return lambda self: self.made is not None


MAKING.append(
    planted(
        "in force before all have stored it",
        "a server counts the cluster as in force once it has stored the making itself",
        (Making, "complete", _some_have_stored_it),
    )
)


def _unchecked_store(original: Original) -> Any:
    def store(self: Making, made: Made) -> None:
        self.made = made
        self._stored.clear()
        self._obstacles.clear()

    return store


def _unchecked_save(original: Original) -> Any:
    def save_made(self: Storage, made: Made, *, in_force: bool) -> None:
        self._marks.made, self._marks.in_force = made, in_force
        self.dirty = True

    return save_made


def _begins_anew(original: Original) -> Any:
    def hear(self: Making, said: Introduction, sender: int) -> Made | None:
        known = None if self.made is None or said.made else self.made.incarnation(sender)
        if known not in (None, said.incarnation):
            self.made = None
        result: Made | None = original(self, said, sender)
        return result

    return hear


MAKING.append(
    planted(
        "store a second making",
        "a server forgets the making that it holds when a member comes with an empty directory",
        (Making, "hear", _begins_anew),
        (Making, "store", _unchecked_store),
        (Storage, "save_made", _unchecked_save),
    )
)


def _any_disk(original: Original) -> Any:
    def hear_holder(self: Making, made: Made, said: Introduction, sender: int) -> Made | None:
        if self.server in made.servers and not self.joins and not said.in_force:
            return made
        result: Made | None = original(self, made, said, sender)
        return result

    return hear_holder


MAKING.append(
    planted(
        "store the making of another disk",
        "a server whose directory was emptied stores a making that names the lost one",
        (Making, "_hear_holder", _any_disk),
        (Making, "store", _unchecked_store),
    )
)


def _joins_at_once(original: Original) -> Any:
    def store_made(self: Membership, made: Made, *, in_force: bool) -> None:
        original(self, made, in_force=in_force)
        server = self._host
        assert isinstance(server, PaxosServer)
        server._join(Configuration.of(made))
        server._takes_part = server.making.in_force = True

    return store_made


MAKING.append(
    planted(
        "promise before it is in force",
        "a server takes part as soon as it has stored the making",
        (Membership, "_store_made", _joins_at_once),
    )
)
