"""How a server lives: pykka's hooks, the outbox and the flush (DESIGN §2).

`PaxosServer` (actors/server.py) adds the protocol. This half knows that messages come in bursts,
that what they change is synced once a burst, and that replies leave only after that.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import pykka

from paxon.actors.allowances import (
    EXECUTE_SECONDS,
    FRAME_BYTES,
    MESSAGE_BYTES,
    TRANSFERS_PER_PEER,
)
from paxon.actors.ballot import NO_BALLOT, ServerId
from paxon.actors.counts import Confirmation
from paxon.actors.embedding import ServerRef
from paxon.actors.environment import ClientToken, Environment, Network, ServerBurst
from paxon.actors.invariants import invariant
from paxon.actors.log import SlotLog, SlotStatus
from paxon.actors.machine_errors import ExecutionFailed, MachineFailure
from paxon.actors.messages import P2A, PeerMessage, ServerReply
from paxon.actors.settings import Settings
from paxon.actors.storage import Storage, StorageError
from paxon.transport import Burst, BurstInbox, BurstSource, TransportError
from paxon.transport.log import log_in_background, logger

__all__ = ["ServerLifecycle", "COUNTERS"]

COUNTERS = (
    "elections", "pre_votes", "phase1_rounds", "preemptions", "leaderships", "step_downs",
    "leading_us", "p2a_sent", "p2b_rejected", "slots_proposed", "slots_chosen", "slots_executed",
    "commands_executed", "queries_answered", "read_rounds", "lease_reads", "syncs", "bursts",
    "peer_messages_received", "client_messages_received", "retransmissions", "catch_ups",
    "snapshots_taken", "snapshots_received", "refused_incarnations", "refused_clients",
    "malformed_messages", "inquiries", "digest_alarms", "refused_numbers", "commits_denied",
    "refused_rejoins",
    "overloaded",
)  # fmt: skip
"""What a server counts; `paxon status --json` shows each by name. `leading_us` is microseconds,
`overloaded` requests (and whole frames) that were refused for a bound."""

TIDY_INTERVAL = 0.1
"""Seconds between two pieces of a storage's tidying: readers of an idle disk notice each."""


