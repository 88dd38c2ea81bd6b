"""How far it goes: many keys, large values, many sessions, long logs, big snapshots.

`scale` says what is measured and has the tables, `run` measures it, `load` and `pause` make the
load, `plots` draws it.
"""

from __future__ import annotations

__all__: list[str] = []
