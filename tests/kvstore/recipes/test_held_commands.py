"""`paxon lock` and `paxon election`: what they run, while they hold; on a cluster in memory."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from paxon import Client, Contender, Held, RequestTimeout
from paxon.kvstore.cli import locks
from paxon.kvstore.cluster import guarded
from paxon.testing import MemoryCluster
from tests.cluster.helpers import one_sentence, paxon_here, pid_is_alive
from tests.waiting import wait_until

READY = "echo $$ > pid.new; mv pid.new pid; "
"""A command says by this file that it runs."""
FOR_EVER = "while :; do sleep 0.05; done"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cluster() -> Iterator[MemoryCluster]:
    with MemoryCluster() as made:
        yield made


@pytest.fixture
def at(cluster: MemoryCluster) -> tuple[str, str]:
    return ("--cluster", cluster.addresses[0])


_over = threading.Event()


@pytest.fixture(autouse=True)
def others() -> Iterator[None]:
    """Threads of `once` end with their test: `paxon_here` counts threads before and after."""
    _over.clear()
    yield
    _over.set()


def once(condition: Callable[[], object], act: Callable[[], object]) -> None:
    """Do something as soon as a condition is true, while this thread is busy."""

    def run() -> None:
        wait_until(lambda: bool(condition()))
        act()
        _over.wait(60)

    threading.Thread(target=run, daemon=True).start()


def runs() -> bool:
    return Path("pid").exists()


def to_us(number: int) -> Callable[[], object]:
    return lambda: signal.pthread_kill(threading.main_thread().ident or 0, number)


def test_a_commands_exit_code_is_passed_on_and_it_knows_what_it_holds(
    kv: Client, at: tuple[str, str]
) -> None:
    names = " ".join(f"$PAXON_LOCK_{name}" for name in ("KEY", "FENCE", "LEASE"))
    told: list[Contender] = []

    def look() -> None:
        told.extend(kv.lock("a").holders())
        Path("go").touch()

    once(runs, look)
    script = f"{READY} while [ ! -e go ]; do sleep 0.01; done; echo {names} $PAXON_CLUSTER > told"
    done = paxon_here("lock", "a", *at, "--", "sh", "-c", f"{script}; exit 7")
    assert (done.returncode, done.stderr) == (7, b"")
    [holder] = told
    assert holder.key == f"a/{holder.lease:x}"
    expected = [holder.key, str(holder.fence), f"{holder.lease:x}", at[1]]
    assert Path("told").read_text(encoding="utf-8").split() == expected
    assert kv.leases() == []
    assert paxon_here("lock", "a", *at, "--", "sh", "-c", "kill -9 $$").returncode == 137
    # What looks like our options is the command's own.
    assert paxon_here("lock", "a", *at, "--", "test", "--json", "=", "--json").returncode == 0


def test_a_command_has_our_environment(
    at: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what the shell that begins it cannot have as a variable, or might take for its own."""
    ours = {"BASH_FUNC_f%%": "() { echo; }", "with.dots": "a\n=b", "parent": "theirs"}
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    assert paxon_here("lock", "a", *at, "--", "cp", "/proc/self/environ", "told").returncode == 0
    told = Path("told").read_text(encoding="utf-8").split("\0")
    assert {f"{name}={value}" for name, value in ours.items()} <= set(told)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("lock", "a", "-t", "0", "--", "true"), 4, "lock 'a' was not to be had in the time given"),
        (("lock", "a", "-n", "3", "-t", "0", "--", "true"), 2, "has a limit of 1"),
        (("lock", "a", "--read", "-t", "0.01", "--", "true"), 4, "rwlock 'a' was not to be had"),
        (("lock", "b", "--", "no-such-command"), 127, "no-such-command cannot be run: No such"),
        (("lock", "b", "--", "/etc/passwd"), 126, "/etc/passwd cannot be run: Permission denied"),
        (("election", "a", "x", "-t", "0", "--", "true"), 4, "election 'a' was not to be had"),
        (("election", "b"), 3, "nobody leads 'b'"),
    ],
)
def test_what_cannot_be_held_or_run(
    kv: Client, at: tuple[str, str], arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    with (
        kv.lock("a"), kv.semaphore("a", 1), kv.rwlock("a").write,
        kv.election("a").campaign("me"),
    ):  # fmt: skip
        done = paxon_here(*arguments[:2], *at, *arguments[2:])
        assert done.returncode == code and sentence in one_sentence(done)
        assert len(kv.leases()) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ("lock",),
        ("lock", "", "--", "true"),
        ("lock", "a", "true"),
        ("lock", "a", "--"),
        ("lock", "a", "--read", "--limit", "2", "--", "true"),
        ("lock", "a", "--ttl", "1", "--", "true"),
        ("lock", "a", "-t", "-1", "--", "true"),
        ("election", "a", "--", "true"),
        ("election", "a", "", "--", "true"),
        ("election", "a", "me", "--listen"),
    ],
)
def test_wrong_usage(kv: Client, at: tuple[str, str], arguments: tuple[str, ...]) -> None:
    assert paxon_here(arguments[0], *at, *arguments[1:]).returncode == 2
    assert kv.leases() == []


