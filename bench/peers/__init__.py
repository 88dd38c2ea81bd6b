"""Paxon beside what its users would pick instead: etcd, Redis and PySyncObj, in one run.

`run` is the place to begin: it decides what is measured next to what, and has the tables.
`programs` starts what is installed; `redis`, `pysyncobj` and `etcd` each drive one system, etcd and
Paxon's own gateway by `etcd_load` over `grpc_wire`, with the messages of `kvstore/etcd/`.
docs/peers.md tells how each is set up and driven, and what is not equal.
"""

from __future__ import annotations

__all__: list[str] = []
