"""A leader in office: phase 2 alone, and what happens to it.

`stable` measures throughput and latency beside `floor`, the same messages and syncs without any
protocol; `failover` kills the leader, `steady` and `pause` look for gaps under load, `pair` and
`pythons` compare two settings or several interpreters in turns.
"""

from __future__ import annotations

__all__: list[str] = []
