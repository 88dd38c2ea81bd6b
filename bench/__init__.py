"""Workloads, runners, plots and baselines: what `paxon bench` runs."""

from __future__ import annotations

__all__: list[str] = []
