"""The command `paxon`.

Read `app` (what every command has in common) and `exit_codes`, then the commands: `store`,
`transactions`, `watches`, `leases`, `settings`, `etcd`, `cluster`, with `demo` and its `demo_load`,
and `up`. `live_view` and `outlet` are how they show things.
"""

from __future__ import annotations

__all__: list[str] = []
