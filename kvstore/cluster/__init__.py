"""Servers as processes: one alone, and some on this machine that are looked after.

Read `options` and `cluster_file` (what a cluster is to be), `node` (a server with the real world
around it), `server_process` (its life as a process), `logs`, `meanings` (of what it counts),
`metrics` and `door` (what it shows by HTTP), `notify` (what it tells a service manager). Then the
parts of `LocalCluster`: `spawning` (one process), `supervisor` (all of them), `status` and `health`
(what the servers say of themselves), `local_files`, `local_cluster`. For whoever runs them:
`doctor` (what is wrong here), `backup` and `recovery` (a new cluster of what is left); and
`guarded` (a command that runs while a lock is held).
"""

from __future__ import annotations

__all__: list[str] = []
