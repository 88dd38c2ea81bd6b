"""`python -m tests.powercuts`: cut the power of storages, and see what planted bugs it takes.

python -m tests.powercuts --seeds 20 --disks 200       the storage as it is
python -m tests.powercuts --planted                    which planted bug is found, and how soon
python -m tests.powercuts --cluster 3                  three real servers under load, three times
"""

from __future__ import annotations

import argparse
import sys
from time import perf_counter

from loguru import logger

from tests.powercuts.hunt import hunt, room
from tests.powercuts.hunt_cluster import hunt_cluster
from tests.powercuts.planted import PLANTED
from tests.powercuts.recorder import why_not


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.powercuts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--disks", type=int, default=100, help="disks to rebuild for each seed")
    parser.add_argument("--planted", action="store_true", help="hunt the planted bugs instead")
    parser.add_argument("--cluster", type=int, default=0, help="record so many clusters instead")
    chosen = parser.parse_args(arguments)
    logger.remove()
    if why_not():
        print(why_not(), file=sys.stderr)
        return 1
    if chosen.planted:
        return _planted(chosen)
    begun, disks, failed = perf_counter(), 0, 0
    for seed in range(chosen.seed, chosen.seed + (chosen.cluster or chosen.seeds)):
        if chosen.cluster:
            with room() as place:
                found = hunt_cluster(place, seed, writes=40, cuts=chosen.disks, restarts=2)
        else:
            found = hunt(seed, chosen.disks)
        disks += found.disks
        if found.broken:
            failed += 1
            print(found.broken)
    print(f"{disks:,} disks rebuilt in {perf_counter() - begun:.0f} s, broken promises: {failed}")
    return 1 if failed else 0


def _planted(chosen: argparse.Namespace) -> int:
    escaped = 0
    print("| planted bug | seeds needed | disks needed |")
    print("|---|---|---|")
    for bug in PLANTED:
        seeds = disks = 0
        for seed in range(chosen.seed, chosen.seed + chosen.seeds):
            found = hunt(seed, chosen.disks, bug.name)
            seeds, disks = seeds + 1, disks + found.disks
            if found.broken:
                break
        else:
            escaped += 1
            seeds = disks = 0
        needed = f"{seeds or '-'} | {disks or '-'}"
        print(f"| **{bug.name}**: {bug.description} | {needed} |", flush=True)
    print(f"\n{len(PLANTED)} bugs, {escaped} not caught", file=sys.stderr)
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
