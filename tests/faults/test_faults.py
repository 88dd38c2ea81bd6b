"""Each fault scenario in its short form; PAXON_SOAK=1 runs the long one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.disks import disk_full, flipped_byte, no_small_disks
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


@pytest.mark.skipif(bool(no_small_disks()), reason=no_small_disks())
def test_full_disks_are_survived(tmp_path: Path) -> None:
    judge(disk_full(tmp_path, LONG))


def test_flipped_bytes_are_refused_or_harmless(tmp_path: Path) -> None:
    judge(flipped_byte(tmp_path, LONG))
