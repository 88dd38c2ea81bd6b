"""What the program and the system around it do to servers: they serve on, and stop when asked."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paxon.kvstore import Client
from paxon.kvstore.cluster.cluster_file import ClusterDescription
from tests.cluster.helpers import PAXON, environment, wait_until, write_cluster_file
from tests.soak import sized

pytestmark = pytest.mark.process


# --- where stderr leads --------------------------------------------------------------------------


def _closed() -> Iterator[int]:
    yield -1


def _reader_gone() -> Iterator[int]:
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


def _full() -> Iterator[int]:
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"x")
    os.set_blocking(write, True)
    yield write
    os.close(write)
    os.close(read)


STDERR = {"closed": _closed, "reader gone": _reader_gone, "full": _full}


@contextlib.contextmanager
def started(
    arguments: list[str], stderr: int, closed: tuple[int, ...] = (), **options: object
) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose stderr is this descriptor (-1: closed), and others are closed too."""

    def close() -> None:
        for number in (*closed, *((2,) if stderr < 0 else ())):
            os.close(number)

    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if stderr < 0 else stderr,
        env=environment(),
        preexec_fn=close,  # noqa: PLW1509 (nothing else runs here)
        **options,  # type: ignore[call-overload]
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def answers(address: str) -> bool:
    with Client(address, timeout=0.5) as client:
        try:
            client.put("key", "value")
        except TimeoutError:
            return False
        return client.get("key") == b"value"


@pytest.mark.parametrize("stderr", STDERR.values(), ids=STDERR.keys())
def test_a_server_serves_and_stops_wherever_stderr_leads(
    stderr: Callable[[], Iterator[int]], tmp_path: Path
) -> None:
    file = write_cluster_file(tmp_path / "one.toml", [1])
    address = ClusterDescription.read(file).client_addresses[1]
    command = [*PAXON, "server", "--cluster", str(file), "--id", "1", "--durability", "memory"]
    with (
        contextlib.contextmanager(stderr)() as descriptor,
        started(command, descriptor) as server,
    ):
        wait_until(lambda: answers(address), "the server serves", 30)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_a_server_starts_with_all_streams_closed(tmp_path: Path) -> None:
    file = write_cluster_file(tmp_path / "one.toml", [1])
    address = ClusterDescription.read(file).client_addresses[1]
    command = [*PAXON, "server", "--cluster", str(file), "--id", "1"]
    with started(command, -1, closed=(0, 1)) as server:
        wait_until(lambda: answers(address), "the server serves", 30)
        open_files = Path(f"/proc/{server.pid}/fd")
        for number in ("0", "1", "2"):  # and not a database's, say
            assert (open_files / number).readlink() == Path(os.devnull)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_a_server_that_cannot_start_says_so_by_its_exit_code(tmp_path: Path) -> None:
    file = write_cluster_file(tmp_path / "one.toml", [1])
    (tmp_path / "server-1").write_text("a file in its place")
    command = [*PAXON, "server", "--cluster", str(file), "--id", "1"]
    for stderr in STDERR.values():
        with (
            contextlib.contextmanager(stderr)() as descriptor,
            started(command, descriptor) as server,
        ):
            assert server.wait(30) == 1


@pytest.mark.parametrize("stderr", STDERR.values(), ids=STDERR.keys())
def test_up_serves_and_stops_wherever_its_output_leads(
    stderr: Callable[[], Iterator[int]], tmp_path: Path
) -> None:
    """`paxon up` talks on stdout: that leads there too."""
    file = write_cluster_file(tmp_path / "ports.toml", [1])
    address = ClusterDescription.read(file).client_addresses[1]
    port = int(address.rpartition(":")[2]) - 11
    command = [*PAXON, "up", "--servers", "1", "--dir", str(tmp_path / "up"), "--port", str(port)]
    with contextlib.contextmanager(stderr)() as descriptor:

        def lead() -> None:
            if descriptor < 0:
                os.close(1)
                os.close(2)
            else:
                os.dup2(descriptor, 1)
                os.dup2(descriptor, 2)

        process = subprocess.Popen(command, env=environment(), preexec_fn=lead)  # noqa: PLW1509
        try:
            wait_until(lambda: answers(address), "the server serves", 30)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()


