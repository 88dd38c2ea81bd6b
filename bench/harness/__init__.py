"""What all benches are made of.

Read `workloads` (what clients do), `load` and `load_process` (the clients, in processes of their
own), `lab` and `lab_network` (clusters that are set up in a moment), `measure` (one workload on
one cluster: what clients saw and servers did), then `summary`, `report`, `pages` and `plot_style`
(figures for people).
"""

from __future__ import annotations

__all__: list[str] = []
