"""What must hold over a whole cluster, as named predicates (docs/ARCHITECTURE.md).

`ClusterWatch` looks on from outside. It is told of everything that crosses a server's border, that
is what became durable on a disk, what was sent, what was executed and what clients were told, and
keeps its own books from that: which ballots are promised, which values a majority of disks has
accepted. A server's own idea of what is chosen is what is being judged, so it is never asked.

Every method looks only at what changed, so that a step stays cheap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from paxon.actors import NO_BALLOT, Ballot, ServerId
from paxon.actors.messages import (
    P1A,
    P1B,
    P2A,
    P2B,
    Accepted,
    CatchUp,
    CommandReply,
    CountAnswer,
    CountQuestion,
    Heartbeat,
    HeartbeatReply,
    Introduction,
    Made,
    PeerMessage,
    PreVoteReply,
    ReplyStatus,
    ServerReply,
    SessionOpened,
)
from paxon.actors.records.configuration import Configuration, decode_config, is_config
from tests.books.count import DiskBooks
from tests.books.lease import Age, LeaseBooks
from tests.books.making import MakingBooks
from tests.books.member import MemberBooks
from tests.books.store import StoreBooks
from tests.predicates import PREDICATES, InvariantBroken, require

if TYPE_CHECKING:
    from paxon.actors import PaxosServer
    from paxon.actors.execution.application import Executed

__all__ = ["PREDICATES", "ClusterWatch", "DiskBooks", "InvariantBroken", "require"]


class ClusterWatch(MemberBooks):
    """Books over all servers of one cluster, and the predicates on them."""

    def __init__(
        self, servers: Iterable[ServerId], age: Age = lambda _server: 0.0,
        lease_length: float = 0.3, members: Iterable[ServerId] = (),
    ) -> None:  # fmt: skip
        """Empty books; of leases only with `age`, and `lease_length` where nothing else is said.

        `members` are those of the first epoch, by default all servers.
        """
        super().__init__(servers, members)
        self._begin = partial(ClusterWatch.__init__, self, self.servers, age, lease_length, members)
        self.leases = LeaseBooks(self.servers, age, lease_length)
        self._live: dict[ServerId, PaxosServer] = {}
        self._joined: dict[ServerId, set[ServerId]] = {}
        """The members that each server knew after its last step …"""
        self._members: dict[ServerId, set[ServerId]] = {}
        """… and those of them that it knew before that, too."""
        self._sealing: set[Ballot] = set()
        """In which a CONFIG was proposed."""
        self.making = MakingBooks()
        self.books: StoreBooks | None = None
        """Of what the log makes of the store, where somebody keeps them."""
        self.chosen: dict[int, bytes] = {}
        """Per slot the value that a majority of disks accepted in one ballot."""
        self._votes: dict[tuple[int, Ballot], int] = {}
        self._proposed: dict[tuple[int, Ballot], bytes] = {}
        self._executed: dict[int, tuple[bytes, Sequence[Executed]]] = {}
        self._effects: dict[tuple[int, int], tuple[int, int]] = {}
        """Per session and sequence number the slot, and place in it, where it took effect."""
        self._opened: dict[int, int] = {}
        """The slot that opened each session."""
        self._digests: dict[int, str] = {}
        self._agreed: dict[int, bytes] = {}
        """By slot the settings in force after it."""
        self._position: dict[ServerId, int] = dict.fromkeys(self.servers, 0)
        self._seen_promise: dict[ServerId, Ballot] = dict.fromkeys(self.servers, NO_BALLOT)
        self._seen_discarded: dict[ServerId, int] = dict.fromkeys(self.servers, 0)
        self.acknowledged = 0

    def start_anew(self) -> None:
        """The cluster is in force where no majority can be: all directories are emptied."""
        making, store, disks, live = self.making, self.books, self.disks, self._live
        self._begin()
        self._live = live
        for server, disk in disks.items():  # on some of them servers run already
            self.disks[server] = DiskBooks(incarnation=disk.incarnation, count=disk.count)
        self.making, self.books = making, store
        making.start_anew()
        if store is not None:
            store.start_anew()

    # --- what became durable ---------------------------------------------------------------------

    def on_made_durable(
        self, server: ServerId, incarnation: int, made: Made, *, in_force: bool
    ) -> None:
        wrong = self.making.on_made((server, incarnation), made, in_force=in_force)
        require(not wrong, "made once", "%s", wrong)
        if in_force:
            self.epochs.begin(made)

    def on_first_promise(self, server: ServerId, incarnation: int) -> None:
        wrong = self.making.on_promise((server, incarnation))
        require(not wrong, "made once", "%s", wrong)

    def on_promise_durable(self, server: ServerId, ballot: Ballot) -> None:
        disk = self.disks[server]
        require(
            ballot.epoch == disk.epoch, "sealed first",
            "server %d, whose disk is in epoch %d, promised %s", server, disk.epoch, ballot,
        )  # fmt: skip
        require(
            ballot >= disk.promised, "promise never falls",
            "server %d's promise fell from %s to %s", server, disk.promised, ballot,
        )  # fmt: skip
        disk.promised = ballot

    def on_row_durable(self, server: ServerId, slot: int, ballot: Ballot, value: bytes) -> None:
        """An acceptance became durable; it is a vote for that value in that ballot."""
        disk = self.disks[server]
        require(
            ballot <= disk.promised, "accepts under promise",
            "server %d accepted slot %d in %s above its promise %s",
            server, slot, ballot, disk.promised,
        )  # fmt: skip
        held = disk.rows.get(slot)
        require(
            held is None or held[0] <= ballot, "promise never falls",
            "server %d's acceptance in slot %d fell from %s to %s",
            server, slot, held and held[0], ballot,
        )  # fmt: skip
        require(
            ballot.epoch <= disk.epoch, "sealed first",
            "server %d, whose disk is in epoch %d, stored %s", server, disk.epoch, ballot,
        )  # fmt: skip
        require(
            ballot.epoch == disk.epoch or slot <= self._sealed_at(disk), "void above the seal",
            "server %d stored slot %d in %s, above the seal", server, slot, ballot,
        )  # fmt: skip
        disk.rows[slot] = (ballot, value)
        disk.fresh.add(slot)
        self._propose(slot, ballot, value)
        if not self.epochs.votes(ballot.epoch, server, disk.incarnation):
            return
        votes = self._votes.get((slot, ballot), 0) | 1 << server
        self._votes[slot, ballot] = votes
        if votes.bit_count() >= self.epochs.configurations[ballot.epoch].majority:
            self._choose(slot, value)
            wrong = self.epochs.on_chosen(slot, ballot, value)
            require(not wrong, "one configuration a slot", "%s", wrong)
            returns = self.epochs.returns() if is_config(value) else 0
            require(not returns, "removed for good", "directory %d is back", returns)
            request = self.epochs.last.request
            require(
                request not in self.epochs.denied, "changes end as told",
                "change %d, of which somebody was told %r, is chosen in slot %d",
                request, self.epochs.denied.get(request), slot,
            )  # fmt: skip
            if self.books is not None:
                self.books.on_chosen(ballot)

    def _sealed_at(self, disk: DiskBooks) -> int:
        return self.epochs.configurations[disk.epoch].sealed_at

    def on_seal_durable(self, server: ServerId, configuration: Configuration) -> None:
        """An epoch's end, together with whatever else the transaction holds."""
        disk, epoch = self.disks[server], configuration.epoch
        require(
            epoch < len(self.epochs) and self.epochs.configurations[epoch] == configuration,
            "sealed first", "server %d takes up %s, which was not chosen", server, configuration,
        )  # fmt: skip
        disk.epoch = epoch
        key = (server, disk.incarnation)
        self.epochs.entered[key] = max(epoch, self.epochs.entered.get(key, 0))
        for gone in [slot for slot in disk.rows if slot > configuration.sealed_at]:
            del disk.rows[gone]

    def after_seal(self, server: ServerId) -> None:
        """All of the transaction was told: the prefix up to the seal has to be there."""
        disk = self.disks[server]
        require(
            min(disk.replayable, disk.chosen_to) >= self._sealed_at(disk), "sealed first",
            "server %d is in epoch %d, and its disk reaches to slot %d",
            server, disk.epoch, min(disk.replayable, disk.chosen_to),
        )  # fmt: skip

    def _propose(self, slot: int, ballot: Ballot, value: bytes) -> None:
        if self.books is not None:
            self.books.on_proposed(slot, ballot, value)
        known = self._proposed.setdefault((slot, ballot), value)
        require(
            known == value, "one value per ballot",
            "slot %d has two values in ballot %s: %r and %r", slot, ballot, known, value,
        )  # fmt: skip

    def _choose(self, slot: int, value: bytes) -> None:
        known = self.chosen.setdefault(slot, value)
        require(
            known == value, "chosen stays",
            "slot %d was chosen as %r and now as %r", slot, known, value,
        )  # fmt: skip

    def on_chosen_durable(self, server: ServerId, chosen_to: int) -> None:
        """The watermark up to which a restart executes by itself."""
        disk = self.disks[server]
        disk.chosen_to = chosen_to
        slot = disk.replayable
        while slot < chosen_to and (row := disk.rows.get(slot + 1)) is not None:
            slot, value = slot + 1, row[1]
            require(
                self.chosen.get(slot) == value, "executes only chosen",
                "server %d's disk takes slot %d for chosen with another value", server, slot,
            )  # fmt: skip
            sealed = not is_config(value) or decode_config(value).epoch <= disk.epoch
            require(sealed, "sealed at once", "server %d: the CONFIG in slot %d", server, slot)
        disk.replayable = slot

    def on_snapshot_durable(self, server: ServerId, slot: int) -> None:
        disk = self.disks[server]
        disk.chosen_to = max(disk.chosen_to, slot)
        disk.snapshot = max(disk.snapshot, slot)
        disk.replayable = max(disk.replayable, slot)

    def on_rows_discarded(self, server: ServerId, slot: int) -> None:
        """Rows up to `slot` are deleted from the disk: only a durable snapshot may replace them."""
        disk = self.disks[server]
        require(
            slot <= disk.snapshot, "nothing needed discarded",
            "server %d deleted rows up to %d, its snapshot covers %d", server, slot, disk.snapshot,
        )  # fmt: skip
        for gone in range(disk.discarded + 1, slot + 1):
            disk.rows.pop(gone, None)
        disk.discarded = max(disk.discarded, slot)

    # --- lost disks ------------------------------------------------------------------------------

    def may_lose_disk(self, server: ServerId) -> bool:
        """Whether the cluster promises to survive the loss of this disk now.

        No other disk is lost, and of those who decide a majority holds every chosen value: then
        enough of the others do after the loss, too.
        """
        if any(disk.replaced or disk.old for disk in self.disks.values()):
            return False
        now = self.epochs.last
        here = all(self.disks[m.server].incarnation == m.incarnation for m in now.members)
        if not here or server not in now.voters or len(now.voters) <= now.majority:
            return False  # (the rest have to agree on who takes its place)
        if any(ballot.epoch == now.epoch for ballot in self._sealing):
            return False  # others are to decide soon, who may need this very one
        decides, first = now, now.sealed_at + 1
        if all(disk.epoch < now.epoch for s, disk in self.disks.items() if s != server):
            # Nobody else knows yet that its time has come: those before it have to find that out.
            decides, first = self.epochs.configurations[-2], 1
            if server in decides.voters and len(decides.voters) <= decides.majority:
                return False
        voters = [self.disks[voter] for voter in decides.voters]
        level = min(disk.replayable for disk in voters)
        return all(
            sum(self._holds(disk, slot, value) for disk in voters) >= decides.majority
            for slot, value in self.chosen.items()
            if slot > max(level, first - 1)
        )

    def _holds(self, disk: DiskBooks, slot: int, value: bytes) -> bool:
        row = disk.rows.get(slot)
        return slot <= disk.replayable or (row is not None and row[1] == value)

    def on_disk_lost(self, server: ServerId) -> None:
        """A server's disk is gone; it will come back with an empty one, and get its place."""
        self.disks[server] = DiskBooks(replaced=True)
        self.leases.on_disk_lost(server)

    # --- starting and stepping -------------------------------------------------------------------

    def on_start(self, server: ServerId) -> None:
        """A server process is about to open its disk; it has executed nothing yet."""
        self._live.pop(server, None)
        self.leases.begin_step(server)
        self._position[server] = 0
        self.disks[server].fresh.clear()
        self._seen_promise[server] = NO_BALLOT
        self._seen_discarded[server] = 0

    def on_opened(self, server_id: ServerId, server: PaxosServer) -> None:
        """It has recovered: what was durable must be back."""
        disk = self.disks[server_id]
        self._live[server_id] = server
        require(
            server.promised >= disk.promised, "restart loses nothing",
            "server %d promised %s and came back with %s",
            server_id, disk.promised, server.promised,
        )  # fmt: skip
        left = [
            accepted
            for accepted in server.log.accepted_from(self._sealed_at(disk) + 1)
            if accepted.ballot.epoch != disk.epoch
        ]
        require(not left, "void above the seal", "server %d comes back with %s", server_id, left)
        require(
            server.configuration.epoch == disk.epoch, "restart loses nothing",
            "server %d's disk is in epoch %d, and it came back in %d",
            server_id, disk.epoch, server.configuration.epoch,
        )  # fmt: skip
        require(
            server.application.executed >= disk.replayable, "restart loses nothing",
            "server %d could replay up to %d and came back at %d",
            server_id, disk.replayable, server.application.executed,
        )  # fmt: skip
        self.after_step(server_id, server)

    def begin_step(self, server: ServerId) -> None:
        """A burst is about to be handled."""
        self.leases.begin_step(server)

    def after_step(self, server_id: ServerId, server: PaxosServer) -> None:
        """A burst was handled: what the server holds in memory is still possible."""
        disk = self.disks[server_id]
        disk.fresh.clear()
        if disk.replaced and server.is_member:
            disk.replaced = False
        self._check_remembered(server_id, server)
        promised = server.promised
        if promised != self._seen_promise[server_id]:
            require(
                promised > self._seen_promise[server_id], "promise never falls",
                "server %d's promise fell from %s to %s",
                server_id, self._seen_promise[server_id], promised,
            )  # fmt: skip
            self._seen_promise[server_id] = promised
        require(
            server.leader in (0, promised.leader), "follows its promise",
            "server %d takes %d for the leader and has promised %s",
            server_id, server.leader, promised,
        )  # fmt: skip
        joined = set(server.configuration.servers)
        self._members[server_id] = joined.intersection(self._joined.get(server_id, joined))
        self._joined[server_id] = joined
        discarded = server.log.discarded
        if discarded != self._seen_discarded[server_id]:
            self._seen_discarded[server_id] = discarded
            self._check_discarded(server_id, discarded)

    def _check_discarded(self, server_id: ServerId, discarded: int) -> None:
        if self.disks[server_id].snapshot >= discarded:
            return
        known = self._live[server_id].configuration.incarnations if self._live else {}
        for other, disk in self.disks.items():
            if disk.incarnation and known.get(other, disk.incarnation) != disk.incarnation:
                continue  # it was replaced, and its server is started on it once more
            # (A lost disk needs everything again: whoever still has a state makes a snapshot.)
            # (And who has just become a member was asked by nobody what it needs.)
            require(
                other not in self._members[server_id]
                or disk.replaced or disk.old or disk.replayable >= discarded,
                "nothing needed discarded",
                "server %d discarded up to %d, its snapshot is at %d, and server %d's disk "
                "holds only up to %d",
                server_id, discarded, self.disks[server_id].snapshot, other, disk.replayable,
            )  # fmt: skip

    # --- what is sent ----------------------------------------------------------------------------

    def on_send(
        self, server: ServerId, messages: Sequence[PeerMessage], targets: Sequence[ServerId]
    ) -> None:
        """Messages leave a server: what they rely on must be durable now (rule 10)."""
        disk = self.disks[server]
        self.leases.note_sent(server, messages, targets)
        for message in messages:
            self._check_answer(server, disk, message)
            if isinstance(message, CountQuestion):
                self._answers[server].setdefault(message.life, set())
                if self._asks[server] is not None:
                    self._asks[server] = message.life
            elif isinstance(message, CountAnswer) and (config := message.configuration):
                seal = Accepted(decode_config(config).sealed_at, message.ballot, config)
                self._check_told(server, [seal], seal.slot)
            elif not isinstance(message, CountAnswer | Introduction):
                self._note_told(server, message)
            if isinstance(message, P2B):
                self._check_p2b(server, disk, message)
                continue
            if isinstance(message, P2A | Heartbeat):
                self._check_lead(server, message)
            elif isinstance(message, P1B):
                self._check_p1b(server, disk, message)
            elif isinstance(message, HeartbeatReply):
                require(
                    message.executed <= disk.replayable, "durable before sent",
                    "server %d, whose disk replays up to %d, sent %r",
                    server, disk.replayable, message,
                )  # fmt: skip
            elif isinstance(message, CatchUp):
                self._check_told(server, message.accepted, message.chosen_to)
                continue
            elif not isinstance(message, P1A):  # (pre-votes rely on nothing)
                continue
            require(
                message.ballot <= disk.promised, "durable before sent",
                "server %d, which durably promised %s, sent %r", server, disk.promised, message,
            )  # fmt: skip

    def _check_answer(self, server: ServerId, disk: DiskBooks, message: PeerMessage) -> None:
        """Who answers may do so, and does not take back what it promised."""
        self.note_promise(server, message)
        yes = (
            isinstance(message, P1B | HeartbeatReply)
            or (isinstance(message, P2B) and message.promised is None)
            or (isinstance(message, PreVoteReply) and message.granted)
        )
        live = self._live.get(server)
        if yes and disk.replaced and (live is None or not (live.is_member or live._retires)):
            require(False, "no vote without a disk", "server %d sent %r", server, message)
        if isinstance(message, P1B) and not self.epochs.votes(
            message.ballot.epoch, server, disk.incarnation
        ):
            require(False, "only voters vote", "server %d has none, and sent %r", server, message)
        if isinstance(message, P1B | P2B | HeartbeatReply) and yes:
            before = self._seen_promise[server]
            require(
                message.ballot >= before, "answers under promise",
                "server %d, which had promised %s, sent %r", server, before, message,
            )  # fmt: skip
        if isinstance(message, P1A | P1B):
            require(
                not self.leases.binds(server, message.ballot), "lease kept",
                "server %d, whose lease to %s binds it, sent %r",
                server, self.leases.grants[server].ballot, message,
            )  # fmt: skip

    def on_lease_used(self, leader: ServerId, ballot: Ballot) -> None:
        """A leader counts on its lease to answer a read."""
        require(
            ballot not in self.leases.over, "over for good",
            "server %d reads by a lease in %s, which it has handed over", leader, ballot,
        )  # fmt: skip
        covering = self.leases.covering(leader, ballot)
        require(
            ballot not in self._sealing, "no reads after a CONFIG",
            "server %d reads by a lease in %s", leader, ballot,
        )  # fmt: skip
        require(
            self.epochs.is_majority(ballot.epoch, covering), "lease covered",
            "server %d reads by a lease in %s that only %s keep", leader, ballot, covering,
        )  # fmt: skip

    def _check_lead(self, server: ServerId, message: P2A | Heartbeat) -> None:
        if message.ballot not in self._leading:
            self._check_promises(server, message.ballot)
        require(message.ballot.leader == server, "own ballot", "server %d sent %r", server, message)
        require(
            message.ballot not in self.leases.over, "over for good",
            "server %d, which has handed over, sent %r", server, message,
        )  # fmt: skip
        require(
            message.commit == 0 or message.commit in self.chosen, "executes only chosen",
            "server %d tells of a commit index that is not chosen: %r", server, message,
        )  # fmt: skip
        if isinstance(message, P2A):
            self._propose(message.slot, message.ballot, message.value)
            if is_config(message.value):
                self._sealing.add(message.ballot)

    def _check_told(self, server: ServerId, told: Sequence[Accepted], chosen_to: int) -> None:
        """Values that others will take for chosen must be."""
        for accepted in told:
            require(
                accepted.slot > chosen_to or self.chosen.get(accepted.slot) == accepted.value,
                "one value per slot", "server %d tells of %r, chosen is %r",
                server, accepted, self.chosen.get(accepted.slot),
            )  # fmt: skip

    def _check_p2b(self, server: ServerId, disk: DiskBooks, p2b: P2B) -> None:
        promised = p2b.promised if p2b.promised is not None else p2b.ballot
        require(
            promised <= disk.promised, "durable before sent",
            "server %d, which durably promised %s, sent %r", server, disk.promised, p2b,
        )  # fmt: skip
        if p2b.promised is not None:
            return
        for slot in range(p2b.first, p2b.last + 1):
            row = disk.rows.get(slot)
            if row is not None and row[0] >= p2b.ballot:
                continue
            # A discarded slot is chosen: its value is the only one that any ballot can propose.
            require(
                slot <= disk.replayable and slot in self.chosen, "durable before sent",
                "server %d sent %r, and its disk has %s in slot %d",
                server, p2b, "nothing" if row is None else row[0], slot,
            )  # fmt: skip

    def _check_p1b(self, server: ServerId, disk: DiskBooks, p1b: P1B) -> None:
        self._check_told(server, p1b.accepted, p1b.chosen_to)
        if p1b.ballot != disk.promised:
            return  # a refusal, or overtaken by a higher promise in the same burst
        reported = {a.slot for a in p1b.accepted}
        for accepted in p1b.accepted:
            if accepted.slot <= disk.discarded:
                continue  # gone later in the same burst, with a snapshot over it
            row = disk.rows.get(accepted.slot)
            require(
                row is not None
                and (row[0] > accepted.ballot or row == (accepted.ballot, accepted.value)),
                "durable before sent",
                "server %d reported %r and its disk has %r", server, accepted, row,
            )  # fmt: skip
        first = max(p1b.first_slot, p1b.discarded + 1)
        last = p1b.next_slot - 1 if p1b.next_slot else max(disk.rows, default=0)
        for slot in range(first, last + 1):
            row = disk.rows.get(slot)
            if slot in reported or row is None:
                continue
            # Accepted in the candidate's own ballot, or learned as chosen: later in this burst.
            later = slot in disk.fresh and (row[0] >= p1b.ballot or self.chosen.get(slot) == row[1])
            require(
                later, "promise reports all",
                "server %d kept %r in slot %d from the candidate: %r", server, row, slot, p1b,
            )  # fmt: skip

    def on_reply(self, server: ServerId, replies: Sequence[ServerReply]) -> None:
        """A client is told something: what it is told must be chosen for good."""
        for reply in replies:
            if type(reply) is CommandReply:
                if reply.status > ReplyStatus.FAILED:
                    continue
                effect = self._effects.get((reply.session, reply.seq))
                slot = 0 if effect is None else effect[0]
            elif type(reply) is SessionOpened:
                slot = self._opened.get(reply.session, 0)
            else:
                continue
            self.acknowledged += 1
            require(
                slot in self.chosen, "acknowledged is durable",
                "server %d sent %r (executed in slot %d)", server, reply, slot,
            )  # fmt: skip

    # --- what is executed ------------------------------------------------------------------------

    def on_execute(
        self,
        server: ServerId,
        slot: int,
        value: bytes,
        results: Sequence[Executed],
        applied: Sequence[bytes],
    ) -> None:
        """A server has executed a slot; `applied` are the commands that its store carried out."""
        require(
            slot == self._position[server] + 1, "in order",
            "server %d executed slot %d after %d", server, slot, self._position[server],
        )  # fmt: skip
        self._position[server] = slot
        known = self._executed.get(slot)
        if known is None:
            require(
                self.chosen.get(slot) == value, "executes only chosen",
                "server %d executed %r in slot %d; chosen is %r",
                server, value, slot, self.chosen.get(slot),
            )  # fmt: skip
            self._executed[slot] = (value, results)
            self._note_effects(server, slot, results, applied)
            return
        require(
            known[0] == value, "one value per slot",
            "server %d executed %r in slot %d, another %r", server, value, slot, known[0],
        )  # fmt: skip
        require(
            known[1] == results, "equal prefixes",
            "server %d executed slot %d with %r, another with %r", server, slot, results, known[1],
        )  # fmt: skip
        self._note_effects(server, slot, results, applied)

    def _note_effects(
        self, server: ServerId, slot: int, results: Sequence[Executed], applied: Sequence[bytes]
    ) -> None:
        position = 0
        for index, (entry, reply) in enumerate(results):
            if entry.session == 0 and not entry.command:
                known_slot = self._opened.setdefault(int.from_bytes(reply.payload, "big"), slot)
                require(
                    known_slot == slot, "at most once",
                    "a session's id comes twice, in slots %d and %d", known_slot, slot,
                )  # fmt: skip
            if position >= len(applied) or entry.command is not applied[position]:
                continue
            position += 1
            if entry.session == 0:
                continue
            here = (slot, index)
            known = self._effects.setdefault((entry.session, entry.seq), here)
            require(
                known == here, "at most once",
                "server %d: command %d of session %d took effect in slot %d and in slot %d",
                server, entry.seq, entry.session, known[0], slot,
            )  # fmt: skip
            before = self._effects.get((entry.session, entry.after))
            require(
                not entry.after or (before is not None and before < here), "order kept",
                "server %d: command %d of session %d took effect without %d",
                server, entry.seq, entry.session, entry.after,
            )  # fmt: skip
        require(
            position == len(applied), "at most once",
            "server %d carried out more than slot %d's commands", server, slot,
        )  # fmt: skip

    def on_agreed(self, server: ServerId, slot: int, agreed: bytes) -> None:
        """These settings are in force at a server that has executed up to `slot`."""
        known = self._agreed.setdefault(slot, agreed)
        require(
            known == agreed, "equal settings",
            "after slot %d server %d has agreed on %r, another on %r", slot, server, agreed, known,
        )  # fmt: skip

    def on_snapshot_taken(self, server: ServerId, slot: int, digest: str) -> None:
        """A server made an image of its state after `slot`."""
        self._same_digest(server, slot, digest)

    def on_restore(self, server: ServerId, slot: int, digest: str) -> None:
        """A server became the state that an image describes."""
        require(
            slot >= self._position[server], "in order",
            "server %d went back from slot %d to %d", server, self._position[server], slot,
        )  # fmt: skip
        self._position[server] = slot
        self._same_digest(server, slot, digest)

    def _same_digest(self, server: ServerId, slot: int, digest: str) -> None:
        known = self._digests.setdefault(slot, digest)
        require(
            known == digest, "snapshots agree",
            "server %d's state after slot %d is %s, another's %s", server, slot, digest, known,
        )  # fmt: skip

    # --- at the end ------------------------------------------------------------------------------

    def check_states(self, servers: Iterable[PaxosServer]) -> None:
        """Compare the states of servers that executed equally far."""
        digests: dict[int, tuple[str, ServerId]] = {}
        for server in servers:
            executed = server.application.executed
            mine = (server.application.digest(), server.settings.server)
            known = digests.setdefault(executed, mine)
            require(
                known[0] == mine[0], "equal states",
                "after slot %d server %d has %s and server %d %s",
                executed, known[1], known[0], mine[1], mine[0],
            )  # fmt: skip
