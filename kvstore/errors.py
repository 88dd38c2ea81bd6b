"""What a client can raise: one family, each with a sentence for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = [
    "PaxonError",
    "InvalidRequest",
    "TooLarge",
    "FutureRevision",
    "Compacted",
    "LeaseExpired",
    "LockLost",
    "NotAcquired",
    "Conflict",
    "OperationFailed",
    "CallFailed",
    "ChangeRefused",
    "RequestTimeout",
    "ClusterUnavailable",
    "OutcomeUnknown",
    "Overloaded",
    "NotLeader",
    "WrongCluster",
    "ClientClosed",
    "ClientBusy",
    "PipelineError",
]


UNKNOWN = "; the write may or may not have taken effect: its outcome is unknown"
"""The end of what a `RequestTimeout` says of a write that was sent."""


class PaxonError(Exception):
    """Anything that Paxon tells its users has gone wrong."""


class InvalidRequest(PaxonError):
    """A request of a wrong form, type or size. It had no effect; sending it again is no use."""

    def __init__(self, text: str) -> None:
        most = 1000  # (it may quote what was given, however long)
        super().__init__(text if len(text) <= most else f"{text[:most]}…")


class TooLarge(InvalidRequest):
    """Too much for one transaction, revision or reply. It had no effect: do it in parts."""


class FutureRevision(InvalidRequest):
    """A revision was to be read that the store has not come to. Nothing was done."""

    def __init__(self, text: str, *, revision: int = 0) -> None:
        super().__init__(text)
        self.revision = revision
        """The store's."""


class Compacted(PaxonError):
    """The history before `oldest` is gone, and what was asked for is older. Nothing was done."""

    def __init__(self, text: str, *, oldest: int = 0, revision: int = 0) -> None:
        super().__init__(text)
        self.oldest = oldest
        """The oldest revision that can be read."""
        self.revision = revision
        """The store's."""


class OperationFailed(PaxonError):
    """The operation was refused, or the state machine raised. The store's had no effect.

    A state machine or class of your own keeps what it changed before it raised, on every server
    alike; asked again, it executes the command again.
    """


class CallFailed(OperationFailed):
    """A method of a replicated class raised an exception that it does not declare.

    What it had changed before it raised stays changed, on every server alike.
    """

    def __init__(self, text: str, *, name: str = "") -> None:
        super().__init__(text)
        self.name = name
        """The exception's class."""


class LeaseExpired(OperationFailed):
    """The lease has ended, or there never was one of that id. Nothing was done."""


class ChangeRefused(OperationFailed):
    """A change of the members cannot be, or not now. Nothing was changed."""


class LockLost(OperationFailed):
    """A lock or a leadership is no longer held, or its waiter lost its place."""


class NotAcquired(PaxonError, TimeoutError):
    """It was not to be had in the time given. Nothing is left of the attempt."""


class Conflict(OperationFailed):
    """A transaction found what it had read changed, again and again until its time was up.

    Nothing was written.
    """


class RequestTimeout(PaxonError, TimeoutError):
    """No answer in time.

    A write that had been sent may have taken effect, or may still: its outcome is unknown. `sent`
    says whether it had been; a write that never left this client has no effect, ever.
    """

    def __init__(self, text: str, *, sent: bool = True, unknown: bool | None = None) -> None:
        super().__init__(text)
        self.sent = sent
        """False if the request never left the client."""
        self.unknown = sent if unknown is None else unknown
        """Whether a write may have taken effect, or still may; never of a read."""
        self.kept: object = None
        """Keeps the request, so that servers know it when it is asked for again."""
        self.again: Callable[[float | None], Any] | None = None
        """Asks for it again."""

    def retry(self, timeout: float | None = None) -> Any:
        """Ask for the very same write again, and return what it returns.

        However often it is asked for, it takes effect once. (Calling the client's method again
        would be a second write.) Of an `AsyncClient` it is to be awaited.

        Args:
            timeout: seconds to wait for the answer; None: the client's own.

        Raises:
            OutcomeUnknown: the servers cannot be asked any more, as the session has ended or too
                many commands were sent since; read to find out.
            InvalidRequest: the error is none of a write whose outcome is unknown: just call again.
        """
        if self.again is None:
            raise InvalidRequest(
                "there is no write of unknown outcome to ask for again: call the method again"
            )
        return self.again(timeout)

    def forget(self) -> None:
        """There is nothing to ask for again: what was begun has been given up as a whole."""
        self.kept = self.again = None
        self.unknown = False
        self.args = (f"{str(self).removesuffix(UNKNOWN)}; it was given up, so nothing is held",)


class ClusterUnavailable(RequestTimeout):
    """No server at all answered within the time given."""


class OutcomeUnknown(RequestTimeout):
    """The cluster answered, but can no longer tell whether the write took effect.

    The client's session expired (idle for an hour by default) while the write was being retried.
    Read the key to find out.
    """


class Overloaded(PaxonError):
    """The servers refused a request until its time was up, for some bound was reached.

    It had no effect. The client backed off and tried again by itself before it raised this.
    """

    def __init__(self, text: str, *, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after
        """Seconds to wait before trying again."""


class NotLeader(PaxonError):
    """The server asked does not lead, and the client was told not to follow (`redirect=False`)."""

    def __init__(self, text: str, *, leader: int = 0, address: str = "") -> None:
        super().__init__(text)
        self.leader = leader
        """The id of the server that leads; 0 if the one asked knows none."""
        self.address = address
        """That server's address for clients; empty if unknown."""


class WrongCluster(PaxonError):
    """A server belongs to another cluster than the one that this client has talked to.

    Its addresses lead to two clusters, or its cluster was made anew. Nothing of this client is
    taken in there. A write that had been sent to its own cluster may have taken effect.
    """

    def __init__(self, text: str, *, address: str = "", unknown: bool = False) -> None:
        super().__init__(text)
        self.address = address
        """Of the server."""
        self.unknown = unknown
        """Whether a write may have taken effect in the client's own cluster; never of a read."""


class ClientClosed(PaxonError):
    """The client was closed, or inherited by a forked child process: open a new one."""


class ClientBusy(PaxonError):
    """The client is at work in this very thread, which a signal handler or finalizer interrupts.

    The call had no effect. Use another client there, or have another thread call.
    """


class PipelineError(PaxonError):
    """One or more operations of a pipeline failed; the others took effect."""

    def __init__(self, errors: Mapping[int, Exception]) -> None:
        first = min(errors)
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(f"operation {first} of the pipeline failed: {errors[first]}{more}")
        self.errors = errors
        """What went wrong, by the operation's index in the pipeline."""
