"""What almost never happens: moments that chance would take a hundred thousand runs to meet.

- Frames come back: copies of what was sent at any time, to a server's later lives and epochs too.
- Servers fall in the very commit that stores an end of an epoch, a CONFIG, a promise, a lease or a
  snapshot, or once they have told of it; several of them do at once.
- A directory that has lost its place runs beside the one that has it (tests/simulation/twin.py).
- A leader and one follower are cut off with all that clients send to it, and whoever leads next is
  asked for other members at once: rows of the two stand above the CONFIG.
- Snapshots arrive damaged, find no room, or cannot be written.
- A server is told, at the end, of more commits than a directory has, while that one's server is cut
  off from another; and a leader's followers of more chosen slots than there are, just as it falls.
- Numbers are near their limits (docs/design/numbers.md): the limits are a few rounds, slots, epochs
  or commits away instead of thousands.

Drawn apart from the rest of a plan, so that the other seeds keep all else.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from paxon.actors.messages import CommitNote
from paxon.actors.records.configuration import is_config
from tests.predicates import require

if TYPE_CHECKING:
    from collections.abc import Callable

    from paxon.actors import PaxosServer
    from tests.simulation.machine import SimulatedDisk
    from tests.simulation.network import Deliver
    from tests.simulation.plan import Fault, Plan
    from tests.simulation.world import World

__all__ = [
    "FAULTS", "LIMITS", "MOMENTS", "PLACES", "KeptFrames", "draw_rarities", "draw_strands",
    "exaggerate", "overstate",
]  # fmt: skip

SHARE = 0.2
"""So many of all runs have some of this."""

FAULTS = ("replay", "crash_at", "bad_snapshots", "twin")
"""The kinds of faults that only such runs have."""

LIMITS: dict[str, tuple[int | float, ...]] = {
    "MAX_ROUND_JUMP": (4, 20),
    "FAR_PERSISTS": (0.02,),  # (a candidate must not raise its ballot faster than it is followed)
    "MAX_SLOTS_AHEAD": (2, 5),  # (times the window: what is dropped comes again late)
    "MAX_EPOCHS_AHEAD": (1, 2),
    "MAX_COUNT_JUMP": (1, 3, 20),
    "MOST_BEHIND": (1, 4),
    "OWN_SLOT_SECONDS": (0.05, 0.5),
    "MOST_PATIENCE": (0, 1),
}
"""Constants of the servers, and what may be drawn for each."""

EXAGGERATED = 0.2
"""So many of all runs end with a leader that believes …"""
TOO_MUCH = (1, 100, 1 << 16)
"""… in so many commits too many of somebody."""
FAR_BEYOND = (20, 40, 60)
"""… or with followers that believe in two to the power of this more chosen slots than there are."""
TAKEN_BACK_IN = 10.0
"""Simulated time after which nobody may remember it any more: the server concerned asks all others
every five seconds, and whom it does not reach hears of it from the leader."""

MOMENTS: dict[str, Callable[[SimulatedDisk], bool]] = {
    "seal": lambda disk: bool(disk._seals),
    "config": lambda disk: any(is_config(value) for _, _, value in disk._rows),
    "promise": lambda disk: disk._promise is not None,
    "snapshot": lambda disk: disk._inner._marks.snapshot != disk.durable.snapshot,
    "lease": lambda disk: disk._inner._marks.lease != disk.durable.lease,
}
"""What a commit stores, in which a server falls …"""
PLACES = ("before", "after", "sent")
"""… before it is durable, after that, or when all has been sent that waited for it."""


def draw_rarities(plan: Plan, wanted: bool | None, fault: type[Fault]) -> list[Fault]:
    """Perhaps make it a run in which rare things happen."""
    random = Random(f"rarities {plan.seed}")
    chance = random.random() < SHARE
    if not (chance if wanted is None else wanted):
        return []
    kinds = [kind for kind in FAULTS if random.random() < 0.6]
    if random.random() < 0.5 or not kinds:
        for name, values in LIMITS.items():
            if random.random() < 0.4:
                plan.bounds[name] = random.choice(values)
        if "MAX_ROUND_JUMP" in plan.bounds:
            plan.bounds["FAR_PERSISTS"] = LIMITS["FAR_PERSISTS"][0]
        if "MAX_SLOTS_AHEAD" in plan.bounds:
            plan.bounds["MAX_SLOTS_AHEAD"] *= plan.settings["window"]
    if "replay" in kinds:
        plan.network.kept = random.choice((30, 300))
    machines, found = plan.servers + plan.spare, []
    gap = random.choice((20, 60, 150)) * plan.servers / 3
    step = int(random.expovariate(1 / gap))
    while kinds and step < plan.steps:
        kind, server = random.choice(kinds), random.choice((0, random.randint(1, machines)))
        seconds, amount = round(random.uniform(0.05, 1.5), 4), round(random.random(), 4)
        group = random.getrandbits(machines) << 1
        if kind == "twin":  # some disk has to be lost before
            found.append(fault(step, "lose_disk", server, seconds / 3, amount, group))
            step += random.choice((20, 60, 120))
        found.append(fault(step, kind, server, seconds, amount, group))
        step += 1 + int(random.expovariate(1 / gap))
    return found


def draw_strands(plan: Plan, wanted: bool | None, fault: type[Fault]) -> list[Fault]:
    """Perhaps cut off leaders with their work, in a run in which members change."""
    random = Random(f"strands {plan.seed}")
    share = 0.0 if wanted is False else 0.5 if wanted else SHARE
    if random.random() >= share or not plan.spare or plan.servers == 1:
        return []
    _calm(plan, random)
    machines, found, step = plan.servers + plan.spare, [], random.randint(80, 150)
    while step < plan.steps:
        seconds, amount = round(random.uniform(1.0, 2.5), 4), round(random.random(), 4)
        found.append(fault(step, "strand", 0, seconds, amount, random.getrandbits(machines) << 1))
        step += 1 + int(random.expovariate(1 / 400))
    return found


def _calm(plan: Plan, random: Random) -> None:
    """Little else goes wrong, and much is under way: else members change while the log is empty."""
    plan.faults[:] = [fault for fault in plan.faults if random.random() < 0.05]
    plan.bounds.clear()
    if plan.policy != "stable":  # clocks may run wild
        plan.policy, plan.settings["leases"], plan.clients.lease = "stable", False, 0.0
    plan.settings |= {"window": 16, "batch_bytes": 1, "election_timeout_min": 0.12,
                      "election_timeout_max": 0.3, "contend": False}  # fmt: skip
    plan.network.drop = plan.network.straggle = 0.0
    plan.network.sync = plan.network.latency = 0.001
    plan.clients.clients, plan.clients.outstanding = 5, 5
    plan.clients.patience, plan.clients.seek = 30.0, 0.2


def exaggerate(world: World) -> None:
    """Perhaps have somebody believe too much of another, and demand that all forget it.

    Believed for good, such a number would have the server refuse its newest directory when it
    starts the next time (docs/design/old-copies.md). The damaged frame comes when all faults are
    over: whoever is down while it comes cannot know of it. If the leader got it, the server may be
    cut off from one to which the leader hands it on; a follower hands it on to nobody.
    """
    random = Random(f"exaggerated {world.plan.seed}")
    servers = [n.server for n in world.nodes.values() if n.server and n.server.is_member]
    leader = next((server for server in servers if server._serves()), None)
    if random.random() >= EXAGGERATED or not world.plan.demands_progress or leader is None:
        return
    if "MAX_COUNT_JUMP" in world.plan.bounds or len(servers) < 2:
        return
    me = leader.settings.server
    one = random.choice([s.settings.server for s in servers if s.settings.server != me])
    amount = random.choice(TOO_MUCH)
    others = [s for s in servers if s.settings.server not in (me, one)]
    how = random.choice(("all hear it", "one is cut off", "one follower")) if others else ""
    believer = random.choice(others) if how == "one follower" else leader
    _await_confirmation(world, servers, one)
    disk = world.watch.disks[one]
    if how == "one is cut off":
        far = random.choice(others).settings.server
        world.network.cut |= {(one, far), (far, one)}
        world.note(one, "and server %d do not hear each other", far)
    me = believer.settings.server
    world.note(me, "is told of %d commits of server %d, which has %d", amount, one, disk.count)
    world.watch.told[one, disk.incarnation] = disk.count + amount
    believer.disks.note_count(one, disk.count + amount)
    world.faults["exaggerated"] += 1
    end = world.now + TAKEN_BACK_IN
    while wrong := _who_believes_it(world, servers, one):
        told = f"servers {wrong} still remember commits of server {one} that never were"
        require(world.advance() and world.now < end, "counts are taken back", "%s", told)
        if leader.role != "leader":  # another takes nothing of its back
            world.network.cut.clear()
    world.network.cut.clear()


def overstate(world: World) -> None:
    """Perhaps tell followers of chosen slots that nobody has, and demand that all forget that.

    Whoever believes it must not lead: it would choose anew what might have been acknowledged. It
    asks the one that said so, which may be down by then, and comes back.
    """
    random = Random(f"overstated {world.plan.seed}")
    nodes = {n.id: n for n in world.nodes.values() if n.server and n.server.is_voter}
    leader = next((n for n in nodes.values() if n.server and n.server._serves()), None)
    if random.random() >= EXAGGERATED or not world.plan.demands_progress or leader is None:
        return
    assert leader.server is not None
    note = CommitNote(leader.server.promised, 1 << random.choice(FAR_BEYOND))
    for node in nodes.values():
        if node is not leader and random.random() < 0.6:
            world.note(node.id, "is told by %d that slot %d is chosen", leader.id, note.commit)
            world.faults["overstated"] += 1
            node.hear(leader, note)
    if random.random() < 0.7:
        leader.crash("killed")
        world.schedule(world.now + random.uniform(0.05, 3.0), world.start_node, leader)
    believe: set[int] = set()
    end = world.now + TAKEN_BACK_IN
    while _behind_or_leaderless([n.server for n in nodes.values()]):
        told = "some server is down, or still asks for slots that nobody has, or none leads"
        require(world.advance() and world.now < end, "commits are taken back", told)
        for server in [n.server for n in nodes.values() if leader.server is None]:
            if server is None:
                continue
            one = server.settings.server
            if server.catching_up.known_commit >= note.commit:
                believe.add(one)
            leads = one in believe and server.role == "leader"
            require(not leads, "commits are taken back", "server %d leads all the same", one)


def _behind_or_leaderless(servers: list[PaxosServer | None]) -> bool:
    running = [server for server in servers if server is not None and not server.is_behind()]
    return len(running) < len(servers) or not any(server._serves() for server in running)


def _await_confirmation(world: World, servers: list[PaxosServer], one: int) -> None:
    """All have known of no later state of its directory: one that is no old copy may deny."""
    confirmation = next(s for s in servers if s.settings.server == one).membership.confirmation
    others = {server.settings.server for server in servers} - {one}
    end = world.now + TAKEN_BACK_IN
    while not (confirmation.made_here or others <= confirmation.vouched):
        told = f"only servers {confirmation.vouched} have confirmed server {one}'s directory"
        require(world.advance() and world.now < end, "counts are taken back", "%s", told)


def _who_believes_it(world: World, servers: list[PaxosServer], one: int) -> list[int]:
    most = world.watch.disks[one].count
    return [s.settings.server for s in servers if s.disks.counts.get(one, 0) > most]


class KeptFrames:
    """Frames that the network has delivered once, any of which may come again."""

    def __init__(self, most: int, random: Random) -> None:
        self._most = most
        self._random = random
        self._seen = 0
        self._frames: list[tuple[tuple[int, int], Deliver, object]] = []

    def keep(self, link: tuple[int, int], deliver: Deliver, frame: object) -> None:
        """Remember some of all that was ever sent, each as likely as any other."""
        self._seen += 1
        if len(self._frames) < self._most:
            self._frames.append((link, deliver, frame))
        elif (place := self._random.randrange(self._seen)) < self._most:
            self._frames[place] = (link, deliver, frame)

    def come_back(self, place: int, amount: float) -> list[tuple[Deliver, object]]:
        """Some frames to or from a place, or of any link (0)."""
        fitting = [kept for kept in self._frames if not place or place in kept[0]]
        count = min(len(fitting), 1 + int(amount * amount * 60))
        return [(deliver, frame) for _, deliver, frame in self._random.sample(fitting, count)]
