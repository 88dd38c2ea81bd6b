"""What a run will do, drawn from its seed before it begins (swarm testing).

Each seed first draws which kinds of faults there are at all and how often, how big the cluster is,
how it is set up and what clients do: runs that differ in kind find more than runs that are all
average (Groce et al., "Swarm Testing"). The plan is plain data, so that a failing one can be cut
down piece by piece and kept in a file.
"""

from __future__ import annotations

from random import Random
from typing import Any, get_args

import msgspec

from paxon.actors.settings import PolicyName
from tests.simulation.about.bounds import draw_bounds
from tests.simulation.about.coordination import CoordinationPlan, draw_coordination
from tests.simulation.about.membership import draw_membership
from tests.simulation.about.rarities import FAULTS, draw_rarities, draw_strands
from tests.simulation.about.variety import draw_changes, draw_own

__all__ = ["Fault", "Plan", "NetworkPlan", "ClientPlan", "FAULT_KINDS", "draw_plan"]

FAULT_KINDS = (
    "crash", "crash_before_sync", "crash_after_sync", "crash_all", "pause", "partition",
    "isolate", "cut_one_way", "cut_two_way", "bridge", "stall", "disconnect", "lossy",
    "slow_disk", "full_disk", "slow_server", "jump_clock", "leap", "lose_disk",
    "restart_client", "suspend", "drift", "sever", "change", "transfer", "little_room",
    "restored", *FAULTS, "strand",
)  # fmt: skip
"""Every kind of fault that is scheduled; the network's own faults are rates in `NetworkPlan`."""

UNCOMMON = ("change", "transfer", "little_room", "restored", *FAULTS, "strand")
"""Those that are drawn apart from all others."""
EARLY_KINDS = (
    "crash", "crash_before_sync", "crash_after_sync", "crash_all", "pause", "partition", "isolate",
    "cut_one_way", "stall", "lossy", "full_disk", "lose_disk", "lose_disk",
)  # fmt: skip
"""What strikes while a cluster is made."""

LEASE_FAULTS = (
    "sever", "sever", "isolate", "cut_one_way", "stall", "crash", "pause", "suspend", "drift",
    "disconnect", "lose_disk", "lossy", "jump_clock", "crash_after_sync",
)  # fmt: skip
"""What befalls those who hold leases and those who have granted them."""
LEASES_SHARE = 0.25
"""So many of all runs are about leases."""
LEASED_RATES = (0.95, 1.05)
"""How fast clocks may be where leases count on them: `Settings.max_clock_drift` off at most."""
WILD_RATES = (0.7, 1.4)

LEADER = 0
"""As a fault's server: whoever leads when it strikes."""


class Fault(msgspec.Struct, array_like=True, frozen=True):
    """Something that goes wrong, at a step of the run, and for how long."""

    step: int
    kind: str
    server: int
    """Whom it strikes, 0: the leader of that moment; for `restart_client` the client."""
    seconds: float
    """Simulated time until it is over (a crashed server is started again)."""
    amount: float
    """How strong: seconds of a slow sync, a clock's jump, the share of messages lost, …"""
    group: int
    """Bits of servers, for partitions and the like."""


class NetworkPlan(msgspec.Struct):
    """Rates of the network's everyday faults, per frame. Times are seconds."""

    latency: float = 0.002
    """A frame usually takes half to one and a half of this."""
    drop: float = 0.0
    duplicate: float = 0.0
    straggle: float = 0.0
    """Share of frames that take up to `straggle_time` longer."""
    straggle_time: float = 0.2
    ghost_time: float = 0.0
    """The second copy of a frame takes up to so much longer than the first."""
    ordered: bool = True
    """Frames between two servers arrive in the order in which they were sent."""
    moving: bool = False
    """Partitions move: a new one heals those before it."""
    split: bool = False
    """Each message travels in a frame of its own."""
    service: float = 0.0001
    """What a server takes for a burst."""
    sync: float = 0.0002
    """What a sync of the disk takes, usually."""
    kept: int = 0
    """So many of all frames that were delivered may come again, any time later (`replay`)."""


