"""A deterministic simulation of whole clusters: the real servers, stores and clients over a
simulated network, disk and clock, under faults drawn from one seed (docs/checks/simulation.md).
"""

from __future__ import annotations

from tests.simulation.plan import Fault, Plan, draw_plan
from tests.simulation.runner import Outcome, run

__all__ = ["Fault", "Outcome", "Plan", "draw_plan", "run"]