# --- what the program that has a LocalCluster does -----------------------------------------------


def ran(code: str, directory: Path, **options: object) -> str:
    """What a program prints that ends in order."""
    program = directory / "program.py"
    program.write_text(textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, str(program), str(directory)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=100,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done
    assert "Traceback" not in done.stderr, done.stderr
    return str(done.stdout)


KILL_RESTART_AND_STOP = """
    leader = cluster.leader()
    cluster.kill(leader)
    states = {row.server: row.state for row in cluster.status()}
    assert states[leader] == "killed", states
    assert sorted(states.values()) == ["killed", "running", "running"], states
    cluster.restart(leader)
    other = leader % 3 + 1
    os.kill(cluster.status()[other - 1].pid, signal.SIGKILL)
    while cluster.status(0.2)[other - 1].state != "failed":
        time.sleep(0.01)
    cluster.restart(other)
    with cluster.client() as client:
        client.put("key", "value")
    cluster.stop()
    print("served and stopped")
"""


@pytest.mark.parametrize(
    "beforehand",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "threading.Thread(target=reap, daemon=True).start()",
    ],
    ids=["SIGCHLD ignored", "foreign waitpid(-1)"],
)
def test_whoever_reaps_the_servers(beforehand: str, tmp_path: Path) -> None:
    code = f"""
    import os, signal, threading, time
    from paxon.kvstore import LocalCluster

    def reap():
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                time.sleep(0.001)

    {beforehand}
    cluster = LocalCluster(3).start()
    {KILL_RESTART_AND_STOP}
    """
    assert ran(code, tmp_path) == "served and stopped\n"


def test_a_forked_child_that_exits_leaves_the_servers_alone(tmp_path: Path) -> None:
    code = """
    import multiprocessing, os, sys
    from paxon.kvstore import ClusterError, LocalCluster

    cluster = LocalCluster(1).start()
    pids = [row.pid for row in cluster.status()]
    child = os.fork()
    if child == 0:
        try:
            cluster.kill(1)
        except ClusterError as error:
            assert "fork" in str(error)
            sys.exit(0)  # with all that Python does at its end
        sys.exit(1)
    assert os.waitpid(child, 0)[1] == 0
    with cluster.client() as client:
        client.put("key", "value")
    assert [(row.pid, row.state) for row in cluster.status()] == [(p, "running") for p in pids]
    cluster.stop()
    print("untouched")
    """
    assert ran(code, tmp_path) == "untouched\n"


def test_a_local_cluster_starts_with_all_streams_closed(tmp_path: Path) -> None:
    code = """
    import os, sys
    for number in (0, 1, 2):
        os.close(number)
    from pathlib import Path
    from paxon.kvstore import LocalCluster

    with LocalCluster(1) as cluster, cluster.client() as client:
        client.put("key", "value")
        Path(sys.argv[1], "done").write_text("yes")
    """
    ran(code, tmp_path)
    assert (tmp_path / "done").read_text() == "yes"


# --- a program with servers inside itself --------------------------------------------------------

EMBEDDED = """
import os, signal, sys, threading, time
import loguru
from paxon.actors import Settings
from paxon.kvstore import Client, KVStore, PaxonError, start_server
from paxon.kvstore.client.addresses import free_ports, hold_ports

loguru.logger.remove()
PORTS = free_ports(6)
held = hold_ports(PORTS)

def start(directory, number=1, of=1, ports=PORTS, **more):
    ids = tuple(range(1, of + 1))
    peers = {n: f"tcp://127.0.0.1:{ports[n - 1]}" for n in ids}
    clients = {n: f"tcp://127.0.0.1:{ports[n + 2]}" for n in ids}
    settings = Settings(
        cluster="here", server=number, servers=ids, client_addresses=clients, **more
    )
    place = os.path.join(directory, f"server-{number}")
    bind = clients[number]
    return start_server(settings, KVStore(), peers=peers, client_bind=bind, directory=place), bind

"""


def embedding(code: str) -> str:
    return EMBEDDED + textwrap.dedent(code)


