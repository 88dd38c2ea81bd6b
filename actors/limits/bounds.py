"""How far a number from the wire may reach (docs/design/numbers.md).

A server believes no number that one corrupted frame, or one stranger's on a cluster without keys,
could use to stop it, to fill its memory, or to use up the ballots. Each bound is a constant far
above what a cluster in its right mind tells, and far below what would do harm. Nothing honest is
shut out by them for good: what is too far to be taken over at once is come nearer to in steps.
"""

from __future__ import annotations

from collections.abc import Iterable

from paxon.actors.ballot import Ballot, ServerId
from paxon.actors.messages import P1B, Accepted, SnapshotOffer, SnapshotRequest

__all__ = [
    "MAX_COUNT_JUMP", "MAX_EPOCHS_AHEAD", "MAX_ROUND_JUMP", "MAX_SLOTS_AHEAD", "NUMBER_LIMIT",
    "RoundGuard", "is_dense", "is_plausible_accepted", "is_plausible_offer", "is_plausible_request",
]  # fmt: skip

NUMBER_LIMIT = 1 << 62
"""No slot, offset, nonce or sequence number reaches this: disks hold signed 64-bit integers."""
MAX_ROUND_JUMP = 1 << 32
"""A promise rises by at most so many rounds at once. Servers that duel a thousand times a second
take 49 days for as many; frames that raise it so far each, one a second, 68 years to the end."""
FAR_PERSISTS, FAR_FORGOTTEN = 1.0, 30.0
"""Seconds. A server that tells of a ballot beyond that for so long means it, unless none was heard
of it for this long: two accidents are no persistence."""
MAX_SLOTS_AHEAD = 1 << 16
"""Nothing is accepted further beyond the chosen prefix: a later leader has to fill all the slots
between, one by one. A server that late catches up before it accepts again."""
MAX_EPOCHS_AHEAD = 1 << 16
"""A started server does not wait for whoever seems to be in an epoch further beyond its own: it may
be a damaged frame. Seven years of one an hour."""
MAX_COUNT_JUMP = 1 << 16
"""One message raises by at most so much what is remembered of a server's commits: a made-up count
is overtaken by the true one within so many commits, and a true one is believed within moments."""
MAX_SNAPSHOT_BYTES = 1 << 40


class RoundGuard:
    """Which ballots above its promise a server follows; plain bookkeeping."""

    def __init__(self, servers: Iterable[ServerId]) -> None:
        self._servers = frozenset(servers)
        self._far_since: dict[ServerId, tuple[float, float]] = {}
        """Per teller of a ballot beyond the bound: since when, and when last; seconds."""

    def admits(self, ballot: Ballot, promised: Ballot) -> bool:
        """Whether a ballot above the promise may be adopted as it is."""
        jump = ballot.round - promised.round
        return jump <= MAX_ROUND_JUMP and ballot.leader in self._servers

    def step_towards(
        self, ballot: Ballot, promised: Ballot, teller: ServerId, now: float
    ) -> Ballot | None:
        """Where to go instead, at most once a second: for one that really is that far behind."""
        if ballot.leader not in self._servers or ballot.round >= NUMBER_LIMIT:
            return None
        since, last = self._far_since.get(teller, (now, now))
        if now - last > FAR_FORGOTTEN:
            since = now
        if now - since < FAR_PERSISTS:
            self._far_since[teller] = (since, now)
            return None
        self._far_since[teller] = (now, now)
        return Ballot(promised.round + MAX_ROUND_JUMP, ballot.leader)


def is_dense(p1b: P1B) -> bool:
    """Whether a chunk of a promise goes on from slot to slot, without a gap that is out of bounds.

    (An acceptor that is late holds its chosen prefix and what it accepted a little beyond that.)
    """
    last = max(p1b.first_slot - 1, p1b.discarded)
    for accepted in p1b.accepted:
        if not 0 < accepted.slot - last <= MAX_SLOTS_AHEAD:
            return False
        last = accepted.slot
    return p1b.next_slot == 0 or 0 < p1b.next_slot - last <= MAX_SLOTS_AHEAD


def is_plausible_accepted(accepted: Accepted, chosen_to: int) -> bool:
    """Whether a value that somebody calls chosen is for a slot within reach."""
    return 0 < accepted.slot <= chosen_to + MAX_SLOTS_AHEAD


def is_plausible_offer(offer: SnapshotOffer) -> bool:
    """Whether a snapshot offered can be what it says."""
    return (
        0 < offer.slot < NUMBER_LIMIT
        and 0 < offer.size <= MAX_SNAPSHOT_BYTES
        and 0 <= offer.checksum < 1 << 32
    )


def is_plausible_request(request: SnapshotRequest) -> bool:
    """Whether a piece asked for can be there."""
    return 0 < request.slot < NUMBER_LIMIT and 0 <= request.offset < NUMBER_LIMIT
