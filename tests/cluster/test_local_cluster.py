"""`LocalCluster`: starting, watching and ending server processes."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest

from paxon.actors import StateMachine
from paxon.kvstore.client.addresses import free_ports
from paxon.kvstore.cluster import local_cluster
from paxon.kvstore.cluster.local_cluster import ClusterError, LocalCluster
from paxon.kvstore.cluster.supervisor import Supervisor
from tests.cluster.helpers import captured_logs, environment, pid_is_alive, wait_until
from tests.interrupts import interrupt_in

pytestmark = pytest.mark.process


def pids(cluster: LocalCluster) -> list[int]:
    return [row.pid for row in cluster.status() if row.pid is not None]


def states(cluster: LocalCluster) -> list[str | None]:
    return [row.state for row in cluster.status(0.2)]


def leaders(cluster: LocalCluster) -> list[int]:
    replies = [row.reply for row in cluster.status() if row.reply is not None]
    return [reply.server for reply in replies if reply.role == "leader"]


def test_each_server_is_a_process_and_a_leader_is_elected(tmp_path: Path) -> None:
    with LocalCluster(3, tmp_path / "deep" / "data") as cluster:
        running = pids(cluster)
        assert len(set(running)) == 3 and os.getpid() not in running
        rows = cluster.status()
        assert [row.server for row in rows] == cluster.servers == [1, 2, 3]
        assert [row.address for row in rows] == cluster.addresses
        wait_until(lambda: all(row.reply is not None for row in cluster.status()), "all answer")
        # A second candidate may take over from the first while processes are still starting.
        wait_until(lambda: leaders(cluster) == [cluster.leader()], "one server leads, and says so")
        assert all("serves clients" in cluster.log_path(s).read_text() for s in (1, 2, 3))
    assert not any(pid_is_alive(pid) for pid in running)
    assert (tmp_path / "deep" / "data" / "server-1").is_dir()


def test_a_temporary_directory_is_removed_at_the_end() -> None:
    with LocalCluster(1) as cluster:
        directory = cluster.directory
        assert directory.is_dir()
    assert not directory.exists()
    with pytest.raises(ClusterError, match="not started"):
        cluster.leader()


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_two_clusters_run_side_by_side(transport: str) -> None:
    kind: Literal["tcp", "ipc"] = "ipc" if transport == "ipc" else "tcp"
    with LocalCluster(2, transport=kind) as one, LocalCluster(2, transport=kind) as other:
        one.leader()
        other.leader()
        assert not {*one.addresses, *one.peer_addresses} & {*other.addresses, *other.peer_addresses}
        names = {row.reply.cluster for c in (one, other) for row in c.status(60.0) if row.reply}
        assert len(names) == 2
        assert all(address.startswith(f"{transport}://") for address in one.peer_addresses)


def test_kill_restart_pause_resume_and_stop_of_one_server() -> None:
    with LocalCluster(3) as cluster:
        first = cluster.leader()
        cluster.kill(first)
        assert states(cluster)[first - 1] == "killed"
        second = cluster.leader()
        assert second != first
        cluster.restart(first)
        assert states(cluster) == ["running"] * 3
        cluster.pause(second)
        assert states(cluster)[second - 1] == "paused"
        assert cluster.leader() != second
        cluster.resume(second)
        assert states(cluster)[second - 1] == "running"
        cluster.stop_server(second)
        assert states(cluster)[second - 1] == "stopped"
        with pytest.raises(ClusterError, match=f"server {second} got no SIGSTOP"):
            cluster.pause(second)
        cluster.restart(second)
        cluster.pause(first)  # a paused server can be stopped, too
    with pytest.raises(ClusterError, match="not started"):
        cluster.kill(1)


def thread_states(pid: int) -> set[str]:
    tasks = Path(f"/proc/{pid}/task").glob("*/stat")
    return {task.read_text().rpartition(")")[2].split()[0] for task in tasks}


def test_a_paused_server_stops_in_order(tmp_path: Path) -> None:
    """The kernel may hand SIGTERM to any thread of a process that was stopped."""
    with LocalCluster(1, tmp_path) as cluster:
        for _ in range(5):
            cluster.pause(1)
            # None of its threads answers anybody now: the kernel is done some time after `kill(2)`.
            assert thread_states(pids(cluster)[0]) == {"T"}
            cluster.stop_server(1)
            assert states(cluster) == ["stopped"]
            assert cluster.log_path(1).read_text().rstrip().endswith("stopped as asked")
            cluster.restart(1)


def test_a_server_that_dies_by_itself_is_noticed() -> None:
    with LocalCluster(3) as cluster:
        victim = pids(cluster)[1]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: states(cluster)[1] == "failed", "the death is noticed")
        assert "SIGKILL" in cluster.status()[1].reason
        cluster.restart(2)
        assert states(cluster) == ["running"] * 3


def test_a_directory_keeps_its_cluster(tmp_path: Path) -> None:
    def identity(cluster: LocalCluster) -> tuple[str, str]:
        cluster.leader()
        reply = cluster.status(60.0)[0].reply
        assert reply is not None
        return reply.cluster, str(reply.ballot)

    with LocalCluster(3, tmp_path) as cluster:
        name, ballot = identity(cluster)
        cluster.stop()
        with cluster:
            assert identity(cluster)[0] == name
    file = tmp_path / "cluster.toml"
    file.write_text(file.read_text().replace(name, "another"))  # (the directories say it)
    with LocalCluster(3, tmp_path) as again:
        assert identity(again) > (name, ballot)
    with captured_logs() as lines, LocalCluster(5, tmp_path) as other:
        assert other.servers == [1, 2, 3]  # members come from the directories alone
        assert identity(other)[0] == name
    assert any("servers = 5, but the cluster in" in line for line in lines)
    file.unlink()  # as after restoring a backup
    # Asked for fewer, it starts all members too: two of three would go on, but one alone never.
    with LocalCluster(1, tmp_path) as other:
        assert other.servers == [1, 2, 3]
        assert identity(other)[0] == name


def test_what_cannot_be_is_refused_before_anything_starts(tmp_path: Path) -> None:
    for servers in (0, 64, True, "3"):
        with pytest.raises(ClusterError, match="must be a number of servers, from 1 to 63"):
            LocalCluster(servers)  # type: ignore[arg-type]
    with pytest.raises(ClusterError, match="keys = 3: must be True or False"):
        LocalCluster(keys=3)  # type: ignore[arg-type]
    with pytest.raises(ClusterError, match=r"unknown option 'windw' \(did you mean 'window'\?\)"):
        LocalCluster(windw=1)
    with pytest.raises(ClusterError, match="must be 'tcp' or 'ipc'"):
        LocalCluster(transport="pigeon")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ClusterError, match="log level"):
        LocalCluster(log_level="loud")
    with pytest.raises(ClusterError, match="window must be above 0"):
        LocalCluster(window=0)
    with pytest.raises(ClusterError, match="ports run from 1 to 65535"):
        LocalCluster(3, port=65_530)
    with pytest.raises(ClusterError, match=r"subclass of paxon\.StateMachine"):
        LocalCluster(machine=int)  # type: ignore[arg-type]  # the mistake under test
    (tmp_path / "file").write_text("")
    with pytest.raises(ClusterError, match="cannot be used: a file is where"):
        LocalCluster(3, tmp_path / "file" / "data").start()


def test_a_class_that_servers_cannot_import_is_refused() -> None:
    class Local(StateMachine):
        def apply(self, command: bytes) -> bytes:
            return command

        def snapshot(self) -> bytes:
            return b""

        def restore(self, snapshot: bytes) -> None:
            pass

    with pytest.raises(ClusterError, match="inside a function"):
        LocalCluster(machine=Local)


def test_a_script_that_servers_cannot_import_is_told_so(tmp_path: Path) -> None:
    """It was pointed at files that were gone, with the directory made for them."""
    script = tmp_path / "script.py"
    script.write_text(
        "from paxon import LocalCluster, Replicated\n"
        "class Own(Replicated):\n    def __init__(self) -> None:\n        self.n: int = 0\n"
        'if __name__ != "__main__":\n    raise SystemExit(1)\n'
        "LocalCluster(1, machine=Own).start()\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], env=environment(), capture_output=True, check=False
    )
    last = done.stderr.decode().splitlines()[-1]
    assert done.returncode == 1 and last.endswith('under `if __name__ == "__main__":`')
    assert "while it imported the main script" in last


def test_a_class_in_the_main_module_of_a_package_is_found_and_one_in_an_archive_refused(
    tmp_path: Path,
) -> None:
    """`multiprocessing` imports neither: the servers said that the module has no such class."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__main__.py").write_text(
        "from paxon import LocalCluster, ReplicatedCounter\n"
        "class Own(ReplicatedCounter[str]): pass\n"
        'if __name__ == "__main__":\n'
        "    with LocalCluster(1, machine=Own) as cluster, cluster.proxy(Own) as own:\n"
        "        print(own.increment('a'))\n"
    )
    done = run_python("-m", "package", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr
    done = run_python("package", cwd=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.endswith("put it into a module beside it")


class Dies(StateMachine):
    """Ends the server that is to run it, without a word."""

    def __init__(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def apply(self, command: bytes) -> bytes:
        return command

    def snapshot(self) -> bytes:
        return b""

    def restore(self, image: bytes) -> None: ...


def test_logs_are_pointed_at_only_where_they_are_kept(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="killed by SIGKILL; its logs went with") as raised:
        LocalCluster(1, machine=Dies).start()
    assert "directory" in str(raised.value) and "server-1" not in str(raised.value)
    with pytest.raises(ClusterError, match="killed by SIGKILL; see its logs, ") as raised:
        LocalCluster(1, tmp_path, machine=Dies).start()
    assert str(tmp_path / "server-1.out") in str(raised.value)


def test_a_port_in_use_is_one_clear_error_and_leaves_nothing_running() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        before = set(children())
        with pytest.raises(ClusterError, match=r"server 1 did not start: .*in use") as raised:
            LocalCluster(1, port=port - 10).start()
        assert f":{port}" in str(raised.value)
        assert "\n" not in str(raised.value)
    assert set(children()) == before


def test_a_port_that_somebody_takes_meanwhile_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        draws = [[taken.getsockname()[1], *free_ports(1)], free_ports(2)]
        monkeypatch.setattr(local_cluster, "free_ports", lambda _count: draws.pop(0))
        with LocalCluster(1) as cluster:
            assert cluster.leader() == 1
            draws += [[taken.getsockname()[1], *free_ports(1)], free_ports(2)]
            drawn = draws[-1]
            assert cluster.add_server(learner=True) == 2  # as much as at the start
            assert cluster.addresses[1].endswith(f":{drawn[1]}")
    assert draws == []


def test_a_stopped_server_finds_its_ports_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is given them meanwhile: neither who draws one nor who dials somewhere."""
    with LocalCluster(1) as cluster:
        cluster.stop_server(1)
        client = int(cluster.addresses[0].rpartition(":")[2])
        draws = iter([client, *range(20_000, 20_200)])
        monkeypatch.setattr(random.SystemRandom, "randint", lambda *_: next(draws))
        assert client not in free_ports(1)
        with socket.socket() as dialling, pytest.raises(OSError, match="in use"):
            dialling.bind(("127.0.0.1", client))
        cluster.restart(1)
        assert cluster.leader() == 1


def test_a_directory_in_use_keeps_its_cluster_file(tmp_path: Path) -> None:
    with LocalCluster(1, tmp_path, durability="memory") as cluster:
        before = (tmp_path / "cluster.toml").read_text()
        with pytest.raises(ClusterError, match="in use by a live process"):
            LocalCluster(1, tmp_path).start()
        assert (tmp_path / "cluster.toml").read_text() == before
        assert cluster.leader() == 1


def children() -> list[int]:
    """The pids of this process's children, leaving out multiprocessing's resource tracker."""
    listed = subprocess.run(
        ["ps", "-ww", "--ppid", str(os.getpid()), "-o", "pid=,args="],
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "spawn_main" in line]


def test_servers_outlive_the_thread_that_started_the_cluster() -> None:
    """PR_SET_PDEATHSIG looks at threads: a short-lived one must not take the servers with it."""
    cluster = LocalCluster(1)
    starter = threading.Thread(target=cluster.start)
    starter.start()
    starter.join()
    try:
        assert cluster.leader() == 1
        assert states(cluster) == ["running"]
    finally:
        cluster.stop()


SCRIPT = """
from paxon.kvstore.cluster.local_cluster import LocalCluster
print("script runs", flush=True)
with LocalCluster(1) as cluster:
    print("leader", cluster.leader(), flush=True)
"""


def run_python(*arguments: str, stdin: str = "", cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env=environment(),
        check=False,
    )


@pytest.mark.parametrize("way", ["script", "stdin", "command", "interactive", "module"])
def test_a_script_needs_no_main_guard(way: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    if way == "script":
        done = run_python("script.py", cwd=tmp_path)
    elif way == "module":
        done = run_python("-m", "script", cwd=tmp_path)
    elif way == "command":
        done = run_python("-c", SCRIPT, cwd=tmp_path)
    elif way == "interactive":
        done = run_python("-i", "-q", stdin=SCRIPT + "\nexit()\n", cwd=tmp_path)
    else:
        done = run_python("-", stdin=SCRIPT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("script runs") == 1
    assert "leader" in done.stdout
    assert "Traceback" not in done.stderr


MACHINE = """
from paxon.actors import StateMachine
from paxon.kvstore.cluster import local_cluster
from paxon.kvstore.client.addresses import free_ports

class Counter(StateMachine):
    total = 0
    def apply(self, command: bytes) -> bytes:
        self.total += int(command)
        return str(self.total).encode()
    def snapshot(self) -> bytes:
        return str(self.total).encode()
    def restore(self, snapshot: bytes) -> None:
        self.total = int(snapshot)
    def digest(self) -> str:
        return f"counter {self.total}"
"""

USE = """
def main():
    with LocalCluster(1, machine=Counter) as cluster:
        cluster.leader()
        print(cluster.status(60.0)[0].reply.state_digest.split("-")[0])
"""


def test_a_state_machine_from_a_module_beside_the_script(tmp_path: Path) -> None:
    (tmp_path / "counting.py").write_text(MACHINE)
    (tmp_path / "script.py").write_text(
        "from counting import Counter\n"
        "from paxon.kvstore.cluster.local_cluster import LocalCluster\n" + USE + "main()\n"
    )
    done = run_python("script.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "counter 0" in done.stdout


def test_a_state_machine_from_the_script_itself_needs_the_guard(tmp_path: Path) -> None:
    head = MACHINE + "from paxon.kvstore.cluster.local_cluster import LocalCluster\n" + USE
    (tmp_path / "guarded.py").write_text(head + 'if __name__ == "__main__":\n    main()\n')
    done = run_python("guarded.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "counter 0" in done.stdout

    (tmp_path / "package").mkdir()
    for name in ("bare.py", "package/__main__.py"):
        (tmp_path / name).write_text(head + "main()\n")
    for words in (["bare.py"], ["-m", "package"], ["-c", "import bare"]):
        done = run_python(*words, cwd=tmp_path)
        assert done.returncode != 0
        # It is said once, by the script's own exception; nothing by its servers.
        assert done.stderr.count("Traceback") == 1
        assert 'if __name__ == "__main__":' in done.stderr.splitlines()[-1], words

    done = run_python("-c", head + "main()\n", cwd=tmp_path)
    assert "put it into a module" in done.stderr

    # A module may describe one, for whoever starts it.
    (tmp_path / "described.py").write_text(head + "cluster = LocalCluster(1, machine=Counter)\n")
    done = run_python("-c", "import described\nwith described.cluster:\n    print(1)", cwd=tmp_path)
    assert done.stdout == "1\n", done.stderr


def test_ctrl_c_reaches_the_script_and_not_the_servers(tmp_path: Path) -> None:
    """A terminal sends SIGINT to the whole group; the servers leave it to their supervisor."""
    script = textwrap.dedent(
        """
        import time
        from paxon.kvstore.cluster.local_cluster import LocalCluster
        with LocalCluster(2) as cluster:
            cluster.leader()
            try:
                # Inside: the signal may come before print has returned.
                print("ready", flush=True)
                time.sleep(60)
            except KeyboardInterrupt:
                print([row.state for row in cluster.status()], flush=True)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(),
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert output == "['running', 'running']\n"
    assert errors == ""
    assert process.returncode == 0


@pytest.mark.parametrize(
    "struck",
    [
        LocalCluster._write_cluster_file,
        Supervisor.__init__,
        threading.Thread.start,
        LocalCluster._start_servers,
        Supervisor.start,
        Future.exception,
    ],
    ids=lambda struck: struck.__qualname__,
)
def test_ctrl_c_while_a_cluster_starts_leaves_nothing(
    struck: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt) as interrupt, interrupt_in(struck):
        LocalCluster(3).start()
    assert not multiprocessing.active_children()
    assert not list(tmp_path.iterdir())
    assert interrupt  # holds the cluster, which the collector would stop


def test_ctrl_c_while_a_cluster_stops_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever presses it twice has waited long enough, and still leaves nothing behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cluster = LocalCluster(3).start()
    running = pids(cluster)
    assert len(running) == 3 and list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), interrupt_in(Future.exception):
        cluster.stop()
    assert not any(pid_is_alive(pid) for pid in running)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_a_temporary_directory_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cluster = LocalCluster(1).start()
    with pytest.raises(KeyboardInterrupt), interrupt_in(shutil.rmtree):
        cluster.stop()
    assert not list(tmp_path.iterdir())


def test_two_threads_stop_a_cluster_at_once() -> None:
    cluster = LocalCluster(1).start()
    directory = cluster.directory
    with ThreadPoolExecutor(4) as threads:
        for stopped in [threads.submit(cluster.stop) for _ in range(4)]:
            stopped.result()
    assert not directory.exists()


def test_a_supervisor_can_be_closed_by_many_at_once() -> None:
    with ThreadPoolExecutor(4) as threads:
        for _ in range(100):
            supervisor = Supervisor([1])
            for closed in [threads.submit(supervisor.close) for _ in range(4)]:
                closed.result()
            assert not supervisor._thread.is_alive()


def test_what_a_supervisor_is_asked_as_it_ends_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    supervisor = Supervisor([1])
    asked: list[Future[None]] = []

    def ask_and_end(_child: object) -> None:
        """When it has taken its jobs, and before it looks again."""
        asked.append(supervisor.send(1, signal.SIGTERM))
        supervisor._closing = True

    monkeypatch.setattr(supervisor, "_look_after", ask_and_end)
    supervisor._wake()
    supervisor._thread.join(60.0)
    assert not supervisor._thread.is_alive()
    asked.append(supervisor.send(1, signal.SIGTERM))
    for future in asked:
        assert "stopped for good" in str(future.exception(60.0))
    assert len(asked) == 2


def test_a_cluster_that_is_collected_by_its_own_supervisor_does_not_wait_for_itself() -> None:
    """The collector runs in whatever thread happens to need memory."""
    cluster = LocalCluster(1).start()
    supervisor, directory, running = cluster._supervisor, cluster.directory, pids(cluster)
    assert supervisor is not None
    collected: Future[None] = Future()

    def end() -> None:
        local_cluster._end(supervisor, [directory], [], [])
        collected.set_result(None)

    supervisor._submit(end, collected)
    collected.result(60.0)
    wait_until(lambda: not any(pid_is_alive(pid) for pid in running), "the server is gone")
    supervisor._thread.join(60.0)
    assert not supervisor._thread.is_alive()
    cluster.stop()


def test_a_forked_copy_of_a_cluster_stops_nothing() -> None:
    with LocalCluster(1) as cluster:
        child = os.fork()
        if child == 0:
            cluster.stop()
            os._exit(0)
        assert os.waitpid(child, 0) == (child, 0)
        assert cluster.directory.is_dir()
        assert states(cluster) == ["running"]
