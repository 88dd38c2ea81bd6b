"""A cluster in this process for your own tests (docs/testing.md); pytest finds its fixtures itself.

from paxon.testing import MemoryCluster

with MemoryCluster() as cluster, cluster.client() as kv:
    kv.put("motto", b"fewer dictators")
"""

from __future__ import annotations

from paxon.kvstore.testing import MemoryCluster

__all__ = ["MemoryCluster"]
