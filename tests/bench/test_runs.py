"""Short runs of each bench on real servers: for the structure of what comes out, not for speed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from paxon.bench.contention.compare import CompareReport
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.measure import Figures
from paxon.bench.harness.report import Report, read_json, write_json
from paxon.bench.harness.summary import Spread
from paxon.bench.harness.workloads import Workload
from paxon.bench.scale.scale import ScaleReport
from paxon.bench.stable.failover import FailoverReport
from paxon.bench.stable.floor import Floor
from paxon.bench.stable.pair import PairReport, interpreter_name
from paxon.bench.stable.stable import StableReport, StableSettings, operations_per_request, row_of
from tests.bench.examples import measurement
from tests.cluster.helpers import paxon_here

pytestmark = pytest.mark.process

R = TypeVar("R", bound=Report[Any, Any])


def bench(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `paxon bench …`."""
    finished = subprocess.run(
        [sys.executable, "-m", "paxon.kvstore.cli", "bench", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=280,  # (a busy machine may take minutes)
        check=False,
    )
    assert finished.returncode == code, finished.stdout + finished.stderr
    return finished


def worked(report: Report[Any, Any]) -> bool:
    """Whether something got done under each load."""
    return all(row.rate.median > 0 for row in report.rows)


def measured(
    kind: type[R], file: Path, *arguments: object, calm: Callable[[R], bool] = worked
) -> tuple[str, R]:
    """Its output, and what it kept; once more if this machine was too busy for it."""
    for _ in range(5):
        finished = bench(*arguments, "--json", file)
        report = read_json(file, kind)
        if calm(report):
            break
    return finished.stdout, report


def median(figure: Spread | None) -> float:
    assert figure is not None
    return figure.median


def each(row: Figures, counter: str) -> float:
    """Of a counter, for each operation."""
    return median(row.over(lambda m: m.each(m.count(counter))))


def test_stable(tmp_path: Path) -> None:
    def calm(report: StableReport) -> bool:
        """Whether enough was done for what each operation costs: heartbeats cost the same."""
        return all(row.repeats[0].operations >= 20 for row in report.rows)

    shown, report = measured(
        StableReport, tmp_path / "r.json",
        "stable", "--quick", "--seconds", 0.3, "--warmup", 0.1, "--repeat", 1, calm=calm,
    )  # fmt: skip
    rows = {row.workload.name: row for row in report.rows}
    assert set(rows) == {
        "writes, 1 outstanding", "writes, 64 outstanding", "writes, 256 outstanding",
        "writes, pipelined", "reads, 64 outstanding",
    }  # fmt: skip
    for name, row in rows.items():
        assert name in shown
        assert row.failed == 0, row.first_error
        assert row.rate.median > 0
        assert 0 < median(row.p50) <= median(row.p99) <= median(row.p999)
        assert row.floor is not None
        assert row.floor.rate.median > 0
    # One operation at a time: a slot each; P2As and P2Bs; a sync at a majority at least.
    single = rows["writes, 1 outstanding"]
    assert each(single, "slots_chosen") == pytest.approx(1, abs=0.2)
    assert 1.9 < each(single, "syncs") < 4
    assert 2.9 < each(single, "peer_messages_received") < 8
    assert single.floor is not None
    assert (single.floor.frames, single.floor.operations) == (1, 1)
    # Many at a time share slots, syncs and messages; reads need neither slots nor syncs.
    assert each(rows["writes, 64 outstanding"], "slots_chosen") < 0.5
    assert median(rows["writes, pipelined"].over(operations_per_request)) > 10
    assert each(rows["reads, 64 outstanding"], "slots_chosen") == 0


def test_compare(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- figures: compare --><!-- end of figures -->")

    def calm(report: CompareReport) -> bool:
        """Whether none stood still for so long that another had to lead."""
        rows = [row for row in report.rows if row.point.policy == "stable"]
        elected = any(row.total("phase1_rounds") for row in rows)
        return worked(report) and not elected and len(report.duels[0].reigns) == 1

    shown, report = measured(
        CompareReport, tmp_path / "r.json",
        "compare", "--quick", "--sweep", "contention,rtt", "--policy", "stable,backoff",
        "--seconds", 0.3, "--warmup", 0.1, "--repeat", 1, "--durability", "memory", "--set",
        "backoff_cap=0.05", "--plots", tmp_path / "plots", "--page", page, calm=calm,
    )  # fmt: skip
    assert [sweep.name for sweep in report.sweeps] == ["contention", "rtt"]
    assert report.settings.options == {"backoff_cap": 0.05}
    rows = {(row.point.policy, row.point.round_trip): row for row in report.rows}
    near, far = rows["stable", 0.0], rows["stable", 0.01]
    for row in (near, far):
        assert row.rate.median > 0
        assert row.leaderless.median < 0.2
        assert row.total("phase1_rounds") == 0
        assert row.of_stable == 1
    assert median(far.p50) >= far.point.round_trip == 0.01
    # Three servers do try to lead, again and again.
    backoff = rows["backoff", 0.0]
    assert backoff.total("phase1_rounds") > 0
    assert backoff.total("preemptions") > 0
    stable, duel = report.duels
    assert sum(reign.slots for reign in stable.reigns) > 0
    assert len(stable.reigns) == 1
    assert len(duel.reigns) > 1
    files = {path.name for path in (tmp_path / "plots").iterdir()}
    names = {"compare-contention", "compare-sweeps", "compare-ballots"}
    assert files == {f"{name}.{form}" for name in names for form in ("svg", "png")}
    assert "Round-trip time between servers" in shown
    assert "| stable | 10 |" in page.read_text()
    # The same figures once more, without measuring.
    again = bench("compare", "--from", tmp_path / "r.json")
    assert again.stdout == shown


def test_scale(tmp_path: Path) -> None:
    shown, report = measured(
        ScaleReport, tmp_path / "r.json",
        "scale", "--quick", "--part", "sessions,keys,replay,pause", "--seconds", 0.3,
        "--warmup", 0, "--plots", tmp_path,
    )  # fmt: skip
    assert [(row.part, row.x) for row in report.rows] == [
        ("sessions", 1), ("sessions", 300),
        ("keys", 1000), ("keys", 1000), ("keys", 10000), ("keys", 10000),
    ]  # fmt: skip
    for cost in report.rows:
        assert cost.rate.median > 0
        assert cost.failed == 0
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
    # A snapshot is taken while the second phase is watched, and not before.
    before, during = report.pause
    assert (before.phase, during.phase) == ("before", "snapshot")
    for row in report.pause:
        assert row.pings.count > 0  # how many depends on how busy the machine is
        assert row.writes.count > 0
        assert row.pings.worst is not None
        assert 0 < row.pings.worst < row.seconds
    assert (tmp_path / "scale.svg").exists()
    assert "Keys in the store" in shown


def test_failover(tmp_path: Path) -> None:
    finished = bench("failover", "--runs", 1, "--json", tmp_path / "r.json")
    (row,) = read_json(tmp_path / "r.json", FailoverReport).rows
    assert 0 < row.median < 10
    assert f"{row.median * 1e3:.0f}" in finished.stdout


def test_pair(tmp_path: Path) -> None:
    options = ("--a", "window=8", "--b", "thrifty_delay=0")
    quick = ("--quick", "--servers", 1, "--seconds", 0.3, "--warmup", 0.1, "--turns", 1)
    finished = bench("pair", *options, *quick, "--json", tmp_path / "r.json")
    report = read_json(tmp_path / "r.json", PairReport)
    assert report.settings.first == {"window": 8}
    assert report.settings.second == {"thrifty_delay": 0}
    sides = {(row.load, row.side): row for row in report.rows}
    for (load, side), row in sides.items():
        assert row.failed == 0
        if side == "A":
            assert row.to_first is None
            continue
        assert row.to_first is not None
        assert row.to_first.rate is not None
        pairs = zip(row.repeats, sides[load, "A"].repeats, strict=True)
        assert row.to_first.rate.values == [mine.rate / first.rate for mine, first in pairs]
    # (That the sides are not mixed up, whoever begins, the next test shows without any load.)
    assert "A: window = 8" in finished.stdout


def fake_python(path: Path, rate: float) -> Path:
    """An interpreter whose Paxon prints a report without measuring anything."""
    rows = [row_of(Workload(name="w"), [measurement(rate)], [], (1, 1))]
    report = StableReport(bench="stable", settings=StableSettings(), rows=rows)
    write_json(report, path.with_suffix(".json"))
    path.write_text(
        f"#!/bin/sh\n[ $1 = -c ] && echo 3.99.0 && exit\n"
        f"while [ $1 != --json ]; do shift; done\ncp {path.with_suffix('.json')} $2\n"
    )
    path.chmod(0o755)
    return path


def test_pair_of_interpreters(tmp_path: Path) -> None:
    pythons = [fake_python(tmp_path / name, rate) for name, rate in (("a", 100.0), ("b", 300.0))]
    finished = bench(
        "pair", *(f"--python={python}" for python in pythons), "--turns", 2,
        "--json", tmp_path / "r.json",
    )  # fmt: skip
    report = read_json(tmp_path / "r.json", PairReport)
    assert report.sides == {"A": "Python 3.99.0", "B": "Python 3.99.0"}, "told apart by letters"
    assert str(tmp_path) not in (tmp_path / "r.json").read_text()
    first, second = report.rows
    assert (first.side, first.rate.values, first.to_first) == ("A", [100.0, 100.0], None)
    assert second.to_first is not None
    assert second.to_first.rate is not None
    assert second.to_first.rate.values == [3.0, 3.0]
    assert "w, B" in finished.stdout


def test_pythons_says_which_interpreter_has_no_paxon(tmp_path: Path) -> None:
    empty = tmp_path / "python"
    empty.write_text("#!/bin/sh\necho 'No module named paxon' >&2\nexit 1\n")
    empty.chmod(0o755)
    with pytest.raises(BenchError, match=r"install paxon there first \(No module named paxon\)"):
        interpreter_name(empty)


def test_the_floor_writes_the_same_bytes_on_every_disk(tmp_path: Path) -> None:
    with closing(Floor(3, directory=tmp_path)) as floor:
        figures = floor.run(2, 3, durable=True, value_bytes=64, seconds=0.2, warmup=0.0)
        assert figures.rate > 0
        assert figures.latency.count > 0
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
        (("pair", "--python", "python3"), 2, "one --python has nothing to be compared with"),
        (("peers", "--only", "etcd,zookeeper"), 2, "'zookeeper' is none of etcd, redis"),
        (("contention", "--proposers", "5"), 2, "5 of 3 servers cannot try to lead"),
        (("contention", "--set", "policy=random"), 2, "policy is not set like this"),
        (("stable", "--set", "durability=memory"), 2, "durability is not set like this"),
        (("stable", "--set", "windoe=3"), 2, "did you mean 'window'?"),
        (("stable", "--json", "/nowhere/r.json"), 1, "/nowhere/r.json cannot be written"),
        (("failover", "--servers", "2"), 2, "Invalid value for '--servers'"),
        (("compare", "--sweep", "everything"), 2, "'everything' is none of contention"),
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
