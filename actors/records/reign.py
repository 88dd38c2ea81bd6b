"""What a leader knows and does in one ballot: plain data, dropped when it stops leading.

And the requests that a new leader keeps until it serves (rule 5).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import msgspec
import pykka

from paxon.actors.ballot import ServerId
from paxon.actors.environment import NEVER, ClientToken
from paxon.actors.execution.agreed import Change
from paxon.actors.execution.application import Application
from paxon.actors.execution.digests import Comparison
from paxon.actors.execution.machine_errors import error_reply
from paxon.actors.execution.sessions import Reply, put_off
from paxon.actors.execution.state_machine import StateMachine
from paxon.actors.limits.allowances import (
    COST_PER_SLOT,
    ENTRY_BYTES,
    IN_FLIGHT_BYTES,
    LARGEST_REPLY,
    MAX_PENDING,
    MAX_READS,
    RETRY_FOR_ROOM,
    TURN_BYTES,
)
from paxon.actors.limits.bounds import NUMBER_LIMIT
from paxon.actors.limits.turns import Stored, request_bytes
from paxon.actors.log import SlotLog
from paxon.actors.log_time import Chores
from paxon.actors.messages import (
    RENEWAL,
    SETTINGS,
    Batch,
    ChangeSettings,
    ClientMessage,
    Command,
    CommandReply,
    Entry,
    OpenSession,
    Overloaded,
    Query,
    QueryReply,
    Renew,
    ReplyStatus,
    ServerReply,
    SessionOpened,
    retry_after,
)
from paxon.actors.records.changing import Changing
from paxon.actors.records.configuration import Configuration
from paxon.actors.records.places import Places
from paxon.actors.records.reads import ReadQueue, Rounds
from paxon.actors.records.thrift import Thrift
from paxon.actors.settings import Settings

__all__ = [
    "ENTRY_BYTES", "LITTLE_ROOM", "Held", "HeldRequests", "Pending", "Progress", "Reign",
    "answer_to", "is_level",
]  # fmt: skip

SMALL_COMMAND = 16 << 10
"""Commands up to this size go on into a slot although large ones wait for theirs."""
MOST_BEHIND = 4096
"""Slots that a server may be behind that is handed the lead: it has to execute them first. The same
for those that are to serve a changed cluster …"""
MOST_BYTES_BEHIND = 4 << 20
"""… which may not lack more than this of the log, either."""
MOST_ASKED = 1024
"""So many changes of members are remembered with what came of them."""

Held: TypeAlias = Command | OpenSession | Query | ChangeSettings | Renew
"""A request that a new leader keeps until it serves."""
LITTLE_ROOM = put_off("the servers' disks have little room", RETRY_FOR_ROOM)
"""The answer to what the log has no room for. It was not proposed, so it has had no effect."""
RETRANSMITTED_BYTES = 1 << 20
"""For each so many in flight their votes are waited for one interval longer."""
OWN_SLOT_SECONDS = 10.0
"""After so long a leader that had nothing to propose has an empty slot of its own chosen."""
MOVES_SECONDS = 60.0
"""So often a leader looks whether members are elsewhere than the configuration says."""


def is_level(held_to: int, log: SlotLog) -> bool:
    """Whether one that has come so far could go on at once."""
    behind = log.chosen_to - held_to
    if not 1 < behind <= MOST_BEHIND:  # (one is always under way, and may be long)
        return behind <= 1
    missing = (log.get(slot) for slot in range(held_to + 1, log.chosen_to + 1))
    return sum(len(held.value) for held in missing if held is not None) <= MOST_BYTES_BEHIND


def answer_to(entry: Entry, reply: Reply, application: Application, places: Places) -> ServerReply:
    """The reply to the client whose request became this entry, now that it is executed."""
    if entry.session:
        if len(reply.payload) > LARGEST_REPLY:  # executed, but the client can only be told that
            text = b"the reply has %d bytes, too many to send" % len(reply.payload)
            reply = Reply(ReplyStatus.FORGOTTEN, text)
        return CommandReply(entry.session, entry.seq, reply.status, reply.payload)
    if entry.acked in (SETTINGS, RENEWAL):
        return QueryReply(entry.seq, reply.status, reply.payload)
    if reply.status != ReplyStatus.OK:
        seconds, reason = retry_after(reply.payload)
        return Overloaded(round(seconds * 1000), reason)
    agreed = application.agreed
    return SessionOpened(
        entry.seq, int.from_bytes(reply.payload, "big"), application.machine.language,
        agreed.max_command_bytes, agreed.max_outstanding, places.client_addresses(),
    )  # fmt: skip


class Pending:
    """Commands that wait for a slot, in the order of their arrival.

    What they cost is an estimate, at the leader alone (docs/design/overload.md).
    """

    def __init__(self, machine: StateMachine, on_dear: Callable[[], None]) -> None:
        """`on_dear` is called whenever dear ones wait that cost `TURN_BYTES`."""
        self._cost_of, self._on_dear = machine.cost, on_dear
        self.entries: deque[Entry] = deque()
        self.bytes = 0
        """What they will take in slots' values, about."""
        self.most_are_short = False
        """So many servers' disks have no room that what is proposed would not be chosen."""
        self.dear: dict[tuple[int, int], int] = {}
        self.cost = 0
        """What those cost that cost more than they are long, and all of these together."""

    @property
    def work(self) -> int:
        """The waiting work, in bytes and cost."""
        return self.bytes + self.cost

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.bytes += len(entry.command) + ENTRY_BYTES

    def fits(self, room: int) -> bool:
        """Whether the first of them may go into the log, whose disk has so much room (bytes)."""
        first = len(self.entries[0].command) + ENTRY_BYTES
        return first <= room and not self.most_are_short

    def take(self) -> list[Entry]:
        """Take out all."""
        taken = list(self.entries)
        self.entries.clear()
        self.dear.clear()
        self.bytes = self.cost = 0
        return taken

    def pack(self, most_bytes: int) -> list[Entry]:
        """Take out what waited longest, up to the size and cost of a batch, at least one."""
        pending, dear = self.entries, self.dear
        entries: list[Entry] = []
        if self.bytes <= most_bytes and not dear:
            entries.extend(pending)
            pending.clear()
            self.bytes = 0
            return entries
        size = cost = 0
        while pending:
            entry = pending[0]
            key, taken = (entry.session, entry.seq), len(entry.command) + ENTRY_BYTES
            size, cost = size + taken, cost + dear.get(key, 0)
            if entries and (size > most_bytes or cost > COST_PER_SLOT):
                break
            entries.append(pending.popleft())
            self.bytes -= taken
            self.cost -= dear.pop(key, 0)
        return entries

    def too_dear(self, command: Command) -> bytes:
        """Why a command, which was checked, costs too much for a slot; empty if it does not."""
        try:
            cost = int(self._cost_of(command.command))
        except BaseException as error:  # the user's code may raise anything: it stops nobody
            return error_reply(error)
        if cost <= len(command.command):
            return b""
        if cost > COST_PER_SLOT:
            text = b"it would cost about %d bytes of work; %d are allowed: split it"
            return text % (cost, COST_PER_SLOT)
        self.dear[command.session, command.seq] = cost
        self.cost += cost
        if self.cost >= TURN_BYTES:
            self._on_dear()
        return b""


