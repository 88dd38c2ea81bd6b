"""What the parts of a server have in common, and the interface of their server."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from paxon.actors.ballot import ServerId
from paxon.actors.messages import Introduction, PeerMessage
from paxon.transport import cluster_name
from paxon.transport.log import logger

if TYPE_CHECKING:
    from paxon.actors.server import PaxosServer

__all__ = ["Host", "Oddities", "Part", "handlers"]

Host: TypeAlias = "PaxosServer"
"""The server as its parts know it: they look at its records, queue in its outbox, and tell it what
follows from what they heard (`come_into_force`, `look_for_vote`, `confirmed`, `become`)."""


class Oddities:
    """Counts what comes that no server in its right mind sends; nothing else follows."""

    __slots__ = ("_counters",)

    def __init__(self, counters: dict[str, int]) -> None:
        self._counters = counters

    def first(self, counter: str, every: int) -> bool:
        """Count one; True for the first of so many, which is said."""
        self._counters[counter] += 1
        return self._counters[counter] % every == 1

    def malformed(self, message: PeerMessage, sender: ServerId) -> None:
        """A message whose fields contradict each other, or name another sender."""
        if self.first("malformed_messages", 1000):
            logger.warning(
                "a malformed message of server {} is ignored: {!r:.200}", sender, message
            )

    def foreign(self, said: Introduction, sender: ServerId) -> None:
        """A server of another cluster, which is in force like this server's own."""
        if self.first("foreign_introductions", 1000):
            cluster = cluster_name(0 if said.made is None else said.made.identity, said.name)
            logger.warning(
                "server {} of {}, another cluster than this server's, introduces itself and is "
                "ignored: correct the address by which it comes here", sender, cluster,
            )  # fmt: skip

    def number(self, sender: ServerId, name: str, value: object) -> None:
        """A number that is too far from what is known here."""
        if self.first("refused_numbers", 1000):
            logger.warning(
                "server {} tells of {} {}, which is too far beyond what is known here to be taken "
                "over at once (docs/design/numbers.md)", sender, name, value,
            )  # fmt: skip


class Part:
    """Something that goes on beside the protocol, with a state of its own."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._settings = host.settings
        self._application = host.application
        self._outbox = host._outbox
        self._counters = host._counters
        self._oddities = host._oddities


def handlers(union: Any, host: Host) -> dict[type, Callable[..., None]]:
    """The handler of each message of a union: the server's method of its name, or a part's.

    `on_p1a` handles a P1A.
    """
    names = {re.sub("(?<=[a-z])(?=[A-Z])", "_", m.__name__).lower(): m for m in get_args(union)}
    parts = [part for part in vars(host).values() if isinstance(part, Part)]
    return {
        message: getattr(one, f"on_{name}")
        for name, message in names.items()
        for one in (host, *parts)
        if hasattr(one, f"on_{name}")
    }
