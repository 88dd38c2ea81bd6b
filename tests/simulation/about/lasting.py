"""Something stays broken when all else is healed: the cluster has to live with it.

A majority of servers that reach each other goes on without whomever it does not reach. So all that
was asked for has to be answered although one server is down, cut off, unheard or deaf; although two
do not reach each other; or although all reach each other through one alone. Only then the rest is
healed as well. Without the courtesies of `stable` it is one that is down, or nothing: who does not
hear its leader deposes it for ever, and under `contend` so do clients that look for one that is
gone (docs/design/elections.md).
"""

from __future__ import annotations

from itertools import chain
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from paxon.actors import ServerId
    from tests.simulation.world import World

__all__ = ["leave_broken", "mend"]

KINDS = ("down", "down", "alone", "deaf", "mute", "link", "one way", "hub")


def leave_broken(world: World) -> None:
    """Draw what stays broken, if the cluster promises to go on all the same."""
    random, plan, network = Random(f"lasting {world.plan.seed}"), world.plan, world.network
    if not plan.demands_progress or not _is_calm(world):
        return
    policies = {plan.policy, *(own.get("policy", plan.policy) for own in chain(*plan.own))}
    if policies != {"stable"} and plan.settings.get("contend"):
        return
    kind = random.choice(KINDS if policies == {"stable"} else ("down",))
    voters, cut = world.watch.epochs.last.voters, network.cut
    one, other = random.choice(voters), random.choice(voters)
    others = [server for server in world.nodes if server != one]
    if kind == "hub":
        if not _all_vote(world):
            return
        cut.update((a, b) for a in others for b in others)
    elif kind in ("link", "one way"):
        if one == other or not (_goes_on(world, {one}) and _goes_on(world, {other})):
            return
        cut.update([(one, other), (other, one)][: 1 if kind == "one way" else 2])
    elif not _goes_on(world, {one}):
        return
    elif kind == "down":
        world.nodes[one].stays_down = True
        world.nodes[one].crash("it stays down")
    else:
        cut.update((one, server) for server in others if kind != "deaf")
        cut.update((server, one) for server in others if kind != "mute")
    world.faults[f"left {kind}"] += 1
    world.note(one, "is left %s (%d)", kind, other)


def mend(world: World) -> None:
    """Nothing is broken any more."""
    world.network.cut.clear()
    for node in world.nodes.values():
        node.stays_down = False
        world.start_node(node)


def _is_calm(world: World) -> bool:
    """Whether the cluster is in force, and nobody is about to change its members unasked."""
    now = world.watch.epochs.last
    reigns = [n.server._reign for n in world.nodes.values() if n.server is not None]
    return (
        bool(now.voters)
        and all(world.nodes[server].disk.load().in_force for server in now.voters)
        and not any(ballot.epoch == now.epoch for ballot in world.watch._sealing)
        and not any(reign is not None and reign.changing is not None for reign in reigns)
    )


def _goes_on(world: World, gone: Collection[ServerId]) -> bool:
    """Whether a majority is left without these, on the disks that vote.

    Of the configuration before the last as well: perhaps nobody has told the last one of its time.
    """
    for configuration in world.watch.epochs.configurations[-2:]:
        able = [
            server
            for server in configuration.voters
            if server not in gone
            and not set(gone).intersection(_tellers(world, server))
            and not world.watch.disks[server].old
            and world.nodes[server].disk.incarnation == configuration.incarnations[server]
        ]
        if len(able) < configuration.majority:
            return False
    return True


def _tellers(world: World, server: ServerId) -> list[ServerId]:
    """Of whom it had a frame of a later epoch and no answer yet: it waits for them (finding 21)."""
    running = world.nodes[server].server
    return [] if running is None else running.membership.confirmation.tellers()


def _all_vote(world: World) -> bool:
    """Whether each voter knows that it is one: none could be confirmed through another (M15)."""
    voters = world.watch.epochs.last.voters
    servers = [world.nodes[server].server for server in voters]
    epoch = world.watch.epochs.last.epoch
    return _goes_on(world, ()) and all(
        server is not None
        and server.is_voter
        and not server.membership.confirmation.pending  # (one may have just been started)
        and server.configuration.epoch == epoch
        for server in servers
    )