class ClientPlan(msgspec.Struct):
    """What the clients do. Times are seconds."""

    clients: int = 3
    outstanding: int = 1
    """Operations that a client keeps under way."""
    think: float = 0.02
    """Pause after an answer, on average."""
    patience: float = 30.0
    """When a client gives an operation up."""
    keys: int = 3
    weights: dict[str, int] = {}
    """How often each kind of operation is chosen."""
    lease: float = 0.0
    """Share of reads that are answered by lease."""
    stale: float = 0.0
    """Share of reads that any server answers (and nobody checks)."""
    ordered: float = 0.0
    """Share of writes that are to follow the client's last one."""
    seek: float = 0.02
    """Pause of a client that finds no leader, at first; far longer ones leave more of a run's
    steps to the servers."""
    roles: bool = False
    """Some clients only read and some only write. A reader notices no deposed leader by itself: it
    stays with it while it is answered."""
    duplicates: bool = False
    """Whether the network may deliver clients' frames twice, too."""


class Plan(msgspec.Struct):
    """All that decides a run."""

    seed: int
    steps: int
    servers: int
    policy: PolicyName
    settings: dict[str, Any]
    """What the servers' `Settings` are told besides ids and policy."""
    network: NetworkPlan
    clients: ClientPlan
    faults: list[Fault]
    clock_rates: list[float]
    """Per server how many seconds its clock counts in a second, at first."""
    clock_range: tuple[float, float] = (1.0, 1.0)
    """The slowest and the fastest that a clock may become."""
    lease_in_use: float = 0.0
    """Seconds for which a leader asks for leases after one was used; 0: as in real life."""
    own: list[list[dict[str, Any]]] = []
    """Per server the settings of its own, for each of its lives in turn; empty: all are alike."""
    bounds: dict[str, int | float] = {}
    """Smaller bounds than in earnest, by name (tests/simulation/about/bounds.py)."""
    made: bool = True
    """Whether the cluster is in force before the run begins; else the servers have to make it."""
    spare: int = 0
    """Machines that are no members at first: those have the numbers after `servers`."""
    coordination: CoordinationPlan | None = None
    """What more clients do that use leases, locks, watches and transactions; None: there are none.
    """

    @property
    def demands_progress(self) -> bool:
        """Whether everything has to be answered once all is healed.

        Servers under `immediate` may duel for ever: that is what this policy shows. And more
        clients than there may be sessions can push each other out for ever.
        """
        sessions = self.settings.get("max_sessions", 1000)
        return self.policy != "immediate" and self.clients.clients <= sessions


def draw_plan(
    seed: int,
    steps: int,
    *,
    about_leases: bool | None = None,
    about_bounds: bool | None = None,
    about_coordination: bool | None = None,
    about_members: bool | None = None,
    about_rarities: bool | None = None,
) -> Plan:
    """The plan of a seed; it may be asked for as one about leases, bounds and the like."""
    random = Random(f"plan {seed}")
    servers = random.choice((3, 3, 5, 5, 7))
    policy: PolicyName = random.choice(("stable", *get_args(PolicyName)))
    settings = _draw_settings(random, policy)
    # Drawn apart, so that seeds of earlier days keep their clients, networks and faults.
    settings["thrifty_delay"] = Random(f"thrift {seed}").choice((0.0, 0.01, 0.05))
    clients = _draw_clients(random, settings)
    network = _draw_network(random)
    faults = _draw_faults(random, servers, steps, clients.clients)
    faults = _with_old_copies(faults, seed, servers, steps)
    if settings["leases"] and policy == "stable":  # they count on clocks that keep their pace
        faults = [fault for fault in faults if fault.kind != "leap"]
    rates = _draw_clocks(random, servers, settings, policy)
    random = Random(f"making {seed}")
    made = random.random() < 0.5
    if not made:
        faults = _draw_early_faults(random, servers) + faults
    plan = Plan(seed, steps, servers, policy, settings, network, clients, faults, rates, made=made)
    # Drawn apart, too.
    clocks = Random(f"clocks {seed}")
    plan.clock_range = LEASED_RATES if _leased(plan) else WILD_RATES
    plan.faults += _draw_clock_faults(clocks, plan)
    chance = clocks.random() < LEASES_SHARE
    leases = chance if about_leases is None else about_leases
    if leases:
        _draw_leases(clocks, plan)
    draw_bounds(plan, about_bounds)
    draw_coordination(plan, about_coordination, free=not leases and not plan.bounds)
    plan.faults += _draw_transfers(plan)
    free = not (leases or plan.bounds or plan.coordination)
    draw_membership(plan, about_members, Fault, free=free)
    plan.faults += _draw_little_room(plan) + _draw_restored(plan)
    plan.own = draw_own(plan)
    plan.faults += draw_changes(plan, Fault)
    plan.faults += draw_rarities(plan, about_rarities, Fault)
    plan.faults += draw_strands(plan, about_rarities, Fault)
    plan.faults.sort(key=lambda fault: fault.step)
    return plan


