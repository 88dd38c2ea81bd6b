"""Which disks the simulator may lose: those whose loss the rules promise to survive."""

from __future__ import annotations

import pytest

from paxon.actors import Ballot, ServerId
from paxon.actors.messages import Made
from paxon.actors.records.configuration import Configuration, Member, encode_config
from tests.invariants import ClusterWatch
from tests.simulation import draw_plan, run


def sealed(members: tuple[ServerId, ...], holders: tuple[ServerId, ...]) -> ClusterWatch:
    """These have chosen in slot 2 that server 4 votes as well; it is on these disks.

    Nobody knows yet that it is chosen.
    """
    watch = ClusterWatch((1, 2, 3, 4), members=members)
    made = Made(1, "books", tuple((server, 10 + server) for server in members), b"")
    watch.epochs.begin(made)
    for server, disk in watch.disks.items():
        disk.incarnation = 10 + server
    voters = [Member(server, 10 + server) for server in (*members, 4)]
    config = encode_config(Configuration.of(made).followed_by(voters, 2, 7))
    for slot, value in ((1, b"first"), (2, config)):
        watch.chosen[slot] = value
        assert not watch.epochs.on_chosen(slot, Ballot(1, 2), value)
        for server in holders:
            watch.disks[server].rows[slot] = (Ballot(1, 2), value)
    return watch


def knows(watch: ClusterWatch, server: ServerId) -> None:
    disk = watch.disks[server]
    disk.chosen_to = disk.replayable = 2
    disk.epoch = 1


def test_of_two_voters_none_is_spared_before_the_other_knows_that_there_are_three() -> None:
    """Seed 20799: the one that was left had accepted the change, and nobody could tell it more."""
    watch = sealed((2, 3), holders=(2, 3))
    assert not watch.may_lose_disk(2) and not watch.may_lose_disk(3)
    knows(watch, 2)
    assert not watch.may_lose_disk(2)
    assert watch.may_lose_disk(3)  # server 2 tells server 4


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_of_three_voters_two_find_out_what_they_have_chosen(lost: ServerId) -> None:
    assert sealed((1, 2, 3), holders=(1, 2)).may_lose_disk(lost)
    assert not sealed((1, 2, 3), holders=(1,)).may_lose_disk(lost)


def test_none_is_spared_while_a_change_is_proposed() -> None:
    """It may be under way and on no disk, and lead to those who need this very one."""
    watch = sealed((1, 2, 3), holders=(1, 2, 3))
    for server in (1, 2, 3, 4):
        knows(watch, server)
    assert watch.may_lose_disk(1)
    watch._sealing.add(Ballot.first_of(1).next_for(1))
    assert not watch.may_lose_disk(1)


@pytest.mark.parametrize("seed", [320065, 320585, 501073])
def test_a_started_server_gets_its_vote_though_another_voter_stays_down(seed: int) -> None:
    """First it entered an epoch while all had to confirm it, for its directory was moved.

    Nobody looked once a majority was enough. Last it was told how its epoch ends, and forgot it.
    """
    assert not run(draw_plan(seed, 1000, about_members=True)).broken
