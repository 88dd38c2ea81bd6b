"""Paxon beside others: what is measured when, the ratios, and what happens to peers that lack."""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from paxon.bench.cli.app import Outputs, carry_out
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.measure import Measurement, ServerCounts
from paxon.bench.harness.plot_style import save_plot
from paxon.bench.harness.report import markdown, read_json, rich_table, write_json
from paxon.bench.harness.summary import latency_of, spread_of
from paxon.bench.harness.workloads import Workload
from paxon.bench.peers import run
from paxon.bench.peers.programs import INSTALL_SCRIPT, Program, Programs, default_directory
from paxon.bench.peers.redis import Redis, parse_benchmark
from paxon.bench.peers.run import (
    GapRow,
    Peer,
    PeerNote,
    PeerRow,
    PeersReport,
    PeersSettings,
    System,
    Taken,
    peer_row,
    peers_notes,
    peers_sections,
    plot_peers,
)
from tests.bench.examples import measurement

CSV = """\
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"SET","52784.00","0.910","0.200","0.863","1.300","2.111","7.500"
"""


def taken(rate: float, p50: float = 0.001, idle: float = 0.0) -> Taken:
    measured = msgspec.structs.replace(measurement(rate), latency=latency_of([p50]))
    return Taken(measured, idle)


def row(names: tuple[str, str], pairs: list[tuple[Taken, Taken]]) -> PeerRow:
    ours, theirs = (dict(enumerate(side)) for side in zip(*pairs, strict=True))
    return peer_row(Workload(name="writes"), names, ours, theirs)


def report() -> PeersReport:
    """Paxon does three times etcd's; Redis is not there; the other's clients are its servers."""
    pairs = [(taken(300.0, 0.001), taken(100.0, 0.004)), (taken(800.0, 0.001), taken(200.0, 0.002))]
    inside = Taken(msgspec.structs.replace(measurement(10.0), client_cpu=0.0), 0.02)
    rows: list[PeerNote | PeerRow | GapRow] = [
        PeerNote(peer="etcd", version="3.4", driven="somehow", durability="synced"),
        PeerNote(peer="Redis", version="", skipped="Redis is not installed."),
        row(("Paxon", "etcd"), pairs),
        row(("Paxon in memory", "P, on"), [(taken(5.0), inside)]),
        GapRow(other_name="etcd", paxon=spread_of([0.1, 0.3]), other=spread_of([1.0])),
    ]
    return PeersReport(bench="peers", settings=PeersSettings(repeat=2), rows=rows)


# --- figures -------------------------------------------------------------------------------------


def test_latencies_and_cpu_of_a_pair() -> None:
    pair = row(("Paxon", "etcd"), [(taken(9.0, 0.001, 0.25), taken(3.0, 0.004))])
    assert pair.ratios.p50 is not None
    assert pair.ratios.p50.median == pytest.approx(0.25)
    assert pair.paxon.server_cpu is not None
    assert pair.paxon.server_cpu.median == pytest.approx(1.0 / 2000)
    assert pair.paxon.disturbance.median == 0.25
    assert pair.other is not None
    assert pair.other.name == "etcd"


def test_the_output_of_redis_benchmark_is_read() -> None:
    rate, latency = parse_benchmark("WARNING: Could not fetch server CONFIG\n" + CSV)
    assert rate == 52784.0
    seconds = [latency.p50, latency.p99, latency.worst]
    assert seconds == pytest.approx([0.000863, 0.002111, 0.0075])


@pytest.mark.parametrize(
    "text", ["", "SET: 100.00 requests per second", CSV.splitlines()[0], '"SET","1"']
)
def test_other_output_of_redis_benchmark_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match="not understood"):
        parse_benchmark(text)


# --- the plan ------------------------------------------------------------------------------------


