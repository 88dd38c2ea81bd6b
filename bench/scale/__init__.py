"""How far it goes: many keys, large values, many sessions, long logs.

`scale` says what is measured, `run` measures it, `load` makes the load, `table` and `plots` show
it.
"""

from __future__ import annotations

__all__: list[str] = []
