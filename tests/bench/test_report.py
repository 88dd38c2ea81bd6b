"""Reports as files, tables and pictures."""

from __future__ import annotations

import importlib.util
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from paxon.bench.cli.figures import FIGURES, figures_report, figures_sections
from paxon.bench.contention import compare_plots
from paxon.bench.contention.compare import CompareReport, compare_sections, rows_of
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.measure import ratios_of
from paxon.bench.harness.plot_style import check_plots, save_plot
from paxon.bench.harness.report import (
    Report,
    Section,
    check_writable,
    count,
    markdown,
    read_json,
    rich_table,
    write_json,
)
from paxon.bench.harness.summary import spread_of
from paxon.bench.harness.workloads import Workload
from paxon.bench.peers.run import GapRow, PeersReport, PeersSettings, Taken, peer_row
from paxon.bench.scale.plots import plot_scale
from paxon.bench.scale.scale import TITLES, ScaleReport, scale_sections
from paxon.bench.stable.failover import FailoverReport, failover_sections
from paxon.bench.stable.stable import StableReport, stable_sections
from tests.bench.examples import (
    compare_report,
    failover_report,
    measurement,
    scale_report,
    stable_report,
)

KINDS: list[tuple[Callable[[], Report[Any, Any]], Any]] = [
    (stable_report, StableReport),
    (failover_report, FailoverReport),
    (compare_report, CompareReport),
    (scale_report, ScaleReport),
]


@pytest.mark.parametrize(("make", "kind"), KINDS)
def test_a_report_is_read_as_it_was_written(
    make: Callable[[], Report[Any, Any]], kind: Any, tmp_path: Path
) -> None:
    report = make()
    write_json(report, tmp_path / "r.json")
    assert read_json(tmp_path / "r.json", kind) == report


