"""For users' tests: a cluster of one server in this very process, in memory, ready in milliseconds.

Read `cluster` (what a test holds), `server` (the real `PaxosServer` over the transport in memory),
`links` (how clients reach it) and `plugin` (pytest's fixtures). Users import `paxon.testing`.
"""

from __future__ import annotations

from paxon.kvstore.testing.cluster import MemoryCluster

__all__ = ["MemoryCluster"]
