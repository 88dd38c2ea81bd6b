"""Hosts as they are: names with dead addresses, which move, and clocks that differ."""

from __future__ import annotations

import ctypes
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar

from paxon.actors import ServerId
from paxon.kvstore import Client
from tests.cluster.helpers import wait_until
from tests.faults.networks.commanded import Commanded, Process
from tests.faults.networks.namespaces import (
    CLONE_NEWNET,
    NamespacedCluster,
    Switch,
    in_thread,
    inside,
    no_namespaces,
)
from tests.faults.networks.network import MAIN
from tests.faults.pauses import WholeNetwork
from tests.faults.scenarios import INSIDE, OUTSIDE
from tests.faults.trial import Outcome, Trial

__all__ = ["clocks", "names", "no_names", "no_other_clocks"]

T = TypeVar("T")

_CLONE_NEWNS = 0x00020000
"""From <sched.h>."""
_PEER_PORT, _CLIENT_PORT = 7110, 7120
_SMALL_RANGE = "7105 7205"
"""The ports from which connections may go out; the servers' are among them."""


# --- names ---------------------------------------------------------------------------------------


def _among_own_names(hosts: Path, work: Callable[[], T]) -> T:
    """Do something in a thread with a loopback device of its own, and with names from a file."""

    def run() -> T:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS | CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "cannot have namespaces of its own")
        for command in (
            ("mount", "--make-rprivate", "/"),
            ("mount", "--bind", str(hosts), "/etc/hosts"),
            ("ip", "link", "set", "lo", "up"),
        ):
            subprocess.run(command, check=True, capture_output=True)
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        # Who dials a dead server's port is soon given that very port by the kernel.
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(_SMALL_RANGE, encoding="ascii")
        return work()

    hosts.touch()
    return in_thread(run)


@cache
def no_names() -> str:
    """Why there can be no names of our own here; "" if there can."""
    for tool in ("mount", "ip"):
        if shutil.which(tool) is None:
            return f"there is no `{tool}` command"
    try:
        with tempfile.TemporaryDirectory() as directory:
            _among_own_names(Path(directory) / "hosts", lambda: None)
    except (OSError, subprocess.CalledProcessError):
        return "names and a network of one's own take root's rights and IPv6"
    return ""


class _Named(Commanded):
    """Each server has a name with several addresses, at one of which it is."""

    network = WholeNetwork()

    def __init__(self, directory: Path, hosts: Path) -> None:
        super().__init__(directory, "named")
        self._hosts = hosts
        self.at = dict.fromkeys(self.servers, 0)
        """At which of its addresses each server is."""

    def addresses(self, server: ServerId) -> list[str]:
        """Those that its name has had so far, and has."""
        life = 7 + self.at[server] // 4
        return [f"127.0.{life}.{server}0", "::1", f"127.0.{life}.{server}1", "127.0.0.1"]

    def entry(self, server: ServerId) -> str:
        self._hosts.write_text(
            "127.0.0.1 localhost\n"
            + "".join(f"{a} host-{s}.test\n" for s in self.servers for a in self.addresses(s))
        )
        place = self.addresses(server)[self.at[server] % 4]
        here = f"[{place}]" if ":" in place else place
        peer, client = _PEER_PORT + server, _CLIENT_PORT + server
        return (
            f'host = "host-{server}.test"\npeer_port = {peer}\nclient_port = {client}\n'
            f'peer_bind = "tcp://{here}:{peer}"\nclient_bind = "tcp://{here}:{client}"'
        )

    def reached(self, server: ServerId) -> str:
        return f"tcp://host-{server}.test:{_CLIENT_PORT + server}"


def names(directory: Path, long: bool) -> Outcome:
    """Under load servers move to other addresses of their names, and the names to other addresses.

    Of a name's four addresses one answers, now of IPv6, now of IPv4.
    """

    hosts = directory / "hosts"

    def work() -> Outcome:
        with (
            _Named(directory / "names", hosts) as cluster,
            Trial("names", cluster, directory, long=long, timeout=60.0) as trial,
        ):
            for turn in range(trial.sized(4, 40)):
                victim = cluster.leader() if turn % 2 == 0 else trial.draw.choice(trial.followers())
                cluster.kill(victim)
                trial.fault()
                trial.load.wait_for_more(50, seconds=60)
                cluster.at[victim] += 1
                cluster.restart(victim)
                trial.load.wait_for_more(50, seconds=60)
                wait_until(lambda: _level(cluster), "all take part")
            return trial.verify()

    return _among_own_names(hosts, work)


def _level(cluster: Commanded) -> bool:
    """Whether all take part: the load goes on, so no two have executed equally far."""
    replies = [row.reply for row in cluster.status() if row.reply is not None]
    return len(replies) == len(cluster.servers) and not any(reply.waits_for for reply in replies)


