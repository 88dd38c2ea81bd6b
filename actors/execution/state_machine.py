"""What Paxon replicates: the user's own state machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar

from paxon.actors.execution.agreed import Limit, Limits

__all__ = ["StateMachine", "Limit"]


class StateMachine(ABC):
    """Subclass this to replicate your own application (an embedder's one obligation).

    Every server executes the same commands in the same order, so `apply` has to be *deterministic*:
    its reply and the new state depend on the old state and the command alone, not on clocks, random
    numbers, the environment, or the iteration order of sets. All methods are called from the
    server's one thread, one at a time; none should block.

    Paxon makes sure that each client command is applied at most once; the state machine itself need
    know nothing of clients or retries.
    """

    language: ClassVar[str] = ""
    """What the language of its commands is called, "" if nobody need know. Told to a client with
    its session: one made for another language says so and sends nothing that would be executed."""

    limits: ClassVar[Limits] = {}
    """Numbers on which execution depends, such as the longest value taken. A constant in the code
    would differ between servers of two releases: what is declared here is agreed by the cluster,
    kept in snapshots and changed with `paxon settings set` (docs/running/settings.md)."""

    def agree(self, limits: Mapping[str, int]) -> None:  # noqa: B027 (most have no limits)
        """These limits are in force from now on: a value for each name in `limits`.

        Called before anything is executed or restored, and again when they change, on every server
        between the same two commands.
        """

    now: int = 0
    """The log's time, nanoseconds, set before each of the methods below is called. It is the same
    on every server: it runs with the leader's clock and stands still while nobody leads. A query is
    told the leader's time at that moment. Never ask any other clock."""

    def advance(self, time: int) -> None:  # noqa: B027 (most have no use for time)
        """Set the log's time, in nanoseconds, at which the next commands are executed.

        Called before the commands of each slot; times never fall. An exception is logged and has no
        other consequence.
        """

    def next_wakeup(self) -> int | None:
        """The time of the log, in nanoseconds, at which `wake` is to be called; None: never.

        A function of the state alone, asked after each slot. The log is told its time at least once
        a second while there is such a time.
        """
        return None

    def wake(self, time: int) -> bool:
        """The time that `next_wakeup` gave has come: it is `time` now, the same on every server.

        Called before a slot's commands, once a slot. Take the timer off before anything that could
        raise: an exception is logged and counted. Return whether there is more to do than one slot
        should: the next slot, which comes at once, goes on with it. A machine that is still due
        afterwards without having said so is not woken again before its next command.
        """
        return False

    def renews(self, command: bytes) -> bool:
        """Whether a command does nothing but let leases, or whatever times out, live on.

        Such commands may come in as renewals: they go before all others in their slot, and before
        what is due in it, and belong to no session: they may be executed more than once.
        """
        return False

    snapshots_are_sound: ClassVar[bool] = False
    """True spares what each new snapshot costs to be restored once, in a forked child, before it is
    kept: say so if you know that `restore` takes whatever `snapshot` returns."""

    @abstractmethod
    def apply(self, command: bytes) -> bytes:
        """Execute a command, return the reply for the client, which has to be bytes.

        An exception is the command's error reply, on every server alike: raise before changing any
        state. It does not stop the server. Calls may nest 1,000 deep, from here, on every server;
        what nests deeper is the command's error too. Running out of memory is not: that happens to
        one server and not to the others, so it stops the server, even inside another exception.
        """

    @abstractmethod
    def snapshot(self) -> bytes:
        """The whole state as bytes. May run in a forked child process: it must change nothing."""

    @abstractmethod
    def restore(self, snapshot: bytes) -> None:
        """Replace the whole state by that of `snapshot`, as `snapshot()` once returned it.

        Also called with each new snapshot in the forked child that took it: one that raises here is
        never kept.
        """

    def check(self, command: bytes) -> None:  # noqa: B027 (there is nothing that everyone must check)
        """Raise to keep a command out of the log: its client is told why. By default all may enter.

        Called by the leader before it proposes. Whether a command is refused must depend on the
        command alone, and nothing may be changed. `apply` has to be ready for any bytes all the
        same.
        """

    def query(self, query: bytes) -> bytes:
        """Answer a read without changing any state; by default there are no queries."""
        raise ValueError(f"{type(self).__name__} answers no queries: override query()")

    def comparable(self, reply: bytes) -> bytes:
        """The part of a reply that is the same on every server: by default, all of it.

        Servers compare it (docs/design/digests.md). A text that may hold an address in memory, or
        read otherwise in another Python, is best left out: then override `reply_bytes`, too. Called
        after all of a slot's commands.
        """
        return reply

    def reply_bytes(self, reply: bytes) -> int:
        """The bytes that a reply counts for while it is kept: by default its length.

        What is kept decides which commands are executed (`max_kept_each`), so this is the same on
        every server, and for a reply always: texts that may differ count for as much as they may
        have at most, say.
        """
        return len(reply)

    def made(self, number: int) -> None:  # noqa: B027 (most need none)
        """The cluster was made, and this 64-bit number drawn then: to seed random numbers with.

        Called before anything is executed. A cluster made anew from a snapshot has another number:
        keep this one in the state.
        """

    def enter(self, slot: int) -> None:  # noqa: B027 (most need not know)
        """Note the slot of the commands that come next. Must not raise."""

    # --- reads that wait (docs/design/watches.md) -------------------------------------------------
    # What is watched is no part of the state: it differs between servers, and snapshots know
    # nothing of it.

    def watch(self, number: int, query: bytes) -> bytes | None:
        """Answer a read that waits for something to happen; None if nothing has happened yet.

        Then keep it by its number until `unwatch`, or `happened` answers it (`keeps`). By default
        there are no watches.
        """
        raise ValueError(f"{type(self).__name__} holds no watches: override watch()")

    def unwatch(self, number: int) -> None:  # noqa: B027 (what holds none has none to forget)
        """Forget a watch; nobody waits for its answer any more."""

    def happened(self) -> Iterable[tuple[int, bytes]]:
        """Answers to watches kept, for which something has happened.

        Called, while any are kept, after commands were executed or another state was restored.
        """
        return ()

    def keeps(self, number: int) -> bool:
        """Whether a watch that `happened` has answered is kept still, from behind that answer on.

        By default it is not: its client asks again.
        """
        return False

    def watched_through(self) -> bytes:
        """As far as all watches kept are complete: their clients go on from there, elsewhere."""
        return b""

    def cost(self, command: bytes) -> int:
        """About how many bytes executing a command reads and writes, its reply included.

        Asked by the leader, of the state as it is now, before the command enters the log: one that
        costs too much is refused, and dear ones are spread over slots, so that no slot keeps a
        server busy for long. Has to be much cheaper than the command itself. By default nothing is
        known, and the length of commands alone is bounded.
        """
        return len(command)

    def figures(self) -> Mapping[str, int]:
        """Numbers for `paxon status --json` and `--metrics`, by name; has to be quick."""
        return {}

    def digest(self) -> str:
        """A fingerprint of the state for comparing servers, "" if there is none.

        Computed when somebody asks for it, while the server stands still. Whether servers have
        executed the same is compared without it (docs/design/digests.md).
        """
        return ""