class ServerLifecycle(pykka.ThreadingActor):
    """An actor whose inbox is its sockets, and whose output waits for the sync."""

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__()
        self._actor_ref = ServerRef(self)
        self.settings = settings
        self._others: tuple[ServerId, ...] = ()
        """The other members, once the cluster is in force; nobody before."""
        self._majority = len(settings.servers)  # (of no use before)
        self._environment = environment
        self._clock = environment.clock
        self._random = environment.random
        self._now = self._tidy_at = 0.0
        self._started_at = 0.0
        self._open = False
        self._failure: BaseException | None = None
        self._counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self.promised = NO_BALLOT
        """The acceptor's ballot (PMMC §2.2)."""
        self.log = SlotLog()
        self._counts: dict[ServerId, int] = {}
        """The highest commit number that each other server's directory was heard to have."""
        self._durable_promise = NO_BALLOT
        self._durable_chosen_to = 0
        """As far as a restart replays by itself: what others may rely on as executed here."""
        self._confirmation = Confirmation(0, 0.0, pending=False)
        """Whether the others have confirmed that this directory is not an old copy."""
        self._next_count = 0
        """The number that the coming commit will have."""
        self._synced = False
        """Something was committed that `_after_sync` has not looked at yet."""
        # The outbox of this burst.
        self._early: list[P2A] = []
        self._to_all: list[PeerMessage] = []
        self._to_peer: dict[ServerId, list[PeerMessage]] = {}
        self._to_client: dict[ClientToken, list[ServerReply]] = {}
        self._transferred: dict[ServerId, int] = {}
        """Bytes of log and snapshots for each peer in this step."""
        self._replied_bytes = 0
        """What large replies and those to queries have come to in this step."""
        self._left_over = False
        """The last step left slots to execute, or replies to send: the next follows at once."""
        self._execute_until = float("inf")
        """No further slot is executed in this step after that time."""

    # --- pykka's hooks ---------------------------------------------------------------------------

    use_daemon_thread = True
    """Else a program whose main thread has ended would never exit. `start_server` stops its servers
    in order when the program ends."""

    @staticmethod
    def _create_actor_inbox() -> BurstInbox:
        return BurstInbox()

    def on_start(self) -> None:
        """Open disk and sockets, in the actor's own thread, and serve."""
        log_in_background()  # whatever a sink does, this thread never waits for it
        try:
            self.open()
            if isinstance(self._network, BurstSource) and isinstance(self.actor_inbox, BurstInbox):
                self.actor_inbox.attach(self._network, self.next_deadline, self._clock.monotonic)
            self._environment.on_ready()
        except Exception as error:  # whatever it is, the server does not start
            self._fail(error)

    def on_receive(self, message: Any) -> Any:
        """Handle a burst from the inbox, or what the application tells or asks this actor."""
        if not isinstance(message, Burst):
            return self._receive_local(message)
        if self._open:
            try:
                self.step(message)
            except Exception as error:  # crash, not corruption: nothing after this is trusted
                self._fail(error)
        return None

    def _receive_local(self, message: Any) -> Any:
        """Pykka hands what is raised here to whoever asked, and the actor would live on."""
        try:
            return self.on_local(message)
        except Exception as error:
            self._fail(error)
            raise

    def on_stop(self) -> None:
        self.close()

    def on_failure(self, *_exc_info: Any) -> None:
        self.close()

    def _fail(self, error: BaseException) -> None:
        """Stop at once, with the reason logged; nothing that waits for a sync is sent."""
        self._failure = error
        if isinstance(error, ExecutionFailed):
            self._storage.note_stop(error.slot, str(error))
            cause = error.__cause__  # whose traceback begins where the user's code does
            logger.opt(exception=cause).critical("server {} stops: {}", self.settings.server, error)
        elif isinstance(error, StorageError | TransportError | MachineFailure):
            logger.error("server {} stops: {}", self.settings.server, error)
        else:
            logger.opt(exception=error).critical("server {} stops", self.settings.server)
        self.close()
        self.stop()
        self._environment.on_failed(error)

    # --- opening, stepping, closing (by hand in the simulator) -----------------------------------

    def open(self) -> None:
        """Open storage and network and recover; after this `step` may be called.

        Raises `StorageError` or `TransportError`, with everything released again.
        """
        self._now = self._started_at = self._clock.monotonic()
        self._storage: Storage = self._environment.storage()
        # An earlier life may have granted a lease until its directory was free.
        self._now = self._clock.monotonic()
        try:
            self._recover()
            self._network: Network = self._environment.network()
        except BaseException:
            self._storage.close()
            raise
        self._open = True
        self._next_count = self._storage.count + 1
        self._on_open()
        self._flush()
        if not self._confirmation.pending:
            self._storage.maintain(tidy=False)

    def step(self, burst: ServerBurst) -> None:
        """Handle all of a burst and the timers that are due, then flush once."""
        self._now = self._clock.monotonic()
        self._execute_until = self._now + EXECUTE_SECONDS
        self._left_over = False
        self._counters["bursts"] += 1
        self._handle(burst)
        if self._now >= self.next_deadline():
            self._on_timers()
        self._before_flush()
        self._flush()
        if self._confirmation.pending:
            return  # nothing that it found on its disk may change
        # What no message should wait for.
        tidy = self._now >= self._tidy_at
        if tidy:
            self._tidy_at = self._now + TIDY_INTERVAL
        self._storage.maintain(tidy=tidy)
        self._next_count = self._storage.count + 1
        self._after_flush()
        took = self._clock.monotonic() - self._now
        if took > self.settings.heartbeat_interval:
            self._was_busy(took)

    def close(self) -> None:
        """Release disk and sockets; both endings call it, and it may be called twice."""
        if not self._open:
            return
        self._open = False
        if isinstance(self.actor_inbox, BurstInbox):
            self.actor_inbox.detach()
        self._network.close()
        self._storage.close()

    # --- the outbox ------------------------------------------------------------------------------

    def _send(self, server: ServerId, message: PeerMessage) -> None:
        """Queue for one peer, after the sync."""
        self._to_peer.setdefault(server, []).append(message)

    def _may_transfer(self, server: ServerId, size: int) -> bool:
        """Whether a peer may have so much more of log and snapshot in this step.

        What it asked for beyond that is not answered: it asks again for what it still needs.
        """
        sent = self._transferred.get(server, 0)
        if sent and sent + size > TRANSFERS_PER_PEER:
            self._counters["overloaded"] += 1
            return False
        self._transferred[server] = sent + size
        return True

    def _reply(self, client: ClientToken, reply: ServerReply) -> None:
        """Queue for a client, after the sync."""
        self._to_client.setdefault(client, []).append(reply)

    def _count(self) -> int:
        """The number of the commit that all of this server's state so far is, or will be, in.

        What carries it leaves after that commit: nobody hears of one that is not durable.
        """
        return self._next_count if self._storage.dirty else self._next_count - 1

    def _flush(self) -> None:
        """Persist before send (rule 10): P2As may leave first, all else waits for the sync.

        Counting one's own vote after the sync may choose slots and let more be proposed, hence the
        loop; the bounded window ends it.
        """
        while self._early or self._storage.dirty or self._synced:
            self._send_early()
            if self._storage.dirty:
                self._commit()
            if self._synced:  # here, or by a handler that could not go on without
                self._synced = False
                self._after_sync()
        invariant(self._durable_promise == self.promised, "a promise would leave unsynced")
        if self._to_all:
            self._send_put_off()  # whose slots a heartbeat's commit index speaks of
            self._network.broadcast(self._others, self._to_all)
            self._to_all = []
        if self._to_peer:
            for server, messages in self._to_peer.items():
                self._network.send(server, messages)
            self._to_peer = {}
        if self._to_client:
            if self._replied_bytes < FRAME_BYTES:
                for client, replies in self._to_client.items():
                    self._network.reply(client, replies)
            else:
                self._reply_in_parts()
            self._to_client = {}
        self._replied_bytes = 0
        if self._transferred:
            self._transferred = {}

    def _reply_in_parts(self) -> None:
        """There is much to say: in frames of bounded size, none of which is encoded twice."""
        for client, replies in self._to_client.items():
            frame: list[ServerReply] = []
            size = 0
            for reply in replies:
                frame.append(reply)
                content: bytes = getattr(reply, "payload", b"") or getattr(reply, "value", b"")
                size += len(content) + MESSAGE_BYTES
                if size >= FRAME_BYTES:
                    self._network.reply(client, frame)
                    frame, size = [], 0
            if frame:
                self._network.reply(client, frame)

    def _commit(self) -> None:
        """Make all that was collected durable, in one transaction."""
        confirmation = self._confirmation
        invariant(
            confirmation.may_store or not confirmation.pending,
            "stored before the count was confirmed",
        )
        promise, chosen_to = self.promised, self.log.chosen_to
        self._storage.save_counts(self._counts)
        self._storage.save_chosen_to(chosen_to)
        self._storage.commit()
        self._next_count = self._storage.count + 1
        self._counters["syncs"] += 1
        self._durable_promise = promise
        self._durable_chosen_to = chosen_to
        self._synced = True

    def _send_early(self) -> None:
        """P2As rely on the ballot alone, and that was synced before phase 1 began (rule 10)."""
        if not self._early:
            return
        frame: list[P2A] = []
        size = 0
        for p2a in self._early:
            invariant(p2a.ballot == self._durable_promise, "P2A in ballot %s", p2a.ballot)
            frame.append(p2a)
            size += len(p2a.value)
            if size >= FRAME_BYTES:
                self._broadcast_p2as(frame)
                frame, size = [], 0
        if frame:
            self._broadcast_p2as(frame)
        self._early = []

    # The four read-only probes, all that tests look at (also by pykka's proxies).

    def status(self, slot: int) -> SlotStatus:
        """EMPTY, ACCEPTED, CHOSEN or CLEARED (discarded)."""
        return self.log.status(slot)

    def command(self, slot: int) -> bytes | None:
        """The value in `slot`; None if it is empty or cleared."""
        return self.log.command(slot)

    def first_non_cleared(self) -> int:
        """The first slot not discarded."""
        return self.log.first_non_cleared()

    def last_non_empty(self) -> int:
        """The highest slot in which anything was accepted; 0 if there is none."""
        return self.log.last_non_empty()

    # --- what the protocol brings ----------------------------------------------------------------

    @abstractmethod
    def _broadcast_p2as(self, frame: Sequence[P2A]) -> None:
        """Send a frame of P2As, to some perhaps a little later."""

    @abstractmethod
    def _send_put_off(self) -> None:
        """Send now what was to be sent a little later."""

    @abstractmethod
    def _recover(self) -> None:
        """Take up what the disk holds."""

    @abstractmethod
    def _on_open(self) -> None:
        """Disk and sockets are open."""

    @abstractmethod
    def _handle(self, burst: ServerBurst) -> None:
        """Run the handler of each message."""

    @abstractmethod
    def _on_timers(self) -> None:
        """Some deadline has passed."""

    @abstractmethod
    def _before_flush(self) -> None:
        """The burst is handled: propose what waits, queue acknowledgements."""

    @abstractmethod
    def _after_flush(self) -> None:
        """All is sent: do what nobody waits for."""

    @abstractmethod
    def _was_busy(self, seconds: float) -> None:
        """The step took so long, and what others sent meanwhile is still to be read."""

    @abstractmethod
    def _after_sync(self) -> None:
        """What was collected is on disk now: this server's own votes count."""

    @abstractmethod
    def next_deadline(self) -> float:
        """When to step even if nothing arrives: monotonic seconds."""

    @abstractmethod
    def on_local(self, message: Any) -> Any:
        """A message that the application told or asked this actor."""
