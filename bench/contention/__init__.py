"""Several servers that want to lead: what each election policy pays for it.

`compare` says what is measured: sweeps over policies, numbers of proposers, delays and more. Then
`compare_run` (the runs and their tables), `rows` (the figures), `compare_plots`, and `duels`, which
reads from what the servers did who led when.
"""

from __future__ import annotations

__all__: list[str] = []
