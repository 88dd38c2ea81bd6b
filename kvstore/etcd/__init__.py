"""The etcd v3 API in front of the store (docs/etcd.md): an ordinary client of the cluster.

Read `messages` (etcd's messages), `errors` and `calls` (what can be called), `front` (what all
services share), the services (`kv`, `watch` with its `feeds`, `lease`, `locks`, `cluster`), then
how calls come in: `http2` (no I/O), `grpc`, `http1` (JSON), `listener`; at last `gateway`, which
puts them together, and `process`, its life.
"""

from __future__ import annotations

__all__: list[str] = []
