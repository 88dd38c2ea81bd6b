"""Each fault scenario in its short form; PAXON_SOAK=1 runs the long one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.network import RelayedCluster
from tests.faults.scenarios import SCENARIOS
from tests.faults.trial import Outcome

pytestmark = [pytest.mark.process, pytest.mark.slow]

LONG = bool(os.environ.get("PAXON_SOAK"))


def judge(outcome: Outcome) -> None:
    """What every scenario has to show besides not raising: that it did something."""
    assert outcome.faults > 0
    assert outcome.verified.lost == 0
    assert outcome.verified.acknowledged > 100


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayedCluster]:
    with RelayedCluster(3, tmp_path_factory.mktemp("three")) as cluster:
        yield cluster


@pytest.mark.parametrize("name", SCENARIOS)
def test_survived(name: str, three: RelayedCluster, tmp_path: Path) -> None:
    judge(SCENARIOS[name](three, tmp_path, LONG))
