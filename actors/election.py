"""Election policies: when a server tries to lead (rule 6; docs/design/elections.md).

A policy decides on waiting times and on courtesy only. It is never asked for safety: whichever
policy runs, and even if servers run different ones, no two values can be chosen for a slot.
"""

from __future__ import annotations

from paxon.actors.environment import Random
from paxon.actors.settings import Settings

__all__ = ["ElectionPolicy", "make_policy", "Stable", "Immediate", "Backoff"]


class ElectionPolicy:
    """When to start phase 1; as it stands `random`, which waits for a random timeout.

    Embedders may bring their own: pass it to `PaxosServer`.
    """

    courteous = False
    """Ask before raising the ballot, and ignore candidates while a leader is alive."""

    def __init__(self, settings: Settings) -> None:
        self._minimum = settings.election_timeout_min
        self._maximum = settings.election_timeout_max

    def follower_timeout(self, random: Random) -> float:
        """Seconds without a word from the leader after which a follower tries to lead."""
        return random.uniform(self._minimum, self._maximum)

    def retry_delay(self, random: Random) -> float:
        """Seconds until the next try after being preempted by a higher ballot."""
        return self.follower_timeout(random)

    def reigned(self, seconds: float) -> None:
        """A reign of this server's has ended that got something done, after so many seconds.

        One that was over before anything was chosen in it is not told of: it was just too short.
        """


class Stable(ElectionPolicy):
    """`stable` (default): whoever preempts is the new leader; wait for it, or for the timeout.

    Adds two courtesies: one that hears from a live leader ignores candidates, and a would-be
    candidate first asks whether a majority has lost its leader too (Raft thesis §9.6).
    """

    courteous = True


class Immediate(ElectionPolicy):
    """`immediate`: back to phase 1 at once, as the PMMC paper's leader does (§2.3, §3).

    With two servers doing so they may preempt each other for long; that is what it shows.
    """

    def retry_delay(self, random: Random) -> float:
        return 0.0


class Backoff(ElectionPolicy):
    """`backoff`: exponential with full jitter and a cap, eased by reigns that get something done.

    Winning phase 1 eases nothing. Where a round of phases 1 and 2 takes longer than the waits, each
    of two candidates wins, is deposed before anything is chosen, and wins again: it is that very
    wait that has to grow until one of them is left alone for long enough.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._base = settings.backoff_base
        self._cap = settings.backoff_cap
        self._preemptions = 0

    def retry_delay(self, random: Random) -> float:
        ceiling = min(self._cap, self._base * 2.0 ** min(self._preemptions, 60))
        self._preemptions += 1
        return random.uniform(0.0, ceiling)

    def reigned(self, seconds: float) -> None:
        # One step, which the preemption that ended the reign takes back: waits that let something
        # get done stay as they are. None waits for longer than the cap, so that a reign of more
        # than that, and of another candidacy's time, was disturbed by nobody.
        peace = seconds > 2 * self._cap
        self._preemptions = 0 if peace else max(0, self._preemptions - 1)


def make_policy(settings: Settings) -> ElectionPolicy:
    """The policy that `settings.policy` names."""
    policies: dict[str, type[ElectionPolicy]] = {
        "stable": Stable,
        "immediate": Immediate,
        "random": ElectionPolicy,
        "backoff": Backoff,
    }
    return policies[settings.policy](settings)