def test_the_loads_beside_each_peer() -> None:
    blocks = run.blocks_of(PeersSettings(value_bytes=7), ["etcd", "redis", "pysyncobj"])
    assert [(block.peer, block.durability) for block in blocks] == [
        ("etcd", "disk"), ("etcd", "disk"), ("redis", "disk"), ("pysyncobj", "disk"),
        ("pysyncobj", "memory"),
    ]  # fmt: skip
    through = blocks.pop(1)
    assert through.through and not any(block.through for block in blocks)
    assert [(load.kind, load.outstanding, load.watches) for load in through.loads] == [
        ("put", 1, 0), ("put", 16, 0), ("put", 64, 0), ("get", 1, 0), ("get", 16, 0),
        ("get", 64, 0), ("watch", 1, 1000),
    ]  # fmt: skip
    outstanding = [[load.outstanding for load in block.loads] for block in blocks]
    assert outstanding == [
        [1, 64, 256, 1, 16, 64, 256, 64], [1, 64, 256, 800, 4096], [1, 64, 256, 1024, 8192], [1],
    ]  # fmt: skip
    assert [load.mode for load in blocks[0].loads[3:]] == ["linearizable"] * 4 + ["lease"]
    assert [load.pipelined for load in blocks[1].loads] == [False] * 3 + [True] * 2
    assert {load.value_bytes for block in blocks for load in block.loads} == {7}


def test_only_what_is_asked_for_is_planned() -> None:
    assert {block.peer for block in run.blocks_of(PeersSettings(), ["redis"])} == {"redis"}
    few = run.blocks_of(PeersSettings(quick=True), ["etcd"])[0].loads
    assert len(few) < len(run.blocks_of(PeersSettings(), ["etcd"])[0].loads)


# --- what is installed ---------------------------------------------------------------------------


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """A machine without any peer."""
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    monkeypatch.setattr(Programs, "python_version", lambda self, distribution: None)
    return Programs(tmp_path)


def test_what_is_not_installed_is_skipped_with_a_sentence(nothing: Programs) -> None:
    notes = [note for _, note in run.look_around(PeersSettings(), nothing)]
    assert [note.peer for note in notes] == ["etcd", "Redis", "PySyncObj"]
    for note in notes:
        assert note.skipped.startswith(f"{note.peer} was left out: it is not")
        assert "--install" in note.skipped


def test_with_no_peer_at_all_nothing_is_started(
    nothing: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "Paxon", lambda *_: pytest.fail("Paxon was started"))
    settings = PeersSettings(only=("redis",))
    with pytest.raises(BenchError, match="nothing to compare with: Redis was left out"):
        run.run_peers(settings, lambda _: None, nothing)


def test_a_peer_whose_port_was_taken_is_started_again(
    nothing: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = Pretender("Redis", 1.0, [])
    outcomes: list[System | BenchError] = [BenchError("in use"), redis, *[BenchError("broken")] * 3]

    def start(_: Programs) -> System:
        outcome = outcomes.pop(0)
        if isinstance(outcome, BenchError):
            raise outcome
        return outcome

    monkeypatch.setattr(run, "Redis", start)
    assert run.start_peers("redis", nothing, PeersSettings()) == [redis]
    with pytest.raises(BenchError, match="broken"):
        run.start_peers("redis", nothing, PeersSettings())
    assert not outcomes, "it is not tried for ever, nor given up too early"


def test_without_protobuf_etcd_is_left_out_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    script(tmp_path / "root" / "usr" / "bin" / "etcd", "true")
    monkeypatch.setattr(importlib, "import_module", missing)
    ((_, note),) = run.look_around(PeersSettings(only=("etcd",)), Programs(tmp_path))
    assert note.skipped.startswith("etcd was left out: the load on etcd needs protobuf")
    assert "pip install 'paxon[bench]'" in note.skipped


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def test_programs_of_the_directory_come_before_those_in_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "system" / "etcd", "true")
    monkeypatch.setenv("PATH", str(tmp_path / "system"))
    assert Programs(tmp_path).find("etcd") == tmp_path / "system" / "etcd"
    script(tmp_path / "root" / "usr" / "bin" / "etcd", "true")
    assert Programs(tmp_path).find("etcd") == tmp_path / "root" / "usr" / "bin" / "etcd"


def test_versions_are_what_the_programs_say(tmp_path: Path) -> None:
    bin_ = tmp_path / "root" / "usr" / "bin"
    script(bin_ / "etcd", "echo 'etcd Version: 3.4.23'; echo 'Git SHA: none'")
    script(bin_ / "redis-server", "echo 'Redis server v=7.0.15 sha=0:0 bits=64'")
    script(bin_ / "redis-benchmark", "true")
    notes = dict(run.look_around(PeersSettings(only=("etcd", "redis")), Programs(tmp_path)))
    assert [notes["etcd"].version, notes["redis"].version] == ["3.4.23", "7.0.15"]
    assert not notes["etcd"].skipped


