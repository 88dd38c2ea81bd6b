"""Election policies: when a server tries to lead (DESIGN §3, rule 6; docs/elections.md).

A policy decides on waiting times and on courtesy only. It is never asked for safety: whichever
policy runs, and even if servers run different ones, no two values can be chosen for a slot.
"""

from __future__ import annotations

from typing import Protocol

from paxon.actors.environment import Random
from paxon.actors.settings import Settings

__all__ = ["ElectionPolicy", "make_policy", "Stable", "Immediate", "RandomTimeout", "Backoff"]


class ElectionPolicy(Protocol):
    """When to start phase 1. Embedders may bring their own: pass it to `PaxosServer`."""

    courteous: bool
    """Ask before raising the ballot, and ignore candidates while a leader is alive."""

    def follower_timeout(self, random: Random) -> float:
        """Seconds without a word from the leader after which a follower tries to lead."""

    def retry_delay(self, random: Random) -> float:
        """Seconds until the next try after being preempted by a higher ballot."""

    def won(self) -> None:
        """This server leads now."""


class RandomTimeout:
    """`random`: after a preemption wait a random timeout, as long as a follower's."""

    courteous = False

    def __init__(self, settings: Settings) -> None:
        self._minimum = settings.election_timeout_min
        self._maximum = settings.election_timeout_max

    def follower_timeout(self, random: Random) -> float:
        return random.uniform(self._minimum, self._maximum)

    def retry_delay(self, random: Random) -> float:
        return self.follower_timeout(random)

    def won(self) -> None:
        """Nothing to remember."""


class Stable(RandomTimeout):
    """`stable` (default): whoever preempts is the new leader; wait for it, or for the timeout.

    Adds two courtesies: one that hears from a live leader ignores candidates, and a would-be
    candidate first asks whether a majority has lost its leader too (Raft thesis §9.6).
    """

    courteous = True


class Immediate(RandomTimeout):
    """`immediate`: back to phase 1 at once, as the PMMC paper's leader does (§2.3, §3).

    With two servers doing so they may preempt each other for long; that is what it shows.
    """

    def retry_delay(self, random: Random) -> float:
        return 0.0


class Backoff(RandomTimeout):
    """`backoff`: exponential with full jitter and a cap, eased by leading."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._base = settings.backoff_base
        self._cap = settings.backoff_cap
        self._preemptions = 0

    def retry_delay(self, random: Random) -> float:
        ceiling = min(self._cap, self._base * 2.0 ** min(self._preemptions, 60))
        self._preemptions += 1
        return random.uniform(0.0, ceiling)

    def won(self) -> None:
        # One step down, not to zero: under lasting contention a short reign is no proof of peace.
        self._preemptions = max(0, self._preemptions - 1)


def make_policy(settings: Settings) -> ElectionPolicy:
    """The policy that `settings.policy` names."""
    policies: dict[str, type[RandomTimeout]] = {
        "stable": Stable,
        "immediate": Immediate,
        "random": RandomTimeout,
        "backoff": Backoff,
    }
    return policies[settings.policy](settings)
