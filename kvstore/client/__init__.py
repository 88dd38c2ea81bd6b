"""The clients: one core that does no I/O, and two ways to drive it.

Read `requests` (what a client keeps), `command_core` (the core: who leads, what is unanswered, what
to send again) with its parts `leader_search`, `side_requests`, `sightings` and `outcomes`, and
`core` (what the store's clients add). Then `links` (sockets), `sync_driver` and `async_driver`
(threads, asyncio), what the store may be asked for in `calls`, `watches` (reads that wait) and
`leases` (kept alive), and the faces that users see: `client`, `async_client`, `pipelining`,
`cluster_calls` over `agreement` (what they ask of the cluster itself). `addresses`, `arguments`,
`checks` and `keys` look at what users pass.
"""

from __future__ import annotations

__all__: list[str] = []
