"""A leader in office: phase 2 alone, and what happens to it.

`stable` measures throughput and latency beside `floor`, the same messages and syncs without any
protocol, and looks for gaps in a long run; `failover` kills the leader; `pair` compares settings or
interpreters in turns.
"""

from __future__ import annotations

__all__: list[str] = []
