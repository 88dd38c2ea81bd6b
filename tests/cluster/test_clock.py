"""The clock of real servers goes on while the machine is suspended."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import pytest

from paxon.kvstore.cluster.node import SystemClock
from tests.cluster.helpers import environment

SLEPT = 86_400
LOOK = (
    "import time; from paxon.kvstore.cluster.node import SystemClock; "
    "print(round(SystemClock().monotonic() - time.monotonic()))"
)


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="no CLOCK_BOOTTIME here")
def test_the_clock_is_that_of_the_boot() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    now = SystemClock.monotonic()
    assert before <= now <= time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.mark.process
def test_time_in_which_the_machine_was_suspended_counts() -> None:
    """A time namespace looks like a machine that was suspended for a day."""
    unshare = shutil.which("unshare")
    command = [str(unshare), "--time", "--boottime", str(SLEPT), "--fork"]
    if unshare is None or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("no time namespaces here (they need root, unshare and Linux 5.6)")
    here = subprocess.run(
        [sys.executable, "-c", LOOK], capture_output=True, text=True, env=environment(), check=True
    )
    there = subprocess.run(
        [*command, sys.executable, "-c", LOOK],
        capture_output=True, text=True, env=environment(), check=True,
    )  # fmt: skip
    assert int(there.stdout) - int(here.stdout) == pytest.approx(SLEPT, abs=1)
