"""What a server knows and holds, besides the log: plain data with small methods.

A record decides nothing about sending, storing or waiting: it takes in what was heard, and says
what follows; `server.py` has the handlers, and acts. Each is None where it exists only at times.

Read them in the order in which a server needs them. How servers come together: `making` (the
cluster), `configuration` (who decides which slots), `places` (where they are), `disks` (by which
directory each is known, and that this one is no old copy). To follow: `following` (whether the
leader lives), `catching_up` (what is missing, and when to take a snapshot). To lead: `candidacy`
(the promises of one ballot), `reign` (all that a leader knows, and requests kept until it serves),
`changing` (from one epoch to the next), `reads` (heartbeats answered, leases at both ends, reads
that wait for them), `thrift` (whom to ask a little later). Beside it: `latencies` (how long steps
take).
"""

from __future__ import annotations

__all__: list[str] = []
