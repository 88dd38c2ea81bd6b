"""The benchmarks: what `paxon bench` measures, each figure with a baseline beside it.

Read them in this order: `harness` (clusters, client processes, loads, reports), `stable` (a leader
in office: phase 2 only), `contention` (several that want to lead, under each policy), `scale`
(many keys, sessions and bytes), `peers` (etcd, Redis and PySyncObj in the same run), `coordination`
(locks, watches, transactions and leases beside etcd), and `cli`, which offers them.
"""

from __future__ import annotations

__all__: list[str] = []