def test_a_program_ends_with_its_main_thread_and_stops_its_server(tmp_path: Path) -> None:
    """Daemon threads that use a client meanwhile end with it, and complain of nothing."""
    code = """
    server, address = start(sys.argv[1])
    client = Client(address)

    def work():
        while True:
            client.put("other", "value")

    if os.path.exists(sys.argv[1] + "/second"):
        print(client.get("key").decode())
    else:
        client.put("key", "value")
        open(sys.argv[1] + "/second", "w").close()
        for _ in range(8):
            threading.Thread(target=work, daemon=True).start()
        time.sleep(0.1)
    """
    assert ran(embedding(code), tmp_path) == ""
    # Stopped in order: SQLite has tidied up after itself.
    assert [path.name for path in (tmp_path / "server-1").iterdir() if "-wal" in path.name] == []
    assert ran(embedding(code), tmp_path) == "value\n"


def test_a_server_in_a_with_statement(tmp_path: Path) -> None:
    code = """
    server, address = start(sys.argv[1])
    with server, Client(address) as client:
        client.put("key", "value")
        assert server.is_alive()
    assert not server.is_alive()
    """
    ran(embedding(code), tmp_path)


def test_a_fork_of_a_program_with_a_server(tmp_path: Path) -> None:
    """It ends as Python ends, with finalizers and all, and the server notices nothing."""
    code = """
    server, address = start(sys.argv[1])
    with Client(address) as client:
        client.put("key", "value")
        for turn in range(3):
            child = os.fork()
            if child == 0:
                sys.exit(0)
            assert os.waitpid(child, 0)[1] == 0
            client.append("key", str(turn))
        server.stop()
    server, address = start(sys.argv[1])
    print(Client(address).get("key").decode())
    """
    assert ran(embedding(code), tmp_path) == "value012\n"


def test_a_fork_that_outlives_a_server_keeps_nothing_of_it(tmp_path: Path) -> None:
    """Neither lock nor port, whoever forked: the server starts again, and clients are told."""
    code = """
    server, address = start(sys.argv[1])
    client = Client(address, timeout=60)
    client.put("key", "value")
    child = os.fork()
    if child == 0:
        signal.pause()
    server.stop()
    server, address = start(sys.argv[1])
    print(client.get("key").decode())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    """
    assert ran("import signal\n" + embedding(code), tmp_path) == "value\n"


def test_small_stacks_of_a_programs_threads_do_not_matter_to_its_server(tmp_path: Path) -> None:
    """What nests too deep is a command's error, as on other servers, and not this process's end."""
    code = """
    class KVStore(KVStore):
        check, cost = StateMachine.check, StateMachine.cost

        def apply(self, command):
            return super().apply(command) if command != b"deep" else self.nest(None)

        def nest(self, _):
            return sorted([1, 2], key=self.nest)

    threading.stack_size(1 << 18)
    server, address = start(sys.argv[1])
    with server, Client(address) as client:
        client.put("key", "value")
        try:
            server.ask(Execute(b"deep")).get(timeout=60)
        except RuntimeError as error:
            print(str(error).partition(":")[0])
        print(client.get("key").decode(), threading.stack_size())
    """
    imports = "from paxon.actors import Execute, StateMachine\n"
    assert ran(imports + embedding(code), tmp_path) == f"RecursionError\nvalue {1 << 18}\n"


LOCAL = """
import sys
from paxon.kvstore import LocalCluster

{beforehand}
with LocalCluster(2, {directory}, transport="{transport}") as cluster, cluster.client() as client:
    client.put("\\xfcn\\xef", "value", timeout=60)
    print(client.get("\\xfcn\\xef", timeout=60).decode())
"""


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
AT_ONCE: list[tuple[dict[str, str | None], str]] = [
    ({"HOME": None, "PATH": None, **C_LOCALE}, "import os; os.umask(0o077)"),
    ({"HOME": "/nonexistent", "TMPDIR": "/nonexistent"}, "import os; os.umask(0)"),
]
"""All strange surroundings, in two runs."""
ONE_BY_ONE: list[tuple[dict[str, str | None], str]] = [
    ({}, "import os; os.umask(0o077)"),
    ({}, "import os; os.umask(0)"),
    ({"HOME": None}, ""),
    ({"HOME": "/nonexistent"}, ""),
    ({**C_LOCALE}, ""),
    ({"TMPDIR": "/nonexistent"}, ""),
    ({"PATH": None}, ""),
]
"""Each by itself."""


