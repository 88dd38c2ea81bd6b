"""Sweeps and points of `paxon bench compare`, its rows, and figures in a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from paxon.bench.contention.compare import (
    SWEEPS,
    CompareSettings,
    ContentionSettings,
    points_of,
    rows_of,
    sweeps_of,
)
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.flags import chosen_names
from paxon.bench.harness.load import client_options
from paxon.bench.harness.measure import jobs_for
from paxon.bench.harness.report import fill_page, splice
from paxon.bench.harness.workloads import Workload, WorkloadData
from tests.bench.examples import measurement


def test_each_sweep_varies_one_setting_along_its_lines() -> None:
    sweeps = sweeps_of(CompareSettings())
    assert [sweep.name for sweep in sweeps] == list(SWEEPS)
    fields = {
        "contention": "proposers", "proposers": "proposers", "load": "outstanding",
        "backoff": "backoff_base", "servers": "servers", "value": "value_bytes",
        "rtt": "round_trip", "batch": "packing", "window": "window",
    }  # fmt: skip
    for sweep in sweeps:
        assert len({line.label for line in sweep.lines}) == len(sweep.lines)
        for line in sweep.lines:
            assert len(line.points) > 1
            for value, point in line.points:
                assert getattr(point, fields[sweep.name]) == value
                assert point.policy == line.policy
                assert point.proposers <= point.servers
                assert point.backoff_base <= point.backoff_cap


def test_what_sweeps_have_in_common_is_measured_once() -> None:
    settings = CompareSettings(sweep=("load", "rtt", "value"))
    points = points_of(sweeps_of(settings))
    assert len(set(points)) == len(points)
    shared = [p for p in points if p.outstanding == 8 and p.round_trip == 0 and p.value_bytes == 64]
    assert sorted(point.policy for point in shared) == ["backoff", "random", "stable"]


def test_only_the_policies_asked_for() -> None:
    settings = CompareSettings(sweep=("proposers", "window"), policies=("immediate",))
    (sweep,) = sweeps_of(settings)  # a window without a stable leader is no question
    assert {line.policy for line in sweep.lines} == {"immediate"}


def test_up_to_five_proposers_on_as_many_servers_all_with_the_same() -> None:
    (sweep,) = sweeps_of(CompareSettings(sweep=("proposers",)))
    assert {point.servers for line in sweep.lines for _, point in line.points} == {5}
    assert {value for line in sweep.lines for value, _ in line.points} == {1, 2, 3, 4, 5}


def test_servers_are_told_what_a_point_says() -> None:
    settings = CompareSettings(options={"backoff_base": 0.02, "window": 5})
    points = points_of(sweeps_of(settings))
    for point in points:
        assert point.options["contend"] == (point.policy != "stable")
        if point.policy != "backoff":  # what has no effect must not make two points of one
            assert point.backoff_base == 0.01
    assert {p.window for p in points if p.policy == "immediate"} == {5}
    assert 0.02 in {p.backoff_base for p in points if p.policy == "backoff"}


def test_rows_stand_beside_the_stable_leader_under_the_same_load() -> None:
    points = points_of(sweeps_of(CompareSettings(sweep=("load",), quick=True)))
    rates = {"stable": 2000.0, "backoff": 500.0, "random": 1000.0}
    rows = rows_of({p: [measurement(rates[p.policy], slots_chosen=10)] for p in points})
    ratios = {(row.point.policy, row.point.outstanding): row.of_stable for row in rows}
    assert ratios["backoff", 1] == ratios["backoff", 64] == 0.25
    assert ratios["stable", 1] == 1
    alone = rows_of({p: [measurement()] for p in points if p.policy == "backoff"})
    assert {row.of_stable for row in alone} == {None}


def test_costs_for_each_slot() -> None:
    figures = measurement(
        1000.0, slots_chosen=500, p2a_sent=2500, syncs=1000, phase1_rounds=50, preemptions=25
    )
    point = points_of(sweeps_of(CompareSettings(sweep=("proposers",))))[0]
    assert point.servers == 5
    (row,) = rows_of({point: [figures]})
    assert row.wasted_p2a is not None
    assert row.wasted_p2a.median == 1.0  # 5 sent for each slot, 4 needed
    (figures,) = row.repeats
    assert figures.per_second("phase1_rounds") == 25
    assert figures.per_second("preemptions") == 12.5
    assert figures.by_slots(figures.count("phase1_rounds")) == 0.1


def test_a_livelock_has_rounds_but_no_figures_for_a_slot() -> None:
    point = points_of(sweeps_of(CompareSettings(sweep=("proposers",))))[0]
    nothing = measurement(0.0, operations=0, phase1_rounds=900)
    (row,) = rows_of({point: [nothing]})
    assert row.of_stable is None
    assert nothing.per_second("phase1_rounds") == 450
    assert nothing.by_slots(nothing.count("phase1_rounds")) is None
    assert row.wasted_p2a is row.p50 is None


def test_the_preset_is_one_sweep_up_to_as_many_proposers_as_asked_for() -> None:
    (sweep,) = sweeps_of(ContentionSettings(proposers=3))
    assert sweep.name == "contention"
    assert [value for value, _ in sweep.lines[0].points] == [2, 3]
    assert {point.servers for line in sweep.lines for _, point in line.points} == {3}
    (sweep,) = sweeps_of(ContentionSettings(quick=True, policies=("stable",)))
    assert [[value for value, _ in line.points] for line in sweep.lines] == [[3]]
    assert not ContentionSettings().duels


@pytest.mark.parametrize(("led_us", "share"), [(0, 1.0), (500_000, 0.75), (2_100_000, 0.0)])
def test_the_share_of_time_without_a_leader(led_us: int, share: float) -> None:
    assert measurement(leading_us=led_us).leaderless() == pytest.approx(share)


def test_proposers_jobs() -> None:
    workload = Workload(name="w", clients=2, packing=4)
    alone = jobs_for(workload, ["a", "b", "c"], follow=False, warmup=0.1, seed=5)
    assert [job.addresses for job in alone] == [["a"], ["b"]]
    assert not any(job.redirect for job in alone)
    following = jobs_for(workload, ["a", "b", "c"], follow=True, warmup=0.1, seed=5)
    assert all(job.redirect and len(job.addresses) == 3 for job in following)
    assert [job.seed for job in following] == [5, 6]


def test_a_client_packs_as_it_is_told() -> None:
    assert client_options(Workload(name="w")) is None
    options = client_options(Workload(name="w", packing=4))
    assert options is not None
    assert (options.batch_weight, options.full_weight) == (4, 4)


def test_keys_all_over_a_larger_store() -> None:
    data = WorkloadData(Workload(name="w", keys=10, stride=100), seed=1)
    assert sorted(data.keys)[:2] == ["key-0000000", "key-0000100"]


# --- names and pages -----------------------------------------------------------------------------


def test_names_are_chosen_by_flags_and_commas() -> None:
    assert chosen_names(["load, rtt", "load"], SWEEPS) == ("load", "rtt")
    assert chosen_names([","], SWEEPS) == ()
    assert CompareSettings().sweeps == SWEEPS
    with pytest.raises(ValueError, match="'lode' is none of contention, proposers, load"):
        chosen_names(["lode"], SWEEPS)


PAGE = """# Title

