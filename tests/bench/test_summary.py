"""Percentiles and spreads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paxon.bench.harness.summary import latency_of, percentile, spread_of

SOME = st.lists(st.floats(0, 1e6), min_size=1, max_size=200)


def test_percentiles_of_a_hundred() -> None:
    values = [float(number) for number in range(1, 101)]
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile(values, 0.999) == 100
    assert percentile(values, 0.0) == 1
    assert percentile(values, 1.0) == 100


def test_a_thousandth_of_a_thousand_is_one_value() -> None:
    values = [float(number) for number in range(1, 1001)]
    assert percentile(values, 0.999) == 999  # and not 1000, by an error of the last bit


@given(SOME, st.floats(0, 1))
def test_a_percentile_is_the_least_value_that_covers_its_share(
    values: list[float], fraction: float
) -> None:
    ordered = sorted(values)
    found = percentile(ordered, fraction)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= fraction * len(ordered) - 1e-6
    assert sum(value < found for value in ordered) <= fraction * len(ordered) + 1e-6


def test_nothing_has_no_latency_and_no_spread() -> None:
    with pytest.raises(ValueError, match="nothing"):
        spread_of([])
    nothing = latency_of([])
    assert (nothing.count, nothing.p50, nothing.worst) == (0, None, None)


@given(SOME)
def test_latencies_come_in_any_order(values: list[float]) -> None:
    found = latency_of(values)
    assert found == latency_of(sorted(values, reverse=True))
    assert found.p50 is not None
    assert found.p99 is not None
    assert found.p999 is not None
    assert min(values) <= found.p50 <= found.p99 <= found.p999 <= max(values) == found.worst


def test_spread() -> None:
    spread = spread_of([3.0, 1.0, 2.0])
    assert (spread.median, spread.low, spread.high) == (2.0, 1.0, 3.0)
    assert spread.values == [3.0, 1.0, 2.0]
    assert spread.relative == 0.5
    assert spread_of([0.0]).relative == 0.0
