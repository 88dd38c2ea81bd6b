"""The proposer's half of `PaxosServer`: what it does while it leads.

Phase 2 with batching and a bounded window, heartbeats, reads, and the clients' requests. Split off
for reading in a sitting only: there is one server class, and this is part of it. What belongs to
whom is said at the head of actors/server.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeAlias

import pykka

from paxon.actors.agreed import KNOWS, Change, check_values, decode_change, encode_change
from paxon.actors.allowances import (
    COST_PER_SLOT,
    EXECUTE_SECONDS,
    IN_FLIGHT_BYTES,
    MAX_PENDING,
    MAX_READ_BYTES,
    MAX_READS,
    RETRY_AFTER,
)
from paxon.actors.application import decode_batch, encode_batch
from paxon.actors.ballot import Ballot, ServerId
from paxon.actors.bounds import is_plausible_command
from paxon.actors.costs import Costs
from paxon.actors.digests import Comparison
from paxon.actors.election import ElectionPolicy, make_policy
from paxon.actors.embedding import Execute, NotLeading
from paxon.actors.environment import ClientToken, Environment
from paxon.actors.invariants import invariant
from paxon.actors.learner import Learner
from paxon.actors.leases import LONGEST_LEASE, counted
from paxon.actors.membership import NEVER
from paxon.actors.messages import (
    NO_OP,
    P2A,
    P2B,
    SETTINGS,
    Batch,
    ChangeSettings,
    ClientMessage,
    Command,
    CommandReply,
    Entry,
    Heartbeat,
    HeartbeatReply,
    Made,
    NotLeader,
    OpenSession,
    Overloaded,
    Query,
    QueryReply,
    ReplyStatus,
    overloaded,
)
from paxon.actors.reads import ReadQueue
from paxon.actors.settings import Settings
from paxon.actors.state_machine import StateMachine
from paxon.actors.thrift import Thrift
from paxon.actors.turns import Openings
from paxon.transport.log import logger

__all__ = ["Proposer"]

Held: TypeAlias = Command | OpenSession | Query | ChangeSettings
"""What a new leader keeps until it serves."""

LEASE_IN_USE = 5.0
"""Seconds for which heartbeats ask for a lease after a client's last lease read."""
RETRANSMITTED_BYTES = 1 << 20
"""For each so many in flight their votes are waited for one interval longer."""
ENTRY_BYTES = 16
"""What an entry takes in a slot's value beside its command, about."""


