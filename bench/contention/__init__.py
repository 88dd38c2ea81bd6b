"""Several servers that want to lead: what each election policy pays for it.

`compare` says what is measured: sweeps over policies, numbers of proposers, delays and more. Then
`compare_run` (the runs and their tables), `rows` (the figures, and who led when in a duel), and
`compare_plots`.
"""

from __future__ import annotations

__all__: list[str] = []
