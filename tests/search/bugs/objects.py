"""Bugs to plant in replicated classes; the simulator's objects find them, or a rolling upgrade."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from paxon.actors.execution.agreed import Features
from paxon.actors.execution.machine_errors import MachineFailure
from paxon.kvstore.objects.machine import ObjectMachine
from paxon.kvstore.objects.moment import Chance, Timers
from tests.invariants import InvariantBroken
from tests.objects.classes import OldShop, Shop
from tests.objects.test_versions import raise_version, rolling
from tests.search.planted import Original, PlantedBug, planted
from tests.simulation.about.objects import object_plans, run_with_object

__all__ = ["OBJECTS", "ObjectBug"]


def in_the_simulator(seeds: int, first: int) -> tuple[int, str] | tuple[()]:
    """Which run it took, and what was found; () if none of so many shows it."""
    for plan in object_plans(seeds, first=first):
        outcome = run_with_object(plan)
        if outcome.broken:
            return plan.seed, outcome.text
    return ()


def in_an_upgrade(_seeds: int, _first: int) -> tuple[int, str] | tuple[()]:
    """One server of three still has the old code when the version is raised."""
    try:
        cluster = rolling({1: Shop, 2: Shop, 3: OldShop})
        raise_version(cluster)
        cluster.pass_time(0.5)
    except (MachineFailure, InvariantBroken) as error:
        return 1, str(error)
    return ()


@dataclass(frozen=True)
class ObjectBug:
    """A bug, and what shows it."""

    bug: PlantedBug
    where: Callable[[int, int], tuple[int, str] | tuple[()]]

    def hunt(self, seeds: int = 120, first: int = 1) -> tuple[int, str] | tuple[()]:
        """Which run of so many from `first` on it took, and what was found."""
        with self.bug.apply():
            return self.where(seeds, first)


def _seeded_by_the_process(_original: Original) -> Any:
    def begin(self: Chance, seed: int, slot: int, position: int) -> None:
        self._key = b"%d" % random.getrandbits(64)
        self._drawn = 0

    return begin


def _sorted(_original: Original) -> Any:
    sort = msgspec.msgpack.Encoder(order="deterministic").encode

    def state_bytes(self: ObjectMachine) -> bytes:
        return sort({field.name: getattr(self.object, field.name) for field in self._fields})

    return state_bytes


def _without_timers(original: Original) -> Any:
    def restore(self: ObjectMachine, snapshot: bytes) -> None:
        original(self, snapshot)
        self._moment.timers.waiting = []

    return restore


def _reseeded(original: Original) -> Any:
    def restore(self: ObjectMachine, snapshot: bytes) -> None:
        seed = self._moment.seed + 1
        original(self, snapshot)
        self._moment.seed = seed

    return restore


def _by_the_second(_original: Original) -> Any:
    def after(self: Timers, seconds: float, method: Any, *args: Any) -> int:
        self._moment.timers.next_id += random.getrandbits(1)
        return self.at(self._moment.now + int(seconds * 1e9), method, *args)

    return after


OBJECTS = [
    ObjectBug(
        planted(
            "seed random numbers by the process",
            "what a command draws follows from the process and not from the slot",
            (Chance, "__init__", _seeded_by_the_process),
        ),
        in_the_simulator,
    ),
    ObjectBug(
        planted(
            "lose the order of dicts in the snapshot",
            "the fields are written with their keys sorted",
            (ObjectMachine, "_state_bytes", _sorted),
        ),
        in_the_simulator,
    ),
    ObjectBug(
        planted(
            "forget the timers at a restore",
            "whoever starts from a snapshot has the fields, and no timers",
            (ObjectMachine, "restore", _without_timers),
        ),
        in_the_simulator,
    ),
    ObjectBug(
        planted(
            "draw the seed anew at a restore",
            "whoever starts from a snapshot draws other numbers than the others",
            (ObjectMachine, "restore", _reseeded),
        ),
        in_the_simulator,
    ),
    ObjectBug(
        planted(
            "number timers as they come",
            "a server numbers its timers by something of its own",
            (Timers, "after", _by_the_second),
        ),
        in_the_simulator,
    ),
    ObjectBug(
        planted(
            "raise the version before all have the code",
            "the leader does not ask which servers know what it puts into the log",
            (Features, "obstacle", lambda _original: lambda *_arguments, **_more: ""),
        ),
        in_an_upgrade,
    ),
]
