"""What several clients and servers counted becomes one measurement, and rows of a table."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from paxon.bench.harness.machine import (
    children_of,
    cpu_seconds,
    describe_machine,
    memory_bytes,
)
from paxon.bench.harness.measure import combine, ratios_of
from paxon.bench.harness.summary import latency_of
from paxon.bench.harness.workloads import Workload, WorkloadData, stable_workloads
from paxon.bench.stable import stable
from paxon.bench.stable.floor import FloorFigures
from tests.bench.examples import counts, measurement, sample


def test_clients_add_up() -> None:
    found = combine(
        [
            sample(operations=100, seconds=2.0, latencies=(0.1, 0.3), failed=2),
            sample(operations=300, seconds=1.0, latencies=(0.2,), oldest=0.5),
        ],
        counts(1.0),
        counts(1.5),
        elapsed=2.0,
    )
    assert found.operations == 400
    assert found.rate == 50 + 300
    assert found.latency == latency_of([0.1, 0.2, 0.3])
    assert found.longest_wait == 0.5  # of an operation that never got its answer
    assert (found.failed, found.first_error) == (2, "it did not work")
    assert found.client_cpu == 1.0
    assert found.server_cpu == pytest.approx(1.5)


def test_counters_are_what_was_added_meanwhile_on_all_servers() -> None:
    found = combine(
        [sample(operations=10)],
        counts(0.0, syncs=100, old=7),
        counts(0.0, syncs=105, old=7, new=1),
        elapsed=1.0,
    )
    assert found.counters == {"syncs": 15, "new": 3}, "without what stood still"
    assert found.each(found.count("syncs")) == 1.5
    assert found.each(found.count("unheard of")) == 0
    assert found.per_second("syncs") == 15


def test_nothing_is_divided_by_nothing() -> None:
    nothing = measurement(operations=0, syncs=5)
    assert nothing.each(nothing.count("syncs")) is None
    assert nothing.by_slots(nothing.count("syncs")) is None


def test_a_ratio_is_of_neighbours_not_of_medians() -> None:
    # The machine slows down to a tenth in the second repeat: both ratios are 2 all the same.
    rates = [(2000.0, 1000.0), (200.0, 100.0), (30.0, 10.0)]
    ratios = ratios_of([(measurement(one), measurement(other)) for one, other in rates])
    assert ratios.rate is not None
    assert ratios.rate.values == [2.0, 2.0, 3.0]
    assert ratios.cpu is not None
    assert ratios.cpu.median == 1.0


def test_without_any_operation_there_is_no_ratio() -> None:
    nothing = measurement(0.0, operations=0)
    ratios = ratios_of([(measurement(1.0), nothing)])
    assert ratios.rate is ratios.p50 is ratios.cpu is None


def test_stable_row() -> None:
    measured = [
        measurement(rate, slots_chosen=500, syncs=6000, client_messages_received=1000)
        for rate in (900.0, 1000.0, 1200.0)
    ]
    floors = [FloorFigures(rate, latency_of([0.0005])) for rate in (2000.0, 3000.0, 4000.0)]
    row = stable.row_of(Workload(name="w"), measured, floors, (16, 2))
    assert (row.rate.median, row.rate.low, row.rate.high) == (1000, 900, 1200)
    slots = row.over(lambda m: m.each(m.count("slots_chosen")))
    syncs = row.over(lambda m: m.each(m.count("syncs")))
    assert slots is not None
    assert slots.median == 0.25
    assert syncs is not None
    assert syncs.median == 3
    assert row.cores_busy.median == pytest.approx(0.6)
    assert stable.operations_per_request(measured[0]) == 2
    assert row.server_cpu is not None
    assert row.server_cpu.median == pytest.approx(0.0005)
    assert row.floor is not None
    assert row.floor.rate_ratio == 3  # Paxon is three times slower
    assert row.floor.latency_ratio == 2
    assert len(row.repeats) == 3


def test_a_long_run_is_ten_stretches_of_one_load_without_a_floor() -> None:
    settings = stable.StableSettings(minutes=10)
    (load,) = settings.loads()
    assert (load.clients, load.pipelined, load.outstanding) == (2, True, 4096)
    assert settings.rounds() == (10, 60.0)
    assert not settings.has_floor(load)
    assert stable.StableSettings().has_floor(load)


def test_workloads() -> None:
    loads = stable_workloads(value_bytes=100)
    assert len({load.name for load in loads}) == len(loads)
    assert {load.value_bytes for load in loads} == {100}
    assert {load.mode for load in loads if load.kind == "get"} == {"linearizable", "lease"}
    quick = stable_workloads(value_bytes=100, quick=True)
    assert set(quick) < set(loads)


def test_the_same_seed_gives_the_same_data() -> None:
    load = Workload(name="w", keys=50, value_bytes=9)
    one, again, other = WorkloadData(load, 1), WorkloadData(load, 1), WorkloadData(load, 2)
    assert (one.keys, one.value) == (again.keys, again.value)
    assert one.keys != other.keys
    assert sorted(one.keys) == sorted(other.keys)
    assert len(one.value) == 9


def test_cpu_time_of_a_process() -> None:
    before = cpu_seconds(os.getpid())
    used = sum(os.times()[:2])
    assert before == pytest.approx(used, abs=0.1)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises(ProcessLookupError):
        cpu_seconds(gone.pid)


def test_memory_and_children_of_a_process() -> None:
    before = memory_bytes()
    held = b"x" * (32 << 20)
    assert memory_bytes() - before > 30 << 20
    assert memory_bytes(os.getpid(), "VmHWM") >= memory_bytes()
    del held
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in children_of(os.getpid())
        child.communicate(b"\n")
    assert child.pid not in children_of(os.getpid())
    with pytest.raises(ProcessLookupError):
        memory_bytes(child.pid)


def test_the_machine_is_described_without_its_name() -> None:
    machine = describe_machine()
    assert machine.cores >= 1
    assert machine.memory_bytes > 1 << 20
    assert set(machine.versions) >= {"paxon", "pykka", "pyzmq", "libzmq", "sqlite"}
    assert os.uname().nodename not in machine.sentence()