def test_a_python_package_of_the_directory_is_found(tmp_path: Path) -> None:
    programs = Programs(tmp_path)
    assert programs.python_version("no-such-thing-for-paxon") is None
    info = programs.python_directory / "no_such_thing_for_paxon-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        "Name: no-such-thing-for-paxon\nVersion: 1.2\n", encoding="utf-8"
    )
    assert programs.python_version("no-such-thing-for-paxon") == "1.2"


def test_libraries_of_the_directory_are_found_by_its_programs(tmp_path: Path) -> None:
    libraries = tmp_path / "root" / "usr" / "lib" / "x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    assert Programs(tmp_path).environment()["LD_LIBRARY_PATH"].split(":")[0] == str(libraries)


def test_the_default_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PAXON_PEERS", str(tmp_path))
    assert default_directory() == tmp_path
    monkeypatch.delenv("PAXON_PEERS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "paxon" / "peers"


def test_the_install_script_is_part_of_the_package_and_wants_a_directory() -> None:
    done = subprocess.run(["sh", str(INSTALL_SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "name the directory" in done.stderr


def test_a_program_that_ends_at_once_says_why(tmp_path: Path) -> None:
    script(tmp_path / "root" / "usr" / "bin" / "etcd", "echo 'no such flag' >&2; exit 3")
    programs = Programs(tmp_path)
    path = programs.find("etcd")
    assert path is not None
    program = Program([path], programs=programs, log=tmp_path / "log")
    with pytest.raises(BenchError, match=r"etcd has ended \(exit code 3\): no such flag"):
        program.wait_until(lambda: False, 10.0)
    program.kill()


def test_installing_is_all_that_is_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed: list[Path] = []
    monkeypatch.setenv("PAXON_PEERS", str(tmp_path))
    monkeypatch.setattr(Programs, "install", lambda self: installed.append(self.directory))
    monkeypatch.setattr(run, "run_peers", lambda *_: pytest.fail("something was measured"))
    carry_out(run.PEERS, PeersSettings(install=True), Outputs())
    assert installed == [tmp_path]


@pytest.mark.process
def test_a_program_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script(tmp_path / "root" / "usr" / "bin" / "etcd", "echo $$ >&2; exec sleep 60")
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from paxon.bench.peers.programs import Program, Programs\n"
        f"programs = Programs(Path({str(tmp_path)!r}))\n"
        f"log = Path({str(tmp_path / 'log')!r})\n"
        "program = Program([programs.find('etcd')], programs=programs, log=log)\n"
        "program.wait_until(lambda: log.read_text().endswith('\\n'), 10.0)\n"
        "print(log.read_text(), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    # The kernel has sent the signal before the parent's end was reported; it may still be dying.
    with pytest.raises(ProcessLookupError):
        _wait_for_end(pid)


def _wait_for_end(pid: int) -> None:
    """Raises ProcessLookupError once a process is gone; returns if it lives on for 10 s."""
    descriptor = os.pidfd_open(pid)
    try:
        import select

        select.select([descriptor], [], [], 10.0)
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        if state == "Z":  # gone, but nobody has asked how it ended
            raise ProcessLookupError(pid)
    finally:
        os.close(descriptor)


# --- a run, with systems that only pretend -------------------------------------------------------


class Pretender:
    """A system that does as many operations a second as it is told to, and remembers its turns."""

    def __init__(self, name: str, rate: float, turns: list[str]) -> None:
        self.name = name
        self.rate = rate
        self.turns = turns
        self.failing = False
        self.closed = False
        self.used = 0.0

    def measure(self, load: Workload, *, seconds: float, warmup: float, seed: int) -> Measurement:
        self.turns.append(f"{self.name} {load.outstanding} {seed}")
        if self.failing and seed == 2:
            raise BenchError("it fell over")
        self.used += 100.0
        return measurement(self.rate)

    def counts(self) -> ServerCounts:
        return ServerCounts({}, {1: self.used})

    def close(self) -> None:
        self.closed = True


class Stage:
    """Replaces what would start real processes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.turns: list[str] = []
        self.paxon = Pretender("Paxon", 300.0, self.turns)
        self.etcd = Pretender("etcd", 100.0, self.turns)
        note = PeerNote(peer="etcd", version="3")
        load = Workload(name="writes", outstanding=4)
        systems: Callable[..., list[System]] = lambda *_: [self.etcd]  # noqa: E731 (typed)
        monkeypatch.setattr(run, "look_around", lambda *_: [("etcd", note)])
        monkeypatch.setattr(run, "Paxon", lambda *_: self.paxon)
        monkeypatch.setattr(run, "start_peers", systems)
        monkeypatch.setattr(run, "blocks_of", lambda *_: [run.Block("etcd", "disk", [load])])

    def run(self, repeat: int) -> PeersReport:
        settings = PeersSettings(only=("etcd",), repeat=repeat, kills=0, seed=1)
        return run.run_peers(settings, lambda _: None, Programs(Path("nowhere")))


def test_systems_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    outcome = stage.run(repeat=2)
    assert stage.turns == ["Paxon 4 1", "etcd 4 1", "Paxon 4 2", "etcd 4 2"]
    pair = next(row for row in outcome.rows if isinstance(row, PeerRow))
    assert pair.ratios.rate is not None
    assert pair.ratios.rate.values == [3.0, 3.0]
    assert pair.other is not None
    idle = [*pair.paxon.disturbance.values, *pair.other.disturbance.values]
    assert idle == [0.0] * 4, "CPU is that of those whose turn it is not"
    assert stage.paxon.closed
    assert stage.etcd.closed


def test_a_measurement_that_fails_costs_its_pair_only(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    stage.etcd.failing = True
    outcome = stage.run(repeat=3)
    pair = next(row for row in outcome.rows if isinstance(row, PeerRow))
    assert pair.ratios.rate is not None
    assert len(pair.ratios.rate.values) == 2
    assert any("etcd, writes, repeat 2: it fell over" in line for line in peers_notes(outcome))


def test_all_systems_are_closed_if_the_run_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)

    def interrupt(*_: object, **__: object) -> Measurement:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage.etcd, "measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        stage.run(repeat=1)
    assert stage.paxon.closed
    assert stage.etcd.closed


# --- for people ----------------------------------------------------------------------------------


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = report()  # (a second one may begin in another second)
    write_json(made, tmp_path / "r.json")
    assert read_json(tmp_path / "r.json", PeersReport) == made


def test_the_table_shows_ratios_and_where_the_load_is_made() -> None:
    text = io.StringIO()
    console = Console(file=text, width=220)
    for section in peers_sections(report()):
        console.print(rich_table(section))
    shown = text.getvalue()
    assert "3.50 (3.00 … 4.00)" in shown
    assert "(Paxon in memory)" in shown
    assert "500.0 in all" in shown
    assert "200 (100 … 300) │ 1000 (1000 … 1000) │  0.20 " in shown
    notes = peers_notes(report())
    assert "Redis is not installed." in notes
    assert "took at most 2.0 % of a core" in notes[-1]


def test_markdown_has_the_same_in_lines_of_equal_width() -> None:
    text = markdown(report(), peers_sections(report()), peers_notes(report()))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == (2 + 2) + (2 + 1)
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert "| writes | etcd | 550 ±45 % | 150 ±33 % | 3.50 (3.00 … 4.00) |" in text
    assert "- Redis is not installed." in text


@pytest.mark.slow
def test_the_picture_has_a_bar_for_each_pair(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    save_plot(plot_peers(report()), tmp_path / "p")
    drawn = (tmp_path / "p.svg").read_text(encoding="utf-8")
    assert "writes / etcd" in drawn
    assert "3.5" in drawn


# --- the real ones, where they are installed -----------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize("peer", ["etcd", "redis", "pysyncobj"])
def test_a_short_load_on_the_real_peer(peer: Peer) -> None:
    programs = Programs(default_directory())
    settings = PeersSettings(only=(peer,))
    ((name, note),) = run.look_around(settings, programs)
    if note.skipped:
        pytest.skip(note.skipped)
    systems = run.start_peers(name, programs, settings)
    try:
        for system in systems:
            load = Workload(name="w", outstanding=16, pipelined=isinstance(system, Redis))
            measured = system.measure(load, seconds=0.5, warmup=0.1, seed=1)
            assert measured.operations > 0
            assert measured.failed == 0, measured.first_error
            assert measured.latency.p50 is not None
            assert sum(system.counts().cpu.values()) > 0
    finally:
        for system in systems:
            system.close()
