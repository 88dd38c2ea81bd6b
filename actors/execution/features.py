"""Which kinds of entries and settings the servers know: nothing enters the log before all do.

An entry that some server cannot execute would stop that server. So each says what it knows in its
replies to heartbeats and pre-votes, and the leader remembers the last word of each.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from paxon.actors.ballot import ServerId, in_list
from paxon.actors.execution.agreed import KNOWS, Limits, limits_checksum

__all__ = ["Features"]


class Features:
    """The features that this server knows, and those that it has heard the others know."""

    def __init__(self, others: Sequence[ServerId], limits: Limits) -> None:
        self._others = others
        self._names = limits
        self.knows = KNOWS
        self.limits = limits_checksum(limits)
        """Over the limits that this server's state machine knows."""
        self._heard: dict[ServerId, tuple[int, int]] = {}

    def heard(self, server: ServerId, knows: int, limits: int) -> None:
        """A server says what it knows; it may have been replaced by another release meanwhile."""
        self._heard[server] = (knows, limits)

    def obstacle(self, names: Collection[str]) -> str:
        """Why a change of these settings has to stay out of the log.

        One sentence that names the servers; "" if all know them.
        """
        if not names:
            return ""
        machine = not self._names.keys().isdisjoint(names)
        silent = [server for server in self._others if server not in self._heard]
        heard = [s for s in self._others if s in self._heard]
        old = [s for s in heard if self._heard[s][0] < self.knows]
        other = [s for s in heard if machine and self._heard[s][1] != self.limits]
        for servers, fault in (
            (silent, "not heard of since this leader started: start all servers first"),
            (old, "running a release that does not know this: run this release everywhere first"),
            (other, "running a state machine with other limits: run the same one everywhere first"),
        ):
            if servers:
                return f"{in_list(servers)} {'is' if len(servers) == 1 else 'are'} {fault}"
        return ""
