"""Short runs of each bench on real servers: for the structure of what comes out, not for speed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from paxon.bench.contention.compare_run import CompareReport
from paxon.bench.contention.contention import ContentionReport
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.measure import Measurement
from paxon.bench.harness.report import read_json
from paxon.bench.harness.summary import Spread
from paxon.bench.scale.scale import ScaleReport
from paxon.bench.stable.failover import FailoverReport
from paxon.bench.stable.floor import Floor
from paxon.bench.stable.pair import PairReport
from paxon.bench.stable.pause import PauseReport
from paxon.bench.stable.pythons import PythonsReport, interpreter_name
from paxon.bench.stable.stable import StableReport
from paxon.bench.stable.steady import SteadyReport
from tests.cluster.helpers import paxon_here

pytestmark = pytest.mark.process


def bench(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `paxon bench …`."""
    finished = subprocess.run(
        [sys.executable, "-m", "paxon.kvstore.cli", "bench", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert finished.returncode == code, finished.stdout + finished.stderr
    return finished


def median(figure: Spread | None) -> float:
    assert figure is not None
    return figure.median


def test_stable(tmp_path: Path) -> None:
    finished = bench(
        "stable", "--quick", "--seconds", 0.4, "--warmup", 0.1, "--repeat", 1,
        "--json", tmp_path / "r.json", "--plot", tmp_path / "p.svg",
    )  # fmt: skip
    report = read_json(tmp_path / "r.json", StableReport)
    rows = {row.workload.name: row for row in report.rows}
    assert set(rows) == {
        "writes, 1 outstanding", "writes, 64 outstanding", "writes, pipelined",
        "reads, 64 outstanding",
    }  # fmt: skip
    for name, row in rows.items():
        assert name in finished.stdout
        assert row.failed == 0, row.first_error
        assert row.rate.median > 0
        assert 0 < median(row.p50) <= median(row.p99) <= median(row.p999)
        assert row.floor is not None
        assert row.floor.rate.median > 0
    # One operation at a time: a slot each; P2As and P2Bs; a sync at a majority at least.
    single = rows["writes, 1 outstanding"]
    assert median(single.slots_per_operation) == pytest.approx(1, abs=0.2)
    assert 1.9 < median(single.syncs_per_operation) < 4
    assert 2.9 < median(single.messages_per_operation) < 8
    assert single.floor is not None
    assert (single.floor.frames, single.floor.operations) == (1, 1)
    # Many at a time share slots, syncs and messages; reads need neither slots nor syncs.
    assert median(rows["writes, 64 outstanding"].slots_per_operation) < 0.5
    assert median(rows["writes, pipelined"].operations_per_request) > 10
    assert median(rows["reads, 64 outstanding"].slots_per_operation) == 0
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")


def test_contention(tmp_path: Path) -> None:
    bench(
        "contention", "--quick", "--policy", "backoff", "--proposers", 2, "--seconds", 0.6,
        "--repeat", 1, "--durability", "memory", "--set", "backoff_cap=0.05",
        "--json", tmp_path / "r.json",
    )  # fmt: skip
    report = read_json(tmp_path / "r.json", ContentionReport)
    stable, backoff = report.rows
    assert (stable.variant.policy, backoff.variant.policy) == ("stable", "backoff")
    assert report.settings.options == {"backoff_cap": 0.05}
    assert stable.rate.median > 0
    assert stable.phase1_per_second.median == 0
    assert stable.of_stable == 1
    # Two servers do try to lead, again and again.
    assert backoff.phase1_per_second.median > 0
    assert backoff.repeats[0].counters["preemptions"] > 0


def test_compare(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- figures: compare --><!-- end of figures -->")
    finished = bench(
        "compare", "--quick", "--sweep", "rtt", "--policy", "stable", "--policy", "immediate",
        "--seconds", 0.2, "--warmup", 0.1, "--repeat", 1, "--durability", "memory",
        "--json", tmp_path / "r.json", "--plots", tmp_path / "plots", "--page", page,
    )  # fmt: skip
    report = read_json(tmp_path / "r.json", CompareReport)
    assert [sweep.name for sweep in report.sweeps] == ["rtt"]
    near, far = report.rows  # `immediate` has no line there
    for row in report.rows:
        assert row.rate.median > 0
        assert row.leaderless.median < 0.2
        assert row.phase1_per_second.median == 0
        assert row.of_stable == 1
    assert near.point.round_trip == 0
    assert median(far.p50) >= far.point.round_trip == 0.01
    stable, immediate = report.duels
    assert sum(reign.slots for reign in stable.reigns) > 0
    assert len(stable.reigns) == 1
    assert len(immediate.reigns) > 10
    files = {path.name for path in (tmp_path / "plots").iterdir()}
    names = {"compare-sweeps", "compare-ballots"}
    assert files == {f"{name}.{form}" for name in names for form in ("svg", "png")}
    assert "Round-trip time between servers" in finished.stdout
    assert "| stable | 10 |" in page.read_text()
    # The same figures once more, without measuring.
    again = bench("compare", "--from", tmp_path / "r.json")
    assert again.stdout == finished.stdout


def test_scale(tmp_path: Path) -> None:
    finished = bench(
        "scale", "--quick", "--part", "sessions,keys,replay", "--seconds", 0.2, "--warmup", 0.1,
        "--json", tmp_path / "r.json", "--plots", tmp_path,
    )  # fmt: skip
    report = read_json(tmp_path / "r.json", ScaleReport)
    assert [(row.part, row.x) for row in report.rows] == [
        ("sessions", 1), ("sessions", 1000),
        ("keys", 1000), ("keys", 1000), ("keys", 10000), ("keys", 10000),
    ]  # fmt: skip
    for row in report.rows:
        assert row.rate.median > 0
        assert row.failed == 0
    assert [row.keys for row in report.memory] == [1000, 10000]
    # (A thousand keys may fit into pages that a process has to spare, so they prove nothing.)
    for memory in report.memory[1:]:
        assert memory.server >= memory.bare > memory.keys * memory.value_bytes
        assert memory.server_peak >= memory.server
    empty, log, snapshot = report.replay
    assert (empty.kind, log.kind, snapshot.kind) == ("empty", "log", "snapshot")
    assert empty.slots == 0 < log.slots
    assert log.disk_bytes >= log.keys * 1024 > empty.disk_bytes
    assert len(log.seconds.values) == 3
    assert (tmp_path / "scale.svg").exists()
    assert "Keys in the store" in finished.stdout


def test_failover(tmp_path: Path) -> None:
    finished = bench("failover", "--runs", 1, "--json", tmp_path / "r.json")
    (row,) = read_json(tmp_path / "r.json", FailoverReport).rows
    assert 0 < row.gap.median < 10
    assert row.killed[0] in (1, 2, 3)
    assert row.leaders[0] != row.killed[0]
    assert f"{row.gap.median * 1e3:.0f}" in finished.stdout


def test_pause(tmp_path: Path) -> None:
    """A snapshot is taken while the second phase is watched, and not before."""
    quick = ("--quick", "--size", 12, "--set", "snapshot_slots=600")
    finished = bench("pause", *quick, "--json", tmp_path / "r.json")
    before, snapshot = read_json(tmp_path / "r.json", PauseReport).rows
    assert (before.phase, snapshot.phase) == ("before", "snapshot")
    for row in (before, snapshot):
        assert row.pings.count > 10  # how many depends on how busy the machine is
        assert row.writes.count > 5
        assert row.pings.worst is not None
        assert 0 < row.pings.worst < row.seconds
    assert f"{snapshot.pings.count}" in finished.stdout


def test_steady(tmp_path: Path) -> None:
    finished = bench("steady", "--quick", "--minutes", 0.04, "--json", tmp_path / "r.json")
    rows = read_json(tmp_path / "r.json", SteadyReport).rows
    assert len(rows) == 2
    for row in rows:
        assert row.measured.operations > 100
        assert row.busy > 0.01  # of the machine's cores: others may have them
        assert row.elections == 0
    assert "cores busy" in finished.stdout


def test_pair(tmp_path: Path) -> None:
    options = ("--a", "thrifty_delay=0.01", "--b", "thrifty_delay=0")
    quick = ("--quick", "--seconds", 0.3, "--warmup", 0.1, "--turns", 2)
    finished = bench("pair", *options, *quick, "--json", tmp_path / "r.json")
    report = read_json(tmp_path / "r.json", PairReport)
    assert report.settings.first == {"thrifty_delay": 0.01}
    assert report.settings.second == {"thrifty_delay": 0}
    for row in report.rows:
        rates = [(first.rate, second.rate) for first, second in row.pairs]
        assert row.rate_ratio is not None
        assert row.rate_ratio.values == [first / second for first, second in rates]
        assert all(m.failed == 0 for pair in row.pairs for m in pair)
    (single,) = (r for r in report.rows if r.workload.name == "writes, 1 outstanding")
    for thrifty, eager in single.pairs:  # the sides are not mixed up, whoever begins
        assert _syncs(thrifty) < _syncs(eager)
    assert "thrifty_delay = 0.01" in finished.stdout


def test_pythons(tmp_path: Path) -> None:
    quick = ("--seconds", 0.2, "--warmup", 0.1, "--turns", 1)
    finished = bench(
        "pythons", sys.executable, sys.executable, *quick, "--json", tmp_path / "r.json"
    )
    report = read_json(tmp_path / "r.json", PythonsReport)
    version = sys.version.split()[0]
    assert [name.split()[0] for name in report.settings.names] == [version] * 2
    loads = {row.load for row in report.rows}
    assert len(report.rows) == 2 * len(loads) >= 4
    for first, second in zip(report.rows[::2], report.rows[1::2], strict=True):
        assert first.load == second.load
        assert first.rate is not None and second.rate is not None
        assert second.rate_ratio is not None
        assert second.rate_ratio.median == second.rate.median / first.rate.median
    assert version in finished.stdout


def test_pythons_says_which_interpreter_has_no_paxon(tmp_path: Path) -> None:
    empty = tmp_path / "python"
    empty.write_text("#!/bin/sh\necho 'No module named paxon' >&2\nexit 1\n")
    empty.chmod(0o755)
    with pytest.raises(BenchError, match=r"install paxon there first \(No module named paxon\)"):
        interpreter_name(empty)


def _syncs(measured: Measurement) -> float:
    return measured.counters["syncs"] / measured.counters["slots_chosen"]


def test_the_floor_writes_the_same_bytes_on_every_disk(tmp_path: Path) -> None:
    with Floor(3, durable=True, directory=tmp_path) as floor:
        figures = floor.run(frames=2, operations=3, value_bytes=64, seconds=0.3, warmup=0.0)
        assert figures.rate > 0
        assert figures.latency.count > 0
        assert figures.cpu_per_operation >= 0
        (files,) = tmp_path.iterdir()
        sizes = []
        for path in files.glob("*.sqlite"):
            with sqlite3.connect(path) as disk:
                (size,) = disk.execute("SELECT min(length(value)) FROM log").fetchone()
                sizes.append(size)
        assert len(sizes) == 3
        # A disk that was late wrote two frames, or more, in one go.
        assert all(size > 0 and size % (3 * (64 + 24)) == 0 for size in sizes), sizes
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("contention", "--policy", "hope"), 2, "'hope' is none of stable, immediate"),
        (("contention", "--proposers", "5"), 2, "5 of 3 servers cannot try to lead"),
        (("contention", "--set", "policy=random"), 2, "policy is not set like this"),
        (("stable", "--set", "durability=memory"), 2, "durability is not set like this"),
        (("stable", "--set", "windoe=3"), 2, "did you mean 'window'?"),
        (("stable", "--plot", "p.gif"), 1, "a plot's name ends in one of .png, .svg, .pdf"),
        (("stable", "--json", "/nowhere/r.json"), 1, "/nowhere/r.json cannot be written"),
        (("failover", "--servers", "2"), 2, "Invalid value for '--servers'"),
        (("compare", "--sweep", "everything"), 2, "'everything' is none of proposers, load"),
        (("compare", "--set", "contend=true"), 2, "contend is not set like this"),
        (("compare", "--page", "pyproject.toml"), 1, "the page has no place for figures"),
        (("scale", "--quick", "--full"), 2, "a run is either quick or full"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_measured(
    arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    finished = paxon_here("bench", *arguments)
    assert finished.returncode == code
    assert sentence in " ".join(finished.stderr.decode().replace("│", " ").split())
    assert finished.stdout == b""
