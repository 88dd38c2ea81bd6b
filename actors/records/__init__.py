"""What a server knows and holds, besides the log: plain data with small methods.

A record decides nothing about sending, storing or waiting: it takes in what was heard, and says
what follows; `server.py` has the handlers, and acts. Each is None where it exists only at times.

Read them in the order in which a server needs them. How servers come together: `making` (the
cluster), `configuration` (who decides which slots), `places` (where they are), `disks` (by which
directory each is known), `confirmation` (this directory is not an old copy). To follow: `following`
(whether the leader lives), `leases` (what was granted), `catching_up` (what is missing). To lead:
`candidacy` (the promises of one ballot), `reign` (all that a leader knows), `changing` (from one
epoch to the next), and its parts: `rounds` (heartbeats answered), `reads` (those that wait),
`thrift` (whom to ask a little later). Clients: `held` (requests kept for later), `watching` (reads
that wait for something to happen). Beside it: `snapshots` (when to take one), `latencies` (how long
steps take), `oddities` (what should not happen).
"""

from __future__ import annotations

__all__: list[str] = []
