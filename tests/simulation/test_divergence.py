"""State machines that go wrong in the simulator, and who finds out (docs/digests.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from loguru import logger

from paxon.actors import application
from paxon.actors.application import Application
from paxon.actors.comparing import Comparing
from tests.invariants import InvariantBroken
from tests.simulation.machine import WatchedStore
from tests.simulation.node import Node
from tests.simulation.plan import Plan, draw_plan
from tests.simulation.world import World

SECONDS = 30.0
"""Simulated time in which whoever is wrong has to be found."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger.disable("paxon")
    yield
    logger.enable("paxon")


def plans(servers: int, count: int = 4) -> list[Plan]:
    """Everyday networks, and clients that append, so that replies show the state; nobody falls."""
    found = []
    for seed in range(10_000):
        plan = draw_plan(seed, 300)
        if plan.servers == servers and plan.policy == "stable" and not plan.network.moving:
            plan.faults = [f for f in plan.faults if f.kind in ("slow_disk", "jump_clock")]
            for name in ("session_ttl", "max_sessions", "max_pending_bytes"):
                plan.settings.pop(name, None)
            plan.clients.weights = {"append": 3, "get": 1}
            plan.clients.think = min(plan.clients.think, 0.02)
            found.append(plan)
            if len(found) == count:
                return found
    raise AssertionError("no such plan")


def running(plan: Plan) -> World:
    """The world of a plan after its steps, all servers up."""
    world = World(msgspec.convert(msgspec.to_builtins(plan), Plan))
    watch = world.watch
    for name in ("on_execute", "on_snapshot_taken", "on_restore"):
        _leave_out_the_fickle(world, name, getattr(watch, name))
    on_reply = watch.on_reply
    watch.on_reply = lambda s, told: s in world.fickle or on_reply(s, told)  # type: ignore
    world.start()
    while world.steps < plan.steps and world.advance():
        world.run_faults()
    while not all(_store(node)._data for node in world.nodes.values()):
        assert world.advance()
    return world


def _store(node: Node) -> WatchedStore:
    assert node.server is not None
    store = node.server.application.machine
    assert isinstance(store, WatchedStore)
    return store


def _leave_out_the_fickle(world: World, name: str, original: Callable[..., None]) -> None:
    def told(server: int, slot: int, *more: Any) -> None:
        if server in world.fickle:
            world.watch._position[server] = slot
        else:
            original(server, slot, *more)

    setattr(world.watch, name, told)


def leader(world: World) -> int:
    while True:
        for node in world.nodes.values():
            if node.server is not None and node.server.role == "leader" and node.server._serves():
                return node.id
        assert world.advance()


def forget_to_be_deterministic(node: Node) -> None:
    """From now on each write is answered with another nil more."""
    store = _store(node)
    apply = store.apply

    def odd(command: bytes) -> bytes:
        return apply(command) + b"\xc0"

    store.apply = odd  # type: ignore[method-assign]


def flip_bits(node: Node) -> None:
    """Memory fails: every value that is held has a byte more."""
    store = _store(node)
    for key in store._data:
        store._data[key] += b"?"


def found_out(world: World, who: list[int], go_wrong: Callable[[Node], None]) -> set[int]:
    """Make these servers go wrong; who has stopped by the end."""
    world.fickle.update(who)
    for number in who:
        go_wrong(world.nodes[number])
    end = world.now + SECONDS
    while set(world.contradicted) != set(who) and world.now < end and world.advance():
        pass
    return set(world.contradicted)


CASES = {
    "a follower": (3, lambda leads: [leads % 3 + 1]),
    "the leader": (3, lambda leads: [leads]),
    "two of five": (5, lambda leads: [leads % 5 + 1, (leads + 1) % 5 + 1]),
    "the leader and another": (5, lambda leads: [leads, leads % 5 + 1]),
}


def hunt(servers: int, who: Callable[[int], list[int]], go_wrong: Callable[[Node], None]) -> None:
    for plan in plans(servers):
        world = running(plan)
        try:
            wrong = who(leader(world))
            assert found_out(world, wrong, go_wrong) == set(wrong), plan.seed
            alive = {n.id for n in world.nodes.values() if n.up}
            assert alive == set(world.nodes) - set(wrong)
            assert all("from slot" in reason for reason in world.contradicted.values())
        finally:
            world.close()


@pytest.mark.parametrize("case", CASES)
def test_who_forgets_to_be_deterministic_stops(case: str) -> None:
    hunt(*CASES[case], forget_to_be_deterministic)


@pytest.mark.parametrize("case", CASES)
def test_whose_memory_fails_stops_once_a_reply_shows_it(case: str) -> None:
    hunt(*CASES[case], flip_bits)


# --- the checks bite ------------------------------------------------------------------------------


@contextmanager
def planted(owner: Any, name: str, mutant: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, mutant(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def test_a_leader_that_excepts_itself_is_found() -> None:
    def excepted(original: Any) -> Any:
        def stop(self: Any, verdict: Any) -> None:
            if self.role != "leader":
                original(self, verdict)

        return stop

    with (
        planted(Comparing, "_stop_as_contradicted", excepted),
        pytest.raises(AssertionError),
    ):
        hunt(*CASES["the leader"], forget_to_be_deterministic)


def restarts_from_snapshots() -> None:
    """Every server is restarted from a snapshot, and none may be contradicted."""
    for plan in plans(3, 2):
        plan.settings |= {"snapshot_slots": 3, "retain_slots": 3}
        world = running(plan)
        try:
            for number in world.nodes:
                world.nodes[number].crash("killed")
                world.nodes[number].start()
                end = world.now + 3.0
                while world.now < end and world.advance():
                    pass
            assert not world.contradicted
            alarms = [n.server.alarm for n in world.nodes.values() if n.server is not None]
            assert len(alarms) == 3 and not any(alarms)
        finally:
            world.close()


def test_restarts_from_snapshots_are_no_difference() -> None:
    restarts_from_snapshots()


def test_a_snapshot_without_its_hash_is_found() -> None:
    def forgetful(original: Any) -> Any:
        def restore(self: Application, image: bytes) -> None:
            original(self, image)
            self.chain.begin(self.chain.version, self.executed)

        return restore

    with planted(Application, "restore", forgetful), pytest.raises(AssertionError):
        restarts_from_snapshots()


class Addressed(WatchedStore):
    """What it raises reads otherwise in each process."""

    def apply(self, command: bytes) -> bytes:
        reply = super().apply(command)
        if len(command) % 3 == 0:
            raise ValueError(f"{self!r} has no time for this")
        return reply


def machines_whose_errors_hold_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulation.node.WatchedStore", Addressed)
    for plan in plans(3, 2):
        world = World(msgspec.convert(msgspec.to_builtins(plan), Plan))
        for name in ("on_execute", "on_snapshot_taken", "on_restore"):
            setattr(world.watch, name, lambda *_arguments: None)
        world.watch.on_reply = lambda *_arguments: None  # type: ignore[method-assign]
        try:
            world.start()
            while world.steps < 2 * plan.steps and world.advance():
                pass
            alarms = [n.server.alarm for n in world.nodes.values() if n.server is not None]
            assert len(alarms) == 3 and not any(alarms)
        finally:
            world.close()


def test_texts_of_errors_are_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    machines_whose_errors_hold_addresses(monkeypatch)


def test_hashing_the_text_of_an_error_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(_original: Any) -> Any:
        return lambda _entry, reply: (reply.status, reply.payload)

    with (
        planted(application, "_comparable", whole),
        pytest.raises((AssertionError, InvariantBroken)),
    ):
        machines_whose_errors_hold_addresses(monkeypatch)