def test_a_report_says_what_it_was_measured_on(tmp_path: Path) -> None:
    write_json(stable_report(), tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["schema"] == 3
    assert found["bench"] == "stable"
    assert found["started"] == "2024-02-29T12:00:00+00:00"
    assert found["settings"]["seed"] == 1
    assert {"cpu", "cores", "memory_bytes", "python", "versions"} <= set(found["machine"])


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with pytest.raises(BenchError, match="cannot be read"):
        read_json(path, StableReport)
    path.write_text('{"rows": 3}')
    with pytest.raises(BenchError, match="not such a report"):
        read_json(path, StableReport)


def test_a_file_that_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="directory"):
        check_writable(tmp_path)
    with pytest.raises(BenchError, match="cannot be written"):
        check_writable(tmp_path / "missing" / "r.json")
    check_writable(tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()
    (tmp_path / "old.json").write_text("old")
    check_writable(tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "old"


def shown(section: Section) -> str:
    output = io.StringIO()
    Console(width=240, file=output).print(rich_table(section))
    return output.getvalue()


def line_of(text: str, name: str) -> list[str]:
    """The cells of the row that begins with a name."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"│ {name}"))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_stable_table() -> None:
    text = shown(stable_sections(stable_report())[0])
    # For one operation at a time the ratio is that of latencies, else that of rates.
    assert line_of(text, "writes, 1 outstanding") == [
        "writes, 1 outstanding", "1,000 ±10 %", "1.00", "4.00", "8.00", "8", "0.5", "1.5", "0",
        "500.0", "100.0", "0.6", "0", "0", "2,000 ±0 %", "0.50", "2.00x",
    ]  # fmt: skip
    assert len(re.findall("^│", text, re.MULTILINE)) == 5


def test_the_table_of_the_readme() -> None:
    etcd = [ratios_of([(measurement(300.0), measurement(rate))]) for rate in (100.0, 50.0)]
    paxon, other = spread_of([0.08, 0.2, 0.05]), spread_of([1.1])
    load = Workload(name="writes, 64 outstanding")
    taken = {0: Taken(measurement(), 0.0)}
    pairs = [
        msgspec.structs.replace(peer_row(load, ("Paxon", name), taken, taken), ratios=ratios)
        for name, ratios in zip(("etcd, one", "etcd, each"), etcd, strict=True)
    ]
    gap = GapRow(other_name="etcd", paxon=paxon, other=other)
    peers = PeersReport(bench="peers", settings=PeersSettings(), rows=[*pairs, gap])
    report = figures_report(
        FIGURES.settings(repeat=2), stable_report(), peers, failover_report().rows[0]
    )
    (section,) = figures_sections(report)
    rows = {row[0]: row[1:] for row in section.rows}
    assert rows["writes, 1 outstanding"] == ["1,000 ±10 %", "1.00", "4.00", "2.00x", ""]
    assert rows["writes, 64 outstanding"][3:] == ["2.00x", "3.00x, 6.00x"]
    assert section.rows[-1][1:] == ["", "300.0", "most 400", "", "etcd: 1,100 ms"]


def test_failover_table() -> None:
    text = shown(failover_sections(failover_report())[0])
    assert line_of(text, "3 ") == ["3", "300", "200", "400", "300 200 400"]


def test_compare_tables() -> None:
    report = compare_report()
    sections = {
        sweep.name: section
        for sweep, section in zip(report.sweeps, compare_sections(report), strict=True)
    }
    by_name = {(cells[0], cells[1]): cells[2:] for cells in sections["proposers"].rows}
    # Rate, of stable, p50, p99, p99.9, longest wait, no leader, phase 1/s, then by the slot:
    # operations, phase 1, preemptions, wasted P2As, syncs, messages; failures.
    assert by_name["backoff", "3"] == [
        "1,000 ±0 %", "0.50x", "1.00", "4.00", "8.00", "8", "25", "25 ±0 %",
        "4", "0.1", "0.08", "0", "0", "0", "0",
    ]  # fmt: skip
    assert by_name["stable", "1"][:2] == ["2,000 ±0 %", "1.00x"]
    nothing = by_name["immediate", "3"]
    assert nothing[:8] == ["0", "0.00x", "-", "-", "-", "8", "100", "450 ±0 %"]
    assert set(nothing[8:14]) == {"-"}
    assert "10 " in shown(sections["rtt"])  # milliseconds, though points have seconds
    # What the README shows: rate, of stable, phase-1 rounds and preemptions a second, no leader …
    few = {cells[0]: cells[2:] for cells in sections["contention"].rows}
    assert few["backoff"][:5] == ["1,000 ±0 %", "0.50x", "25 ±0 %", "20 ±0 %", "25"]
    assert few["immediate"][:5] == ["0", "0.00x", "450 ±0 %", "450 ±0 %", "100"]


def test_compare_for_a_page() -> None:
    text = markdown(compare_report(), compare_sections(compare_report()), ["A note."])
    assert text.count("| --- |") == text.count("<details>") + 1 == 9
    assert "| immediate | 3 | 0 | 0.00x | 450 ±0 % |" in text
    assert text.startswith("Measured 2024-02-29 on ")
    assert text.endswith("- A note.")


def test_scale_tables() -> None:
    report = scale_report()
    sections = {section.title.splitlines()[-1]: section.rows for section in scale_sections(report)}
    # 1.0 s of CPU over 2,000 operations is 500 µs.
    assert sections["Sessions"][1] == [
        "writes", "1,000", "1,000", "0.1", "1.00", "4.00", "8.00", "500.0", "100.0", "1", "0",
    ]  # fmt: skip
    values = sections["Size of values, 16 operations under way"]
    assert [row[3] for row in values] == ["0.0", "1.0"]  # 1,000 values of 1,000 bytes a second
    (memory,) = sections["Memory of a server for its keys, beyond that of an empty one"]
    assert memory == ["1,000", "64", "4.0", "6.0", "2.0", "4,194", "2,097", "2.00x"]
    replay = sections["Starting a server from its directory (without starting Python)"]
    assert replay[0][-2:] == ["10.0", "-"]
    assert replay[1] == ["a log, no snapshot", "64.0", "65,536", "128", "500.0", "128"]
    before, snapshot = sections[
        "How long one server stands still for a snapshot; a ping is a stale read"
    ]
    assert before[3:7] == ["2", "3.0", "3.0", "3.0"]
    assert snapshot[6:] == ["20.0", "1", "40.0", "40.0"]
    assert "│ a log, no snapshot" in "".join(shown(s) for s in scale_sections(report))


def test_counts_show_their_spread_only_if_there_is_one() -> None:
    assert count(spread_of([1234.5])) == "1,234"
    assert count(spread_of([90.0, 110.0])) == "100 ±10 %"
    assert count(spread_of([0.0, 0.0])) == "0"
    assert count(None) == "-"


def compare_plot(name: str) -> Callable[[], Any]:
    return lambda: compare_plots.compare_plots(compare_report())[name]


def a_plot() -> Any:
    return plot_scale(scale_report(), TITLES)


PLOTS: list[tuple[Callable[[], Any], set[str]]] = [
    (
        compare_plot("compare-contention"),
        {"immediate, 3 proposers", "phase-1 rounds a second", "450"},
    ),
    (compare_plot("compare-proposers"), {"stable", "immediate", "preemptions a second"}),
    (compare_plot("compare-latency"), {"stable, p50", "backoff, p99"}),
    (compare_plot("compare-sweeps"), {"How long backoff waits", "Size of values", "cap 100 ms"}),
    (
        compare_plot("compare-ballots"),
        {"immediate; ballots: 2, 1 of which led; slots proposed: 3", "P1B: promise"},
    ),
    (
        lambda: plot_scale(scale_report(), TITLES),
        {"Sessions", "lease reads", "a bare dict", "0.5 s"},
    ),
]


@pytest.mark.parametrize(("draw", "labels"), PLOTS)
@pytest.mark.slow
def test_plots(draw: Callable[[], Any], labels: set[str], tmp_path: Path) -> None:
    save_plot(draw(), tmp_path / "p")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "p.svg").read_text()
    assert labels <= set(re.findall(r">([^<>]+)</text>", text))


@pytest.mark.slow
def test_no_whisker_goes_beyond_its_panel() -> None:
    report = compare_report()
    repeats = [measurement(rate) for rate in (1000.0, 1000.0, 3000.0)]
    report = msgspec.structs.replace(
        report, rows=rows_of({row.point: repeats for row in report.rows})
    )
    for axes in compare_plots.compare_plots(report)["compare-sweeps"].axes:
        lines: Any = axes.collections[0]
        assert max(each[:, 1].max() for each in lines.get_segments()) == 3000 < axes.get_ylim()[1]


@pytest.mark.slow
def test_the_same_figures_give_the_same_picture(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_plot(
            compare_plots.compare_plots(compare_report())["compare-contention"], tmp_path / name
        )
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_plots_that_cannot_be_made_are_known_before(monkeypatch: pytest.MonkeyPatch) -> None:
    check_plots()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(BenchError, match=r"pip install 'paxon\[bench\]'"):
        check_plots()


@pytest.mark.slow
def test_a_plot_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    figure = a_plot()
    with pytest.raises(BenchError, match="cannot be written"):
        save_plot(figure, tmp_path / "missing" / "p")
