"""The simulator's command line (docs/checks/simulation.md).

python -m tests.simulation --seed 7 --steps 1000           one seed; its trace if it fails
python -m tests.simulation --seed 7 --trace                one seed, with its trace
python -m tests.simulation --seeds 1000 --steps 1000       many seeds, over all cores
python -m tests.simulation --seeds 5000 --about members    all of them with members that change
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.table import Table

from tests.invariants import PREDICATES
from tests.simulation.campaign import ReportError, Totals, run_campaign
from tests.simulation.minimise import minimise, write_regression
from tests.simulation.plan import Plan, draw_plan
from tests.simulation.runner import Outcome, run

TRACE_LINES = 200
"""Of a failing run so many of the last lines are shown, unless all are asked for."""

MATTERS = ("leases", "bounds", "coordination", "members", "rarities")
"""What all runs may be about (`draw_plan`)."""

OK, FAILED, USAGE = 0, 1, 2


def main() -> int:
    """Run what is asked for; 0 if every predicate held in every run."""
    arguments = _parser().parse_args()
    if arguments.seeds is None:
        plan = _drawn(arguments.seed, arguments.steps, arguments.about)
        return _one_seed(plan, arguments.trace, arguments.minimise)
    start = perf_counter()
    try:
        totals = run_campaign(
            arguments.seed,
            arguments.seeds,
            arguments.steps,
            report=arguments.report,
            workers=arguments.workers,
            about=arguments.about,
        )
    except (ReportError, OSError) as error:
        print(error, file=sys.stderr)
        return USAGE
    _print_totals(totals, perf_counter() - start)
    if not totals.failures:
        return OK
    about = f" --about {arguments.about}" if arguments.about else ""
    for seed, text in totals.failures[:10]:
        print(f"seed {seed}: {text}")
        print(f"  again: python -m tests.simulation --seed {seed} --steps {arguments.steps}{about}")
    if arguments.minimise:
        _minimise(_drawn(totals.failures[0][0], arguments.steps, arguments.about))
    return FAILED


def _drawn(seed: int, steps: int, about: str) -> Plan:
    return draw_plan(seed, steps, **{f"about_{about}": True} if about else {})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description="Simulate Paxon clusters under faults."
    )
    add = parser.add_argument
    add("--seed", type=int, default=0, help="the seed, or the first of many")
    add("--steps", type=int, default=1000, help="steps under faults, before all is healed")
    add("--seeds", type=int, help="run so many seeds over all cores")
    add("--about", choices=MATTERS, default="", help="make every run one about this")
    add("--trace", action="store_true", help="print the whole trace of the one seed")
    add("--report", type=Path, help="with --seeds: a file to keep the results in and resume from")
    add("--workers", type=int, help="processes to use (default: one for each core)")
    add(
        "--no-minimise", dest="minimise", action="store_false",
        help="do not cut a failing run down and write it as a test",
    )  # fmt: skip
    return parser


def _one_seed(plan: Plan, whole_trace: bool, cut_down: bool) -> int:
    print(_describe(plan))
    if whole_trace:
        outcome = run(plan, sys.stdout.write)
    else:
        outcome = run(plan)
        if outcome.broken:
            _print_trace(plan)
    _print_outcome(outcome)
    if outcome.broken and cut_down:
        _minimise(plan)
    return FAILED if outcome.broken else OK


def _describe(plan: Plan) -> str:
    kinds = ", ".join(sorted({fault.kind for fault in plan.faults})) or "none"
    return (
        f"seed {plan.seed}: {plan.servers} servers, policy {plan.policy}, "
        f"{plan.clients.clients} clients, {len(plan.faults)} faults ({kinds})"
    )


def _print_trace(plan: Plan) -> None:
    lines: list[str] = []
    run(plan, lines.append)
    if len(lines) > TRACE_LINES:
        print(f"… {len(lines) - TRACE_LINES} lines before these (all of them: --trace)")
    sys.stdout.writelines(lines[-TRACE_LINES:])


def _print_outcome(outcome: Outcome) -> None:
    print(
        f"{outcome.steps} steps, {outcome.simulated_seconds:.1f} simulated seconds, "
        f"{outcome.chosen} slots chosen, {outcome.answered} operations answered, "
        f"{outcome.unanswered} given up"
    )
    if outcome.undecided:
        print("linearizability: undecided within the checker's budget")
    print(f"BROKEN: {outcome.text}" if outcome.broken else "all predicates held")


def _minimise(plan: Plan) -> None:
    """Cut the failing plan down and write it as a test."""
    failure = run(plan)

    def show(best: Plan) -> None:
        print(f"  {len(best.faults)} faults, {best.steps} steps", file=sys.stderr)

    print(f"cutting seed {plan.seed} down …", file=sys.stderr)
    best = minimise(plan, failure, show)
    path = write_regression(best, failure)
    print(f"{_describe(best)}, {best.steps} steps")
    print(f"written as a test: {path}")


def _print_totals(totals: Totals, seconds: float) -> None:
    table = Table("what", "how much", title="simulation")
    cpu = totals.cpu_seconds
    for name, value in (
        ("seeds", f"{totals.seeds:,}"),
        ("steps", f"{totals.steps:,}"),
        ("steps per second of CPU", f"{totals.steps / cpu:,.0f}" if cpu else "?"),
        ("seconds, this time", f"{seconds:.1f}"),
        ("simulated seconds", f"{totals.simulated_seconds:,.0f}"),
        ("slots chosen", f"{totals.chosen:,}"),
        ("operations answered", f"{totals.answered:,}"),
        ("operations given up", f"{totals.unanswered:,}"),
        *((f"faults: {kind}", f"{count:,}") for kind, count in sorted(totals.faults.items())),
        ("predicates checked", str(len(PREDICATES))),
        ("linearizability undecided", f"{len(totals.undecided):,}"),
        ("violations", f"{len(totals.failures):,}"),
    ):
        table.add_row(name, value)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
