"""What a server misses of the chosen slots, how it gets it, and when to take a snapshot.

Plain data (rules 7 and 8).
"""

from __future__ import annotations

from collections.abc import Sequence

from paxon.actors.ballot import NO_BALLOT, Ballot, ServerId
from paxon.actors.disk.storage import SnapshotInfo
from paxon.actors.environment import NEVER
from paxon.actors.execution.digests import SnapshotCheck
from paxon.actors.limits.bounds import MAX_SLOTS_AHEAD, NUMBER_LIMIT
from paxon.actors.log import SlotLog
from paxon.actors.messages import CatchUpRequest, SnapshotRequest
from paxon.actors.settings import Settings

__all__ = [
    "LONGEST_SECONDS", "LONGEST_SECONDS_FOR_ROOM", "CatchingUp", "Retry", "Snapshots",
]  # fmt: skip

MOST_PATIENCE = 5
"""The time to wait for a silent sender of a snapshot doubles at most this often."""
LOG_PART = 8
"""A large state's log may take one part of so many of its size before the next snapshot."""
SMALL = 1.25
"""Times `snapshot_bytes`: what a snapshot and the log after it may come to, as far as a large state
leaves a choice. (The next snapshot may be larger by all of that log, so the disk holds twice this.)
"""
FIRST_SECONDS, LONGEST_SECONDS, LONGEST_SECONDS_FOR_ROOM = 1.0, 60.0, 4.0
"""Between a snapshot that failed and the next try; twice as long after each failure, up to the
second, or the third while the log has no room: clients wait for that snapshot."""


class Retry:
    """Puts off what failed, longer each time. Times are seconds of the caller's clock."""

    def __init__(self) -> None:
        self._pause = 0.0
        self._at = 0.0

    def due(self, now: float) -> bool:
        """Whether it may be tried."""
        return now >= self._at

    def failed(self, now: float, longest: float = LONGEST_SECONDS) -> None:
        """It failed: not again before a pause, twice as long as the one before."""
        self._pause = min(max(2 * self._pause, FIRST_SECONDS), longest)
        self._at = now + self._pause

    def succeeded(self) -> None:
        """It went well: the next failure is the first one."""
        self._pause = 0.0
        self._at = 0.0


