"""The command `paxon`.

Read `app` (where it begins), `commands` (what every command has in common) and `exit_codes`, then
the commands: `store`, `transactions`, `watches`, `leases`, `locks`, `settings`, `members`, `etcd`,
`cluster`, with `demo` and its `demo_load`, and `up`; and `backup`. `live_view` and `outlet` are how
they show things, and say what they wait for.
"""

from __future__ import annotations

from paxon.kvstore.streams import open_standard_descriptors

open_standard_descriptors()  # before all else that is imported

__all__: list[str] = []
