"""The quick deterministic checks that a mutant has to face, and which lines each of them runs."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import pytest
from _pytest.runner import runtestprotocol
from coverage import Coverage
from loguru import logger

from tests.search.breadth import breadth_first
from tests.search.starts import STARTS, Start
from tests.search.walks import walk
from tests.search.world import Violation
from tests.simulation import draw_plan, run

__all__ = ["FOLDERS", "Check", "Reach", "all_checks", "measured"]

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("tests/protocol", "tests/storage", "tests/transport/test_codec.py")
"""The scenarios are run by tests/protocol. The course's cases run on real time: not these."""
SEEDS = range(1, 4)
"""Of simulated runs of each kind."""
STEPS = 800
WALKS = range(4)
STATES = 600
"""From each start of the search; what it must reach takes more, so that is not asked here."""

MANY_IN_ONE = 20
"""A walk or a simulated run is worth so many tests: it comes as early as if it took less time."""


@dataclass(frozen=True)
class Check:
    """Something that holds in the code as it is."""

    name: str
    holds: Callable[[], bool]


def all_checks(items: list[pytest.Item]) -> list[Check]:
    """The tests, and after them walks, simulated runs, and searches."""
    found = [
        Check(item.nodeid, _passes(item))
        for item in items
        if not (item.get_closest_marker("process") or item.get_closest_marker("slow"))
    ]
    found.extend(Check(f"walk {seed}", _walked(seed)) for seed in WALKS)
    for seed in SEEDS:
        found.append(Check(f"simulator {seed}", _simulated(seed)))
        found.append(Check(f"simulator {seed}, leases", _simulated(seed, about_leases=True)))
        found.append(Check(f"simulator {seed}, bounds", _simulated(seed, about_bounds=True)))
    found.extend(Check(f"search: {start.name}", _searched(start)) for start in STARTS)
    return found


def _passes(item: pytest.Item) -> Callable[[], bool]:
    def holds() -> bool:
        return all(report.passed for report in runtestprotocol(item, log=False, nextitem=None))

    return holds


def _walked(seed: int) -> Callable[[], bool]:
    return lambda: not walk(3 + 2 * (seed % 2), seed, 1000).broken


def _simulated(seed: int, **about: bool) -> Callable[[], bool]:
    return lambda: not run(draw_plan(seed, STEPS, **about)).broken


def _searched(start: Start) -> Callable[[], bool]:
    def holds() -> bool:
        try:
            search, world = start.make()
            return not breadth_first(search, world, max_states=STATES, never=start.never).violation
        except Violation:
            return False

    return holds


class Reach:
    """Which checks run a line, and how long each takes."""

    def __init__(self, seconds: dict[str, float], lines: dict[str, dict[int, list[int]]]) -> None:
        self.seconds = seconds
        """CPU, by the name of the check; those that failed without any mutant are missing."""
        self._names = list(seconds)
        self._lines = lines

    def of(self, path: str, lines: tuple[int, ...]) -> list[str]:
        """The checks that run any of these lines, the quickest first; but see `MANY_IN_ONE`."""
        held = self._lines.get(os.path.realpath(path), {})  # (an editable install has links)
        found = {self._names[check] for line in lines for check in held.get(line, ())}
        return sorted(found, key=self._cost)

    def _cost(self, name: str) -> float:
        seconds = self.seconds[name]
        return seconds / MANY_IN_ONE if name.startswith(("walk", "simulator")) else seconds


def measured(checks: list[Check], cache: Path) -> Reach:
    """Run each check once under coverage, in a process of its own; kept until a file changes."""
    state = _state_of_the_source(checks)
    if not cache.exists() or json.loads(cache.read_text())["state"] != state:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _measure(checks, cache, state)
                status = 0
            finally:
                sys.stdout.flush()
                os._exit(status)
        if os.waitpid(child, 0)[1] != 0:
            raise RuntimeError("the checks could not be measured")
    held = json.loads(cache.read_text())
    lines = {
        path: {int(line): found for line, found in of_path.items()}
        for path, of_path in held["lines"].items()
    }
    return Reach(held["seconds"], lines)


def _measure(checks: list[Check], cache: Path, state: str) -> None:
    logger.remove()
    coverage = Coverage(data_file=None, source_pkgs=["paxon.actors"], config_file=False)
    seconds: dict[str, float] = {}
    coverage.start()
    for check in checks:
        coverage.switch_context(check.name)
        begun = process_time()
        if check.holds():
            seconds[check.name] = round(process_time() - begun, 4)
        else:
            print(f"fails without any mutant, and is left out: {check.name}", flush=True)
    coverage.stop()
    number = {name: index for index, name in enumerate(seconds)}
    lines: dict[str, dict[int, list[int]]] = defaultdict(dict)
    data = coverage.get_data()
    for path in data.measured_files():
        for line, names in data.contexts_by_lineno(path).items():
            lines[path][line] = [number[name] for name in names if name in number]
    cache.write_text(json.dumps({"state": state, "seconds": seconds, "lines": lines}))


def _state_of_the_source(checks: list[Check]) -> str:
    state = hashlib.blake2b(repr([check.name for check in checks]).encode())
    for folder in ("actors", "tests/protocol", "tests/storage", "tests/simulation", "tests/search"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            state.update(path.read_bytes())
    return state.hexdigest()
