"""Runs about coordination: leases, watches, locks and transactions, drawn apart from the rest.

Leases live for less than in earnest, and history is so short that it is cut while it is watched:
else few would end, and nothing would be cut, in the few seconds that a run takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import TYPE_CHECKING
from unittest.mock import patch

import msgspec

from paxon.kvstore.cluster import backup
from paxon.kvstore.store import history, store
from tests.simulation.about.bounds import UNREAD

if TYPE_CHECKING:
    from tests.simulation.plan import Plan

__all__ = ["CoordinationPlan", "coordinated", "draw_coordination", "short_history"]

UNHEARD = 0.15
"""In so many runs servers cannot send all that they would like to say."""
SAVED = 0.3
"""In so many backups are saved, and restored."""
SHARE = 0.4
"""So many of the runs that are about nothing else are about coordination."""


class CoordinationPlan(msgspec.Struct):
    """What the clients do that coordinate. Times are seconds, but those of leases."""

    clients: int = 2
    errands: int = 2
    """What a client does side by side, besides what it watches."""
    watches: int = 2
    think: float = 0.05
    patience: float = 2.0
    """When a client gives a request up."""
    ttls: tuple[int, int] = (300, 1000)
    """From which to which leases live, milliseconds."""
    least_ttl: int = 200
    """What the store grants at least."""
    names: int = 1
    """Of locks."""
    stalls: float = 0.2
    """How often a holder stalls, for longer than its lease may live."""
    weights: dict[str, int] = {}
    """How often each kind of errand is chosen."""
    tardy: float = 0.0
    """How often a lease is renewed at the last moment only."""
    short_history: bool = True
    drift: bool = True
    """Whether clocks keep to what owners of leases count on."""


def draw_coordination(plan: Plan, wanted: bool | None, *, free: bool) -> None:
    """Make it a run about coordination, if `wanted`; None: perhaps, if it is `free` for it."""
    random = Random(f"coordination {plan.seed}")
    chance = random.random() < SHARE and free and "max_sessions" not in plan.settings
    if not (chance if wanted is None else wanted):
        return
    plan.bounds.clear()
    for name in ("max_sessions", "session_min_idle", "max_pending_bytes"):
        plan.settings.pop(name, None)
    if "transfer_bytes" in plan.settings:  # a state with leases and history is a few kB
        plan.settings["transfer_bytes"] = max(100, plan.settings["transfer_bytes"])
    shortest = random.choice((300, 500))
    kinds = {kind: random.choice((0, 1, 2)) for kind in ("lease", "transact", "compact", "read")}
    keeps_pace = plan.clock_range[0] >= 0.95 and plan.clock_range[1] <= 1.05
    if not keeps_pace and random.random() < 0.7 and not plan.lease_in_use:
        plan.clock_range, keeps_pace = (0.95, 1.05), True
        plan.clock_rates = [round(random.uniform(0.95, 1.05), 4) for _ in range(plan.servers)]
    plan.coordination = CoordinationPlan(
        clients=random.choice((1, 2, 3)),
        errands=random.choice((1, 2, 3)),
        watches=random.choice((1, 2)),
        think=random.choice((0.02, 0.05, 0.2)),
        patience=random.choice((0.5, 2.0, 5.0)),
        ttls=(shortest, shortest * random.choice((1, 2, 4))),
        least_ttl=random.choice((200, shortest)),
        names=random.choice((1, 1, 2)),
        stalls=random.choice((0.0, 0.2, 0.5)),
        weights=kinds | {"lock": random.choice((1, 3))},
        short_history=random.random() < 0.7,
        drift=keeps_pace,
    )
    weights = plan.coordination.weights
    if random.random() < 0.3:  # about what is shared, and little else
        weights |= dict.fromkeys(weights, 0)
    for kind in ("semaphore", "rwlock", "enqueue", "barrier"):
        weights[kind] = random.choice((0, 0, 1, 2))
    weights["lock"] = max(weights["lock"], int(not any(weights.values())))
    weights["consume"] = 2 * weights["enqueue"]
    plan.coordination.tardy = random.choice((0.0, 0.0, 0.0, 0.5))
    if plan.coordination.tardy:
        weights["lease"] = max(weights["lease"], 2)
    if Random(f"backups {plan.seed}").random() < SAVED:
        weights["backup"] = 2
    clients = plan.clients
    clients.clients = min(clients.clients, 2)
    clients.think = max(clients.think, 0.03)
    if Random(f"unread {plan.seed}").random() < UNHEARD:
        plan.bounds |= dict(zip(UNREAD, (200, 2000, 0.05), strict=True))


@contextmanager
def short_history() -> Iterator[None]:
    """It is cut while it is read."""
    with patch.multiple(history, KEPT_EVENTS=40, KEPT_NS=10**9, _BLOCK_EVENTS=8, _MARK_NS=10**7):
        yield


@contextmanager
def coordinated(plan: CoordinationPlan | None) -> Iterator[None]:
    """While it lasts servers have leases and a history such as the plan says."""
    with ExitStack() as stack:
        if plan is not None:
            stack.enter_context(patch.object(store, "MIN_TTL_MS", plan.least_ttl))
            stack.enter_context(patch.object(backup, "PAGE", 2))
            if plan.short_history:
                stack.enter_context(short_history())
        yield