# --- clocks --------------------------------------------------------------------------------------

_SLEPT = (0, 86_400, 100_000_000, 3_600)
"""Seconds for which a machine was suspended before a server started there, in turn."""
_TTL, _GRACE = 2.0, 20.0
"""A lease's time to live; how much later, on a busy machine, its end may be noticed."""


@cache
def no_other_clocks() -> str:
    """Why no process can have a clock and a network of its own here; "" if one can."""
    if shutil.which("unshare") is None:
        return "there is no unshare command"
    if subprocess.run([*_slept(9), "true"], check=False, capture_output=True).returncode:
        return "time namespaces take root's rights and Linux 5.6"
    return no_namespaces()


def _slept(seconds: int) -> list[str]:
    return ["unshare", "--time", "--boottime", str(seconds), "--fork", "--kill-child"]


class _LeaseReader(Client):
    """Reads whatever a leader says under its lease, which depends on clocks."""

    def get(self, key: Any, **options: Any) -> bytes | None:
        return super().get(key, mode="lease", **options)


class _Clocked(NamespacedCluster):
    """Each server has a boot-time clock of its own, and another one in its next life."""

    reader = _LeaseReader
    _lives = 0

    def run(self, server: ServerId, command: Sequence[str], output: IO[bytes]) -> Process:
        self._lives += 1
        slept = _slept(_SLEPT[self._lives % len(_SLEPT)])
        return super().run(server, [*slept, *command], output)

    def pid(self, server: ServerId) -> int:
        """What `unshare` has forked, with which it ends."""
        parent = super().pid(server)
        (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return int(child)


def clocks(directory: Path, long: bool) -> list[Outcome]:
    """Servers' clocks differ by hours to years, and leap when one is started again.

    The leader is killed, or stands still for longer than its lease. All reads are `lease` reads,
    and a lease of the store lives for as long as it was granted.
    """
    with Switch([1, 2, 3, MAIN, INSIDE, OUTSIDE]) as switch:

        def run() -> list[Outcome]:
            with _Clocked(switch, directory / "clocks") as cluster:
                return [work(cluster, directory, long) for work in (_leases_for_reads, _leases)]

        return inside(switch.namespace(MAIN), run)


def _leases_for_reads(cluster: _Clocked, directory: Path, long: bool) -> Outcome:
    """The leader stands still, is cut off, and goes on: others lead by then, which it cannot hear.

    Readers wait for it. (One that is not stopped gives up leading soon after it was cut off,
    whatever it thinks of its lease.)
    """
    with Trial(
        "clocks-reads", cluster, directory, long=long,
        groups=(INSIDE, OUTSIDE), clients=8, readers=(4, 6), timeout=2.0,
    ) as trial:  # fmt: skip
        for _ in range(trial.sized(2, 20)):
            leader, others = cluster.leader(), trial.followers()
            inside, outside = trial.members[INSIDE], trial.members[OUTSIDE]
            cluster.signal(leader, signal.SIGSTOP)
            cluster.network.partition([leader, INSIDE], [*others, OUTSIDE])
            trial.fault()
            trial.load.wait_for_more(150, clients=outside)
            answered = list(trial.load.answered)
            cluster.signal(leader, signal.SIGCONT)
            trial.load.wait_for_more(150, clients=outside)
            # (What it was asked before it stood still may have been confirmed by then: one each.)
            more = [trial.load.answered[number] - answered[number] for number in inside]
            assert max(more) <= 1, "a leader whose lease had run out answered its clients"
            cluster.network.heal()
            trial.load.wait_for_more(50, clients=inside)
    return trial.verify()


def _leases(cluster: _Clocked, directory: Path, long: bool) -> Outcome:
    with (
        Trial("clocks", cluster, directory, long=long) as trial,
        cluster.client(timeout=20.0) as client,
    ):
        for turn in range(trial.sized(4, 30)):
            key = f"leased/{turn}"
            began = time.monotonic()
            lease = client.lease(_TTL)
            client.put(key, "lives", lease=lease)
            lease.lose("its holder died")
            victim = cluster.leader()
            cluster.signal(victim, signal.SIGKILL if turn % 2 else signal.SIGSTOP)
            trial.fault()
            while client.get(key) is not None:
                assert time.monotonic() - began < _TTL + _GRACE, f"{key} does not end"
                time.sleep(0.01)
            lived = time.monotonic() - began
            assert lived >= _TTL, f"{key} has ended after {lived:.2f} s"
            if turn % 2:
                cluster.kill(victim)
                cluster.restart(victim)
            cluster.signal(victim, signal.SIGCONT)
            trial.load.wait_for_more(50)
        return trial.verify()
