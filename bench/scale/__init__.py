"""How far it goes: many keys, large values, many sessions, long logs, big snapshots.

`scale` says what is measured, measures it and has the tables, `load` makes the load of many
sessions, `plots` draws it.
"""

from __future__ import annotations

__all__: list[str] = []
