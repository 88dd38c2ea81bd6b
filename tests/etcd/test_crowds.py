"""More clients than a gateway has work for: most say nothing, some read nothing."""

from __future__ import annotations

import contextlib
import re
import resource
import socket
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from paxon import Client, LocalCluster
from tests.cluster.helpers import PAXON, environment
from tests.etcd.test_bad_input import START
from tests.etcd.tools import Grpc
from tests.waiting import wait_until

pytestmark = pytest.mark.process

IDLE = 10_000
FEW_DESCRIPTORS = 160
BYTES_EACH = 16 << 10
"""What an idle connection may cost the gateway, at most."""
WRITES = 100
OPENINGS = (b"", START, b"POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nContent-Le")
"""What idle clients have said: nothing, or HTTP/2's greeting, or half of a request."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(3, durability="memory") as cluster:
        yield cluster


class Front:
    """`paxon etcd`, a process of its own, that may open so many descriptors."""

    def __init__(self, cluster: LocalCluster, descriptors: int) -> None:
        self.log = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115 (as long as the process)
        command = [*PAXON, "etcd", "--cluster", ",".join(cluster.addresses)]
        self._process = subprocess.Popen(
            ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command,
             "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment(),
        )  # fmt: skip
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        self.port = int(said.rpartition(":")[2])
        self.address = f"127.0.0.1:{self.port}"

    def connect(self, says: bytes) -> socket.socket:
        link = socket.create_connection(("127.0.0.1", self.port), 60)
        link.sendall(says)
        return link

    def connections(self) -> int:
        """How many it has, by its own count."""
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=60) as answer:
            found = re.search(rb"^paxon_etcd_connections (\d+)", answer.read(), re.MULTILINE)
        assert found is not None
        return int(found[1])

    def memory(self) -> int:
        """Bytes that it has in memory."""
        found = re.search(r"VmRSS:\s+(\d+) kB", self._status())
        assert found is not None
        return int(found[1]) << 10

    def _status(self) -> str:
        return Path(f"/proc/{self._process.pid}/status").read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=60)


class Writer:
    """Writes into the cluster itself, one value after the other, in a thread."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.written = 0
        self._ending = threading.Event()
        self._cluster = cluster
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        with Client(self._cluster.addresses, timeout=60) as kv:
            while not self._ending.is_set():
                kv.put("written", str(self.written))
                self.written += 1

    def writes(self, count: int) -> None:
        """Wait until it has written so many more."""
        assert self._thread.is_alive(), "a write has failed"
        wanted = self.written + count
        wait_until(lambda: self.written >= wanted, "it writes on")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(60)


def descriptors_for(count: int) -> int:
    """The limit, raised for so many connections; the test is skipped where that is forbidden."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 1000
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            pytest.skip(f"a process here may open {hard} files and connections, not {wanted}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def test_ten_thousand_idle_clients_cost_memory_and_nobody_his_turn(cluster: LocalCluster) -> None:
    limit = descriptors_for(IDLE)
    with (
        Front(cluster, limit) as front,
        Writer(cluster) as writer,
        contextlib.ExitStack() as links,
    ):
        client = Grpc(front.address)
        client.kv("Put", key=b"a", value=b"1")
        writer.writes(WRITES)
        before = front.memory()
        for n in range(IDLE):
            links.enter_context(front.connect(OPENINGS[n % len(OPENINGS)]))
        wait_until(lambda: front.connections() >= IDLE, "all of them are there")
        writer.writes(WRITES)
        for n in range(WRITES):
            client.kv("Put", key=b"a", value=b"%d" % n)
        writer.writes(WRITES)
        each = (front.memory() - before) / IDLE
        print(f"each of {IDLE} idle connections costs {each:.0f} bytes")
        assert each < BYTES_EACH
        assert front.connections() >= IDLE, "nobody was sent away"
        links.close()
        wait_until(lambda: front.connections() < 10, "all of them are gone")
        client.kv("Put", key=b"a", value=b"1")
        client.close()


def test_clients_that_there_are_no_descriptors_for_cost_the_others_nothing(
    cluster: LocalCluster,
) -> None:
    with Front(cluster, FEW_DESCRIPTORS) as front, contextlib.ExitStack() as links:
        client = Grpc(front.address)
        client.kv("Put", key=b"a", value=b"1")
        closed = 0
        for _ in range(2 * FEW_DESCRIPTORS):
            link = links.enter_context(front.connect(START))
            link.settimeout(60)
            try:
                closed += not link.recv(1)
            except ConnectionError:
                closed += 1
        assert closed > FEW_DESCRIPTORS
        for n in range(WRITES):
            client.kv("Put", key=b"a", value=b"%d" % n)
        for _ in range(4 * FEW_DESCRIPTORS):  # all at once, and nobody waits for any of them
            link = links.enter_context(socket.socket())
            link.setblocking(False)
            link.connect_ex(("127.0.0.1", front.port))
        for n in range(WRITES):
            client.kv("Put", key=b"a", value=b"%d" % n)
        links.close()

        def has_room() -> bool:
            with contextlib.suppress(OSError):  # whoever asks before it has heard is sent away too
                return front.connections() < 10
            return False

        wait_until(has_room, "there is room again")
        client.close()
        said = Path(front.log.name).read_text()
        assert "Traceback" not in said and len(said.splitlines()) <= 2, said[:2000]
