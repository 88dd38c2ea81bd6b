"""What Paxon replicates: the user's own state machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from paxon.actors.agreed import Limit, Limits

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

    limits: ClassVar[Limits] = {}
    """Numbers on which execution depends, such as the longest value taken. A constant in the code
    would differ between servers of two releases: what is declared here is agreed by the cluster,
    kept in snapshots and changed with `paxon settings set` (docs/settings.md)."""

    def agree(self, limits: Mapping[str, int]) -> None:  # noqa: B027 (most have no limits)
        """These limits are in force from now on: a value for each name in `limits`.

        Called before anything is executed or restored, and again when they change, on every server
        between the same two commands.
        """

    @abstractmethod
    def apply(self, command: bytes) -> bytes:
        """Execute a command, return the reply for the client.

        An exception is the command's error reply, on every server alike: raise before changing any
        state. It does not stop the server.
        """

    @abstractmethod
    def snapshot(self) -> bytes:
        """The whole state as bytes. May run in a forked child process: it must change nothing."""

    @abstractmethod
    def restore(self, snapshot: bytes) -> None:
        """Replace the whole state by that of `snapshot`, as `snapshot()` once returned it."""

    def query(self, query: bytes) -> bytes:
        """Answer a read without changing any state; by default there are no queries."""
        raise ValueError(f"{type(self).__name__} answers no queries: override query()")

    def digest(self) -> str:
        """A fingerprint of the state for comparing servers, "" if there is none.

        Called for `paxon status`; make it cheap or keep it up to date in `apply`.
        """
        return ""
