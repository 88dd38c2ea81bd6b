"""`python -m tests.faults`: break real processes in all ways, and print what was survived."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loguru import logger

from tests.faults.changes import changes, kills
from tests.faults.coordination import claims, coordination
from tests.faults.disks import (
    deleted_files,
    disk_full,
    flipped_byte,
    no_small_disks,
    outgrown_disks,
    tight_disks,
    tight_disks_with_one_down,
)
from tests.faults.flooding.crowds import CROWDS, crowds
from tests.faults.flooding.shares import main as shares
from tests.faults.hosts import clocks, names, no_names, no_other_clocks
from tests.faults.kernel_scenarios import partitions_by_kernel, weather_by_kernel
from tests.faults.networks.namespaces import no_namespaces, no_netem
from tests.faults.networks.network import RelayedCluster
from tests.faults.pauses import pauses
from tests.faults.scenarios import SCENARIOS
from tests.faults.surroundings import streams, surroundings
from tests.faults.trial import Outcome

OTHERS = (
    "pauses", "crowds", "surroundings", "streams", "disk-full", "outgrown-disks", "tight-disks",
    "deleted-files", "flipped-byte", "by-kernel", "netem", "names", "clocks", "coordination",
    "claims", "members", "member-kills",
)  # fmt: skip
"""Those that make their own cluster; the others get one behind the relay."""

Run = Callable[[], list[Outcome]]


def runs(directory: Path, long: bool, seconds: float = 0.0) -> Iterator[tuple[str, str, Run]]:
    """Name, reason for skipping ("" for none), and work of each part."""

    def behind_relay(name: str) -> list[Outcome]:
        place = directory / name
        with RelayedCluster(3, place / "cluster") as cluster:
            return [SCENARIOS[name](cluster, place, long)]

    for name in SCENARIOS:
        yield name, "", lambda name=name: behind_relay(name)  # type: ignore[misc]  # lambda
    yield "pauses", "", lambda: [pauses(directory, long)]
    yield "crowds", "", lambda: [crowds(name, directory / "crowds", long) for name in CROWDS]
    yield "surroundings", "", lambda: [surroundings(directory, long)]
    yield "streams", "", lambda: [streams(directory, long)]
    yield "disk-full", no_small_disks(), lambda: [disk_full(directory, long)]
    yield "outgrown-disks", no_small_disks(), lambda: [outgrown_disks(directory, long)]
    yield (
        "tight-disks",
        no_small_disks(),
        lambda: [
            tight_disks(directory, long),
            tight_disks(directory, long, shared=True),
            tight_disks_with_one_down(directory, long),
        ],
    )
    yield "deleted-files", "", lambda: [deleted_files(directory, long)]
    yield "flipped-byte", "", lambda: [flipped_byte(directory, long)]
    yield "by-kernel", no_namespaces(), lambda: partitions_by_kernel(directory / "kernel", long)
    yield "netem", no_netem(), lambda: [weather_by_kernel(directory / "netem", long)]
    yield "names", no_names(), lambda: [names(directory, long)]
    yield "clocks", no_other_clocks(), lambda: clocks(directory, long)
    yield "coordination", "", lambda: [coordination(directory, seconds or (60 if long else 8))]
    yield "claims", "", lambda: [claims(directory, *((1000, 10) if long else (100, 3)))]
    yield "members", "", lambda: [changes(directory, seconds or (600 if long else 20))]
    yield "member-kills", "", lambda: [kills(directory, 100 if long else 3)]


@contextmanager
def kept_or_temporary(path: Path | None) -> Iterator[Path]:
    """The directory given, made if missing, or one that is removed afterwards."""
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="paxon-faults-") as temporary:
        yield Path(temporary)


HEAD = (
    f"{'scenario':<30}{'faults':>7}{'messages':>10}{'operations':>12}{'writes':>9}{'writes':>9}"
    f"{'writes':>8}{'longest':>9}{'run':>8}\n"
    f"{'':<30}{'':>7}{'lost':>10}{'checked':>12}{'acked':>9}{'unknown':>9}{'lost':>8}"
    f"{'wait, s':>9}{'s':>8}"
)


def line(name: str, outcome: Outcome) -> str:
    """A row of the table."""
    found = outcome.verified
    return (
        f"{name:<30}{outcome.faults:>7,}{outcome.messages_lost:>10,}{found.operations:>12,}"
        f"{found.acknowledged:>9,}{found.unknown:>9,}{found.lost:>8}{found.longest_wait:>9.2f}"
        f"{outcome.seconds:>8.1f}"
    )


def summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    """All rows in a sentence."""
    faults = sum(outcome.faults for outcome in outcomes)
    messages = sum(outcome.messages_lost for outcome in outcomes)
    checked = sum(outcome.verified.operations for outcome in outcomes)
    acknowledged = sum(outcome.verified.acknowledged for outcome in outcomes)
    lost = sum(outcome.verified.lost for outcome in outcomes)
    return (
        f"faults survived: {faults:,}; messages lost on the way: {messages:,}; operations checked: "
        f"{checked:,}, all linearizable; writes acknowledged: {acknowledged:,}, lost: {lost}; "
        f"{seconds:.0f} s"
    )


def run_all(
    names: Sequence[str], directory: Path, long: bool, seconds: float
) -> tuple[list[Outcome], list[str]]:
    """Run these (all if none are named), printing a row each; what was survived, what was not."""
    outcomes: list[Outcome] = []
    failed: list[str] = []
    for name, reason, run in runs(directory, long, seconds):
        if names and name not in names:
            continue
        if reason:
            print(f"{name:<30}skipped: {reason}")
            continue
        try:
            found = run()
        except Exception as error:  # whatever it is, the others are still worth running
            failed.append(name)
            print(f"{name:<30}FAILED: {type(error).__name__}: {error}", flush=True)
            continue
        for outcome in found:
            label = name if len(found) == 1 else f"{name} {outcome.name}"
            print(line(label, outcome), flush=True)
            if outcome.note:
                print(f"    {outcome.note}", flush=True)
        outcomes += found
    return outcomes, failed


def main() -> int:
    """Run what was asked for; the exit code is 1 if anything was not survived."""
    if sys.argv[1:2] == ["shares"]:
        logger.remove()
        return shares(sys.argv[2:])
    names = [*SCENARIOS, *OTHERS]
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        help=f"only these of {', '.join(names)}; `shares` has options of its own",
    )
    parser.add_argument("--long", action="store_true", help="many more faults of each kind")
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="how long coordination and members run"
    )
    parser.add_argument("--keep", type=Path, help="keep data, logs and histories in this directory")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in names:
            parser.error(f"no scenario {name!r}: there are {', '.join(names)}")
    logger.remove()  # that servers die is no news here; what they say is in their own logs
    began = time.monotonic()
    print(HEAD)
    with kept_or_temporary(arguments.keep) as directory:
        outcomes, failed = run_all(arguments.names, directory, arguments.long, arguments.seconds)
    print("\n" + summary(outcomes, time.monotonic() - began))
    if failed:
        print(f"not survived: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
