"""What clients get of the present step, and what of theirs waits: plain data (docs/overload.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from paxon.actors.environment import ClientToken, Clock
from paxon.actors.execution.agreed import decode_change
from paxon.actors.execution.application import Executed
from paxon.actors.limits.allowances import (
    CHARGED_BYTES,
    CLIENT_SECONDS,
    MESSAGE_BYTES,
    SECONDS_PER_BYTE,
    TURN_BYTES,
)
from paxon.actors.limits.turns import ClientTurns, Openings, Waiting
from paxon.actors.messages import (
    RENEWAL,
    SETTINGS,
    ChangeSettings,
    ClientMessage,
    Command,
    Entry,
    OpenSession,
    Query,
    Renew,
)
from paxon.actors.records.reign import Reign

__all__ = ["LARGE_REPLY", "Held", "HeldRequests", "Reception"]

PAUSE = 0.001
"""Seconds after which a client is looked at again that could not be served."""
SLOW_READER_PAUSE = 0.02
"""The same for a client that does not read its replies."""
LARGE_REPLY = 4096
"""Replies to commands from this size on count towards what a step replies, in bytes."""
HELD_BYTES = 64
"""What a request that is held counts for beside its content."""

Held: TypeAlias = Command | OpenSession | Query | ChangeSettings | Renew
"""What a new leader keeps until it serves."""


class Reception:
    """How much of this step clients may still have, and who of them waits for a turn.

    All times are monotonic seconds.
    """

    def __init__(self) -> None:
        self.turns = ClientTurns()
        self.openings = Openings()
        self.spent = False
        """Clients have had their share of this step."""
        self._ends_at = 0.0
        self._worked_at = 0.0
        """When the request before was done, as far as the clock was read."""
        self._turn_at = 0.0
        """When the present turn began."""
        self._sent_seconds = 0.0
        """What sending the replies of the present turn takes, as estimated from their sizes."""

    def open(self, now: float, *, spent: bool) -> None:
        """From now on clients are served for a moment."""
        self.spent = spent
        self._worked_at = now
        self._ends_at = now + CLIENT_SECONDS

    def end_share(self) -> None:
        """Dear commands have come: what else clients want waits, in turns."""
        self.spent = True

    def count_work(
        self, client: ClientToken, size: int, now: float, reign: Reign | None, *, full: bool
    ) -> None:
        """A request was answered at once, with so many bytes: is the step's share spent?

        `full` if all replies of the step have come to as much as may be.
        """
        took, self._worked_at = now - self._worked_at, now
        if size > LARGE_REPLY:
            took += size * SECONDS_PER_BYTE
            self._sent_seconds += size * SECONDS_PER_BYTE
        if now >= self._ends_at or full:
            self.spent = True
            if took >= CLIENT_SECONDS / 2 and self._others_present(client, now - took, reign):
                self.turns.sit_out(client, now + took)

    def _others_present(self, client: ClientToken, since: float, reign: Reign | None) -> bool:
        """Whether anybody but this client has asked for something since then, or waits."""
        return self.turns.others_present(client, since) or (
            reign is not None and reign.others_wait(client)
        )

    # --- turns -----------------------------------------------------------------------------------

    def let_wait(
        self,
        client: ClientToken,
        requests: Sequence[ClientMessage],
        now: float,
        reign: Reign | None,
    ) -> bool:
        """These requests wait for their client's turn; False if there is no room for them."""
        turns = self.turns
        turns.heard(client, now)
        has_room = not requests or turns.add(client, requests)
        if turns.is_much(client) and self._others_present(client, now, reign):
            turns.ignored.add(client)
        return has_room

    def next_turn(self) -> tuple[ClientToken, Waiting] | None:
        """Whose turn it is; None if all sit out, or the step's share is spent."""
        self._turn_at, self._sent_seconds = self._worked_at, 0.0
        return None if self.spent else self.turns.next(self._turn_at)

    def put_off(self, waiting: Waiting) -> None:
        """It is this client's turn, and it does not read its replies."""
        waiting.not_before = self._turn_at + SLOW_READER_PAUSE

    def end_turn(
        self, client: ClientToken, served: int, queued: int, now: float, reign: Reign | None
    ) -> None:
        """So many requests of a client were handled, and put so much work into the queue."""
        turns, began = self.turns, self._turn_at
        if turns.ignored:
            turns.listen(client)
        self._worked_at = now
        if served == 0:  # it has to wait for something
            turns.sit_out(client, now + PAUSE)
        elif not self._others_present(client, began, reign):
            turns.sit_out(client, now)
        elif reign is not None and queued >= TURN_BYTES:
            last = reign.pending.entries[-1]
            turns.hold_back(client, (last.session, last.seq), now)
        else:
            seconds = now - began + self._sent_seconds
            turns.sit_out(client, now + seconds if seconds >= CLIENT_SECONDS / 2 else now)
        if now >= self._ends_at:
            self.spent = True

    def charge(
        self, reign: Reign, slot: int, results: Sequence[Executed], step_at: float, clock: Clock
    ) -> None:
        """A slot is executed: who waited for it goes on, who filled it sits out for its time."""
        waiting, turns = reign.waiting, self.turns
        began = reign.large_slots.pop(slot, None)
        sizes: dict[ClientToken, int] = {}
        for entry, reply in results:
            client = waiting.get((entry.session, entry.seq))
            if client is None:
                continue
            if turns.held_back.pop((entry.session, entry.seq), None) is not None:
                turns.sit_out(client, step_at)
            if began is not None:
                size = len(entry.command) + len(reply.payload) + MESSAGE_BYTES
                sizes[client] = sizes.get(client, 0) + size
                if size >= CHARGED_BYTES:  # (a pipeline of small ones harms nobody as much)
                    reign.stored[client] = reign.stored.get(client, 0) + size
        if began is None:
            return
        now = clock.monotonic()
        began, reign.charged_at = max(began, reign.charged_at), now
        total = sum(sizes.values())
        for client, size in sizes.items():
            took = (now - began) * size / total + size * SECONDS_PER_BYTE
            if took >= CLIENT_SECONDS and self._others_present(client, began, reign):
                turns.sit_out(client, now + took)

    def blame_for_snapshot(self, reign: Reign, executed_bytes: int, now: float) -> None:
        """Whoever has stored much makes a snapshot due, and lets others go first until it is taken.

        It takes disks and cores from them here and at the followers, that are due as well.
        `executed_bytes` is all that was stored since the last snapshot.
        """
        stored, reign.stored = reign.stored, {}
        total = max(executed_bytes, sum(stored.values()))
        parts = {
            client: size / total
            for client, size in stored.items()
            if size >= TURN_BYTES and self._others_present(client, now, reign)
        }
        self.turns.hold_for_snapshot(parts, now)


