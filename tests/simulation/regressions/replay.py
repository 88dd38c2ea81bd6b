"""Runs a plan that is kept in a test file."""

from __future__ import annotations

import msgspec

from tests.simulation.plan import Plan
from tests.simulation.runner import run

__all__ = ["replay"]


def replay(plan: str) -> None:
    """Run a plan (JSON) and demand that every predicate holds."""
    outcome = run(msgspec.json.decode(plan, type=Plan))
    assert not outcome.broken, outcome.text
    assert not outcome.undecided, "the linearizability checker ran out of its budget"