def _leased(plan: Plan) -> bool:
    """Whether reads may be answered by lease, so that clocks must keep their pace."""
    return bool(plan.settings["leases"]) and plan.policy == "stable"


def _draw_clock_faults(random: Random, plan: Plan) -> list[Fault]:
    """Clocks that change their pace and machines that sleep, each in some runs."""
    kinds = [kind for kind in ("suspend", "drift", "sever") if random.random() < 0.3]
    return _strew(random, plan, kinds, 150.0, 1.0) if plan.faults and kinds else []


def _draw_leases(random: Random, plan: Plan) -> None:
    """Make it a run that is about leases: many read by lease, and faults hit whoever grants them.

    What can go wrong takes a leader that is cut off while clients still reach it, and others that
    lead before its lease has run out; left to chance altogether, that is rare.
    """
    plan.policy = "stable"
    plan.made = True
    plan.servers = random.choice((3, 3, 3, 5))
    plan.settings |= {
        "leases": True, "contend": False, "election_timeout_min": random.choice((0.12, 0.3)),
        "heartbeat_interval": random.choice((0.02, 0.05, 0.1)),
    }  # fmt: skip
    plan.settings["election_timeout_max"] = (
        random.choice((1.1, 1.5, 3)) * (plan.settings["election_timeout_min"])
    )
    plan.settings["thrifty_delay"] = min(plan.settings["thrifty_delay"], 0.01)
    plan.settings.pop("max_pending_bytes", None)
    plan.lease_in_use = random.choice((0.05, 0.2, 5.0))
    drift = plan.settings["max_clock_drift"] = random.choice((0.05, 0.2))
    plan.clock_range = (1 - drift, 1 + drift)
    plan.clock_rates = [random.choice((*plan.clock_range, 1.0)) for _ in range(plan.servers)]
    clients = plan.clients
    clients.clients = random.choice((2, 3, 4))
    clients.lease = random.choice((0.7, 1.0))
    clients.stale = 0.0
    clients.roles = True
    clients.keys = 1
    clients.seek = random.choice((0.02, 0.05))
    clients.think = random.choice((0.01, 0.03, 0.1))
    clients.weights |= {"get": 6, "put": 3, "scan": 0}
    plan.network.sync = min(plan.network.sync, 0.001)
    plan.network.drop = random.choice((0.0, 0.0, plan.network.drop))
    plan.network.straggle = random.choice((0.0, 0.2, 0.5))  # answers come late
    plan.network.straggle_time = random.choice((0.05, 0.1, 0.2))
    kinds = [kind for kind in LEASE_FAULTS if random.random() < 0.4] or ["sever"]
    plan.faults[:] = _strew(random, plan, kinds, random.choice((60.0, 120.0)), 1.0)
    for fault in list(plan.faults):  # and whoever has granted the lease falls at that moment
        if fault.kind == "sever" and random.random() < 0.5:
            server, seconds = random.randint(1, plan.servers), round(random.uniform(0, 0.05), 4)
            step = fault.step + random.randint(0, 6)
            plan.faults.append(Fault(step, "crash", server, seconds, 0.0, 0))


def _draw_transfers(plan: Plan) -> list[Fault]:
    """Leaders hand over, now and then, and are cut off in those very moments; drawn apart."""
    random = Random(f"handovers {plan.seed}")
    if random.random() < 0.7:
        return []
    found = []
    for transfer in _strew(random, plan, ["transfer"], random.choice((60.0, 150.0)), 1.0):
        found.append(msgspec.structs.replace(transfer, server=LEADER))
        if random.random() < 0.3:
            kind = random.choice(("sever", "isolate", "stall", "crash", "cut_one_way"))
            server, group = random.choice((LEADER, transfer.server)), transfer.group
            step, seconds = transfer.step + random.randint(-2, 6), transfer.seconds
            found.append(Fault(max(0, step), kind, server, seconds, random.random(), group))
    return found


