"""Servers that differ, and settings that change meanwhile (docs/running/settings.md).

Both are drawn apart from the rest of a plan, so that seeds of earlier days keep all else.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from paxon.actors.execution.agreed import Agreed

if TYPE_CHECKING:
    from tests.simulation.plan import Fault, Plan

__all__ = ["draw_changes", "draw_own", "new_values"]

LEADER = 0


def draw_own(plan: Plan) -> list[list[dict[str, Any]]]:
    """Per server the settings of its own for each of its lives in turn; empty: all are alike.

    A lease's length, its drift and the policy may differ, and change with a restart. Only where
    leases are given at all: elsewhere clocks run wild.
    """
    random = Random(f"own {plan.seed}")
    leased = plan.settings["leases"] and plan.policy == "stable"
    if not leased or random.random() < 0.4:
        return []
    # Shorter ones depose leaders by their settings alone, for ever where there is no courtesy.
    least = 3 * plan.settings.get("heartbeat_interval", 0.05)
    own = [[_own(random, least) for _ in range(3)] for _ in plan.clock_rates]
    # One server at most without courtesy: two might duel for long, which is no news. And none where
    # a disk is lost: a leader without courtesy is back before those with it answer whoever rejoins,
    # which is safe, and may go on for ever (docs/running/settings.md).
    rude = random.randrange(plan.servers)
    rejoins = any(fault.kind == "lose_disk" for fault in plan.faults)
    promised = plan.settings.get("max_clock_drift", 0.05)
    for number, lives in enumerate(own):
        for settings in lives:
            # Clocks may differ by what the run says: none is told of less than there is.
            settings["max_clock_drift"] = max(settings["max_clock_drift"], promised)
            if rejoins or number != rude:
                settings["policy"] = "stable"
            elif settings["policy"] == "stable":
                settings["policy"] = random.choice(("stable", "random", "backoff"))
    return own


def _own(random: Random, least: float) -> dict[str, Any]:
    shortest = max(least, random.choice((0.12, 0.3, 0.3, 1.0)))
    return {
        "election_timeout_min": shortest,
        "election_timeout_max": round(shortest * random.choice((1.2, 1.5, 3.0)), 3),
        "max_clock_drift": random.choice((0.05, 0.05, 0.2)),
        "policy": random.choice(("stable", "stable", "stable", "random", "backoff")),
        "leases": random.random() < 0.9,
        "contend": random.random() < 0.3,
    }


def draw_changes(plan: Plan, fault: type[Fault]) -> list[Fault]:
    """Changes of what is agreed, asked of whoever leads at some steps."""
    random = Random(f"changes {plan.seed}")
    if random.random() < 0.5:
        return []
    steps = sorted(random.sample(range(plan.steps), min(plan.steps, random.choice((1, 3, 8)))))
    return [
        fault(
            step, "change_settings", LEADER, 0.0, round(random.random(), 4), random.getrandbits(8)
        )
        for step in steps
    ]


def new_values(plan: Plan, amount: float, agreed: Agreed) -> tuple[int, dict[str, float]]:
    """What a change asks for, and for which settings it is meant: now and then for older ones.

    What makes sessions end is changed only where clients reckon with that, and never so that there
    are more clients than there may be sessions.
    """
    values: dict[str, float] = {"max_outstanding": 1024 + int(amount * 16)}
    if "session_ttl" in plan.settings:
        values["session_ttl"] = 0.3 + amount
    if "max_sessions" in plan.settings:
        values["max_sessions"] = plan.clients.clients + int(amount * 4)
    if "max_kept_each" in plan.settings:
        values["max_kept_each"] = 1 + int(amount * 300)
    since = agreed.changed_at
    return (max(0, since - 1) if amount < 0.2 else since), values
