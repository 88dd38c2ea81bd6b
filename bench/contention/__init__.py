"""Several servers that want to lead: what each election policy pays for it.

`contention` measures one duel of proposers under each policy; `compare` sweeps over policies,
numbers of proposers and delays (`compare_run`, `compare_table`, `compare_plots`); `duels` reads
from what the servers did who led when.
"""

from __future__ import annotations

__all__: list[str] = []
