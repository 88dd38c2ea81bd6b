"""What processes do together: locks and elections, built on transactions, leases and watches.

Read `contests` (who contends, in which order, and when one's turn has come; no I/O), `sharing`
(where several hold at once), `held` (what is held, to threads and to asyncio), `taking` (how
threads wait) and `async_taking` (tasks), then `lock` and `async_lock`, `election` and
`async_election`, and `clients`: the clients that users see, which have all of it.
docs/recipes.md says what each guarantees.
"""

from __future__ import annotations

__all__: list[str] = []
