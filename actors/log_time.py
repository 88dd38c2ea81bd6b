"""The log's time: what a server knows of it, and what a leader proposes because time goes on.

Plain data (rule 13, docs/design/time.md). All times are integers, nanoseconds: sums of floats would
land just before the time that something is due at, and the wake-up would find nothing to do.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from paxon.actors.ballot import NO_BALLOT, Ballot
from paxon.actors.environment import NEVER, ClientToken
from paxon.actors.execution.application import Application
from paxon.actors.limits.allowances import (
    ENTRY_BYTES,
    EXECUTION_FACTOR,
    MAX_RENEWAL_BYTES,
    MAX_RENEWALS,
    MESSAGE_BYTES,
    SLOT_RENEWAL_BYTES,
)
from paxon.actors.messages import Entry

__all__ = ["IDLE_INTERVAL", "LogTime", "MAX_TIME_JUMP", "NANOSECONDS", "TIMED_INTERVAL", "Chores"]

NANOSECONDS = 1_000_000_000
"""In a second."""
MAX_TIME_JUMP = NANOSECONDS
"""One heartbeat moves what a follower knows by at most so much, or a damaged one would end all
leases. It is less than the shortest lease, and followers make up for an hour in some minutes."""
TIMED_INTERVAL, IDLE_INTERVAL = NANOSECONDS, 60 * NANOSECONDS
"""The log is told its time at least so often while a lease or a timer runs, and so often while only
sessions do: else a change of leader would set them back."""
RENEWAL_DELAY = 0.05
"""Seconds for which renewals wait for others, to share a slot, if nothing else wants one."""
RENEWALS_PAUSE = 0.5
"""Seconds after which some are proposed again at the latest."""
_LATE = 1e-6
"""Seconds that a timer is set later than it need be, so that rounding never makes it too early."""


@dataclass(slots=True)
class LogTime:
    """The log's time as one server knows it.

    While this server leads and serves, it runs with its clock from the highest time that it has
    executed or heard of. It stands still at all other times: at followers, while nobody leads,
    from the proposal of a CONFIG until the next epoch has a leader, while the leader's machine
    sleeps (the clock is one that sleeps with it), and from one minimum election timeout after the
    last round that confirmed that this server leads. So a leader that
    was paused stamps no time of the pause before a fresh round has told it that it still leads.
    """

    latest: int = 0
    """The highest time heard of, or told to others."""
    heard_in: Ballot = NO_BALLOT
    """The ballot whose leader told it."""
    runs: bool = False
    """Whether this server's clock moves the log's time."""
    _offset: int = 0
    """What makes the log's time of this server's clock, while it does."""
    _until: int = 0
    """The clock's reading up to which this server is known to lead, and what was lost."""
    _lost: int = 0
    """How far the time has stayed behind this server's clock since it leads."""

    def hear(self, time: int, executed: int, ballot: Ballot) -> None:
        """A ballot's leader tells its time; `executed` is what the log holds here.

        A new leader may not have heard all that the one before it told, and its word counts. If a
        later leader went by the earlier word, it would be ahead of what this one has stamped, and
        leases granted under this one would end too soon.
        """
        if ballot > self.heard_in:
            self.heard_in = ballot
            self.latest = min(self.latest, time)
        known = max(self.latest, executed)
        self.latest = max(known, min(time, known + MAX_TIME_JUMP))

    def take_over(self, ballot: Ballot, lowest: Ballot, highest: Ballot) -> None:
        """This server leads in `ballot`, and what was heard may no longer count.

        `highest` is the highest ballot of any value that it knows of. If that is above the ballot
        in which it heard the time, another leader has stamped slots since, and may have begun at
        an earlier time. `lowest` is the lowest ballot of the values that it takes over. If that is
        below, the leader that told the time did not propose this value, so it may have been stamped
        since, by a leader whose time stood still. Either way only stamped times count.
        """
        if not lowest >= self.heard_in >= highest:
            self.latest = 0
        self.heard_in = ballot

    def snapshot_came(self) -> None:
        """Forget what was heard: a snapshot does not tell who has led since."""
        self.heard_in, self.latest = NO_BALLOT, 0

    def run(self, executed: int, clock: int) -> None:
        """This server serves from now on: all that it took over is executed."""
        self.latest = max(self.latest, executed)
        self._offset = self.latest - clock
        self._until = clock
        self._lost = 0
        self.runs = True

    def stop(self) -> None:
        """This server does not lead any more."""
        self.runs = False

    def confirmed(self, clock: int, ago: float, lasts: float) -> None:
        """A round sent `ago` seconds before has confirmed that this server leads.

        Nobody else can have been elected for `lasts` seconds from then on.
        """
        until = clock + int((lasts - ago) * NANOSECONDS)
        self._until = max(self._until, until + self._lost)

    def stamp(self, clock: int) -> int:
        """The time that goes into a slot.

        If it stands still because no round was confirmed, it stays behind by that much from now on.
        Otherwise it would leap once a round is confirmed, and a lease that this slot grants or
        renews would end that much before its owner, who counts from now, takes it for lost.
        """
        late = clock - self._until
        if late > 0:
            self._offset -= late
            self._until += late
            self._lost += late
        if self.runs:  # (as `now`, which would call once more for each slot)
            self.latest = max(self.latest, self._offset + clock)
        return self.latest

    def now(self, clock: int) -> int:
        """The log's time by this server's clock, or as it was heard last."""
        if self.runs:
            self.latest = max(self.latest, self._offset + min(clock, self._until))
        return self.latest

    def seconds_to(self, due: int, clock: int) -> float:
        """Seconds until it will be that late; never while it stands still."""
        if not self.runs or clock >= self._until:
            return NEVER
        wait = due - self.now(clock)
        return wait / NANOSECONDS + _LATE if wait > 0 else 0.0


