"""A call of etcd's API, whether it came by gRPC or as JSON, and the table of what can be called."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

from paxon.kvstore.errors import PaxonError
from paxon.kvstore.etcd.errors import Code, Refused, in_etcds_terms
from paxon.kvstore.etcd.messages import message

__all__ = [
    "MAX_MESSAGE_BYTES", "TIMEOUT", "Asking", "Call", "Done", "Method", "as_refusal", "methods",
]  # fmt: skip

TIMEOUT = 7.0
"""Seconds that the cluster has for a request, as etcd's has with its usual settings."""
MAX_MESSAGE_BYTES = 2 << 20
"""Of a request, as etcd takes it: 1.5 MiB, and 0.5 MiB for what is around it."""

_OLD_PATHS = {"/v3/lease/revoke", "/v3/lease/timetolive", "/v3/lease/leases"}
"""These are served below `/v3/kv`, too, as etcd has it."""


class Call(Protocol):
    """A call as those see it who answer a stream of requests with a stream of answers."""

    @property
    def waiting(self) -> int:
        """How many requests have come that `receive` returns at once."""

    async def receive(self) -> Any:
        """The next request, None after the last one. Raises `Refused` if it is malformed."""

    async def send(self, answer: Any) -> None:
        """Send an answer, and wait until there is room for another."""


class Asking(Protocol):
    """A question that was asked without a task."""

    def give_up(self) -> None:
        """Nobody waits for the answer any more."""


Done: TypeAlias = Callable[[Any], None]
"""Is told what came of a question: the answer, an exception, or a function that goes on asking."""


class Method(NamedTuple):
    """Something that can be called."""

    path: str
    """Such as `/etcdserverpb.KV/Range`."""
    json_path: str
    """Such as `/v3/kv/range`."""
    request: str
    """The name of the requests' message."""
    unary: Callable[[Any, float], Awaitable[Any]] | None
    """Answers one request, within so many seconds; None: it is a stream."""
    stream: Callable[[Call], Awaitable[None]] | None = None
    quick: Callable[[Any, float, Done], Asking | None] | None = None
    """As `unary`, without a task, for requests that are one operation of the store; None: this one
    is not. Raises `Refused`."""

    @property
    def request_class(self) -> Any:
        """Of the requests."""
        return message(self.request)


def methods(*tables: list[Method]) -> dict[str, Method]:
    """All of these methods, by both of their paths."""
    found: dict[str, Method] = {}
    for table in tables:
        for method in table:
            found[method.path] = method
            if method.json_path:
                found[method.json_path] = method
                if method.json_path in _OLD_PATHS:
                    found[f"/v3/kv{method.json_path.removeprefix('/v3')}"] = method
    return found


def as_refusal(error: Exception) -> Refused:
    """The refusal that a caller is told for an error."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, PaxonError):
        return in_etcds_terms(error)
    if isinstance(error, TimeoutError):
        return Refused(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
    raise error


def until(timeout: float) -> float:
    """When so many seconds will have passed, by the monotonic clock."""
    return time.monotonic() + timeout
