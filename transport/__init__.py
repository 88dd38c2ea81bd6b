"""Wire codec, ZeroMQ endpoints and the inbox that sockets feed. Knows nothing of Paxos."""

from __future__ import annotations

from paxon.transport.burst import Burst

__all__ = ["Burst"]