class Proposer(Learner):
    """Proposes, counts votes, confirms that it leads, and answers clients."""

    def __init__(
        self,
        settings: Settings,
        machine: StateMachine,
        environment: Environment,
        policy: ElectionPolicy | None,
    ) -> None:
        super().__init__(settings, machine, environment)
        self._policy = policy if policy is not None else make_policy(settings)
        self._contends = settings.contend and not self._policy.courteous
        self._all_bits: dict[ServerId, int] = {}
        """Each member's vote: a bit at its position in the configuration."""
        self._reset_proposer()
        self._held: list[tuple[ClientToken, Held]] = []
        """Requests kept until this server serves (it leads, but has not executed the takeover)."""
        self._held_bytes = 0
        self._openings = Openings()
        self._tried: set[tuple[int, int]] = set()
        """Held commands that this server has proposed before: they may have been executed."""
        self._peer_handlers.update({P2B: self.on_p2b, HeartbeatReply: self.on_heartbeat_reply})
        self._client_handlers.update(
            {
                Command: self.on_command,
                OpenSession: self.on_open_session,
                Query: self.on_query,
                ChangeSettings: self.on_change_settings,
            }
        )

    def _join(self, made: Made) -> None:
        super()._join(made)
        self._all_bits = {server: 1 << place for place, server in enumerate(made.servers)}
        self._thrift = Thrift(self.settings, self._others)

    @abstractmethod
    def _accept(self, slot: int, ballot: Ballot, value: bytes) -> None:
        """Accept as acceptor."""

    def _reset_proposer(self) -> None:
        """The proposer's state, as one who neither leads nor ever did."""
        self._next_slot = 0
        self._chosen_before = self._counters["slots_chosen"]
        """How many slots were chosen here, ever, when this reign began."""
        self._takeover: deque[tuple[int, bytes]] = deque()
        self._takeover_end = 0
        self._votes: dict[int, int] = {}
        self._unsynced: list[int] = []
        self._batches: dict[int, Batch] = {}
        self._pending: deque[Entry] = deque()
        self._pending_bytes = 0
        self._costs = Costs(self.application.machine)
        self._waiting: dict[tuple[int, int], ClientToken] = {}
        self._futures: dict[int, pykka.Future[bytes]] = {}
        self._reads = ReadQueue()
        self._round = 0
        self._round_sent: deque[tuple[int, float, float, float]] = deque()
        """Rounds not confirmed yet: number, when sent, seconds to count on the lease asked for, and
        `_busy` when sent."""
        self._confirmed = 0
        self._confirmed_by: dict[ServerId, int] = {}
        self._confirmed_at = 0.0
        self._confirmed_busy = 0.0
        self._lease_until = -NEVER
        """How long this leader may count on what the confirmed rounds asked for."""
        self._lease_wanted_until = 0.0
        self._executed_by: dict[ServerId, int] = {}
        self._comparison = Comparison()
        self._heartbeat_at = 0.0
        self._retransmit_at = 0.0
        self._retransmit_below = 0
        self._time_base = 0.0
        self._thrift = Thrift(self.settings, self._others)

    def _propose_waiting(self) -> None:
        """Fill the window: first what was taken over, then all waiting commands, packed."""
        while len(self._votes) < self.settings.window:
            if self._takeover:
                if self._votes and self._bytes_in_flight() >= IN_FLIGHT_BYTES:
                    return
                slot, value = self._takeover.popleft()
                held = self.log.get(slot)
                if slot > self.log.chosen_to and (held is None or not held.chosen):
                    self._propose(slot, value)
            elif self._pending:
                if self._votes and self._much_in_flight():
                    return
                batch = Batch(self._time_base + self._now, self._pack())
                self._batches[self._next_slot] = batch
                self._propose(self._next_slot, encode_batch(batch))
                self._next_slot += 1
            else:
                return

    def _much_in_flight(self) -> bool:
        """Whether so many bytes are being chosen that more would only make others wait longer."""
        if self._pending_bytes < IN_FLIGHT_BYTES // self.settings.window:
            return False
        return self._bytes_in_flight() >= IN_FLIGHT_BYTES

    def _bytes_in_flight(self) -> int:
        """Bytes in slots that are proposed and not yet chosen."""
        log = self.log
        held = (log.get(slot) for slot in self._votes)
        return sum(len(one.value) for one in held if one is not None)

    def _retransmit_later(self) -> None:
        """What is large takes its time to the others' disks: it is not sent so soon again."""
        patience = 1 + self._bytes_in_flight() // RETRANSMITTED_BYTES
        self._retransmit_at = self._now + patience * self.settings.retransmit_interval

    def _pack(self) -> list[Entry]:
        """Take the commands that waited, up to the size and cost of a batch, at least one."""
        pending = self._pending
        entries: list[Entry] = []
        if self._pending_bytes <= self.settings.batch_bytes and not self._costs.dear:
            entries.extend(pending)
            pending.clear()
            self._pending_bytes = 0
            return entries
        size = cost = 0
        while pending:
            entry = pending[0]
            taken = len(entry.command) + ENTRY_BYTES
            size, cost = size + taken, cost + self._costs.of(entry)
            if entries and (size > self.settings.batch_bytes or cost > COST_PER_SLOT):
                break
            entries.append(pending.popleft())
            self._pending_bytes -= taken
            self._costs.forget(entry)
        return entries

    def _propose(self, slot: int, value: bytes) -> None:
        """Queue a P2A; our own acceptance counts once it is synced (rule 10)."""
        self._accept(slot, self.promised, value)
        self._votes[slot] = 0
        self._unsynced.append(slot)
        self._early.append(P2A(self.promised, slot, value, self.log.chosen_to))
        self._counters["slots_proposed"] += 1

    def _broadcast_p2as(self, frame: Sequence[P2A]) -> None:
        """Send a frame of P2As to the prompt servers, and to the spare ones a little later."""
        thrift = self._thrift
        self._counters["p2a_sent"] += len(frame) * len(thrift.prompt)
        self._network.broadcast(thrift.prompt, frame)
        if thrift.spare and thrift.put_off_p2as(frame, self._clock.monotonic()):
            self._send_put_off()

    def _send_put_off(self) -> None:
        """Send the spare servers what they have not got yet.

        Like any P2A it relies on the ballot alone. Before anything else that tells them a commit
        index, or they would ask for slots that are about to reach them.
        """
        thrift = self._thrift
        p2as = thrift.take()
        if p2as:
            invariant(p2as[0].ballot == self._durable_promise, "P2A in ballot %s", p2as[0].ballot)
            self._counters["p2a_sent"] += len(p2as) * len(thrift.spare)
            self._network.broadcast(thrift.spare, p2as)

    def _ask_everyone(self) -> None:
        """Keep nothing from the spare servers any more, until the prompt ones are chosen anew."""
        self._send_put_off()
        unconfirmed = self._thrift.round > self._confirmed
        self._thrift.ask_everyone()
        if unconfirmed:
            self._beat()

    def _on_thrift_timers(self) -> None:
        """The spare servers get what was put off; if it is still undecided, their answers count."""
        thrift, late = self._thrift, False
        if self._now < min(thrift.p2as_due_at, thrift.round_due_at):
            return
        if self._now >= thrift.p2as_due_at:
            thrift.p2as_due_at = NEVER
            late = thrift.first_slot in self._votes
            self._send_put_off()
        if self._now >= thrift.round_due_at:
            thrift.round_due_at = NEVER
            late = late or thrift.round > self._confirmed
        if not late:
            thrift.were_in_time()
        else:
            thrift.were_late()
            self._ask_everyone()

    def on_p2b(self, p2b: P2B, sender: ServerId) -> None:
        """Count an acceptance, for exactly the ballot and slots that it names (rule 2)."""
        self._note_count(sender, p2b.count)
        if p2b.promised is not None:
            if p2b.promised > self.promised:
                self._follows(p2b.promised, sender)  # it promised a higher ballot: preempted
            return
        if self.role != "leader" or p2b.ballot != self.promised:
            return  # a late vote, for a ballot that we no longer lead
        if p2b.first == p2b.last:
            useful = self._count_vote(p2b.first, sender)
        else:
            useful = False
            for slot in [slot for slot in self._votes if p2b.first <= slot <= p2b.last]:
                # A plain loop: what may execute a slot is called by Python code alone (recursion).
                useful = self._count_vote(slot, sender) or useful
        if useful and self._thrift.choosing:
            self._thrift.count_useful(sender)

    def _count_vote(self, slot: int, sender: ServerId) -> bool:
        """Count one vote for one slot; False if it had come before, or comes too late to matter."""
        votes = self._votes.get(slot)
        if votes is None:  # chosen already
            return False
        bit = self._all_bits[sender]
        new = not votes & bit
        votes |= bit
        if votes.bit_count() < self._majority:
            self._votes[slot] = votes
            return new
        del self._votes[slot]
        self.log.choose(slot)
        self._counters["slots_chosen"] += 1
        if self.log.chosen_to > self.application.executed:
            self._execute()
        return new

    def _deliver(self, slot: int, value: bytes) -> None:
        """Execute a slot and answer the clients that wait here."""
        # A leader that was behind may learn from others what it is still gathering votes for.
        self._votes.pop(slot, None)
        batch = self._batches.pop(slot, None)
        if batch is None and value != NO_OP:
            batch = decode_batch(value)
        results = self.application.execute(slot, value, batch)
        self._counters["slots_executed"] += 1
        self._counters["commands_executed"] += len(results)
        if not self._waiting and not self._futures:
            return
        for entry, reply in results:
            if entry.session == 0 and entry.command and entry.acked != SETTINGS:
                _resolve(self._futures.pop(entry.seq, None), reply.status, reply.payload)
                continue
            key = (entry.session, entry.seq)
            client = self._waiting.pop(key, None)
            if client is None:
                continue
            if key in self._tried:
                self._answer_command(client, key, ReplyStatus(reply.status), reply.payload)
            else:
                self._answer(client, entry, reply)

    def _retransmit_p2as(self) -> None:
        """Send again what was in flight at the last tick already, to those who have not voted."""
        self._send_put_off()  # these tell a commit index as well
        size = 0
        for slot in sorted(self._votes):
            if slot >= self._retransmit_below or size > self.settings.transfer_bytes:
                break
            held = self.log.get(slot)
            if held is None:
                continue
            p2a = P2A(self.promised, slot, held.value, self.log.chosen_to)
            for server in self._others:
                if not self._votes[slot] & self._all_bits[server]:
                    self._send(server, p2a)
                    self._counters["retransmissions"] += 1
            size += len(held.value)
        self._retransmit_below = self._next_slot

    def _fail_futures(self) -> None:
        futures, self._futures = self._futures, {}
        for future in futures.values():
            _fail_future(future, self._not_leading(tried=True))

    def _not_leading(self, *, tried: bool) -> NotLeading:
        leader = self.leader
        address = self.settings.client_addresses.get(leader, "")
        return NotLeading(self.settings.server, leader, address, tried=tried)

    def close(self) -> None:
        """Release all; whoever still waits for a command's future is told."""
        super().close()
        self._fail_futures()

    # --- heartbeats and reads ---------------------------------------------------------------------

    def _beat(self) -> None:
        """Start a heartbeat round with all: I lead, this is chosen, this may be discarded."""
        self._heartbeat_at = self._now + self.settings.heartbeat_interval
        self._discard(self._executed_by_all())
        self._to_all.append(self._begin_round())
        if self._majority == 1:
            self._confirm_rounds()
        if self._thrift.count_beat():
            self._send_put_off()
            self._thrift.ask_everyone()  # as this very round does

    def _begin_round(self) -> Heartbeat:
        self._round += 1
        lease = drift = 0.0
        if self._now < self._lease_wanted_until:
            lease = min(self.settings.election_timeout_min, LONGEST_LEASE)
            drift = self.settings.max_clock_drift
        self._round_sent.append((self._round, self._now, counted(lease, drift), self._busy))
        return Heartbeat(
            self.promised, self._round, self.log.chosen_to, self._executed_by_all(),
            self._disks_known(), lease, drift, self._heard_lately(),
        )  # fmt: skip

    def _executed_by_all(self) -> int:
        """The lowest last-executed slot of *all* servers (rule 7); 0 while any is unheard of."""
        executed = self._executed_durably()
        for server in self._others:
            executed = min(executed, self._executed_by.get(server, 0))
        return executed

    def on_heartbeat_reply(self, reply: HeartbeatReply, sender: ServerId) -> None:
        """Count a follower for its round, and note how far it has executed."""
        self._note_count(sender, reply.count)
        if reply.ballot > self.promised:
            self._follows(reply.ballot, sender)
            return
        if self.role != "leader" or reply.ballot != self.promised:
            return
        self._features.heard(sender, reply.knows, reply.limits)
        self._executed_by[sender] = max(reply.executed, self._executed_by.get(sender, 0))
        self._compare(sender, reply.digest_version, reply.executed, reply.digest)
        if reply.round > self._confirmed_by.get(sender, 0):
            if self._thrift.choosing and reply.round > self._confirmed:
                self._thrift.count_useful(sender)
            self._confirmed_by[sender] = min(reply.round, self._round)
            self._confirm_rounds()

    def _confirm_rounds(self) -> None:
        """A round that a majority (the leader included) replied to proves the leader led then."""
        replied = sorted([self._round, *self._confirmed_by.values()], reverse=True)
        if len(replied) < self._majority:
            return
        confirmed = replied[self._majority - 1]
        if confirmed <= self._confirmed:
            return
        self._confirmed = confirmed
        lease = 0.0
        while self._round_sent and self._round_sent[0][0] <= confirmed:
            _, self._confirmed_at, lease, self._confirmed_busy = self._round_sent.popleft()
        # Each of the majority replied to this round or to a later one, and may have missed any
        # other: no more is granted than the shortest lease that any of these asked for.
        lease = min(lease, min((later for _, _, later, _ in self._round_sent), default=lease))
        if lease:
            self._lease_until = max(self._lease_until, self._confirmed_at + lease)
        ready = self._reads.ready(confirmed, self.application.executed)
        if ready:
            self._allow_time()
        for client, query in ready:
            if not self._spent:
                self._answer_query(client, query)
            elif not self._turns.add(client, [Query(query.id, "stale", query.query)]):
                # (It was confirmed: from now on any state here is new enough.)
                self._throw_away(client, "too many reads are waiting")

    def _start_read_round(self) -> None:
        """One round at a time; the reads that come meanwhile share the next one."""
        if len(self._reads) and self._confirmed == self._round:
            self._counters["read_rounds"] += 1
            if not self._thrift.spare:
                self._beat()
                return
            heartbeat = self._begin_round()
            for server in self._thrift.prompt:
                self._send(server, heartbeat)
            self._thrift.expect_round(self._round, self._clock.monotonic())

    def _lease_holds(self) -> bool:
        """No other can lead yet: who granted the lease promises nothing before it has run out.

        Counted from when the confirmed heartbeat was *sent*, and shortened by the clock drift that
        it told (leases.py). Heartbeats ask for leases only while clients use them: otherwise a dead
        leader's lease would hold up its successor.
        """
        if not self.settings.leases or not self._policy.courteous:
            return False
        now = self._clock.monotonic()
        self._lease_wanted_until = now + LEASE_IN_USE
        return now < self._lease_until

    # --- clients ---------------------------------------------------------------------------------

    def _serves(self) -> bool:
        """Leading, with every slot taken over executed: state and sessions are current."""
        return self.role == "leader" and self.application.executed >= self._takeover_end

    def on_command(self, command: Command, client: ClientToken) -> None:
        """Propose a command unless it is proposed, chosen or executed already (rule 5)."""
        if not self._serves():
            self._hold_or_refuse(client, command, len(command.command))
            return
        key = (command.session, command.seq)
        if key in self._waiting:
            self._waiting[key] = client  # asked again; the answer goes where it was asked last
            return
        refusal = self._refusal(command)
        if refusal is not None:
            self._answer_command(client, key, refusal.status, refusal.payload)
            return
        self._waiting[key] = client
        self._pending.append(
            Entry(command.session, command.seq, command.acked, command.after, command.command)
        )
        self._pending_bytes += len(command.command) + ENTRY_BYTES

    def _refusal(self, command: Command) -> CommandReply | None:
        """Why a command does not get into the log now; None if it does."""

        def refuse(status: ReplyStatus, payload: bytes) -> CommandReply:
            return CommandReply(command.session, command.seq, status, payload)

        session = self.application.sessions.get(command.session)
        if session is None:
            return refuse(ReplyStatus.EXPIRED, b"unknown session")
        known = session.known(command.seq)
        if known is not None:
            return refuse(known.status, known.payload)
        agreed = self.application.agreed
        if len(command.command) > agreed.max_command_bytes:
            limit = agreed.max_command_bytes
            return refuse(ReplyStatus.INVALID, b"the command exceeds %d bytes" % limit)
        if command.seq - max(command.acked, session.floor) >= agreed.max_outstanding:
            return refuse(ReplyStatus.INVALID, b"too many commands unacknowledged")
        if not is_plausible_command(command):
            return refuse(ReplyStatus.INVALID, b"acked and after must be from 0 to below seq")
        if (
            command.after
            and not session.executed(command.after)
            and (command.session, command.after) not in self._waiting
        ):
            return refuse(ReplyStatus.OUT_OF_ORDER, b"send the one before first")
        if self._pending_bytes >= self.settings.max_pending_bytes:
            return self._overloaded(command, "too much is waiting")
        if session.kept >= self.application.sessions.max_kept_each and (
            command.acked <= session.floor
        ):
            return self._overloaded(command, "acknowledge some replies first")
        reason = self.application.check(command.command)
        if reason:
            return refuse(ReplyStatus.INVALID, reason)
        reason = self._costs.refusal(command)
        return refuse(ReplyStatus.INVALID, reason) if reason else None

    def _overloaded(self, command: Command, reason: str) -> CommandReply:
        self._counters["overloaded"] += 1
        payload = overloaded(reason, RETRY_AFTER)
        return CommandReply(command.session, command.seq, ReplyStatus.OVERLOADED, payload)

    def on_open_session(self, request: OpenSession, client: ClientToken) -> None:
        """A session is opened by a command in the log, so that every server knows it."""
        if not self._serves():
            self._hold_or_refuse(client, request, 0)
            return
        if not 0 <= request.nonce < 1 << 63:
            text = b"the nonce must be from 0 to below 2^63"
            self._reply(client, CommandReply(0, request.nonce, ReplyStatus.INVALID, text))
            return
        key = (0, request.nonce)
        if key not in self._waiting:
            wait = self._openings.wait(client, self._now)
            if wait > 0 or self._pending_bytes >= self.settings.max_pending_bytes:
                self._counters["overloaded"] += 1
                retry_after_ms = round(max(wait, RETRY_AFTER) * 1000)
                self._reply(client, Overloaded(retry_after_ms, "it opens too many sessions"))
                return
            self._pending.append(Entry(0, request.nonce, 0, 0, b""))
            self._pending_bytes += ENTRY_BYTES
        self._waiting[key] = client

    def on_change_settings(self, change: ChangeSettings, client: ClientToken) -> None:
        """What is agreed changes by an entry of the log; an empty change only tells what it is."""
        if not self._serves():
            self._hold_or_refuse(client, change, 64 * len(change.values))
            return
        limits = self.application.machine.limits
        obstacle = check_values(change.values, limits)
        if change.values and not obstacle:
            machine = any(name in limits for name in change.values)
            obstacle = self._features.obstacle(KNOWS, machine=machine)
        if obstacle:
            self._reply(client, QueryReply(change.id, ReplyStatus.INVALID, obstacle.encode()))
            return
        key = (0, change.id)
        if key not in self._waiting:
            if self._pending_bytes >= self.settings.max_pending_bytes:
                payload = overloaded("too much is waiting", RETRY_AFTER)
                self._reply(client, QueryReply(change.id, ReplyStatus.OVERLOADED, payload))
                return
            command = encode_change(Change(change.changed_at, change.values))
            self._pending.append(Entry(0, change.id, SETTINGS, 0, command))
            self._pending_bytes += len(command) + ENTRY_BYTES
        self._waiting[key] = client

    def _takes_in(self, request: ClientMessage) -> bool:
        """Whether a request that waits for its turn can be handled now."""
        if isinstance(request, Command | OpenSession | ChangeSettings):
            return (
                len(self._pending) < MAX_PENDING and self._pending_bytes < self.settings.batch_bytes
            ) or self.role != "leader"
        return len(self._reads) < MAX_READS or not isinstance(request, Query)

    def on_query(self, query: Query, client: ClientToken) -> None:
        """Answer a read; which way, the client says (rule 9)."""
        if query.mode == "stale":
            self._answer_query(client, query)
        elif not self._serves():
            self._hold_or_refuse(client, query, len(query.query))
        elif query.mode == "lease" and self._lease_holds():
            self._counters["lease_reads"] += 1
            self._answer_query(client, query)
        elif len(self._reads) >= MAX_READS or self._reads.bytes >= MAX_READ_BYTES:
            self._counters["overloaded"] += 1
            payload = overloaded("too many reads are waiting", RETRY_AFTER)
            self._reply(client, QueryReply(query.id, ReplyStatus.OVERLOADED, payload))
        else:
            self._reads.add(self._round + 1, self.log.chosen_to, client, query)

    def _answer_query(self, client: ClientToken, query: Query) -> None:
        reply = self.application.query(query.query)
        self._counters["queries_answered"] += 1
        self._reply(client, QueryReply(query.id, reply.status, reply.payload))
        self._count_work(client, len(reply.payload))

    def _hold_or_refuse(self, client: ClientToken, message: Held, size: int) -> None:
        """A new leader keeps requests until it serves; anyone else points to the leader."""
        waits = self.role == "leader" or self._contends
        if waits and self._held_bytes + size <= self.settings.max_pending_bytes:
            self._held.append((client, message))
            self._held_bytes += size + 64
        else:
            self._refuse(client)

    def _hold_again(self) -> None:
        """Policy benches: keep the clients' commands until we lead again (PMMC §2.3, replica)."""
        for entry in [e for b in self._batches.values() for e in b.entries] + list(self._pending):
            client = self._waiting.pop((entry.session, entry.seq), None)
            if client is None:
                continue
            if entry.session == 0:
                self._held.append((client, _as_request(entry)))
            else:
                self._tried.add((entry.session, entry.seq))
                command = Command(entry.session, entry.seq, entry.acked, entry.after, entry.command)
                self._held.append((client, command))
        self._held.extend(self._reads.clear())

    def _answer_command(
        self, client: ClientToken, key: tuple[int, int], status: ReplyStatus, payload: bytes
    ) -> None:
        """Say how a command ended, but not "expired" of one that we proposed more than once.

        The client takes that for "not executed" if it sent the command once, and it may have been
        executed at our first try. Asking again it counts one more send, and knows that it may.
        """
        if key in self._tried:
            self._tried.remove(key)
            if status == ReplyStatus.EXPIRED:
                self._refuse(client)
                return
        self._reply(client, CommandReply(*key, status, payload))

    def _release_held(self) -> None:
        if self._held and self._serves():
            held, self._held, self._held_bytes = self._held, [], 0
            for client, message in held:
                self._client_handlers[type(message)](message, client)

    def _refuse(self, client: ClientToken) -> None:
        """Say who leads, once a burst for each client; nothing is dropped in silence (rule 5)."""
        queued = self._to_client.setdefault(client, [])
        if not queued or type(queued[-1]) is not NotLeader:
            leader = self.leader if self.leader != self.settings.server else 0
            address = self.settings.client_addresses.get(leader, "")
            queued.append(NotLeader(leader, address, 1 + len(self._others)))

    def on_local(self, message: Any) -> Any:
        """The application asks in process: `Execute` a command, or nothing that we know."""
        if not isinstance(message, Execute):
            logger.warning("server {}: unexpected message {!r}", self.settings.server, message)
            return None
        future: pykka.Future[bytes] = self._create_future()
        error = message.refusal(self.application.agreed.max_command_bytes)
        if error is None and not (self._open and self._serves()):
            error = self._not_leading(tried=False)
        if error is not None:
            _fail_future(future, error)
            return future
        if self._pending_bytes >= self.settings.max_pending_bytes:
            _resolve(future, ReplyStatus.OVERLOADED, overloaded("too much is waiting", RETRY_AFTER))
            return future
        reason = self.application.check(message.command)
        if reason:
            _resolve(future, ReplyStatus.INVALID, reason)
            return future
        number = self._random.getrandbits(62)
        self._futures[number] = future
        self._pending.append(Entry(0, number, 0, 0, message.command))
        self._pending_bytes += len(message.command) + ENTRY_BYTES
        self._now = self._clock.monotonic()
        self._execute_until = self._now + EXECUTE_SECONDS
        self._before_flush()
        self._flush()
        self._storage.maintain(tidy=False)
        return future


def _as_request(entry: Entry) -> OpenSession | ChangeSettings:
    """The request that became this entry of no session."""
    if entry.acked == SETTINGS:
        change = decode_change(entry.command)
        return ChangeSettings(entry.seq, change.changed_at, change.values)
    return OpenSession(entry.seq)


def _resolve(future: pykka.Future[bytes] | None, status: ReplyStatus, payload: bytes) -> None:
    if future is None:
        return
    if status == ReplyStatus.OK:
        future.set(payload)
    else:
        text = payload[4:] if status == ReplyStatus.OVERLOADED else payload
        error = RuntimeError(text.decode(errors="replace"))
        future.set_exception((RuntimeError, error, None))


def _fail_future(future: pykka.Future[bytes], error: Exception) -> None:
    future.set_exception((type(error), error, None))
