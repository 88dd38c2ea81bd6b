"""How far it goes: many keys, large values, many sessions, long logs, big snapshots.

`scale` says what is measured, `run` measures it, `load` and `pause` make the load, `table` and
`plots` show it.
"""

from __future__ import annotations

__all__: list[str] = []