@pytest.mark.parametrize("lose", ["revoked", "deleted"])
def test_a_command_that_holds_no_more_is_ended_with_all_that_it_has_started(
    kv: Client, at: tuple[str, str], lose: str
) -> None:
    script = f"trap '' TERM; sleep 1000 & echo $! > child; {READY} {FOR_EVER}"

    def take_away() -> None:
        holder = kv.lock("a").holders()[0]
        if lose == "revoked":
            kv.revoke(holder.lease)
        else:
            kv.delete(holder.key)

    once(runs, take_away)
    done = paxon_here("lock", "a", *at, "--ttl", "8", "--", "sh", "-c", script)
    assert done.returncode == 1 and "is no longer held" in one_sentence(done)
    for name in ("pid", "child"):
        pid = int(Path(name).read_text(encoding="utf-8"))
        wait_until(lambda: not pid_is_alive(pid))  # noqa: B023


def test_a_command_is_asked_to_end_before_its_lease_is_over(
    at: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody renews it any more: at the deadline another may hold, so it is dead by then."""

    def cut(*_: object) -> bytes:
        raise RequestTimeout("no answer")

    monkeypatch.setattr(Client, "_ask_to_renew", cut)
    script = f"trap 'echo asked > asked; exit 0' TERM; {READY} {FOR_EVER}"
    for _ in range(
        10
    ):  # (where a machine stands still until the deadline nobody is asked any more)
        done = paxon_here("lock", "a", *at, "--ttl", "4", "--", "sh", "-c", script)
        assert done.returncode == 1 and "could not be renewed in time" in one_sentence(done)
        if Path("asked").exists():
            return
    raise AssertionError("it was ended unasked")


def test_one_whose_lease_has_ended_has_its_time_to_end() -> None:
    """The process beside is not to end it meanwhile, as if it had been asked long ago."""
    told: list[tuple[str, float]] = []
    running: Any = SimpleNamespace(
        may_last=lambda left, _: told.append(("may last", left)),
        end=lambda seconds: told.append(("end", seconds)),
        send=lambda _: None,
    )
    lefts = iter([9.0, 0.0])
    lease = SimpleNamespace(ttl=8.0, reason="it has ended", time_left=lambda: next(lefts, 0.0))
    happenings: SimpleQueue[Any] = SimpleQueue()
    happenings.put(("signal", signal.SIGUSR1))
    happenings.put(("ended", 0))
    held: Any = SimpleNamespace(lease=lease, lost=threading.Event())
    assert guarded._attend(running, held, happenings).lost == "it has ended"
    assert told == [("may last", 9.0), ("end", 2.0)]


@pytest.mark.parametrize(
    ("number", "trap", "code"),
    [
        (signal.SIGINT, "trap 'exit 9' INT;", 9),
        (signal.SIGTERM, "", 143),
        (signal.SIGHUP, "trap 'exit 3' HUP;", 3),
        (signal.SIGUSR1, "trap 'exit 4' USR1;", 4),
    ],
)
def test_signals_are_passed_on(
    kv: Client, at: tuple[str, str], number: int, trap: str, code: int
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:  # under nohup; a shell cannot trap it then
        signal.signal(number, signal.SIG_DFL)
    once(runs, to_us(number))
    done = paxon_here("lock", "a", *at, "--", "sh", "-c", f"{trap} {READY} {FOR_EVER}")
    assert (done.returncode, done.stderr) == (code, b"")
    assert kv.leases() == []


def test_without_a_command_it_is_held_until_ctrl_c_or_its_loss(
    kv: Client, at: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    holding = threading.Event()
    original = locks._wait_for_loss

    def wait_for_loss(client: Client, held: Held) -> None:
        holding.set()  # (what it holds was printed before)
        original(client, held)

    monkeypatch.setattr(locks, "_wait_for_loss", wait_for_loss)
    once(holding.is_set, to_us(signal.SIGINT))
    done = paxon_here("lock", "a", *at, "--json")
    assert done.returncode == 130 and kv.leases() == []
    shown = json.loads(done.stdout)
    assert shown["key"] == f"a/{shown['lease']}"
    holding.clear()
    once(holding.is_set, lambda: kv.revoke(kv.leases()[0]))
    done = paxon_here("election", "a", "me", *at, "--ttl", "3600")
    assert done.returncode == 1 and "election 'a' is lost" in one_sentence(done)


def test_who_holds_and_who_waits(cluster: MemoryCluster, kv: Client, at: tuple[str, str]) -> None:
    assert json.loads(paxon_here("lock", "a", "--list", "--json", *at).stdout) == []
    released = threading.Event()

    def hold(client: Client) -> None:
        client.rwlock("a").write.acquire().release()
        released.set()

    with kv.rwlock("a").read as held, cluster.client() as other:
        once(lambda: True, lambda: hold(other))
        wait_until(lambda: len(kv.rwlock("a").contenders()) == 2)
        wait_until(lambda: [t.name for t in threading.enumerate()].count("paxon-leases") == 2)
        lines = paxon_here("lock", "a", "--read", "--list", *at).stdout.decode().splitlines()
        assert [line.split("\t")[0] for line in lines] == ["holds", "waits"]
        found = json.loads(paxon_here("lock", "a", "--write", "--list", "--json", *at).stdout)
        assert [(each["holds"], each["value"]) for each in found] == [(1, "read"), (0, "write")]
        assert found[0]["key"] == held.key and found[0]["fence"] == held.fence
        held.release()
        assert released.wait(60) and not kv.leases()


def test_semaphores_and_both_sides_of_a_rwlock(kv: Client, at: tuple[str, str]) -> None:
    for options, segment in (
        (("--limit", "2"), ".sem"),
        (("--read",), ".rw"),
        (("--write",), ".rw"),
    ):
        script = f'case "$PAXON_LOCK_KEY" in a/{segment}/*) exit 5;; esac'
        assert paxon_here("lock", "a", *at, *options, "--", "sh", "-c", script).returncode == 5
    with kv.semaphore("a", 1), kv.rwlock("a").read:
        for wanted, code in ((("--limit", "1"), 4), (("--read",), 5), (("--write",), 4)):
            arguments = (*wanted, "-t", "0", *at, "--", "sh", "-c", "exit 5")
            assert paxon_here("lock", "a", *arguments).returncode == code


def test_an_election_from_a_shell(kv: Client, at: tuple[str, str]) -> None:
    done = paxon_here("election", "cron", "--json", *at)
    assert done.returncode == 3 and json.loads(done.stdout) is None
    script = f'echo "$PAXON_ELECTION_KEY $PAXON_ELECTION_FENCE" > told; {READY} {FOR_EVER}'
    seen: list[Contender] = []

    def look() -> None:
        seen.extend(kv.election("cron").contenders())
        to_us(signal.SIGTERM)()

    once(runs, look)
    done = paxon_here("election", "cron", "worker 7", *at, "--", "sh", "-c", script)
    assert done.returncode == 143
    [leader] = seen
    assert leader.value == b"worker 7"
    told = Path("told").read_text(encoding="utf-8").split()
    assert told == [leader.key, str(leader.fence)]
    with kv.election("cron").campaign("one\n") as leading:
        done = paxon_here("election", "cron", *at)
        assert done.stdout == f"{leading.fence}\tone\\n\n".encode()


def test_listening_to_an_election(
    cluster: MemoryCluster, at: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with cluster.client() as kv:
        printed: list[object] = []

        def resign_once_told(leader: Contender | None, as_json: bool) -> None:
            printed.append(leader)
            leading.resign()

        leading = kv.election("cron").campaign("one")
        monkeypatch.setattr(locks, "_print_leader", resign_once_told)
        assert paxon_here("election", "cron", "--listen", "-n", "2", *at).returncode == 0
        assert printed == [Contender(leading.key, b"one", leading.lease.id, leading.fence), None]
    monkeypatch.undo()
    done = paxon_here("election", "cron", "--listen", "-n", "1", "--json", *at)
    assert (done.returncode, json.loads(done.stdout)) == (0, None)
