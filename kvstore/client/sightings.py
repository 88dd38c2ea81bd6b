"""What a client knows of each server when it gives up: who answered, who leads, what was wrong.

With it an error says why: no server answered, none leads, the leader cannot be reached from here,
or a server refuses this client's key.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from paxon.actors.messages import NotLeader, PortOfServers
from paxon.kvstore.errors import ClusterUnavailable, InvalidRequest

__all__ = ["Sightings"]

_MOST = 256
"""Addresses remembered; a server may hint at any."""


class Sightings:
    """By a server's address. Times are the driver's, in seconds."""

    __slots__ = ("_peer_ports", "_pointers", "_size", "_troubles", "heard", "heard_at")

    def __init__(self) -> None:
        self.heard: dict[str, float] = {}
        """When each server last said anything, …"""
        self.heard_at = -math.inf
        """… and when any did."""
        self._pointers: dict[str, tuple[float, NotLeader]] = {}
        """When each server last said that it does not lead, and who does."""
        self._troubles: dict[str, str] = {}
        """What was last wrong with the connection to a server, as the end of a sentence."""
        self._peer_ports: set[str] = set()
        self._size = 0
        """How many servers the cluster has, as far as one has said; else 0."""

    def not_leader(self, address: str, reply: NotLeader, now: float) -> None:
        """A server says that it does not lead."""
        self._size = reply.servers or self._size
        if address in self._pointers or len(self._pointers) < _MOST:
            self._pointers[address] = (now, reply)

    def leads(self, address: str) -> None:
        """A server has done what only a leader does."""
        self._pointers.pop(address, None)
        self._troubles.pop(address, None)

    def trouble(self, address: str, text: str) -> bool:
        """Something (or "": nothing more) is wrong with a server's address; whether it is news."""
        if not text:
            return self._troubles.pop(address, None) is not None
        if address not in self._troubles and len(self._troubles) >= _MOST:
            return False
        news = self._troubles.get(address) != text
        self._troubles[address] = text
        return news

    def peer_port(
        self, address: str, reply: PortOfServers, servers: Sequence[str]
    ) -> InvalidRequest | None:
        """An address is that of a port for servers; the error of all, if all addresses are."""
        where = f"; clients reach it at {reply.address}" if reply.address else ""
        self.trouble(address, f"there server {reply.server} listens for other servers{where}")
        self._peer_ports.add(address)
        if not self._peer_ports.issuperset(servers):
            return None
        return InvalidRequest(f"no address is one for clients: {self._told_troubles(servers)}")

    def silence(self, servers: Sequence[str]) -> str:
        """Why none of these has answered, and what to do; follows "no server answered"."""
        told = self._told_troubles(servers)
        if told and self._troubles.keys() >= set(servers):
            return f": {told}"
        asked = f"asked {', '.join(servers)}" + (f"; {told}" if told else "")
        return f" ({asked}): check that they are running and reachable"

    def unreachable(self, servers: Sequence[str], seconds: float) -> ClusterUnavailable:
        """The error of a question that none of these servers answered."""
        text = f"no server answered within {seconds:g} s{self.silence(servers)}"
        return ClusterUnavailable(text, unknown=False)

    def why(self, since: float, servers: Sequence[str]) -> str:
        """Why there was no leader's answer, though servers did answer; "" if nobody knows."""
        told = {
            address: reply
            for address, (at, reply) in self._pointers.items()
            if at >= since and self.heard.get(address, at) >= since
        }
        if not told:
            return self._told_troubles(servers)
        size = max(self._size, len(told), 1 if self._size else len(servers))
        for address, reply in told.items():
            if reply.leader and not reply.address:
                return (
                    f"the server at {address} says that server {reply.leader} leads, but not where "
                    "clients reach that one: give its address too (servers' client_addresses)"
                )
            if reply.address and reply.address not in told and self._unheard(reply.address, since):
                trouble = self._troubles.get(reply.address)
                silent = "which does not answer; check that this address can be reached from here"
                wrong = f": {trouble}" if trouble else f", {silent}"
                return (
                    f"the server at {address} says that server {reply.leader} leads at "
                    f"{reply.address}{wrong}"
                )
        counted = f"{len(told)} of {size} servers answered" if size > 1 else "the server answered"
        named = {reply.address for reply in told.values()} - {""}
        if named & set(told):  # they point at each other
            return f"{counted}, and whom they name does not lead: see what `paxon status` says"
        if named:
            return ""  # whoever leads is merely slow
        if len(told) <= size // 2:
            wrong = self._told_troubles([server for server in servers if server not in told])
            needed = f"{counted}, none leads, {size // 2 + 1} are needed"
            return f"{needed} ({wrong})" if wrong else needed
        none = "none leads" if size > 1 else "does not lead"
        return f"{counted}, and {none}: see what `paxon status` says"

    def _told_troubles(self, servers: Sequence[str]) -> str:
        where: dict[str, list[str]] = {}
        for server in servers:
            if server in self._troubles:
                where.setdefault(self._troubles[server], []).append(server)
        return "; ".join(f"{', '.join(wrong)}: {text}" for text, wrong in where.items())

    def _unheard(self, address: str, since: float) -> bool:
        return self.heard.get(address, -1.0) < since
