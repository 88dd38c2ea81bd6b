"""`python -m tests.mutants`: change the code of `actors/` a little; does anything notice?

Each mutant gets a process of its own, forked from one that has collected all checks, and faces
those that run the changed line, the quickest first, until one fails or the CPU time is up. The
result goes into a file; started again, the sweep goes on with what is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import select
import signal
import sys
from collections import Counter
from pathlib import Path
from time import monotonic, process_time

import pytest
from loguru import logger

from tests.mutants.checks import FOLDERS, ROOT, Check, Reach, all_checks, measured
from tests.mutants.operators import Mutant, mutants

LONGEST = 120.0
"""Seconds that a mutant's process may take by the clock on the wall: then it hangs."""


def modules() -> list[str]:
    """All modules of `actors/`."""
    found = sorted((ROOT / "actors").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found]
    return [f"paxon.{name}" for name in names if not name.endswith("__init__")]


class Sweep:
    """A pytest plugin: instead of running the collected tests it runs them against each mutant."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen = chosen
        self.results = Path(chosen.results)
        self.done = {row["mutant"] for row in rows(self.results)}
        self.kills: Counter[tuple[str, str]] = Counter()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        checks = all_checks(session.items)
        reach = measured(checks, self.results.with_suffix(".reach.json"))
        by_name = {check.name: check for check in checks if check.name in reach.seconds}
        everything = [mutant for module in modules() for mutant in mutants(module)]
        wanted = [m for m in everything if re.search(self.chosen.only, m.name)]
        left = [mutant for mutant in wanted if mutant.name not in self.done]
        if self.chosen.sample:
            random.Random(1).shuffle(left)
            left = left[: self.chosen.sample]
        print(f"{len(everything)} mutants, {len(wanted)} wanted, {len(left)} to run", flush=True)
        if self.chosen.list:
            print("\n".join(mutant.name for mutant in left))
            return True
        for mutant in left:
            self._face(mutant, reach, by_name)
        return True

    def _face(self, mutant: Mutant, reach: Reach, by_name: dict[str, Check]) -> None:
        names = reach.of(mutant.code.co_filename, mutant.lines)
        place = f"{mutant.module}:{mutant.function}"
        names.sort(key=lambda name: -self.kills[place, name])
        killer, ran, took = _outcome(mutant, [by_name[name] for name in names], self.chosen.budget)
        if killer in by_name:
            self.kills[place, killer] += 1
        result = {"mutant": mutant.name, "killer": killer, "ran": ran, "checks": len(names)}
        with self.results.open("a") as file:
            file.write(json.dumps({**result, "seconds": round(took, 2)}) + "\n")
        if not killer:
            print(f"survives {ran} of {len(names)} checks: {mutant.name}", flush=True)


def _outcome(mutant: Mutant, checks: list[Check], budget: float) -> tuple[str, int, float]:
    """Who killed it ("" if nobody did), how many checks it faced, and its CPU time."""
    reader, writer = os.pipe()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = os.fork()
    if child == 0:
        os.close(reader)
        _in_the_child(mutant, checks, budget, writer)
    os.close(writer)
    said, ends = b"", monotonic() + LONGEST
    while True:
        if not select.select([reader], [], [], max(0.0, ends - monotonic()))[0]:
            os.kill(child, signal.SIGKILL)
            break
        piece = os.read(reader, 65536)
        if not piece:
            break
        said += piece
    os.close(reader)
    os.waitpid(child, 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    ran = said.decode().splitlines()
    if ran and ran[-1].startswith("end "):
        return ran[-1][4:], len(ran) - 1, took
    return f"died or hung in {ran[-1] if ran else 'its making'}", len(ran), took


def _in_the_child(mutant: Mutant, checks: list[Check], budget: float, writer: int) -> None:
    limit = int(3 * budget) + 10
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    logger.remove()
    try:
        os.write(writer, f"end {_killer(mutant, checks, budget, writer)}\n".encode())
    finally:
        os._exit(0)


def _killer(mutant: Mutant, checks: list[Check], budget: float, writer: int) -> str:
    begun = process_time()
    mutant.apply()
    for check in checks:
        if process_time() - begun > budget:
            break
        os.write(writer, f"{check.name}\n".encode())
        try:
            if not check.holds():
                return check.name
        except BaseException:  # (whatever it is, it is noticed)
            return check.name
    return ""


def rows(results: Path) -> list[dict[str, object]]:
    """What a file of results holds; of a mutant that is in it twice the last counts."""
    if not results.exists():
        return []
    held = [json.loads(line) for line in results.read_text().splitlines()]
    return list({row["mutant"]: row for row in held}.values())


def report(results: Path) -> None:
    """Print the figures of a file of results, module by module, and all survivors."""
    figures: Counter[tuple[str, str]] = Counter()
    survivors = []
    for row in rows(results):
        module = str(row["mutant"]).split(":", 1)[0]
        kind = "killed" if row["killer"] else "survived" if row["checks"] else "not reached"
        figures[module, kind] += 1
        if not row["killer"]:
            survivors.append(row)
    print("| module | run | killed | survived | not reached |\n|---|---|---|---|---|")
    for module in [*sorted({module for module, _ in figures}), "all"]:
        counts = [
            sum(n for (m, k), n in figures.items() if k == kind and module in (m, "all"))
            for kind in ("killed", "survived", "not reached")
        ]
        print(f"| {module} | {sum(counts)} | " + " | ".join(map(str, counts)) + " |")
    for row in survivors:
        print(f"{row['ran']:4} of {row['checks']:4}  {row['mutant']}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="mutants whose name matches this expression")
    parser.add_argument("--budget", type=float, default=6.0, help="CPU seconds a mutant")
    parser.add_argument("--sample", type=int, help="so many of them, drawn at random")
    parser.add_argument("--results", default="build/mutants.jsonl", help="where results are kept")
    parser.add_argument("--list", action="store_true", help="name the mutants, run none")
    parser.add_argument(
        "--report", action="store_true", help="print what the file of results holds"
    )
    chosen = parser.parse_args()
    if chosen.report:
        report(Path(chosen.results))
        return 0
    options = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:timeout"]
    return int(pytest.main([*options, *FOLDERS], plugins=[Sweep(chosen)]))


if __name__ == "__main__":
    sys.exit(main())
