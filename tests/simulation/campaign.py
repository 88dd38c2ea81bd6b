"""Many seeds, over all cores, with a report that an interrupted campaign resumes from.

The report is JSON lines: first what was asked for, then one line per chunk of seeds that is done.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.simulation.plan import draw_plan
from tests.simulation.runner import run

__all__ = ["Totals", "run_campaign", "ReportError"]

CHUNK = 10
"""Seeds that a worker takes at a time."""


class ReportError(ValueError):
    """The report file cannot be resumed from; the text says why."""


@dataclass
class Totals:
    """What a campaign came to."""

    seeds: int = 0
    steps: int = 0
    simulated_seconds: float = 0.0
    cpu_seconds: float = 0.0
    answered: int = 0
    unanswered: int = 0
    chosen: int = 0
    undecided: list[int] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)
    """Seed and what was broken."""

    def add(self, chunk: dict[str, Any]) -> None:
        self.seeds += chunk["seeds"]
        self.steps += chunk["steps"]
        self.simulated_seconds += chunk["simulated_seconds"]
        self.cpu_seconds += chunk["cpu_seconds"]
        self.answered += chunk["answered"]
        self.unanswered += chunk["unanswered"]
        self.chosen += chunk["chosen"]
        self.undecided.extend(chunk["undecided"])
        self.faults.update(chunk["faults"])
        self.failures.extend((seed, text) for seed, text in chunk["failures"])


def _run_chunk(job: tuple[int, int, int, str]) -> dict[str, Any]:
    """Run the seeds `first` … `first + count - 1`; in a worker process."""
    first, count, steps, about = job
    wanted = {f"about_{about}": True} if about else {}
    outcomes = [run(draw_plan(seed, steps, **wanted)) for seed in range(first, first + count)]
    faults: Counter[str] = Counter()
    for outcome in outcomes:
        faults.update(outcome.faults)
    return {
        "first": first,
        "seeds": count,
        "steps": sum(o.steps for o in outcomes),
        "simulated_seconds": round(sum(o.simulated_seconds for o in outcomes), 3),
        "cpu_seconds": round(sum(o.cpu_seconds for o in outcomes), 3),
        "answered": sum(o.answered for o in outcomes),
        "unanswered": sum(o.unanswered for o in outcomes),
        "chosen": sum(o.chosen for o in outcomes),
        "undecided": [o.seed for o in outcomes if o.undecided],
        "faults": dict(sorted(faults.items())),
        "failures": [(o.seed, o.text) for o in outcomes if o.broken],
    }


def run_campaign(
    first: int, seeds: int, steps: int, *, report: Path | None = None, workers: int | None = None,
    console: Console | None = None, about: str = "",
) -> Totals:  # fmt: skip
    """Run seeds `first` … `first + seeds - 1`, skipping what `report` has already.

    All of them are about one matter if `about` names one ("members", "leases", …).

    Raises `ReportError` if the report is of another campaign.
    """
    totals = Totals()
    done: set[int] = set()
    file: TextIO | None = None
    if report is not None:
        heading = {"first": first, "seeds": seeds, "steps": steps, "about": about}
        for chunk in _resume(report, heading):
            totals.add(chunk)
            done.add(chunk["first"])
        file = report.open("a", encoding="utf-8")
    jobs = [
        (start, min(CHUNK, first + seeds - start), steps, about)
        for start in range(first, first + seeds, CHUNK)
        if start not in done
    ]
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    try:
        with (
            multiprocessing.get_context("spawn").Pool(workers or os.cpu_count()) as pool,
            Progress(*columns, console=console or Console(stderr=True)) as progress,
        ):
            task = progress.add_task("seeds", total=seeds, completed=totals.seeds)
            for chunk in pool.imap_unordered(_run_chunk, jobs):
                totals.add(chunk)
                if file is not None:
                    file.write(json.dumps(chunk) + "\n")
                    file.flush()
                failed = f", [red]{len(totals.failures)} failed[/]" if totals.failures else ""
                progress.update(task, completed=totals.seeds, description=f"seeds{failed}")
    finally:
        if file is not None:
            file.close()
    totals.failures.sort()
    totals.undecided.sort()
    return totals


def _resume(report: Path, heading: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The chunks that a report holds; starts the report if there is none."""
    if not report.exists() or report.stat().st_size == 0:
        report.write_text(json.dumps(heading) + "\n", encoding="utf-8")
        return
    lines = report.read_text(encoding="utf-8").splitlines(keepends=True)
    try:
        found = json.loads(lines[0])
        chunks = [json.loads(line) for line in lines[1:] if line.endswith("\n")]
    except json.JSONDecodeError as error:
        raise ReportError(f"{report} is no report of the simulator: {error}") from error
    if found != heading:
        raise ReportError(f"{report} is of another campaign ({found}): name another file")
    # An interrupted write may have left half a line: go on after the last whole one.
    report.write_text("".join(line for line in lines if line.endswith("\n")), encoding="utf-8")
    yield from chunks
