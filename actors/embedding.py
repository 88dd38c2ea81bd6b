"""What a program that has a server inside itself is given to hold and to send."""

from __future__ import annotations

from typing import Generic, Self, TypeVar

import msgspec
import pykka

from paxon.actors.ballot import ServerId
from paxon.actors.messages import ReplyStatus, StatusReply
from paxon.actors.records.latencies import Histogram

__all__ = [
    "AskFigures", "Execute", "Figures", "HandOver", "ServerRef", "NotLeading", "fail", "settle",
]  # fmt: skip

ActorT = TypeVar("ActorT", bound=pykka.Actor)


class Execute(msgspec.Struct, frozen=True):
    """Ask a leading server in the same process to execute a command.

    `ref.ask(Execute(b"…"))` returns a pykka future of the reply. The command belongs to no session
    and is not tried again: if the server does not lead, or stops leading meanwhile, the future
    raises `NotLeading`.
    """

    command: bytes

    def refusal(self, max_bytes: int) -> Exception | None:
        """Why no server executes it; None if one may. It comes from this process, unchecked."""
        command: object = self.command
        if type(command) is not bytes:
            return TypeError(f"Execute: a command has to be bytes, not {type(command).__name__}")
        if not command:
            return ValueError("Execute: a command must not be empty")
        if len(command) > max_bytes:
            return ValueError(f"Execute: the command exceeds {max_bytes} bytes")
        return None


class AskFigures(msgspec.Struct, frozen=True):
    """Ask a server in the same process how it is: `ref.ask(AskFigures())` returns `Figures`."""


class HandOver(msgspec.Struct, frozen=True):
    """Have a leading server in the same process let another lead, before it is stopped.

    `heir = ref.ask(HandOver())` is the id of the one that was asked to lead; 0 if the server does
    not lead, or nobody else could. `ref.ask(HandOver(heir))` is 0 once some server is heard to
    lead, or there is no hope left for the heir; until then it is the heir.
    """

    heir: ServerId = 0


class Figures(msgspec.Struct, frozen=True):
    """The figures that `--metrics` shows."""

    status: StatusReply
    latencies: dict[str, Histogram]
    """By name. They go on counting: each number is right by itself, two may be a moment apart."""


class NotLeading(RuntimeError):
    """The server that was asked to `Execute` does not lead, or ceased to before it was done."""

    def __init__(self, server: ServerId, leader: ServerId, address: str, *, tried: bool) -> None:
        if leader == server:
            who = f"server {server} is not ready to lead yet"
        else:
            who = f"server {server} does not lead{' any more' if tried else ''}"
            if leader:
                who += f": ask server {leader}" + (
                    f" (clients reach it at {address})" if address else ""
                )
            else:
                who += " and knows of none that does"
        outcome = "the command may or may not be executed yet: its outcome is unknown"
        super().__init__(f"{who}; {outcome if tried else 'the command has no effect'}")
        self.leader = leader
        """Who leads, as far as the one asked knows; 0 if it does not."""
        self.address = address
        """Where that one serves clients; empty if unknown."""
        self.tried = tried
        """Whether the command may still take effect."""


def settle(future: pykka.Future[bytes] | None, status: ReplyStatus, payload: bytes) -> None:
    """Tell who waits in this process how its command ended."""
    if future is None:
        return
    if status == ReplyStatus.OK:
        future.set(payload)
    else:
        text = payload[4:] if status == ReplyStatus.OVERLOADED else payload
        fail(future, RuntimeError(text.decode(errors="replace")))


def fail(future: pykka.Future[bytes], error: Exception) -> None:
    """Raise `error` where somebody in this process waits."""
    future.set_exception((type(error), error, None))


class ServerRef(pykka.ActorRef[ActorT], Generic[ActorT]):
    """A reference to a server's actor; as a context manager it stops the server at the end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