class HeldRequests:
    """Requests kept until this server serves (it leads, but has not executed the takeover)."""

    def __init__(self) -> None:
        self.requests: list[tuple[ClientToken, Held]] = []
        self._bytes = 0
        self.tried: set[tuple[int, int]] = set()
        """Held commands that this server has proposed before: they may have been executed."""

    def add(self, client: ClientToken, request: Held, size: int, most_bytes: int) -> bool:
        """Keep one, if there is room for its `size` bytes."""
        if self._bytes + size > most_bytes:
            return False
        self.requests.append((client, request))
        self._bytes += size + HELD_BYTES
        return True

    def add_unfinished(self, reign: Reign) -> None:
        """Keep what clients wait for, until this server leads again (PMMC §2.3, replica)."""
        for entry in reign.unexecuted():
            client = reign.waiting.pop((entry.session, entry.seq), None)
            if client is None:
                continue
            if entry.session:
                self.tried.add((entry.session, entry.seq))
            self.requests.append((client, _as_request(entry)))
        self.requests.extend(reign.reads.clear())

    def take(self) -> list[tuple[ClientToken, Held]]:
        """Take out all."""
        taken, self.requests, self._bytes = self.requests, [], 0
        return taken


def _as_request(entry: Entry) -> Command | OpenSession | ChangeSettings | Renew:
    """The request that became this entry."""
    if entry.session:
        return Command(entry.session, entry.seq, entry.acked, entry.after, entry.command)
    if entry.acked == RENEWAL:
        return Renew(entry.seq, entry.command)
    if entry.acked == SETTINGS:
        change = decode_change(entry.command)
        return ChangeSettings(entry.seq, change.changed_at, change.values)
    return OpenSession(entry.seq)