<!-- figures: compare -->

old

<!-- end of figures -->

between

<!-- figures: scale -->
<!-- end of figures -->
"""


def test_figures_replace_what_stood_between_their_marks() -> None:
    page = splice(PAGE, "compare", "new")
    assert "old" not in page
    assert "<!-- figures: compare -->\n\nnew\n\n<!-- end of figures -->" in page
    assert splice(page, "compare", "new") == page
    both = splice(page, "scale", "more")
    assert both.index("new") < both.index("between") < both.index("more")


@pytest.mark.parametrize(
    "text", ["", "<!-- figures: compare -->", PAGE.replace("<!-- end of figures -->\n\nb", "b")]
)
def test_a_page_without_a_place_for_figures_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(BenchError, match="no place for figures"):
        fill_page(path, "compare", "", write=False)
    assert path.read_text() == text


def test_a_page_is_filled(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    fill_page(path, "scale", "", write=False)
    fill_page(path, "scale", "| a |")
    assert path.read_text() == splice(PAGE, "scale", "| a |")
    with pytest.raises(BenchError, match="cannot be read"):
        fill_page(tmp_path / "missing.md", "scale", "")


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("README.md", "figures"), ("README.md", "contention"), ("docs/benchmarks.md", "compare"),
        ("docs/benchmarks.md", "scale"), ("docs/peers.md", "peers"),
    ],
)  # fmt: skip
def test_pages_have_places_for_their_figures(page: str, name: str) -> None:
    fill_page(Path(__file__).parents[2] / page, name, "", write=False)
