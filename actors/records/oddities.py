"""What should not happen: counted, and said now and then."""

from __future__ import annotations

from paxon.actors.ballot import ServerId
from paxon.actors.messages import Introduction, PeerMessage
from paxon.transport import cluster_name
from paxon.transport.log import logger

__all__ = ["Oddities"]


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
