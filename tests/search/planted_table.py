"""`python -m tests.search.planted_table`: who catches which planted bug, and how soon.

Each bug is planted in the real code and hunted by the breadth-first searches, by the random
walks, by the simulator and by its runs about leases; those in the comparing of hashes by runs in
which a state machine goes wrong, those in the bounds by runs about bounds, those in leases, locks,
watches and transactions by runs about coordination. It counts as caught if
any of them finds something wrong.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field

from loguru import logger

from tests.search.__main__ import run_start
from tests.search.bugs.bounds import BOUNDS
from tests.search.bugs.coordination import COORDINATION
from tests.search.bugs.digests import DIGESTS, DigestBug
from tests.search.bugs.making import MAKING
from tests.search.bugs.objects import OBJECTS, ObjectBug
from tests.search.bugs.rarities import RARITIES
from tests.search.planted import PLANTED, PlantedBug
from tests.search.starts import MAKING_STARTS, STARTS
from tests.search.walks import walk
from tests.search.world import Violation
from tests.simulation.plan import draw_plan
from tests.simulation.runner import run

STEPS = 1000
"""Steps of a simulated run, events of a walk."""


SPECIAL: list[DigestBug | ObjectBug] = [*DIGESTS, *OBJECTS]


@dataclass(slots=True)
class Caught:
    """Where a bug showed; an empty text if it did not."""

    search: str = ""
    walks: str = ""
    simulator: str = ""
    leases: str = ""
    """By the simulator's runs about leases alone."""
    special: str = ""
    """By runs in which a state machine goes wrong, or that are about bounds."""
    seen: list[str] = field(default_factory=list)
    """What was found wrong, in the words of whoever found it."""

    def __bool__(self) -> bool:
        return any((self.search, self.walks, self.simulator, self.leases, self.special))

    def cells(self) -> list[str]:
        found = (self.search, self.walks, self.simulator, self.leases, self.special)
        return [text or "-" for text in found]


def hunt(bug: PlantedBug, seeds: int, *, search: bool = True) -> Caught:
    """Plant a bug and look for it everywhere."""
    caught = Caught()
    logger.disable("paxon")  # a simulated run, when it ends, lets the servers speak again
    for special in SPECIAL:
        if special.bug is bug:
            found = special.hunt()
            if found:
                caught.special = str(found[0])
                caught.seen.append(found[1])
            return caught
    with bug.apply():
        if bug in BOUNDS:
            caught.special = _simulate(caught, 2 * seeds, about_bounds=True)
            return caught
        if bug in COORDINATION:
            caught.special = _simulate(caught, seeds, about_coordination=True)
            return caught
        if bug in RARITIES:
            caught.special = _simulate(caught, seeds, about_rarities=True)
            return caught
        if search:
            _search(caught, making=bug in MAKING)
        if bug not in MAKING:  # there the cluster is in force from the start
            _walk(caught, seeds)
        caught.simulator = _simulate(caught, seeds)
        caught.leases = _simulate(caught, 2 * seeds, about_leases=True)  # orders are rarer there
    return caught


def _search(caught: Caught, *, making: bool) -> None:
    for start in STARTS:
        if (start.name in MAKING_STARTS) != making:
            continue
        try:
            found = run_start(start, start.states)
        except Violation as violation:
            caught.search = f"{start.name}, in its story"
            caught.seen.append(str(violation))
            return
        if found.violation:
            events = f"{len(found.path)} events" if found.path else f"{found.states:,} states"
            caught.search = f"{start.name}, {events}"
            caught.seen.append(found.violation)
            return


def _walk(caught: Caught, seeds: int) -> None:
    for seed in range(seeds):
        broken = walk(3 + 2 * (seed % 2), seed, STEPS).broken
        if broken:
            caught.walks = str(seed + 1)
            caught.seen.append(broken)
            return


def _simulate(caught: Caught, seeds: int, **about: bool) -> str:
    for seed in range(1, seeds + 1):
        outcome = run(draw_plan(seed, STEPS, **about))
        if outcome.broken:
            caught.seen.append(outcome.text)
            return str(seed)
    return ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.search.planted_table", description=__doc__
    )
    parser.add_argument("--seeds", type=int, default=60, help="walks and simulated runs a bug")
    parser.add_argument("--bug", help="only bugs whose name contains this")
    parser.add_argument("--no-search", action="store_true", help="leave out what takes longest")
    parser.add_argument("--why", action="store_true", help="also say what was found wrong")
    chosen = parser.parse_args(arguments)
    print("| planted bug | state search | walks needed | simulator: seeds | about leases "
          "| wrong machines, bounds |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    escaped, hunted = 0, 0
    for bug in [
        *PLANTED,
        *MAKING,
        *BOUNDS,
        *COORDINATION,
        *RARITIES,
        *(special.bug for special in SPECIAL),
    ]:
        if chosen.bug and chosen.bug not in bug.name:
            continue
        caught = hunt(bug, chosen.seeds, search=not chosen.no_search)
        hunted += 1
        escaped += not caught
        cells = " | ".join(caught.cells())
        print(f"| **{bug.name}**: {bug.description} | {cells} |", flush=True)
        for text in caught.seen if chosen.why else ():
            print(f"    {text[:200]}")
    logger.enable("paxon")
    print(f"\n{hunted} bugs, {escaped} not caught", file=sys.stderr)
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