@dataclass(slots=True)
class Progress:
    """How far a follower has come, as it told this leader."""

    voter: bool = True
    """Whether its answers count towards a majority."""
    accepted: int = 0
    """Of a learner: the last slot that it has accepted. What it missed before it asks for."""
    executed: int = 0
    """The last slot that it has executed, and would again after a restart."""
    answered: int = 0
    """The last round that it replied to."""
    watches: bool = False
    """Whether it holds watches, and so has to hear of commits at once."""
    short: bool = False
    """Whether its disk has no room for more of the log."""
    lost: bool = False
    """Whether its connection has ended since it last replied."""


class Reign:
    """One reign, from the takeover to the stepping down."""

    def __init__(
        self, settings: Settings, configuration: Configuration, pending: Pending, rounds: Rounds,
        slots_chosen: int, *, end: int, takeover: Iterable[tuple[int, bytes]], sealing: bool,
        time: int, now: float,
    ) -> None:  # fmt: skip
        """Slot `end` is the last taken over, with a CONFIG if `sealing`; `time` is the log's."""
        self.followers = {
            member.server: Progress(voter=member.voter)
            for member in configuration.members
            if member.server != settings.server
        }
        self._chosen_before = slots_chosen
        """How many slots were chosen here, ever, when this reign began."""
        # Phase 2.
        self.takeover = deque(takeover)
        """What was taken over and is still to be proposed again: slot and value."""
        self.takeover_end = end
        """The last slot that was taken over: once it is executed, the leader serves."""
        self.next_slot = end + 1
        self.votes: dict[int, int] = {}
        """Slots in flight: the bits of those who have accepted each."""
        self.unsynced: list[int] = []
        """Slots that were accepted here and not synced yet: the own vote counts after that."""
        self.batches: dict[int, Batch] = {}
        """What was proposed in each slot that is not executed yet."""
        self.large_slots: dict[int, float] = {}
        """When those were proposed whose time is charged to their clients."""
        self.charged_at = 0.0
        """When the last of them was executed."""
        self.stored = Stored()
        self.retransmit_at = now + settings.retransmit_interval
        self.retransmit_below = 0
        """Slots below it were in flight at the last tick already."""
        self.thrift = Thrift(
            settings, list(self.followers), [s for s, one in self.followers.items() if one.voter]
        )
        # The end of the epoch (docs/membership.md).
        self.changing: Changing | None = None
        """The change that this leader was asked for, until its CONFIG is proposed."""
        self.asked: dict[int, str] = {}
        """Changes that this leader was asked for, by their numbers, with why each was refused; "":
        it was taken up. What is refused once in a reign is so for good."""
        self.sealing = self.holds_back = sealing
        """A CONFIG is proposed, or to be proposed again: no lease counts, no further read waits.
        `holds_back`: or one is about to be: no command is proposed."""
        self.own_slot_at = NEVER if sealing else now + OWN_SLOT_SECONDS
        """When to have an empty slot of its own chosen if there is no other by then (M8)."""
        self.moves_at = now + MOVES_SECONDS
        """When to look whether members are elsewhere than the configuration says (M20)."""
        # Clients.
        self.pending = pending
        self.waiting: dict[tuple[int, int], ClientToken] = {}
        """Where to answer each command, named by session and number."""
        self.futures: dict[int, pykka.Future[bytes]] = {}
        """The same for those that the application gave in process."""
        self.reads = ReadQueue()
        self.chores = Chores(time)
        """What is proposed because time goes on (rule 13)."""
        # Followers.
        self.leaving = {member.server for member in configuration.leaving} - {
            *configuration.servers, settings.server,
        }  # fmt: skip
        """Who left with this epoch and has not heard of it yet."""
        self.rounds = rounds
        self.heartbeat_at = 0.0
        self.told_commit = 0
        """The commit index that all followers were sent last."""
        self.comparison = Comparison()

    def take_in(self, entry: Entry, client: ClientToken) -> None:
        """A client's entry waits for a slot."""
        self.waiting[entry.session, entry.seq] = client
        self.pending.add(entry)

    def bytes_in_flight(self, log: SlotLog) -> int:
        """Bytes in slots that are proposed and not yet chosen."""
        held = (log.get(slot) for slot in self.votes)
        return sum(len(one.value) for one in held if one is not None)

    def unanswered(
        self, log: SlotLog, bits: Mapping[ServerId, int], settings: Settings, now: float
    ) -> Iterator[tuple[int, bytes, list[ServerId]]]:
        """What was in flight at the last tick already, and who has not accepted it.

        The next tick is later the more is in flight: large values take long to the others' disks.
        """
        patience = 1 + self.bytes_in_flight(log) // RETRANSMITTED_BYTES
        self.retransmit_at = now + patience * settings.retransmit_interval
        below, self.retransmit_below = self.retransmit_below, self.next_slot
        left = settings.transfer_bytes
        for slot in sorted(self.votes):
            held, votes = log.get(slot), self.votes[slot]
            if slot >= below or left < 0:
                break
            if held is not None:
                left -= len(held.value)
                yield slot, held.value, [
                    server for server, follower in self.followers.items()
                    if not (votes & bits[server] if follower.voter else slot <= follower.accepted)
                ]  # fmt: skip

    def is_full(self, log: SlotLog, window: int) -> bool:
        """Whether so many bytes are being chosen that more would only make others wait longer."""
        if self.pending.bytes < IN_FLIGHT_BYTES // window:
            return False
        return self.bytes_in_flight(log) >= IN_FLIGHT_BYTES

    def executed_by_all(self, own: int) -> int:
        """The lowest last-executed slot of *all* servers (rule 7); 0 while any is unheard of."""
        return min([own, *[follower.executed for follower in self.followers.values()]])

    def heir(self, wanted: ServerId, alive: Collection[ServerId], chosen_to: int) -> ServerId | str:
        """The server that is to lead next, or why none can.

        `wanted` is whom somebody asked for; 0: whoever is most up to date. `alive` were heard just
        now; all up to `chosen_to` is chosen.
        """
        obstacles = {
            server: self._keeps_from_leading(server, alive, chosen_to) for server in self.followers
        }
        if wanted:
            nobody = f"server {wanted} is no member of the cluster: see `paxon member list`"
            return obstacles.get(wanted, nobody) or wanted
        able = [server for server, obstacle in obstacles.items() if not obstacle]
        if able:
            return max(able, key=lambda s: (self.followers[s].executed, self.followers[s].answered))
        return "; ".join(obstacles.values()) or "there is no other server that could lead"

    def _keeps_from_leading(
        self, server: ServerId, alive: Collection[ServerId], chosen_to: int
    ) -> str:
        """Why a follower should not be handed the lead; "" if it may."""
        follower = self.followers[server]
        if not follower.voter:
            return f"server {server} has no vote: `paxon member promote {server}` gives it one"
        if server not in alive or not follower.answered or follower.lost:
            return f"server {server} was not heard of late: see in `paxon status` whether it runs"
        if follower.short:
            return f"the disk of server {server} is full: make room"
        behind = chosen_to - follower.executed
        if behind > MOST_BEHIND:
            return f"server {server} is {behind:,} slots behind: wait until it has caught up"
        return ""

    def successor(
        self, configuration: Configuration, server: ServerId, incarnation: int
    ) -> ServerId:
        """The server to lead the next epoch: this one, or the one that says that it is furthest."""
        if configuration.votes(server, incarnation):
            return server
        level = {follower: progress.executed for follower, progress in self.followers.items()}
        return max(configuration.voters, key=lambda voter: (level.get(voter, -1), -voter))

    def behind(self, alive: Iterable[ServerId], chosen_to: int) -> dict[ServerId, int]:
        """By how many slots these followers are behind that have told how far they are."""
        told = ((server, self.followers[server]) for server in alive)
        return {server: max(0, chosen_to - one.executed) for server, one in told if one.answered}

    def note_asked(self, request: int, refusal: str) -> None:
        """A change was refused for this, or taken up."""
        self.asked[request] = refusal
        if len(self.asked) > MOST_ASKED:
            del self.asked[next(iter(self.asked))]

    def hear_of_room(self, server: ServerId, *, short: bool, majority: int) -> None:
        """A follower tells whether its disk has room for more of the log."""
        if self.followers[server].short == short:
            return
        self.followers[server].short = short
        able = sum(one.voter and not one.short for one in self.followers.values())
        self.pending.most_are_short = able + 1 < majority  # (oneself looks at one's own disk)

    def others_wait(self, client: ClientToken) -> bool:
        """Whether anybody but this client waits for a command.

        (The one that waits longest may have been quiet for long, and is the first or last in line.)
        """
        inside = self.waiting.values()
        return bool(inside) and not client == next(iter(inside)) == next(reversed(inside))

    def awaits(self, command: tuple[int, int] | None, greedy: Container[ClientToken]) -> bool:
        """Whether somebody waits for this command, or who is not among these for anything.

        (Of the latter, whoever is first or last in line.)
        """
        inside, reads = self.waiting, self.reads.waiting
        if command in inside:
            return True
        ends = [*islice(inside.values(), 1), *islice(reversed(inside.values()), 1)]
        ends += [read[2] for read in (*islice(reads, 1), *islice(reversed(reads), 1))]
        return any(client not in greedy for client in ends)

    def takes_in(self, request: ClientMessage, settings: Settings) -> bool:
        """Whether a request that waits for its turn can be handled now."""
        if isinstance(request, Command | OpenSession | ChangeSettings):
            work = self.pending.work
            if isinstance(request, Command) and len(request.command) > SMALL_COMMAND:
                return work < settings.batch_bytes
            return len(self.pending.entries) < MAX_PENDING and work < IN_FLIGHT_BYTES
        return len(self.reads.waiting) < MAX_READS or not isinstance(request, Query)

    def refusal(
        self, command: Command, application: Application, most_pending_bytes: int, room: int
    ) -> Reply | None:
        """Why a command does not get into the log now; None if it does.

        `room` is what the log's disk has for values, in bytes.
        """
        seq, acked, after = command.seq, command.acked, command.after
        session = application.sessions.get(command.session)
        if session is None:
            return Reply(ReplyStatus.EXPIRED, b"unknown session")
        known = session.known(seq)
        if known is not None:
            return known
        agreed, pending, size = application.agreed, self.pending, len(command.command)
        if size > agreed.max_command_bytes:
            limit = agreed.max_command_bytes
            return Reply(ReplyStatus.TOO_LARGE, b"the command exceeds %d bytes" % limit)
        if seq - max(acked, session.floor) >= agreed.max_outstanding:
            return put_off("too many commands are unacknowledged")
        if not (0 <= after < seq < NUMBER_LIMIT and 0 <= acked <= seq):
            return Reply(ReplyStatus.INVALID, b"acked and after must be from 0 to below seq")
        if after and not session.executed(after) and (command.session, after) not in self.waiting:
            return Reply(ReplyStatus.OUT_OF_ORDER, b"send the one before first")
        if pending.bytes >= most_pending_bytes:
            return put_off("too much is waiting")
        if pending.most_are_short or size + ENTRY_BYTES > room - pending.bytes:
            return LITTLE_ROOM
        if session.kept >= application.sessions.max_kept_each and (acked <= session.floor != seq):
            return put_off("acknowledge some replies first")
        reason = application.check(command.command) or pending.too_dear(command)
        return Reply(ReplyStatus.INVALID, reason) if reason else None

    def microseconds(self, now: float) -> int:
        """How long it has lasted."""
        return round((now - self.rounds.began) * 1e6)

    def got_something_done(self, slots_chosen: int) -> bool:
        """Whether it chose a slot, or had none to choose and a majority confirmed it."""
        return slots_chosen > self._chosen_before or (self.rounds.confirmed > 0 and not self.votes)

    def unexecuted(self) -> list[Entry]:
        """Commands that were proposed or wait for a slot, and have not been executed."""
        proposed = [entry for batch in self.batches.values() for entry in batch.entries]
        renewals = [one for waiting in self.chores.renewals.values() for one in waiting]
        return proposed + renewals + list(self.pending.entries)


class HeldRequests:
    """Requests kept until this server serves (it leads, but has not executed the takeover)."""

    def __init__(self) -> None:
        self.requests: list[tuple[ClientToken, Held]] = []
        self._bytes = 0
        self.tried: set[tuple[int, int]] = set()
        """Held commands that this server has proposed before: they may have been executed."""

    def add(self, client: ClientToken, request: Held, most_bytes: int) -> bool:
        """Keep one, if there is room for it."""
        size = request_bytes(request)
        if self._bytes + size > most_bytes:
            return False
        self.requests.append((client, request))
        self._bytes += size
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
        change = msgspec.msgpack.decode(entry.command, type=Change)
        return ChangeSettings(entry.seq, change.changed_at, change.values)
    return OpenSession(entry.seq)
