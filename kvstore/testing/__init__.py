"""For users' tests: a cluster of one server in this very process, in memory, ready in milliseconds.

Read `cluster` (what a test holds), `server` (the real `PaxosServer` over the transport in memory),
`links` (how clients reach it) and `plugin` (pytest's fixtures). Users import `paxon.testing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paxon.kvstore.testing.cluster import MemoryCluster

__all__ = ["MemoryCluster"]


def __getattr__(name: str) -> Any:
    """Imported when first asked for: pytest loads `plugin` in every run, of whatever project."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from paxon.kvstore.testing.cluster import MemoryCluster  # noqa: PLC0415 (see above)

    return MemoryCluster
