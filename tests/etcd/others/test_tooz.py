"""OpenStack's tooz coordinates through Paxon: its own tests, with its driver for etcd."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.etcd.tools import Gateway, fetched
from tests.soak import sized

CHOSEN, PASSES = sized(("(lock or leader) and not two_lock_process", 20), ("", 65))
"""Its groups sleep for seconds each: left to the long run. It skips by itself what its driver for
etcd does not have."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tooz(gateway: Gateway, tmp_path: Path) -> None:
    library = fetched("tooz", "tooz")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore",
         "-k", CHOSEN,
         "--rootdir", str(tmp_path), "-c", os.devnull,
         str(library / "tooz" / "tests" / "test_coordination.py")],
        env={
            "PATH": os.environ["PATH"], "PYTHONPATH": str(library),
            "TOOZ_TEST_URL": f"etcd3+http://{gateway.address}",
        },
        cwd=tmp_path, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) == PASSES, done.stdout[-4000:]
