"""What processes do together: locks, elections, queues and more, on transactions and leases.

Read `contests` (who contends, in which order, and when one's turn has come; no I/O), `sharing`
(where several hold at once), `held` (what is held, to threads and to asyncio), `taking` (how
threads wait), `async_taking` (tasks) and `observing` (who is told), then `lock` and `async_lock`,
`election` and `async_election`, `queues` (where a queue's keys stand; no I/O) with `queue` and
`async_queue`, `barriers` (how so many meet; no I/O) with `barrier` and `async_barrier`, `members`
(and counters), and `clients`: the clients that users see, which have all of it. docs/recipes.md
says what each guarantees.
"""

from __future__ import annotations

__all__: list[str] = []
