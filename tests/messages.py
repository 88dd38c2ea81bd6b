"""Messages between servers as tests make them: what a test is about is named, the rest is plain."""

from __future__ import annotations

from collections.abc import Sequence

from paxon.actors import ServerId
from paxon.actors.ballot import Ballot
from paxon.actors.messages import P1B, Accepted, Heartbeat

__all__ = ["beat", "promise"]


def promise(
    ballot: Ballot,
    accepted: Sequence[Accepted] = (),
    *,
    first_slot: int = 1,
    next_slot: int = 0,
    chosen_to: int = 0,
    discarded: int = 0,
) -> P1B:
    """A P1B of one chunk, from an acceptor that has accepted nothing, unless said otherwise."""
    return P1B(ballot, first_slot, next_slot, list(accepted), chosen_to, discarded)


def beat(
    ballot: Ballot,
    round_number: int = 1,
    *,
    commit: int = 0,
    discard_to: int = 0,
    incarnations: Sequence[tuple[ServerId, int, int]] = (),
    lease: float = 0.0,
    drift: float = 0.0,
    time: int = 0,
) -> Heartbeat:
    """A heartbeat without a lease, of a leader that knows nothing chosen, unless said otherwise.

    `lease` is seconds, `drift` a fraction, `time` nanoseconds.
    """
    return Heartbeat(
        ballot, round_number, commit, discard_to, list(incarnations), lease, drift, time=time
    )