@dataclass(slots=True)
class Chores:
    """Proposals of a leader with no command waiting: renewals, wake-ups, the time itself."""

    stamped: int
    """The time of the last batch that was proposed, or, before, of the last slot executed."""
    last_slot: int = 0
    """That batch's slot."""
    at: float = NEVER
    wanted: bool = False
    """When to look whether something is due, monotonic seconds; and whether that time has come."""
    wakeup: int | None = None
    """When the state machine wants to be woken, as `at` was computed for."""
    renewals: dict[ClientToken, deque[Entry]] = field(default_factory=dict)
    sizes: dict[ClientToken, int] = field(default_factory=dict)
    """Those of each client that wait for a slot, in the order of their turns; their bytes …"""
    count: int = 0
    bytes: int = 0
    """… and all together."""
    renew_at: float = NEVER
    not_before: float = -NEVER
    """When those are proposed at the latest, and at the soonest (others were just now): seconds."""
    slot: int = 0
    began: float = 0.0
    """The slot in which they were, until it is executed, and since when, seconds."""

    def is_full(self, client: ClientToken) -> bool:
        """Whether no more renewals of this client are taken in (limits/allowances.py)."""
        share = 4
        if self.count >= MAX_RENEWALS or self.bytes >= MAX_RENEWAL_BYTES:
            share = 2 * len(self.renewals) + 2
        return (
            len(self.renewals.get(client, ())) >= MAX_RENEWALS // share
            or self.sizes.get(client, 0) >= MAX_RENEWAL_BYTES // share
        )

    def add(self, renewal: Entry, client: ClientToken, now: float) -> None:
        """A renewal waits for a slot, whatever else is in it."""
        size = len(renewal.command) + MESSAGE_BYTES
        self.renewals.setdefault(client, deque()).append(renewal)
        self.sizes[client] = self.sizes.get(client, 0) + size
        self.count += 1
        self.bytes += size
        self.renew_at = min(self.renew_at, max(now + RENEWAL_DELAY, self.not_before))
        self.at = min(self.at, self.renew_at)

    def take(self, slot: int, now: float) -> list[Entry]:
        """The renewals for the slot that is proposed now, of all clients in turns.

        Some at a time: they go before commands, and one client's might keep all others' out.
        """
        taken: list[Entry] = []
        room = SLOT_RENEWAL_BYTES if now >= self.not_before else 0
        while self.renewals and room > 0:
            client = next(iter(self.renewals))
            waiting = self.renewals.pop(client)
            renewal = waiting.popleft()
            taken.append(renewal)
            room -= len(renewal.command) + ENTRY_BYTES
            self.count -= 1
            self.bytes -= len(renewal.command) + MESSAGE_BYTES
            self.sizes[client] -= len(renewal.command) + MESSAGE_BYTES
            if waiting:
                self.renewals[client] = waiting
            else:
                del self.sizes[client]
        if taken:
            self.slot, self.began = slot, now
            self._pause(RENEWALS_PAUSE, now)
        return taken

    def executed(self, seconds: float, now: float) -> None:
        """The slot with renewals is, in so long: commands have as much time for themselves."""
        self.slot = 0
        took = max(now - self.began, EXECUTION_FACTOR * seconds)
        self._pause(min(took, RENEWALS_PAUSE), now)

    def _pause(self, seconds: float, now: float) -> None:
        self.not_before = now + seconds
        self.renew_at = self.not_before if self.renewals else NEVER

    def plan(self, application: Application, time: LogTime, now: float, clock: int) -> None:
        """Say when to look again whether something is due, other than a command."""
        wakeup = self.wakeup = application.timer.due
        due = None
        if application.timer.next is not None:  # a lease or timer runs
            due = self.stamped + TIMED_INTERVAL
        elif len(application.sessions) > 0:
            due = self.stamped + IDLE_INTERVAL
        in_flight = application.executed < self.last_slot
        # (A batch in flight that is as late as the wake-up runs it; one at most is under way.)
        if wakeup is not None and not (in_flight and wakeup <= self.stamped):
            due = wakeup if due is None else min(due, wakeup)
        self.at = self.renew_at
        if due is not None:
            self.at = min(self.at, now + time.seconds_to(due, clock))
