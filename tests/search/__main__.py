"""`python -m tests.search`: run the searches and say how far they came."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict
from time import perf_counter

from loguru import logger

from tests.search.breadth import Found, breadth_first
from tests.search.starts import STARTS, Start
from tests.search.walks import Walk, walk

SIZES = (3, 5)
"""Cluster sizes of the random walks."""


def run_start(start: Start, states: int) -> Found:
    """Search from one start; unreached goals are a violation."""
    search, world = start.make()
    found = breadth_first(search, world, max_states=states, goals=start.goals, never=start.never)
    unreached = [text for text, _ in start.goals if text not in found.reached]
    if unreached and not found.violation:
        found.violation = f"not reached: {', '.join(unreached)}"
    return found


def run_walks(size: int, walks: int, depth: int, first: int = 0) -> tuple[list[Walk], float]:
    """Random walks with seeds from `first`; stops at the first that breaks something."""
    begun = perf_counter()
    done = []
    for seed in range(first, first + walks):
        done.append(walk(size, seed, depth))
        if done[-1].broken:
            break
    return done, perf_counter() - begun


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.search", description=__doc__)
    parser.add_argument("--states", type=int, help="states to visit from each start")
    parser.add_argument("--start", help="only starts whose name contains this")
    parser.add_argument(
        "--about", choices=("members",), default="", help="only starts about the end of an epoch"
    )
    parser.add_argument("--walks", type=int, default=200, help="random walks of each size")
    parser.add_argument("--depth", type=int, default=1000, help="events of each walk")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first walk")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    chosen = parser.parse_args(arguments)
    logger.disable("paxon")
    report: dict[str, object] = {"python": platform.python_version(), "starts": {}, "walks": {}}
    failed = _report_starts(chosen, report) + _report_walks(chosen, report)
    if chosen.json:
        print(json.dumps(report, indent=2))
    print("violations:", failed, file=sys.stderr if chosen.json else sys.stdout)
    return 1 if failed else 0


def _report_starts(chosen: argparse.Namespace, report: dict[str, object]) -> int:
    failed, states, transitions, seconds = 0, 0, 0, 0.0
    rows: dict[str, object] = {}
    for start in STARTS:
        if chosen.start and chosen.start not in start.name:
            continue
        if chosen.about and not start.make.__module__.endswith(".membership_starts"):
            continue
        found = run_start(start, chosen.states or start.states)
        rows[start.name] = asdict(found)
        states, transitions = states + found.states, transitions + found.transitions
        seconds += found.seconds
        if not chosen.json:
            end = "complete" if found.complete else f"depth {found.depth} exhausted"
            print(f"{start.name:46} {found.states:8,} states  {end:20} "
                  f"{found.states_per_second:8,.0f} states/s")  # fmt: skip
            for text, depth in found.reached.items():
                print(f"    {text}: after {depth} events")
        if found.violation:
            failed += 1
            print(f"VIOLATION in {start.name}: {found.violation}", file=sys.stderr)
            for line in found.path:
                print(f"    {line}", file=sys.stderr)
    report["starts"] = rows
    if not chosen.json and seconds:
        print(f"{'all starts':46} {states:8,} states  {transitions:,} transitions in "
              f"{seconds:.1f} s: {states / seconds:,.0f} states/s")  # fmt: skip
    return failed


def _report_walks(chosen: argparse.Namespace, report: dict[str, object]) -> int:
    failed = 0
    rows: dict[str, object] = {}
    for size in SIZES if chosen.walks and not (chosen.start or chosen.about) else ():
        walks, seconds = run_walks(size, chosen.walks, chosen.depth, chosen.seed)
        events = sum(walk.events for walk in walks)
        slots = sum(walk.chosen for walk in walks)
        rows[str(size)] = {
            "walks": len(walks), "events": events, "chosen": slots, "seconds": seconds,
        }  # fmt: skip
        if not chosen.json:
            print(f"{size} servers: {len(walks)} random walks, {events:,} events, {slots:,} slots "
                  f"chosen, {events / seconds:,.0f} events/s")  # fmt: skip
        last = walks[-1]
        if last.broken:
            failed += 1
            print(f"VIOLATION by {size} servers, --seed {last.seed} --walks 1: {last.broken}",
                  file=sys.stderr)  # fmt: skip
            for line in last.path:
                print(f"    {line}", file=sys.stderr)
    report["walks"] = rows
    return failed


if __name__ == "__main__":
    sys.exit(main())
