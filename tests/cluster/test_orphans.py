"""No server outlives its parent, however that ends."""

from __future__ import annotations

import multiprocessing.spawn
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from paxon.kvstore.cluster import spawning
from tests.cluster.helpers import environment, pid_is_alive, wait_until

pytestmark = pytest.mark.process

PARENT = """
import sys, time
from paxon.kvstore.cluster.local_cluster import LocalCluster
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
    parent, servers = start_parent(tmp_path, "time.sleep(600)")
    os.kill(parent.pid, number)
    parent.communicate(timeout=30)
    wait_until(lambda: not any(pid_is_alive(pid) for pid in servers), "all servers are gone")


@pytest.mark.parametrize(
    "then",
    ["pass", "raise SystemExit(3)", "import os; os._exit(4)", "del cluster; time.sleep(600)"],
)
def test_a_parent_that_forgets_to_stop_leaves_no_server(then: str, tmp_path: Path) -> None:
    parent, servers = start_parent(tmp_path, then)
    wait_until(lambda: not any(pid_is_alive(pid) for pid in servers), "all servers are gone")
    parent.kill()
    parent.communicate(timeout=30)


CHILD = """
import os, time
from paxon.kvstore.cluster import spawning
from paxon.transport import orphans

def run():
    orphans.PR_SET_PDEATHSIG = 0  # no such request: the kernel does not help
    spawning.die_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(600)
"""

PARENT_OF_ONE = """
import multiprocessing, time
from child import run
from paxon.kvstore.cluster.spawning import start_process

process = multiprocessing.get_context("spawn").Process(target=run)
start_process(process)
time.sleep(600)
"""


def test_without_the_kernels_help_a_thread_watches_the_parent(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    (tmp_path / "parent.py").write_text(PARENT_OF_ONE)
    parent = subprocess.Popen(
        [sys.executable, "parent.py"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=tmp_path,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert pid_is_alive(child)
    parent.kill()
    parent.communicate(timeout=30)
    wait_until(lambda: not pid_is_alive(child), "the child is gone")


def test_only_the_servers_own_start_leaves_out_the_main_script(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever other threads spawn meanwhile still imports the main script."""
    # (A worker of pytest-xdist has none.)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)

    def main_is_told() -> bool:
        told = multiprocessing.spawn.get_preparation_data("child")
        return "init_main_from_name" in told or "init_main_from_path" in told

    assert main_is_told()
    with spawning._main_left_out(), ThreadPoolExecutor(1) as other_thread:
        assert not main_is_told()
        assert other_thread.submit(main_is_told).result()
    assert main_is_told()


MASKED_CHILD = """
import signal

def interrupts_blocked():
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())

AT_IMPORT = interrupts_blocked()

def run():
    print("child", AT_IMPORT, flush=True)
"""

PARENT_OF_MASKED = """
import multiprocessing
from child import interrupts_blocked, run
from paxon.kvstore.cluster.spawning import start_process

for _ in range(2):
    process = multiprocessing.get_context("spawn").Process(target=run)
    start_process(process)
    process.join()
print("parent", interrupts_blocked())
"""


def test_ctrl_c_cannot_strike_a_child_that_is_still_importing(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(MASKED_CHILD)
    (tmp_path / "parent.py").write_text(PARENT_OF_MASKED)
    parent = subprocess.run(
        [sys.executable, "parent.py"],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=tmp_path,
        timeout=30,
        check=False,
    )
    assert parent.stdout.splitlines() == ["child True", "child True", "parent False"]
