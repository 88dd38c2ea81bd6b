"""What the tests of the etcd API share: a gateway, gRPC's own client, a real etcd."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import grpc
import pytest

from paxon.kvstore.client.addresses import free_ports
from paxon.kvstore.cluster.backup import saver
from paxon.kvstore.etcd.gateway import EtcdGateway
from paxon.kvstore.etcd.messages import decode, encode, message
from paxon.kvstore.testing.cluster import MemoryCluster
from tests.waiting import wait_until

__all__ = [
    "Gateway",
    "Grpc",
    "Unavailable",
    "binary",
    "fetched",
    "fetched_or_raise",
    "real_etcd",
    "tools_directory",
]

_FETCH_SECONDS = 300


def tools_directory() -> Path:
    """Where fetch.sh puts things; `PAXON_ETCD_TOOLS` says otherwise."""
    named = os.environ.get("PAXON_ETCD_TOOLS")
    cache = os.environ.get("XDG_CACHE_HOME")
    base = Path(cache) if cache else Path.home() / ".cache"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"  # for what is compiled
    return Path(named) if named else base / "paxon" / "etcd" / version


@functools.cache
def _fetch(what: str) -> str:
    """Fetch what is not there; why that failed, "" if it did not."""
    script = Path(__file__).with_name("fetch.sh")
    directory = tools_directory()
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / f"{what}.lock").open("w") as lock:  # others run tests, too
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            done = subprocess.run(
                ["sh", str(script), str(directory), what, sys.executable],
                capture_output=True, text=True, timeout=_FETCH_SECONDS, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    return done.stderr.strip() if done.returncode else ""


class Unavailable(Exception):
    """Something cannot be fetched; the text says why."""


def fetched_or_raise(what: str, path: str) -> Path:
    """A path among the fetched things. Raises `Unavailable`."""
    if problem := _fetch(what):
        raise Unavailable(problem)
    return tools_directory() / path


def fetched(what: str, path: str) -> Path:
    """A path among the fetched things; the test is skipped where it cannot be had."""
    try:
        return fetched_or_raise(what, path)
    except Unavailable as error:
        pytest.skip(f"no {what}: {error}")


def binary(name: str) -> str:
    """The path of etcd's program of this name; the test is skipped where it cannot be had."""
    path = tools_directory() / "root" / "usr" / "bin" / name
    return str(path if path.exists() else fetched("programs", f"root/usr/bin/{name}"))


class Gateway:
    """A gateway in this process, in a thread of its own, in front of a cluster in memory."""

    def __init__(
        self, addresses: list[str] | None = None, tls: Any = None, *, tells: bool = True
    ) -> None:
        """`tells`: say in the cluster where it is, which is one revision."""
        self._tells = tells
        self._cluster = None if addresses else MemoryCluster()
        self._addresses = addresses
        self._tls = tls
        self.port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="gateway")
        self._thread.start()
        self._ready.wait(30)
        if self._failure is not None:
            raise self._failure

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def owed(self) -> int:
        """Bytes of answers that its clients have not taken."""
        total = 0
        for each in list(self.served._listener.connections):
            if each._transport is not None:
                total += each._transport.get_write_buffer_size()
            if each._speaks is not None:
                total += each._speaks.blocked_bytes
        return total

    def is_idle(self) -> bool:
        """Whether no call is under way, and nobody is there who speaks HTTP/1.1."""
        listener = self.served._listener
        return not (listener.tally.calls or any(each._http1 for each in listener.connections))

    def call(self, what: Callable[[], object]) -> None:
        """Have this called by its thread, after what it has to do now."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(what)

    @property
    def cluster(self) -> MemoryCluster:
        """That in memory."""
        assert self._cluster is not None
        return self._cluster

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
            self._ready.set()

    async def _serve(self) -> None:
        from paxon import AsyncClient

        self._loop = asyncio.get_running_loop()
        addresses = self._addresses or self.cluster.addresses
        async with AsyncClient(addresses) as kv:
            url = "http://127.0.0.1:{}".format if self._tells else None
            self.served = gateway = EtcdGateway(kv, url, saver(addresses))
            self.port = await gateway.open("127.0.0.1", 0, self._tls)
            self._ready.set()
            await self._stop.wait()
            await gateway.close()

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.call(self._stop.set)
        self._thread.join(30)
        if self._cluster is not None:
            self._cluster.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Grpc:
    """gRPC's own client (of C++), with etcd's messages."""

    def __init__(self, address: str, credentials: Any = None) -> None:
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
        ]
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            self._channel = grpc.secure_channel(address, credentials, options=options)

    def call(self, path: str, request: Any, answer: str, timeout: float = 20) -> Any:
        """Call a method of one answer. Raises `grpc.RpcError`."""
        method = self._channel.unary_unary(
            f"/etcdserverpb.{path}", encode, functools.partial(decode, message(answer))
        )
        return method(request, timeout=timeout)

    def kv(self, name: str, **fields: Any) -> Any:
        """Call a method of KV by the name of its messages."""
        rpc = "Compact" if name == "Compaction" else name
        return self.call(f"KV/{rpc}", message(f"{name}Request")(**fields), f"{name}Response")

    def stream(self, path: str, requests: Iterator[Any], answer: str) -> Any:
        """Call a method of a stream of requests and one of answers."""
        method = self._channel.stream_stream(
            f"/etcdserverpb.{path}", encode, functools.partial(decode, message(answer))
        )
        return method(requests)

    def close(self) -> None:
        self._channel.close()


def refusal(call: Callable[[], Any]) -> tuple[str, str]:
    """Code and text with which a call ends."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, caught.value.details()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def real_etcd(directory: Path) -> Iterator[str]:
    """A real etcd, in memory as far as that goes; its address. Skipped where it cannot be had."""
    program = binary("etcd")
    client, peer = free_ports(2)
    url, peer_url = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "--name", "real", "--data-dir", str(directory / "data"),
             "--listen-client-urls", url, "--advertise-client-urls", url,
             "--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url,
             "--initial-cluster", f"real={peer_url}"],
            stdout=log, stderr=subprocess.STDOUT,
            env={k: v for k, v in os.environ.items() if not k.startswith("ETCD")},
        )  # fmt: skip
        try:
            wait_until(lambda: _answers(client) and _healthy(url), "etcd serves", 30)
            yield f"127.0.0.1:{client}"
        finally:
            process.kill()
            process.wait()


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return json.load(answer).get("health") in ("true", True)
    except OSError:
        return False
