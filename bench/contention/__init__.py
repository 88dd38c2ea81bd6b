"""Several servers that want to lead: what each election policy pays for it.

`compare` says what is measured (sweeps over policies, numbers of proposers, delays and more),
measures it and has the tables; `compare_plots` draws them.
"""

from __future__ import annotations

__all__: list[str] = []
