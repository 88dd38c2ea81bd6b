"""`python -m tests.faults`: break real processes in all ways, and print what was survived."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from loguru import logger

from tests.faults.disks import disk_full, flipped_byte, no_small_disks
from tests.faults.kernel_scenarios import partitions_by_kernel, weather_by_kernel
from tests.faults.namespaces import no_namespaces, no_netem
from tests.faults.network import RelayedCluster
from tests.faults.scenarios import SCENARIOS
from tests.faults.trial import Outcome

Run = Callable[[], list[Outcome]]


def runs(directory: Path, long: bool) -> Iterator[tuple[str, str, Run]]:
    """Name, reason for skipping ("" for none), and work of each part."""

    def behind_relay(name: str) -> list[Outcome]:
        place = directory / name
        with RelayedCluster(3, place / "cluster") as cluster:
            return [SCENARIOS[name](cluster, place, long)]

    for name in SCENARIOS:
        yield name, "", lambda name=name: behind_relay(name)  # type: ignore[misc]  # lambda
    yield "disk-full", no_small_disks(), lambda: [disk_full(directory, long)]
    yield "flipped-byte", "", lambda: [flipped_byte(directory, long)]
    yield "by-kernel", no_namespaces(), lambda: partitions_by_kernel(directory / "kernel", long)
    yield "netem", no_netem(), lambda: [weather_by_kernel(directory / "netem", long)]


@contextmanager
def kept_or_temporary(path: Path | None) -> Iterator[Path]:
    """The directory given, made if missing, or one that is removed afterwards."""
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="paxon-faults-") as temporary:
        yield Path(temporary)


HEAD = f"{'scenario':<32}{'faults':>8}{'operations':>12}{'acked':>8}{'unknown':>9}{'lost':>6}"
HEAD += f"{'longest wait':>14}{'seconds':>9}"


def line(name: str, outcome: Outcome) -> str:
    """A row of the table."""
    found = outcome.verified
    return (
        f"{name:<32}{outcome.faults:>8,}{found.operations:>12,}{found.acknowledged:>8,}"
        f"{found.unknown:>9,}{found.lost:>6}{found.longest_wait:>12.2f} s{outcome.seconds:>9.1f}"
    )


def main() -> int:
    """Run what was asked for; the exit code is 1 if anything was not survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these scenarios (see the table's names)")
    parser.add_argument("--long", action="store_true", help="many more faults of each kind")
    parser.add_argument("--keep", type=Path, help="keep data, logs and histories in this directory")
    arguments = parser.parse_args()
    logger.remove()  # that servers die is no news here; what they say is in their own logs
    began = time.monotonic()
    outcomes: list[Outcome] = []
    failed: list[str] = []
    print(HEAD)
    with kept_or_temporary(arguments.keep) as directory:
        known = list(runs(directory, arguments.long))
        strange = set(arguments.names) - {name for name, _, _ in known}
        if strange:
            parser.error(f"no scenario {sorted(strange)[0]!r}: {', '.join(n for n, _, _ in known)}")
        for name, reason, run in known:
            if arguments.names and name not in arguments.names:
                continue
            if reason:
                print(f"{name:<32}skipped: {reason}")
                continue
            try:
                found = run()
            except AssertionError as error:
                failed.append(name)
                print(f"{name:<32}FAILED: {error}")
                continue
            for outcome in found:
                label = name if len(found) == 1 else f"{name} {outcome.name}"
                print(line(label, outcome), flush=True)
            outcomes += found
    total = sum(outcome.faults for outcome in outcomes)
    checked = sum(outcome.verified.operations for outcome in outcomes)
    acknowledged = sum(outcome.verified.acknowledged for outcome in outcomes)
    lost = sum(outcome.verified.lost for outcome in outcomes)
    print(
        f"\nfaults survived: {total:,}; operations checked: {checked:,}, all linearizable; "
        f"writes acknowledged: {acknowledged:,}, lost: {lost}; {time.monotonic() - began:.0f} s"
    )
    if failed:
        print(f"not survived: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