def _draw_little_room(plan: Plan) -> list[Fault]:
    """Disks run out of room for the log, for a while; drawn apart."""
    about = " beside more" if plan.coordination or plan.spare else ""
    random = Random(f"room {plan.seed}{about}")
    if random.random() < 0.7 or not plan.faults:
        return []
    found = _strew(random, plan, ["little_room"], random.choice((30.0, 90.0)), 1.0)
    both = [msgspec.structs.replace(fault, server=LEADER) for fault in found if fault.group & 2]
    return found + both


def _draw_restored(plan: Plan) -> list[Fault]:
    """Backups are restored beside the cluster, on some machines of its own; drawn apart."""
    if plan.coordination is None or plan.spare or not plan.coordination.weights.get("backup"):
        return []
    return _strew(Random(f"restored {plan.seed}"), plan, ["restored"], 150.0, 3.0)


def _strew(random: Random, plan: Plan, kinds: list[str], gap: float, longest: float) -> list[Fault]:
    """Faults of these kinds, so many steps apart on average, most of them on the leader."""
    faults = []
    gap *= plan.servers / 3
    step = 30 + int(random.expovariate(1 / gap))
    while step < plan.steps:
        server = random.choice((LEADER, LEADER, random.randint(1, plan.servers)))
        seconds = round(random.uniform(0.05, longest), 4)
        amount = random.choice((0.0, 1.0, round(random.random(), 4)))
        group = random.getrandbits(plan.servers) << 1
        faults.append(Fault(step, random.choice(kinds), server, seconds, amount, group))
        step += 1 + int(random.expovariate(1 / gap))
    return faults


def _draw_settings(random: Random, policy: PolicyName) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "leases": random.random() < 0.5,
        "window": random.choice((1, 2, 4, 16)),
        "retransmit_interval": random.choice((0.05, 0.1, 0.3)),
        "backoff_base": random.choice((0.01, 0.05)),
        "contend": policy != "stable" and random.random() < 0.5,
    }
    if random.random() < 0.3:
        settings["heartbeat_interval"] = random.choice((0.02, 0.1))
    if random.random() < 0.5:  # others lead long before a leader without followers gives up
        settings["election_timeout_min"] = 0.12
        settings["election_timeout_max"] = random.choice((0.3, 1.0, 2.0))
    if random.random() < 0.3:
        settings["batch_bytes"] = random.choice((1, 50, 200))
    if random.random() < 0.4:  # transfers in many small pieces (a snapshot is a kilobyte or two)
        settings["transfer_bytes"] = random.choice((20, 100, 1000))
    if random.random() < 0.5:  # the log is cut while somebody is away
        settings["retain_slots"] = random.choice((3, 10, 30))
        settings["snapshot_slots"] = random.choice((3, 10, 30))
    if random.random() < 0.15:
        settings["session_ttl"] = random.choice((0.3, 1.0))
    if random.random() < 0.1:
        settings["max_sessions"] = random.choice((1, 2, 4))
        settings["session_min_idle"] = 0.0
    if random.random() < 0.1:
        settings["max_pending_bytes"] = 200
    return settings


def _draw_clients(random: Random, settings: dict[str, Any]) -> ClientPlan:
    kinds = ["get", "put", "append", "delete", "cas", "scan"]
    weights = {kind: random.choice((0, 1, 1, 3)) for kind in kinds}
    weights["scan"] = min(weights["scan"], random.choice((0, 1)))
    weights["put"] += 1
    weights["get"] += 1
    return ClientPlan(
        clients=random.choice((1, 2, 3, 3, 5, 8)),
        outstanding=random.choice((1, 1, 2, 5)),
        think=random.choice((0.002, 0.01, 0.03, 0.1)),
        patience=random.choice((0.3, 1.0, 30.0, 30.0)),
        keys=random.choice((1, 2, 5)),
        weights=weights,
        lease=random.choice((0.5, 1.0)) if settings["leases"] else 0.0,
        stale=0.1 if random.random() < 0.1 else 0.0,
        ordered=random.choice((0.0, 0.0, 0.5)),
        seek=random.choice((0.02, 0.2, 0.2, 0.2)),
        roles=random.random() < 0.5,
        # A client counts the answers to a command of an expired session (`CommandCore`);
        # TCP delivers none of them twice.
        duplicates="session_ttl" not in settings and "max_sessions" not in settings,
    )


