"""State machines that go wrong while the simulator runs (docs/design/digests.md)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import msgspec

from paxon.actors import ServerId
from paxon.actors.messages import ServerReply
from paxon.actors.server import PaxosServer
from paxon.kvstore.objects import calls
from tests.simulation.about.bounds import UNREAD
from tests.simulation.machine import WatchedStore
from tests.simulation.node import Node
from tests.simulation.plan import Plan, draw_plan
from tests.simulation.world import World

__all__ = [
    "CASES",
    "answer_with_texts_that_differ",
    "flip_bits",
    "forget_to_be_deterministic",
    "hunt",
    "offer_snapshots_that_differ",
    "plans",
    "raise_errors_that_hold_addresses",
    "restart_from_snapshots",
]

SECONDS = 30.0
"""Simulated time in which whoever is wrong has to be found."""


def plans(servers: int, count: int = 4) -> list[Plan]:
    """Everyday networks, and clients that append, so that replies show the state; nobody falls."""
    found = []
    for seed in range(10_000):
        plan = draw_plan(seed, 300)
        if plan.servers == servers and plan.policy == "stable" and not plan.network.moving:
            plan.faults = [f for f in plan.faults if f.kind in ("slow_disk", "jump_clock")]
            # Who lags must execute what it missed: a snapshot would make its wrong state good.
            for name in (
                "session_ttl", "max_sessions", "max_pending_bytes",
                "transfer_bytes", "retain_slots", "snapshot_slots",
            ):  # fmt: skip
                plan.settings.pop(name, None)
            for name in UNREAD:  # all hashes in one answer are more than those small bounds
                plan.bounds.pop(name, None)
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

    def unless_fickle(server: ServerId, told: Sequence[ServerReply]) -> None:
        if server not in world.fickle:
            on_reply(server, told)

    watch.on_reply = unless_fickle  # type: ignore[method-assign, assignment]
    world.start()
    while world.steps < plan.steps and world.advance():
        world.run_faults()
    while not all(_store(node)._state.data for node in world.nodes.values()):
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
    for item in store._state.data.values():
        item.value += b"?"


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


def hunt(plan: Plan, who: Callable[[int], list[int]], go_wrong: Callable[[Node], None]) -> None:
    """Whoever goes wrong has to stop, and nobody else."""
    world = running(plan)
    try:
        wrong = who(leader(world))
        assert found_out(world, wrong, go_wrong) == set(wrong), plan.seed
        alive = {n.id for n in world.nodes.values() if n.up}
        assert alive == set(world.nodes) - set(wrong)
        assert all("from slot" in reason for reason in world.contradicted.values())
    finally:
        world.close()


def restart_from_snapshots(plan: Plan) -> None:
    """Every server is restarted from a snapshot, and none may be contradicted."""
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
        alarms = [n.server.describe().alarm for n in world.nodes.values() if n.server is not None]
        assert len(alarms) == 3 and not any(alarms)
    finally:
        world.close()


def offer_snapshots_that_differ(plan: Plan) -> None:
    """Of two servers one is wrong, and the third has missed what only their snapshots hold.

    It may take over neither, for it cannot tell who is right; and once the wrong one is switched
    off, the other's.
    """
    plan.settings |= {"snapshot_slots": 3, "retain_slots": 3}
    world = running(plan)
    try:
        right = leader(world)
        wrong, late = (server for server in world.nodes if server != right)
        held = _running(world.nodes[late]).log.last
        world.nodes[late].crash("killed")
        end = world.now + SECONDS
        while _running(world.nodes[wrong]).application.executed < held:  # else it could tell
            assert world.now < end and world.advance(), plan.seed
        world.fickle.add(wrong)
        forget_to_be_deterministic(world.nodes[wrong])
        end = world.now + SECONDS
        while not all(_needs_snapshot(world.nodes[server], held) for server in (right, wrong)):
            assert world.now < end and world.advance(), plan.seed
        world.nodes[late].start()
        refused, end = 0, world.now + SECONDS
        while refused < 3 and world.now < end and world.advance():
            assert not _counted(world.nodes[late], "snapshots_received"), plan.seed
            refused = _counted(world.nodes[late], "digest_alarms")
        assert refused and not world.contradicted, plan.seed
        world.nodes[wrong].crash("it is switched off")
        end = world.now + SECONDS
        while not _counted(world.nodes[late], "snapshots_received") and world.now < end:
            assert world.advance()
        assert _counted(world.nodes[late], "snapshots_received"), plan.seed
        assert not world.contradicted
    finally:
        world.close()


def _needs_snapshot(node: Node, slot: int) -> bool:
    """Whether what follows a slot comes from it as a snapshot alone."""
    return _running(node).log.discarded > slot + 3


def _running(node: Node) -> PaxosServer:
    server = node.server
    assert server is not None
    return server


def _counted(node: Node, what: str) -> int:
    assert node.server is not None
    return node.server._counters[what]


class Addressed(WatchedStore):
    """What it raises reads otherwise in each process."""

    raised = 0

    def apply(self, command: bytes) -> bytes:
        reply = super().apply(command)
        if zlib.crc32(command) % 3 == 0:
            Addressed.raised += 1
            raise ValueError(f"{self!r} has no time for this")
        return reply


class Failing(WatchedStore):
    """Answers some writes with a call of a replicated class that failed: its text is its own."""

    raised = 0

    def apply(self, command: bytes) -> bytes:
        reply = super().apply(command)
        if zlib.crc32(command) % 3 == 0:
            Failing.raised += 1
            text = "at 0x" + "0" * (Failing.raised % 100)
            failed = calls.Outcome(calls.RAISED, calls.no_value(), "ValueError", text)
            return calls.encode_answer([failed])
        return reply

    def comparable(self, reply: bytes) -> bytes:
        return calls.comparable(reply) if _has_failed(reply) else reply

    def reply_bytes(self, reply: bytes) -> int:
        return calls.counted(reply) if _has_failed(reply) else len(reply)


def _has_failed(reply: bytes) -> bool:
    return reply[:2] == b"\x92\xc3"


def answer_with_texts_that_differ(plan: Plan) -> None:
    """Calls that failed have texts of any length, and what is kept of them is nobody's own."""
    plan.settings |= {"max_kept_each": 150}
    plan.clients.outstanding = max(plan.clients.outstanding, 8)
    nobody_is_contradicted(plan, Failing)


def raise_errors_that_hold_addresses(plan: Plan) -> None:
    """Their texts differ in each process, and nobody may be contradicted for that."""
    nobody_is_contradicted(plan, Addressed)


def nobody_is_contradicted(plan: Plan, store: type[Addressed | Failing]) -> None:
    """Though what these stores raise differs."""
    with patch("tests.simulation.node.WatchedStore", store):
        world = World(msgspec.convert(msgspec.to_builtins(plan), Plan))
        for name in ("on_execute", "on_snapshot_taken", "on_restore"):
            setattr(world.watch, name, lambda *_arguments: None)
        world.watch.on_reply = lambda *_arguments: None  # type: ignore[method-assign]
        before = store.raised
        try:
            world.start()
            while world.steps < 2 * plan.steps and world.advance():
                pass
            assert store.raised > before
            alarms = [
                n.server.describe().alarm for n in world.nodes.values() if n.server is not None
            ]
            assert len(alarms) == 3 and not any(alarms)
        finally:
            world.close()
