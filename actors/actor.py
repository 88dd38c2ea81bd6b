"""An actor whose inbox is its sockets, and whose output waits for the sync.

This half of a server knows pykka's hooks, that messages come in bursts, that what they change is
synced once a burst, and that what relies on it leaves only after that. It knows no protocol:
`PaxosServer` (actors/server.py) brings that, through the methods named at the end.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import pykka

from paxon.actors.ballot import ServerId
from paxon.actors.disk.storage import Storage, StorageError
from paxon.actors.embedding import ServerRef
from paxon.actors.environment import Environment, Network, ServerBurst
from paxon.actors.execution.machine_errors import ExecutionFailed, MachineFailure
from paxon.actors.outbox import Outbox
from paxon.actors.records.latencies import BOUNDS, Latencies
from paxon.actors.records.making import Retired
from paxon.actors.settings import Settings
from paxon.transport import Burst, BurstInbox, BurstSource, TransportError
from paxon.transport.inbox import ample_stacks
from paxon.transport.log import log_as, log_in_background, logger

__all__ = ["BurstActor"]


class BurstActor(pykka.ThreadingActor):
    """Handles a burst, syncs its changes in one transaction, then sends what relies on them."""

    def __init__(
        self, settings: Settings, environment: Environment, counters: Sequence[str]
    ) -> None:
        super().__init__()
        self._actor_ref = ServerRef(self)
        self.settings = settings
        self._others: tuple[ServerId, ...] = ()
        """The other members, once the cluster is in force; nobody before."""
        self._environment = environment
        self._clock = environment.clock
        self._random = environment.random
        self._now = 0.0
        self._started_at = 0.0
        self._open = False
        self._due: float | None = None
        """The deadline until which this thread was last about to sleep, for the next step."""
        self._counters: dict[str, int] = dict.fromkeys(counters, 0)
        self._next_count = 0
        """The number that the coming commit will have."""
        self.latencies = Latencies()
        self._synced = False
        """Something was committed that `_after_sync` has not looked at yet."""
        self._outbox = Outbox(self._counters)
        self.on_local: Callable[[Any], Any]
        """Handles what the application tells or asks this actor."""

    # --- pykka's hooks ---------------------------------------------------------------------------

    use_daemon_thread = True
    """Else a program whose main thread has ended would never exit. `start_server` stops its servers
    in order when the program ends."""

    @staticmethod
    def _create_actor_inbox() -> BurstInbox:
        return BurstInbox()

    def _start_actor_loop(self) -> None:
        try:
            with ample_stacks():
                super()._start_actor_loop()
        except RuntimeError:  # no thread can be had: nobody need wait for this actor's end
            pykka.ActorRegistry.unregister(self._actor_ref)
            raise

    def _actor_loop_running(self) -> None:
        """Pykka's, whose thread would end without a word if receiving failed: that stops all."""
        while not self.actor_stopped.is_set():
            try:
                super()._actor_loop_running()
            except Exception as error:  # as in a step
                self._fail(error)

    def on_start(self) -> None:
        """Open disk and sockets, in the actor's own thread, and serve."""
        log_in_background()  # whatever a sink does, this thread never waits for it
        who = {"server": self.settings.server, "cluster": self.settings.cluster}
        log_as(lambda: who | self._bound_to_log(), self._environment.log)
        try:
            self.open()
            if isinstance(self._network, BurstSource) and isinstance(self.actor_inbox, BurstInbox):
                self.actor_inbox.attach(self._network, self._sleeps_until, self._clock.monotonic)
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
        if isinstance(error, ExecutionFailed):
            self._storage.note_stop(error.slot, str(error))
            cause = error.__cause__  # whose traceback begins where the user's code does
            logger.opt(exception=cause).critical("server {} stops: {}", self.settings.server, error)
        elif isinstance(error, Retired):
            logger.info("server {} stops: {}", self.settings.server, error)
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
        self._started_at = self._clock.monotonic()
        self._storage: Storage = self._environment.storage()
        # An earlier life may have granted a lease until its directory was free.
        self._now = self._outbox.now = self._clock.monotonic()
        try:
            self._recover()
            self._network: Network = self._environment.network()
            self._outbox.network = self._network
        except BaseException:
            self._storage.close()
            raise
        self._open = True
        self._next_count = self._storage.count + 1
        self._on_open()

    def step(self, burst: ServerBurst) -> None:
        """Handle all of a burst and the timers that are due, then flush once."""
        self._now = self._outbox.now = self._clock.monotonic()
        self._counters["bursts"] += 1
        self._handle(burst)
        due, self._due = self._due, None
        if self._now >= (self.next_deadline() if due is None else due):
            self._on_timers()
        self._before_flush()
        self._flush()
        self._after_flush()
        steps, seconds = self.latencies.burst, self._clock.monotonic() - self._now
        steps.counts[bisect_left(BOUNDS, seconds)] += 1  # (without a call: each step does so)
        steps.total += seconds

    def _sleeps_until(self) -> float:
        """When to step even if nothing arrives; the step that follows need not find it out again.

        (What the burst in between makes due earlier, or at once, is the step's after it.)
        """
        self._due = deadline = self.next_deadline()
        return deadline

    def close(self) -> None:
        """Release disk and sockets; both endings call it, and it may be called twice."""
        if not self._open:
            return
        self._open = False
        if isinstance(self.actor_inbox, BurstInbox):
            self.actor_inbox.detach()
        self._network.close()
        self._storage.close()

    # --- the flush -------------------------------------------------------------------------------

    def _count(self) -> int:
        """The number of the commit that all of this server's state so far is, or will be, in.

        What carries it leaves after that commit: nobody hears of one that is not durable.
        """
        return self._next_count if self._storage.dirty else self._next_count - 1

    def _flush(self) -> None:
        """Persist before send (rule 10): P2As and answers to watches may leave first, no more.

        Counting one's own vote after the sync may choose slots and let more be proposed, hence the
        loop; the bounded window ends it.
        """
        outbox = self._outbox
        while outbox.early or self._storage.dirty or self._synced:
            if outbox.early:
                self._send_early()
            if self._storage.dirty:
                before = self._clock.monotonic()
                self._commit()
                sync, seconds = self.latencies.sync, self._clock.monotonic() - before
                sync.counts[bisect_left(BOUNDS, seconds)] += 1
                sync.total += seconds
            if self._synced:  # here, or by a handler that could not go on without
                self._synced = False
                self._after_sync()
        self._before_sending()
        network = self._network
        if outbox.to_all:
            network.broadcast(self._others, outbox.to_all)
            outbox.to_all = []
        if outbox.to_peer:
            for server, messages in outbox.to_peer.items():
                network.send(server, messages)
            outbox.to_peer = {}
        if outbox.to_client:
            outbox.send_replies()
        outbox.replied_bytes = 0
        if outbox.transferred:
            outbox.transferred = {}

    # --- what the protocol brings, in the order in which it is asked -----------------------------

    @abstractmethod
    def _bound_to_log(self) -> dict[str, object]:
        """The values that each line of this server's log carries, besides its id."""

    @abstractmethod
    def _recover(self) -> None:
        """Take up what the disk holds."""

    @abstractmethod
    def _on_open(self) -> None:
        """Disk and sockets are open: say so."""

    @abstractmethod
    def _handle(self, burst: ServerBurst) -> None:
        """Run the handler of each message."""

    @abstractmethod
    def next_deadline(self) -> float:
        """When to step even if nothing arrives: monotonic seconds."""

    @abstractmethod
    def _on_timers(self) -> None:
        """Some deadline has passed."""

    @abstractmethod
    def _before_flush(self) -> None:
        """The burst is handled: propose what waits, queue acknowledgements."""

    @abstractmethod
    def _send_early(self) -> None:
        """Send what may leave before the sync, and empty `early`."""

    @abstractmethod
    def _commit(self) -> None:
        """Make all that was collected durable, in one transaction, and set `_synced`."""

    @abstractmethod
    def _after_sync(self) -> None:
        """Act on a finished sync: from now on this server's own votes count."""

    @abstractmethod
    def _before_sending(self) -> None:
        """All is durable: a last look, before what relies on it leaves."""

    @abstractmethod
    def _after_flush(self) -> None:
        """All is sent: do what nobody waits for."""
