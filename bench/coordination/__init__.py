"""What processes coordinate with, beside etcd: locks, watches, transactions, leases.

`run` decides what is measured and has the tables; `loads` drives Paxon's own clients, `etcd` its
gRPC services. What they share with `peers` is there: turns, clusters, pairs. docs/coordination.md
has the figures.
"""

from __future__ import annotations

__all__: list[str] = []
