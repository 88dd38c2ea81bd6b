"""No server outlives its parent, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.helpers import environment, pid_is_alive, wait_until

pytestmark = pytest.mark.process

PARENT = """
import sys, time
from paxon.kvstore.local_cluster import LocalCluster
cluster = LocalCluster(3, sys.argv[1]).start()
cluster.pause(2)
print(*(row.pid for row in cluster.status(0.2)), flush=True)
{then}
"""


def start_parent(directory: Path, then: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A process with a local cluster of three, of which server 2 is paused; and their pids."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(then=then), str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert parent.stdout is not None
    servers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(servers) == 3
    return parent, servers


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_parent_that_is_killed_takes_its_servers_along(
    number: signal.Signals, tmp_path: Path
) -> None:
    parent, servers = start_parent(tmp_path, "time.sleep(60)")
    os.kill(parent.pid, number)
    parent.communicate(timeout=30)
    wait_until(lambda: not any(pid_is_alive(pid) for pid in servers), "all servers are gone", 5)


@pytest.mark.parametrize(
    "then",
    ["pass", "raise SystemExit(3)", "import os; os._exit(4)", "del cluster; time.sleep(60)"],
)
def test_a_parent_that_forgets_to_stop_leaves_no_server(then: str, tmp_path: Path) -> None:
    parent, servers = start_parent(tmp_path, then)
    wait_until(lambda: not any(pid_is_alive(pid) for pid in servers), "all servers are gone")
    parent.kill()
    parent.communicate(timeout=30)
