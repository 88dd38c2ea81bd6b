"""Cut a failing plan down to what its failure needs, and keep it as a test.

Each cut is tried by running the plan again, and stays if the same predicate still fails. A cut
changes what comes after it, so a smaller plan may fail in another place; that is as good.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tests.simulation.plan import Fault, Plan
from tests.simulation.runner import Outcome, run

__all__ = ["minimise", "write_regression", "REGRESSIONS"]

REGRESSIONS = Path(__file__).parent / "regressions"


def minimise(
    plan: Plan, failure: Outcome, progress: Callable[[Plan], None] = lambda _: None
) -> Plan:
    """The smallest plan found that breaks the same predicate as `failure` did."""

    def fails(candidate: Plan) -> bool:
        return run(candidate).broken == failure.broken

    best = _copy(plan)
    before = b""
    while msgspec.json.encode(best) != before:
        before = msgspec.json.encode(best)
        for cut in (_fewer_faults, _fewer_steps, _plainer):
            best = cut(best, fails)
            progress(best)
    return best


def _copy(plan: Plan) -> Plan:
    return msgspec.convert(msgspec.to_builtins(plan), Plan)


def _fewer_faults(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """Drop faults in ever smaller chunks (delta debugging)."""
    size = max(1, len(plan.faults) // 2)
    while plan.faults:
        start = 0
        while start < len(plan.faults):
            candidate = _copy(plan)
            del candidate.faults[start : start + size]
            if fails(candidate):
                plan = candidate
            else:
                start += size
        if size == 1:
            break
        size //= 2
    return plan


def _fewer_steps(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """Begin to heal as early as the failure allows."""
    low, high = 0, plan.steps
    while high - low > max(1, high // 50):
        candidate = _copy(plan)
        candidate.steps = (low + high) // 2
        candidate.faults = [fault for fault in plan.faults if fault.step <= candidate.steps]
        if fails(candidate):
            plan, high = candidate, candidate.steps
        else:
            low = candidate.steps
    return plan


def _plainer(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """Set one thing after the other to what is plainest."""
    for change in _changes(plan):
        candidate = _copy(plan)
        change(candidate)
        if candidate != plan and fails(candidate):
            plan = candidate
    return plan


def _changes(plan: Plan) -> Iterator[Callable[[Plan], object]]:
    for name, plain in (
        ("drop", 0.0), ("duplicate", 0.0), ("straggle", 0.0), ("ordered", True), ("split", False),
        ("sync", 0.0001), ("service", 0.0001), ("latency", 0.002),
    ):  # fmt: skip
        yield _setter("network", name, plain)
    for name, plain in (
        ("clients", 1), ("clients", 2), ("outstanding", 1), ("keys", 1), ("lease", 0.0),
        ("stale", 0.0), ("ordered", 0.0),
    ):  # fmt: skip
        yield _setter("clients", name, plain)
    yield from (partial(_without_setting, name) for name in plan.settings)
    yield from (partial(_without_kind, kind) for kind in plan.clients.weights)
    yield _true_clocks
    yield _without_spare
    yield from (partial(_shrink, servers) for servers in (3, 5) if servers < plan.servers)


def _without_setting(name: str, plan: Plan) -> None:
    plan.settings.pop(name, None)


def _without_kind(kind: str, plan: Plan) -> None:
    if len(plan.clients.weights) > 1:
        plan.clients.weights.pop(kind, None)


def _true_clocks(plan: Plan) -> None:
    plan.clock_rates = [1.0] * len(plan.clock_rates)


def _setter(part: str, name: str, value: Any) -> Callable[[Plan], object]:
    return lambda candidate: setattr(getattr(candidate, part), name, value)


def _shrink(servers: int, plan: Plan) -> None:
    """Fewer members at first; machines that are none stay beside them."""
    plan.servers = servers
    machines = servers + plan.spare
    plan.clock_rates = plan.clock_rates[:machines]
    plan.own = plan.own[:machines]
    plan.faults = [
        Fault(f.step, f.kind, f.server % (machines + 1), f.seconds, f.amount, f.group)
        for f in plan.faults
    ]


def _without_spare(plan: Plan) -> None:
    plan.spare = 0
    _shrink(plan.servers, plan)


_TEST = '''"""{title}

Found by seed {seed} of the simulator and cut down by it. {sentence}
"""

from __future__ import annotations

from tests.simulation.regressions.replay import replay

PLAN = r"""
{plan}
"""


def test_{name}() -> None:
    replay(PLAN)
'''


def write_regression(plan: Plan, failure: Outcome, sentence: str = "") -> Path:
    """Write a test file that runs the plan and demands that nothing is broken."""
    name = re.sub(r"\W+", "_", failure.broken).strip("_") + f"_seed_{plan.seed}"
    text = msgspec.json.format(msgspec.json.encode(plan), indent=2).decode()
    # One fault a line reads better than six.
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + " ".join(m[1].split()) + "]", text)
    path = REGRESSIONS / f"test_{name}.py"
    path.write_text(
        _TEST.format(
            title=f"It once broke: {failure.broken}.",
            seed=plan.seed,
            sentence=sentence or "Say here what the fault was.",
            plan=text,
            name=name,
        ),
        encoding="utf-8",
    )
    return path
