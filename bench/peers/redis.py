"""Redis: a single node that syncs each write before it answers, under its own redis-benchmark."""

from __future__ import annotations

import csv
import os
import socket
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.measure import Measurement, ServerCounts
from paxon.bench.harness.summary import Latency
from paxon.bench.harness.workloads import Workload
from paxon.bench.peers.programs import Program, Programs
from paxon.kvstore.client.addresses import free_ports

__all__ = ["Redis", "parse_benchmark", "PIPELINE"]

PIPELINE = 16
"""Commands that redis-benchmark sends in one piece where Paxon uses its pipeline: `-P 16`."""
_HOST = "127.0.0.1"
_START_SECONDS = 10.0
_TRIAL_SECONDS = 0.2
_TRIAL_REQUESTS_EACH = 40
"""For each connection, to find out how many requests a second of load takes."""


def parse_benchmark(text: str) -> tuple[float, Latency]:
    """Requests a second and latencies out of `redis-benchmark --csv` with one test.

    Raises `BenchError`.
    """
    rows = list(csv.reader(line for line in text.splitlines() if line.startswith('"')))
    try:
        named = dict(zip(rows[0], rows[1], strict=True))
        p50, p99, worst = (
            float(named[f"{short}_latency_ms"]) / 1e3 for short in ("p50", "p99", "max")
        )
        return float(named["rps"]), Latency(0, p50, p99, None, worst)
    except (IndexError, KeyError, ValueError):
        raise BenchError(
            f"redis-benchmark's output is not understood; Redis 6.2 or newer is needed: {text!r}"
        ) from None


class Redis:
    """A server, and redis-benchmark anew for each measurement; see `System`."""

    name = "Redis"

    def __init__(self, programs: Programs) -> None:
        """Start it. Raises `BenchError`."""
        server, benchmark = programs.find("redis-server"), programs.find("redis-benchmark")
        if server is None or benchmark is None:
            raise BenchError("Redis is not installed")
        self._benchmark = benchmark
        self._programs = programs
        self._port = free_ports(1)[0]
        self._rates: dict[str, float] = {}
        """Requests a second by load, as last seen: redis-benchmark is told a number, not a time."""
        with ExitStack() as stack:
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="paxon-redis-"))
            self._server = Program(
                [
                    server, "--port", str(self._port), "--bind", _HOST, "--dir", place,
                    "--appendonly", "yes", "--appendfsync", "always", "--save", "",
                ],
                programs=programs, log=Path(place) / "log",
            )  # fmt: skip
            stack.callback(self._server.kill)
            self._server.wait_until(self._answers, _START_SECONDS)
            self.close = stack.pop_all().close

    def _answers(self) -> bool:
        try:
            with socket.create_connection((_HOST, self._port), 1.0) as link:
                link.sendall(b"PING\r\n")
                return link.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def measure(self, load: Workload, *, seconds: float, warmup: float, seed: int) -> Measurement:
        """See `System`. `seed` is not used: redis-benchmark draws keys in its own way."""
        del seed
        if load.name not in self._rates:
            self._run(load, _TRIAL_REQUESTS_EACH * load.in_flight)
            self._run(load, round(self._rates[load.name] * _TRIAL_SECONDS))
        if warmup > 0:
            self._run(load, round(self._rates[load.name] * warmup))
        requests = max(load.in_flight, round(self._rates[load.name] * seconds))
        server, ours = self._server.cpu(), sum(os.times()[2:4])  # of children that have ended
        begin = time.perf_counter()
        latency = self._run(load, requests)
        elapsed = time.perf_counter() - begin
        return Measurement(
            seconds=elapsed, operations=requests, counters={},
            failed=0, first_error="",  # redis-benchmark ends at the first, and so does `_run`
            longest_wait=latency.worst or 0.0, rate=self._rates[load.name],
            latency=msgspec.structs.replace(latency, count=requests),
            client_cpu=sum(os.times()[2:4]) - ours, server_cpu=self._server.cpu() - server,
        )  # fmt: skip

    def _run(self, load: Workload, requests: int) -> Latency:
        """Run redis-benchmark once. Raises `BenchError`."""
        pipeline = PIPELINE if load.pipelined else 1
        command: list[str | Path] = [
            self._benchmark, "-h", _HOST, "-p", str(self._port),
            "-t", "get" if load.kind == "get" else "set", "-n", str(max(requests, load.in_flight)),
            "-c", str(load.in_flight // pipeline), "-P", str(pipeline),
            "-d", str(load.value_bytes), "-r", str(load.keys), "--csv",
        ]  # fmt: skip
        self._rates[load.name], latency = parse_benchmark(self._programs.output(command))
        return latency

    def counts(self) -> ServerCounts:
        return ServerCounts({}, {1: self._server.cpu()})