def _draw_network(random: Random) -> NetworkPlan:
    def maybe(probability: float, *values: float) -> float:
        return random.choice(values) if random.random() < probability else 0.0

    return NetworkPlan(
        latency=random.choice((0.0005, 0.002, 0.002, 0.01)),
        drop=maybe(0.4, 0.01, 0.05, 0.2),
        duplicate=maybe(0.4, 0.01, 0.1, 0.3),
        straggle=maybe(0.5, 0.02, 0.1, 0.4),
        straggle_time=random.choice((0.01, 0.1, 0.5)),
        ghost_time=random.choice((0.0, 0.1, 2.0)),
        ordered=random.random() < 0.3,
        moving=random.random() < 0.6,
        split=random.random() < 0.3,
        service=random.choice((0.00005, 0.0001, 0.002)),
        sync=random.choice((0.0001, 0.001, 0.01)),
    )


def _draw_faults(random: Random, servers: int, steps: int, clients: int) -> list[Fault]:
    share = random.choice((0.1, 0.2, 0.5))
    drawn = [kind for kind in FAULT_KINDS if kind not in UNCOMMON]
    kinds = [kind for kind in drawn if random.random() < share]
    if random.random() < 0.3:  # deposed leaders are where most can go wrong
        kinds += ["isolate"] * (1 + len(kinds))
    if not kinds or random.random() < 0.05:
        return []
    gap = random.choice((20, 60, 120, 250)) * servers / 3  # bigger clusters take more steps
    longest = random.choice((0.2, 1.0, 2.0, 3.0))
    faults = []
    step = random.choice((0, 50, 100)) + int(random.expovariate(1 / gap))
    while step < steps:
        kind = random.choice(kinds)
        server = random.choice((LEADER, random.randint(1, servers)))
        seconds = round(random.uniform(0.0, longest), 4)
        if kind == "restart_client":
            server = random.randint(1, clients)
        elif kind == "isolate" and random.random() < 0.8:  # long enough for others to lead
            server, seconds = LEADER, round(random.uniform(0.5, 2.0), 4)
        amount = round(random.random(), 4)
        faults.append(Fault(step, kind, server, seconds, amount, random.getrandbits(servers) << 1))
        step += 1 + int(random.expovariate(1 / gap))
    return faults


def _draw_early_faults(random: Random, servers: int) -> list[Fault]:
    """What may go wrong while the servers make their cluster: they need few steps for it."""
    faults = []
    for _ in range(random.choice((0, 1, 3, 6))):
        kind = random.choice(EARLY_KINDS)
        step, seconds = random.randint(0, 12 * servers), round(random.uniform(0.0, 1.0), 4)
        amount, group = round(random.random(), 4), random.getrandbits(servers) << 1
        faults.append(Fault(step, kind, random.randint(1, servers), seconds, amount, group))
    return sorted(faults, key=lambda fault: fault.step)


def _with_old_copies(faults: list[Fault], seed: int, servers: int, steps: int) -> list[Fault]:
    """Add copies of directories that are put back later, one or several; drawn apart, as above."""
    random = Random(f"old copies {seed}")
    if random.random() < 0.5:
        return faults
    added = []
    for _ in range(random.choice((1, 2, 4))):
        server = random.choice((LEADER, random.randint(1, servers)))
        seconds = round(random.choice((0.2, 1.0, 3.0)) * random.random(), 4)
        group = random.getrandbits(servers) << 1
        step = random.randrange(steps)
        added.append(Fault(step, "old_copy", server, seconds, round(random.random(), 4), group))
        if random.random() < 0.3:  # two at once
            other = random.randint(1, servers)
            added.append(Fault(step, "old_copy", other, seconds, 1.0, 0))
    return sorted([*faults, *added], key=lambda fault: fault.step)


def _draw_clocks(
    random: Random, servers: int, settings: dict[str, Any], policy: PolicyName
) -> list[float]:
    """Within the bound that leases count on; far beyond it where none are given."""
    if random.random() < 0.4:
        return [1.0] * servers
    if settings["leases"] and policy == "stable":
        drift = 0.05  # `Settings.max_clock_drift`
        return [round(1 + random.uniform(0, drift), 4) for _ in range(servers)]
    return [round(random.uniform(0.7, 1.4), 4) for _ in range(servers)]
