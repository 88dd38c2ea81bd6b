"""What all benches are made of.

Read `workloads` (what clients do), `child` and `load` (the clients, in processes of their
own), `lab` and `lab_network` (clusters that are set up in a moment), `measure` (one load on
one cluster: what clients saw and servers did), then `summary`, `report`, `flags` and `plot_style`
(what a bench is, for people), with `machine` (what it ran on) and `errors`.
`repeater` finds gaps.
"""

from __future__ import annotations

__all__: list[str] = []
