"""Each fault scenario in its short form; `make soak` runs the long one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from paxon.kvstore import PaxonError
from tests.faults.changes import changes, kills
from tests.faults.coordination import claims, coordination
from tests.faults.disks import (
    deleted_files,
    disk_full,
    flipped_byte,
    no_small_disks,
    outgrown_disks,
    tight_disks,
    tight_disks_with_one_down,
)
from tests.faults.flooding.crowds import CROWDS, crowds
from tests.faults.hosts import clocks, names, no_names, no_other_clocks
from tests.faults.kernel_scenarios import partitions_by_kernel, weather_by_kernel
from tests.faults.networks.namespaces import no_namespaces, no_netem
from tests.faults.networks.network import RelayedCluster
from tests.faults.scenarios import OUTSIDE, SCENARIOS
from tests.faults.surroundings import streams, surroundings
from tests.faults.trial import Outcome
from tests.soak import SOAK, sized

pytestmark = [pytest.mark.process, pytest.mark.slow]


def judge(outcome: Outcome) -> None:
    """What every scenario has to show besides not raising: that it did something."""
    assert outcome.faults > 0
    assert outcome.verified.lost == 0
    assert outcome.verified.acknowledged >= 5


def skip_for(reason: str) -> None:
    """Skip this test if there is a reason to."""
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayedCluster]:
    with RelayedCluster(3, tmp_path_factory.mktemp("three")) as cluster:
        yield cluster


@pytest.mark.parametrize("name", SCENARIOS)
def test_survived(name: str, three: RelayedCluster, tmp_path: Path) -> None:
    judge(SCENARIOS[name](three, tmp_path, SOAK))


def test_a_leader_that_a_client_alone_cannot_reach_is_named(three: RelayedCluster) -> None:
    """The followers answer it, and all is well among the servers."""
    with three.client(OUTSIDE, timeout=20) as client:
        client.put("reached", b"yes")
        leader, sentence = 0, ""
        try:  # On a busy machine another may get to lead meanwhile.
            while not sentence or leader != three.leader():
                three.network.heal()
                leader = three.leader()
                three.network.cut(leader, OUTSIDE)
                try:
                    client.get("reached", timeout=8)
                except PaxonError as error:
                    sentence = str(error)
            assert f"server {leader} leads at tcp://" in sentence, sentence
            assert "which does not answer" in sentence, sentence
        finally:
            three.network.heal()
        assert client.get("reached", timeout=30) == b"yes"


@pytest.mark.parametrize(
    "name", CROWDS if SOAK else ["64 descriptors, clients", "1,024 descriptors"]
)
def test_a_crowd_takes_no_server_down(name: str, tmp_path: Path) -> None:
    judge(crowds(name, tmp_path, SOAK))


def test_what_the_program_around_a_cluster_does_is_survived(tmp_path: Path) -> None:
    judge(surroundings(tmp_path, SOAK))


@pytest.mark.skipif(not SOAK, reason="each by itself: tests/cluster/test_surroundings")
def test_servers_stop_in_order_wherever_their_stderr_leads(tmp_path: Path) -> None:
    judge(streams(tmp_path, SOAK))


def test_files_that_are_moved_away_are_missed(tmp_path: Path) -> None:
    judge(deleted_files(tmp_path, SOAK))


def test_full_disks_are_survived(tmp_path: Path) -> None:
    skip_for(no_small_disks())
    judge(disk_full(tmp_path, SOAK))


@pytest.mark.skipif(not SOAK, reason="only in make soak: one server alone is in tests/cluster")
def test_a_state_that_outgrows_its_disks_stops_nobody(tmp_path: Path) -> None:
    skip_for(no_small_disks())
    judge(outgrown_disks(tmp_path, SOAK))


@pytest.mark.timeout(600)  # it waits for dozens of snapshots of 40 MB
@pytest.mark.parametrize("shared", [False, True] if SOAK else [False])
def test_a_large_state_fits_on_disks_of_two_and_a_half_times_its_size(
    shared: bool, tmp_path: Path
) -> None:
    skip_for(no_small_disks())
    judge(tight_disks(tmp_path, SOAK, shared=shared))


@pytest.mark.timeout(600)
def test_a_large_state_while_a_server_is_down(tmp_path: Path) -> None:
    """40 MB on disks of 170 MB: the log that is kept for it fills none of the others."""
    skip_for(no_small_disks())
    judge(tight_disks_with_one_down(tmp_path, SOAK))


def test_flipped_bytes_are_refused_or_harmless(tmp_path: Path) -> None:
    judge(flipped_byte(tmp_path, SOAK))


def test_partitions_made_by_the_kernel_are_survived(tmp_path: Path) -> None:
    skip_for(no_namespaces())
    for outcome in partitions_by_kernel(tmp_path, SOAK):
        judge(outcome)


def test_loss_and_jitter_made_by_the_kernel_are_survived(tmp_path: Path) -> None:
    skip_for(no_netem())
    judge(weather_by_kernel(tmp_path, SOAK))


@pytest.mark.skipif(not SOAK, reason="only in make soak: tests/cluster/belonging has both")
def test_servers_that_move_among_the_addresses_of_names_are_found(tmp_path: Path) -> None:
    skip_for(no_names())
    judge(names(tmp_path, SOAK))


@pytest.mark.skipif(not SOAK, reason="only in make soak: tests/cluster/test_clock")
def test_leases_last_as_long_as_they_were_granted_by_whatever_clock(tmp_path: Path) -> None:
    skip_for(no_other_clocks())
    for outcome in clocks(tmp_path, SOAK):
        judge(outcome)


@pytest.mark.skipif(not SOAK, reason="only in make soak: the changes one by one are in belonging/")
def test_members_change_at_random_under_load(tmp_path: Path) -> None:
    """One every five seconds, for ten minutes."""
    judge(changes(tmp_path, 600))


def test_leaders_that_are_killed_amid_changes_leave_the_members_as_told(tmp_path: Path) -> None:
    judge(kills(tmp_path, sized(1, 100)))


def test_recipes_work_while_leaders_are_killed(tmp_path: Path) -> None:
    judge(coordination(tmp_path, sized(3.0, 60.0)))


@pytest.mark.skipif(not SOAK, reason="the test above has two such processes")
def test_ten_consumers_do_a_thousand_items_though_they_are_killed(tmp_path: Path) -> None:
    judge(claims(tmp_path, 1000, 10))
