"""Leases as their owners see them: kept alive in the background, and known for lost in time.

Read `clock` and `keeping` (when to renew, when a lease is lost: no I/O), `requests` (what is asked
of the store), then `lease` (for threads) and `async_lease` (for asyncio).
"""

from __future__ import annotations

__all__: list[str] = []
