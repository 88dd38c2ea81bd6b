"""One run: faults with safety checked at every step, then healing with progress demanded."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time

import msgspec
from loguru import logger

from paxon.kvstore.store.operations import Get, Put
from tests.invariants import InvariantBroken, require
from tests.linearizability import Verdict, check
from tests.simulation.about.bounds import bounded
from tests.simulation.about.coordination import coordinated
from tests.simulation.about.coordinator import Coordinator
from tests.simulation.about.lasting import leave_broken, mend
from tests.simulation.about.rarities import exaggerate, overstate
from tests.simulation.client import FOREVER, SimulatedClient
from tests.simulation.plan import Plan
from tests.simulation.world import World

__all__ = ["Outcome", "run"]

HEAL_SECONDS = 20.0
"""Simulated time in which everything has to be answered once all faults are healed …"""
CONTEND_SECONDS = 80.0
"""… or so long where each server that is asked tries to lead: copies of a seeking client's question
have all of them lead in turn (seed 131077 about members, 37064 about coordination) …"""
SETTLE_SECONDS = 20.0
"""… and in which, after that, all servers have to be in step with short logs."""
CHECK_CONFIGURATIONS = 50_000
"""The linearizability checker's budget: the same on every machine, unlike time."""


class Outcome(msgspec.Struct):
    """What came of a run."""

    seed: int
    steps: int = 0
    simulated_seconds: float = 0.0
    cpu_seconds: float = 0.0
    answered: int = 0
    unanswered: int = 0
    """Operations whose client gave up, or was told that their outcome is unknown."""
    chosen: int = 0
    faults: dict[str, int] = {}
    coordination: dict[str, int] = {}
    """What coordinating clients have met, if there are any."""
    undecided: bool = False
    """The linearizability checker ran out of its budget."""
    broken: str = ""
    """The predicate that did not hold; empty if all did."""
    text: str = ""


def run(plan: Plan, write_trace: Callable[[str], object] | None = None) -> Outcome:
    """Run a plan to its end or to the first predicate that does not hold."""
    logger.disable("paxon")
    start = process_time()
    outcome = Outcome(plan.seed)
    plan = msgspec.convert(msgspec.to_builtins(plan), Plan)  # a run changes its own copy only
    world = World(plan, write_trace)
    try:
        with bounded(plan.bounds), coordinated(plan.coordination):
            _run_faults(world)
            _heal(world)
        _check_history(world, outcome)
    except InvariantBroken as error:
        outcome.broken, outcome.text = error.predicate, str(error)
        world.note(0, "%s", error)
    finally:
        world.close()
        logger.enable("paxon")
    outcome.steps = world.steps
    outcome.simulated_seconds = world.now
    outcome.answered, outcome.unanswered = world.answered, world.unanswered
    outcome.chosen = len(world.watch.chosen)
    network = world.network
    outcome.faults = dict(sorted(world.faults.items())) | {
        "frames": network.sent, "frames_dropped": network.dropped,
        "epochs": len(world.watch.epochs) - 1,
        "frames_doubled": network.duplicated, "frames_late": network.straggled,
    }  # fmt: skip
    if world.watch.books is not None:
        outcome.coordination = dict(world.watch.books.counts)
    outcome.cpu_seconds = process_time() - start
    return outcome


def _run_faults(world: World) -> None:
    world.start()
    while world.steps < world.plan.steps:
        world.run_faults()
        if not world.advance():
            break


def _heal(world: World) -> None:
    """All faults are over: what was asked for and something new must be answered, everywhere."""
    world.heal()
    leave_broken(world)
    seconds = CONTEND_SECONDS if world.plan.settings.get("contend") else HEAL_SECONDS
    end = world.now + (seconds if world.plan.demands_progress else 1.0)
    for client in world.clients.values():
        client.ask(Put(b"last%d" % client.number, b"%d" % client.number), FOREVER)
        client.ask(Get(b"k0"), FOREVER)
    for coordinator in world.coordinators.values():
        coordinator.heal()
    everybody: list[SimulatedClient | Coordinator] = [
        *world.clients.values(), *world.coordinators.values(),
    ]  # fmt: skip
    while any(client.pending for client in everybody):
        if not _advance(world, end):
            waiting = [client.number for client in everybody if client.pending]
            _demand(world, f"clients {waiting} are still waiting after {seconds} s")
            return
    mend(world)
    end = world.now + (SETTLE_SECONDS if world.plan.demands_progress else 1.0)
    while not _settled(world):
        if not _advance(world, end):
            _demand(world, f"the servers are not in step after {SETTLE_SECONDS} s: {_stand(world)}")
            return
    told = dict(world.watch.told)
    end = world.now + 1.0  # some heartbeats, and their replies
    while _advance(world, end):
        pass
    servers = [n.server for n in world.nodes.values() if n.server is not None]
    members = world.watch.epochs.last.servers
    servers = [server for server in servers if server.settings.server in members]
    if world.plan.demands_progress and "MAX_COUNT_JUMP" not in world.plan.bounds:  # (else slowly)
        # (One that was made a member since then may not know of it yet.)
        world.watch.check_handed_on([server for server in servers if server.is_member], told)
    exaggerate(world)
    overstate(world)
    world.watch.check_states(n.server for n in world.nodes.values() if n.server is not None)


def _advance(world: World, end: float) -> bool:
    return world.advance() and world.now < end


def _demand(world: World, text: str) -> None:
    require(not world.plan.demands_progress, "progress", "%s", text)


def _settled(world: World) -> bool:
    """All servers run and have executed, and discarded, the same."""
    if world.watch.books is not None and world.watch.books.model.leases:
        return False  # nobody renews them any more
    servers = [node.server for node in world.nodes.values() if node.server is not None]
    executed = servers[0].application.executed if servers else 0
    members = world.watch.epochs.last.servers
    if world.plan.spare:
        servers = [server for server in servers if server.settings.server in members]
    if len(servers) < (len(members) or len(world.nodes)) or executed < max(
        world.watch.chosen, default=0
    ):
        return False
    if any(server.application.executed != executed for server in servers):
        return False
    if not all(server.is_member for server in servers):
        return False
    # (Beyond it a proposal that nobody took up may remain.)
    return all(server.log.discarded >= executed for server in servers)


def _stand(world: World) -> str:
    return ", ".join(
        f"{node.id}: {'down' if (s := node.server) is None else s.role}"
        + ("" if s is None else f" in {s.promised}, executed {s.application.executed}, "
           f"log {len(s.log)}")
        for node in world.nodes.values()
    )  # fmt: skip


def _check_history(world: World, outcome: Outcome) -> None:
    result = check(world.history.operations(), seconds=FOREVER, configurations=CHECK_CONFIGURATIONS)
    require(result.verdict is not Verdict.VIOLATION, "linearizable", "%s", result.explanation)
    outcome.undecided = result.verdict is Verdict.UNDECIDED