@pytest.mark.parametrize(("variables", "beforehand"), sized(AT_ONCE, AT_ONCE + ONE_BY_ONE))
@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_a_local_cluster_in_strange_surroundings(
    tmp_path: Path, transport: str, variables: dict[str, str | None], beforehand: str
) -> None:
    kept = {name: value for name, value in environment().items() if name not in variables}
    changed = kept | {name: value for name, value in variables.items() if value is not None}
    code = LOCAL.format(beforehand=beforehand, directory="sys.argv[1]", transport=transport)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data")],
        capture_output=True, env=changed, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"value\n"), done.stderr.decode()
    assert (tmp_path / "data" / "server-1").stat().st_mode & 0o777 == 0o700


def test_deep_directories_leave_room_for_unix_sockets(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90) / ("e" * 90)
    deep.mkdir(parents=True)
    code = LOCAL.format(beforehand="", directory="sys.argv[1]", transport="ipc")
    done = subprocess.run(
        [sys.executable, "-c", code, str(deep / "data")],
        capture_output=True, env=environment(TMPDIR=str(deep)), timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"value\n"), done.stderr.decode()


@pytest.mark.parametrize(
    ("variables", "beforehand", "directory", "sentence"),
    [
        (
            {}, "import os; os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])",
            "None", "the working directory is deleted: change to one that exists",
        ),
        (
            {}, "import os; os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])",
            "'data'", "the working directory is deleted, so change to one that exists",
        ),
        (
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "",
            "sys.argv[1] + b'/\\xc3\\xbc'.decode('ascii', 'surrogateescape')",
            "needs a UTF-8 locale, in which this program does not run",
        ),
    ],
)  # fmt: skip
def test_a_local_cluster_says_what_keeps_it_from_starting(
    tmp_path: Path, variables: dict[str, str], beforehand: str, directory: str, sentence: str
) -> None:
    code = LOCAL.format(beforehand=beforehand, directory=directory, transport="tcp")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "d")],
        capture_output=True, env=environment(**variables), timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert sentence in done.stderr.decode().splitlines()[-1]


@pytest.mark.parametrize("reaping", ["signal.signal(signal.SIGCHLD, signal.SIG_IGN)", "reaper()"])
def test_snapshots_whoever_reaps_their_children(reaping: str, tmp_path: Path) -> None:
    code = f"""
    def reap():
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                time.sleep(0.001)

    def reaper():
        threading.Thread(target=reap, daemon=True).start()

    {reaping}
    server, address = start(sys.argv[1], snapshot_slots=10)
    with Client(address) as client:
        taken = 0
        while taken < 3:
            client.put("key", "value")
            (reply,) = client.status().values()
            taken = reply.counters["snapshots_taken"]
    server.stop()
    print("taken")
    """
    assert ran(embedding(code), tmp_path) == "taken\n"


def test_a_log_sink_that_blocks_stops_no_server(tmp_path: Path) -> None:
    """The application's own sink, in the threads that it shares with three servers."""
    code = """
    blocked = threading.Event()

    def sink(message):
        blocked.set()
        time.sleep(10_000)

    loguru.logger.add(sink)
    servers = [start(sys.argv[1], number, 3, snapshot_slots=20) for number in (1, 2, 3)]
    with Client([address for _, address in servers], timeout=60) as client:
        for turn in range(100):
            client.put("key", str(turn))
        assert blocked.wait(60)  # it got a line, and keeps whoever brought it
        for turn in range(100):
            client.put("key", str(turn))
        print(client.get("key").decode(), flush=True)
    for server, _ in servers:
        server.stop()
    os._exit(0)  # loguru itself waits for the sink, at the program's end
    """
    assert ran(embedding(code), tmp_path) == "99\n"
