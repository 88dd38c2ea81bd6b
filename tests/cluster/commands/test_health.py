"""What `paxon status` finds wrong with a cluster, from its servers' rows."""

from __future__ import annotations

from typing import Any

import pytest

from paxon.actors import Ballot
from paxon.actors.messages import StatusReply
from paxon.kvstore.cli.live_view import Rates
from paxon.kvstore.cluster.health import problems
from paxon.kvstore.cluster.status import ServerStatus


def row(server: int, **told: Any) -> ServerStatus:
    said: dict[str, Any] = {
        "id": 1, "server": server, "cluster": "c", "role": "leader" if server == 1 else "follower",
        "ballot": Ballot(3, 1), "leader": 1, "accepted": 9, "chosen": 9, "executed": 9,
        "discarded": 0, "snapshot": 0, "uptime": 1.0, "disk_bytes": 0, "state_digest": "",
        "counters": {}, "digest_version": 1, "digest_slot": 9, "digest": "aa" * 16, **told,
    }  # fmt: skip
    return ServerStatus(server=server, address=f"tcp://{server}", reply=StatusReply(**said))


DOWN = ServerStatus(server=3, address="tcp://3")
NOBODY = ServerStatus(server=0, address="tcp://4")
"""An address that a client was given once, and that no member has."""

REFUSES = ServerStatus(server=5, address="tcp://5", trouble="it refuses")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(1), row(2), row(3)], []),
        ([row(1), row(2), DOWN], []),
        ([DOWN, NOBODY], ["no server answers: check that they are running"]),
        ([REFUSES, DOWN], [
            "no server answers", "the server at tcp://5 cannot be talked to: it refuses"]),
        ([row(2), DOWN], ["only 1 of 2 servers answer"]),
        ([row(1, members=(1, 2)), NOBODY, NOBODY, NOBODY], ["only 1 of 2 servers answer"]),
        ([row(1, members=(1, 2, 3)), row(2), NOBODY, NOBODY, NOBODY], []),
        ([row(1, members=(1, 2, 4)), row(4, part="learner"), DOWN], ["only 1 of 2 servers answer"]),
        ([row(1, members=(1, 2), epoch=2), row(2, members=(1, 2), epoch=2),
          row(3, members=(1, 2, 3, 4, 5, 6), epoch=1)], []),
        ([row(1), row(2, digest="bb" * 16), row(3)], [
            "servers have executed different things up to slot 9: "
            "aaaaaaaa on servers 1 and 3, bbbbbbbb on server 2"]),
        ([row(1, identity=1), row(2, digest="bb" * 16, identity=2), row(3)], [
            "these are servers of several clusters: server 1 of cluster 'c' (0000000000000001), "
            "server 2 of cluster 'c' (0000000000000002); if one was recovered or restored in "
            "place of another, stop what is left of the other for good, and start it on empty "
            "directories with --join"]),
        ([row(1), row(2, digest="bb" * 16, digest_slot=8), row(3)], []),
        ([row(1), row(2, digest="bb" * 16, digest_version=2), row(3)], []),
        ([row(1), row(2, digest=""), row(3)], []),
        ([row(1), row(2, alarm="so and so"), row(3)], ["server 2 says: so and so"]),
        ([row(1), row(2, waits_for="waits to be added"), row(3)], [
            "server 2 takes no part yet: waits to be added"]),
        ([row(1), row(2, role="leader", ballot=Ballot(4, 2)), row(3)], [
            "server 1 in 3.1 and server 2 in 4.2 say that they lead; "
            "one may not have heard of the other yet: look again"]),
        ([row(1, role="follower"), row(2), row(3)], ["none leads"]),
        ([row(2, leader=0), row(3, leader=0)], ["none leads"]),
    ],
)  # fmt: skip
def test_each_thing_that_is_wrong_has_its_sentence(
    rows: list[ServerStatus], said: list[str]
) -> None:
    assert problems(rows) == said


def test_rates_begin_anew_with_a_restarted_server() -> None:
    """It counts what it executes from its disk, which may well be more than before."""
    rates = Rates()
    found = [
        rates.update([row(1, uptime=uptime, counters={"commands_executed": done})])
        for uptime, done in ((50.0, 9), (51.0, 10), (1.0, 5000), (2.0, 5001))
    ]
    assert [set(each) for each in found] == [set(), {1}, set(), {1}]
