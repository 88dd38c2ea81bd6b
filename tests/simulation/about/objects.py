"""A replicated class in the simulator: an object beside the store, which each write calls.

What a write's bytes say decides which method is called with what, so the object sees all that the
simulator does to the log: retries, takeovers, snapshots, restarts, catching up. Its state is part
of the digests that are compared all along.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest.mock import patch
from zlib import crc32

import msgspec

from paxon import Replicated, command
from paxon.kvstore.objects.calls import RETURNED, decode_answer, encode, encode_answer
from paxon.kvstore.objects.machine import COMPARED_PARTS, VERSION, machine_of
from paxon.kvstore.objects.sampling import PARTS
from tests.objects.classes import Job
from tests.simulation.machine import WatchedStore
from tests.simulation.node import Node
from tests.simulation.plan import Plan, draw_plan
from tests.simulation.runner import Outcome, run

__all__ = ["StoreWithObject", "Toy", "change_its_state", "object_plans", "run_with_object"]


class Toy(Replicated):
    """Depends on chance, on time, and on the order of a dict."""

    def __init__(self) -> None:
        self.waiting: list[Job] = []
        self.running: dict[str, Job] = {}
        self.drawn: int = 0

    @command
    def put(self, name: str) -> int:
        self.waiting.append(Job(name, self.random.random()))
        return len(self.waiting)

    @command
    def take(self, seconds: float) -> None:
        if self.waiting:
            job = self.waiting.pop(self.random.randrange(len(self.waiting)))
            self.running[job.name] = job
            self.timers.after(seconds, self.give_back, job.name)

    @command
    def give_back(self, name: str) -> None:
        job = self.running.pop(name, None)
        if job is not None:
            self.waiting.append(job)

    @command
    def finish_oldest(self) -> str:
        """In the order in which they were taken."""
        return self.running.pop(next(iter(self.running))).name if self.running else ""

    @command
    def draw(self) -> int:
        self.drawn += self.random.randrange(1000)
        return self.drawn


class StoreWithObject(WatchedStore):
    """The store, and the object beside it."""

    def __init__(self) -> None:
        self.beside = machine_of(Toy())
        super().__init__()

    def made(self, number: int) -> None:
        self.beside.made(number)

    def enter(self, slot: int) -> None:
        self.beside.enter(slot)

    def agree(self, limits: Mapping[str, int]) -> None:
        super().agree(limits)
        self.beside.agree({VERSION: 1, COMPARED_PARTS: PARTS})

    def apply(self, command: bytes) -> bytes:
        self.beside.now = self.now
        number = crc32(command)
        call: tuple[str, dict[str, Any]] = (
            ("put", {"name": f"{number:x}"}),
            ("take", {"seconds": number % 1000 / 500}),
            ("put", {"name": f"{number:x}"}),
            ("finish_oldest", {}),
            ("take", {"seconds": 5.0}),
            ("draw", {}),
        )[number % 6]
        [outcome] = decode_answer(self.beside.apply(encode([call]))).outcomes
        assert outcome.kind == RETURNED, outcome
        return super().apply(command)

    def comparable(self, reply: bytes) -> bytes:
        return super().comparable(reply) + self.beside.comparable(encode_answer([]))

    def next_wakeup(self) -> int | None:
        both = super().next_wakeup(), self.beside.next_wakeup()
        return min((due for due in both if due is not None), default=None)

    def wake(self, time: int) -> bool:
        more = super().wake(time)
        return self.beside.wake(time) or more

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode((super().snapshot(), self.beside.snapshot()))

    def restore(self, snapshot: bytes) -> None:
        store, beside = msgspec.msgpack.decode(snapshot, type=tuple[bytes, bytes])
        super().restore(store)
        self.beside.restore(beside)

    def digest(self) -> str:
        return f"{super().digest()}/{self.beside.digest()}"


def change_its_state(node: Node) -> None:
    """From now on each write leaves something behind that no reply shows."""
    assert node.server is not None
    store = node.server.application.machine
    assert isinstance(store, StoreWithObject)
    toy = store.beside.object
    assert isinstance(toy, Toy)
    apply = store.apply

    def odd(command: bytes) -> bytes:
        toy.drawn += 1
        return apply(command)

    store.apply = odd  # type: ignore[method-assign]


def object_plans(count: int, steps: int = 800, *, first: int = 1) -> list[Plan]:
    """Plans whose servers restart from snapshots, time and again."""
    plans = [draw_plan(seed, steps) for seed in range(first, first + count)]
    for plan in plans:
        plan.settings |= {"snapshot_slots": 4, "retain_slots": 4}
    return plans


def run_with_object(plan: Plan) -> Outcome:
    """The run of a plan over stores with objects beside them."""
    with patch("tests.simulation.node.WatchedStore", StoreWithObject):
        return run(plan)