class CatchingUp:
    """How far others say that slots are chosen, whom to ask for them, and what has come so far."""

    def __init__(self) -> None:
        self.known_commit = 0
        """The highest commit index heard of from anyone: what to catch up to."""
        self.teller: ServerId = 0
        """Who told of it."""
        self.leader_commit = 0
        self.leader_ballot = NO_BALLOT
        """The highest ballot in which a leader spoke here, and the commit index that it told."""
        self.source: ServerId = 0
        """Whom to ask."""
        self.asked: ServerId = 0
        """Whom we asked last."""
        self.turn = 0
        """Counts through the servers when the one that should know does not answer."""
        self.ask_at = 0.0
        """When to ask (again), monotonic seconds."""
        self.progress = (-1, -1)
        """How far this server was when it asked last."""
        self.patience = 0
        """How often a snapshot's transfer was given up for silence: each time twice as late."""
        self.incoming: SnapshotInfo | None = None
        self.received = 0
        """The snapshot that is fetched, and how many bytes of it, or of the last one, have come."""
        self.check: SnapshotCheck | None = None
        """Whether others hold another hash for it."""
        self.outsiders: set[ServerId] = set()
        """Who was heard of a later epoch: not all of them need be members here."""
        self.meets_at = -NEVER
        """When to ask one of them again before it has told of anything."""
        self.named = 0
        """The epoch that this server was told to open, once it is there."""
        self.retry = Retry()
        """For one that there was no room for."""

    def hear(self, commit: int, teller: ServerId) -> None:
        """Somebody says that all up to `commit` is chosen: what to catch up to."""
        if commit > self.known_commit:
            self.known_commit = commit
            self.teller = teller

    def note_commit(self, commit: int, ballot: Ballot, sender: ServerId, log: SlotLog) -> None:
        """A leader says that all up to `commit` is chosen.

        Only what was accepted here in that very ballot is known to be chosen; ask for all else.
        """
        if commit - log.chosen_to > MAX_SLOTS_AHEAD:
            pass  # nothing is accepted here so far ahead that could be chosen by it
        elif ballot == self.leader_ballot:
            self.leader_commit = max(self.leader_commit, commit)
        elif ballot > self.leader_ballot:
            self.leader_ballot, self.leader_commit = ballot, commit
        if log.chosen_to < commit or log.chosen_to < self.leader_commit:
            self.hear(commit, sender)
            self.choose_known(log)
            if log.chosen_to < self.known_commit and self.incoming is None:
                self.source = sender

    def forget_leader(self, ballot: Ballot) -> None:
        """An epoch begins, with this promise: nobody has led in it."""
        self.leader_ballot, self.leader_commit = ballot, 0
        self.outsiders.clear()

    def choose_known(self, log: SlotLog) -> None:
        """Choose what was accepted here in the very ballot of the leader that told the index.

        An index told in another ballot, or by a server that does not lead, must not be mixed in: a
        slot below it may have been chosen in a later ballot than the one accepted here.
        """
        log.choose_accepted(self.leader_ballot, self.leader_commit)

    def hear_outside(self, server: ServerId, commit: int, chosen_to: int, now: float) -> None:
        """A server of the cluster, perhaps no member's, says how far it holds the log."""
        self.outsiders.add(server)
        if self.known_commit <= chosen_to < commit < NUMBER_LIMIT:
            self.fall_behind(commit, server, now)

    def fall_behind(self, commit: int, server: ServerId, now: float) -> None:
        """`server` has discarded what we miss: get it before anything else."""
        self.hear(commit, server)
        if self.incoming is None:  # else the transfer under way goes on
            self.source = server
            self.ask_at = now

    def hear_answer(self, commit: int, sender: ServerId, log: SlotLog) -> None:
        """Who was asked says how far all is chosen.

        Believe it if it takes back a higher index: that frame was damaged, or is old.
        """
        if sender == self.teller and commit < self.known_commit:
            self.known_commit = max(commit, log.chosen_to)
        self.hear(commit, sender)
        self.choose_known(log)

    def why_denied(self, server: ServerId, held_to: int) -> str:
        """Why `server` does not lead: no majority's promises hold all that was called chosen.

        A frame was damaged, or disks that voted came back without their votes
        (docs/design/old-copies.md); the promises cannot tell which. To lead would choose anew what
        may have been acknowledged.
        """
        return (
            f"server {server} does not lead: server {self.teller} told that all up to slot "
            f"{self.known_commit} is chosen, but a majority holds nothing beyond {held_to}: a "
            f"frame was damaged, or disks have lost what they held; server {self.teller} is asked "
            "again (if it is gone for good and no disk was lost, restart this server: it forgets "
            "what it was told)"
        )

    def ask_later(self, now: float, retransmit_interval: float) -> None:
        """A server was asked just now: say when to ask another one if it stays silent.

        Later after a snapshot's transfer was given up: on a slow network its pieces take longer
        than any fixed time, and with each change of server the transfer would begin anew.
        """
        patience = self.patience if self.incoming is not None else 0
        self.ask_at = now + 2 * retransmit_interval * (1 << patience)

    def next_request(
        self, chosen_to: int, peers: Sequence[ServerId]
    ) -> CatchUpRequest | SnapshotRequest:
        """The next request to `source`, which is another server if the last one was silent."""
        peers = (*peers, *sorted(self.outsiders.difference(peers)))
        progress = (chosen_to, self.received)
        silent = progress == self.progress and self.source == self.asked
        if silent or self.source not in peers:
            # Somebody else may know (a snapshot starts over from what is held). The leader's next
            # heartbeat names the leader again: so it is asked in between, every other time.
            self.turn += 1
            self.source = peers[self.turn % len(peers)]
            if self.incoming is not None:
                self.incoming = None
                self.patience = min(self.patience + 1, MOST_PATIENCE)
        self.progress = progress
        self.asked = self.source
        if self.fetches_beyond(chosen_to):
            assert self.incoming is not None
            return SnapshotRequest(self.incoming.slot, self.received)
        return CatchUpRequest(chosen_to + 1)

    # --- a snapshot that comes -------------------------------------------------------------------

    def fetches_beyond(self, slot: int) -> bool:
        """Whether a snapshot is on its way that reaches further than `slot`."""
        return self.incoming is not None and self.incoming.slot > slot

    def begin(self, info: SnapshotInfo, sender: ServerId) -> None:
        """Fetch this one, from the server that offers it."""
        self.incoming = info
        self.source = sender
        self.hear(info.slot, sender)

    def is_whole(self) -> bool:
        """Whether all of the snapshot has come, and it has not been taken over yet."""
        return self.incoming is not None and self.received >= self.incoming.size

    def give_up(self) -> None:
        """Fetch that snapshot no longer, and ask nobody any more what it should be."""
        self.incoming = self.check = None


class Snapshots:
    """The snapshots that one server takes; the storage writes them."""

    _planned_after: SnapshotInfo | None = None  # (no state: it follows from what else there is)
    _most_bytes = _at_slot = 0.0
    """With so many bytes, and at that slot, the next after that one is due; 0: not planned."""

    def __init__(self) -> None:
        self.executed_bytes = 0
        """Of values, since the last one was begun or taken over."""
        self.poll_at = NEVER
        """When to see whether the one under way is done, monotonic seconds."""
        self.began_at = 0.0
        """When the last one was begun, monotonic seconds."""
        self.retry = Retry()
        """For one that could not be taken for want of disk or descriptors."""

    def is_due(self, executed: int, last: SnapshotInfo | None, settings: Settings) -> bool:
        """Whether enough was executed since the last one, in relation to its size.

        While a snapshot is taken the disk holds the one before, this one, and the log since. A
        small state's log is as long as it may be: each snapshot writes all of the state again, the
        store's history of 16 MiB too, and slows down whoever writes. Of a large state's disk the
        log may take a small part only. In between it gets shorter as the state grows.
        """
        if last is not self._planned_after or not self._most_bytes:  # (not for each slot)
            self._planned_after = last
            size, since = (0, 0) if last is None else (last.size, last.slot)
            usual = settings.snapshot_bytes
            most = self._most_bytes = max(size / LOG_PART, min(usual, SMALL * usual - size))
            self._at_slot = since + settings.snapshot_slots * most / usual
        return self.executed_bytes >= self._most_bytes or executed >= self._at_slot
