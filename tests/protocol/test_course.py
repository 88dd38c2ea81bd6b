"""The course's examples, with their names and numbers, on real servers."""

# mypy: disable-error-code=comparison-overlap
# (A step between two looks at a role changes it, which mypy does not know.)

from __future__ import annotations

from paxon.actors import Ballot
from paxon.actors.messages import P1A, P1B, P2A, P2B, Heartbeat, HeartbeatReply
from tests.harness import Cluster


def test_server_3_takes_over_and_fills_the_hole() -> None:
    """Ballots 1.2 → 1.3; accepted {1→A, 2→B} and {2→B}; server 1 is cut off.

    Server 3 takes over with server 2, proposes a no-op into slot 1 and B into slot 2; B is chosen
    first, then the no-op, and only then is anything executed.
    """
    cluster = Cluster(3)
    old = Ballot(1, 2)
    cluster.accepted(1, old, slot_1=b"A", slot_2=b"B")
    cluster.accepted(2, old, slot_2=b"B")
    cluster.accepted(3, old)
    cluster.start()
    cluster.clock.now += 1  # past the time for which a restarted server withholds its promise
    cluster.isolate(1)

    cluster.campaign(3)
    assert cluster.servers[3].promised == Ballot(1, 3)
    cluster.deliver(P1A, target=2)
    cluster.deliver(P1B, source=2)
    assert cluster.servers[3].role == "leader"
    assert cluster.contents(3) == {1: "no-op", 2: "B"}

    to_server_2 = [p.message for p in cluster.packets if p.target == 2 and type(p.message) is P2A]
    assert [(m.slot, m.ballot) for m in to_server_2] == [(1, Ballot(1, 3)), (2, Ballot(1, 3))]
    first, second = cluster.drop(P2A, target=2)
    cluster.packets.append(second)  # the P2A for slot 2 overtakes the one for slot 1
    cluster.stabilize()
    assert cluster.contents(3) == {1: "no-op", 2: "B*"}
    assert cluster.applied(3) == []  # slot 1 is not chosen yet: nothing is executed

    cluster.packets.append(first)
    cluster.stabilize()
    assert cluster.contents(3) == {1: "no-op*", 2: "B*"}
    assert cluster.applied(3) == [b"B"]
    assert cluster.servers[3].application.executed == 2

    # Server 1 comes back with {1→A, 2→B}: A was never chosen, and gives way.
    cluster.heal()
    cluster.pass_time(0.2)
    assert cluster.contents(1).get(1, "no-op*") == "no-op*"
    assert cluster.applied(1) == [b"B"]


def test_the_hole_between_put_and_append() -> None:
    """`put(a,1), __, __, append(a,2)`: the new leader puts no-ops into slots 2 and 3."""
    cluster = Cluster(3)
    old = Ballot(1, 1)
    cluster.accepted(2, old, slot_1=b"put(a,1)", slot_4=b"append(a,2)")
    cluster.accepted(3, old, slot_1=b"put(a,1)")
    cluster.start(2, 3)
    cluster.clock.now += 1

    cluster.campaign(2)
    cluster.stabilize()
    assert cluster.contents(2) == {
        1: "put(a,1)*",
        2: "no-op*",
        3: "no-op*",
        4: "append(a,2)*",
    }
    assert cluster.applied(2) == [b"put(a,1)", b"append(a,2)"]


def test_a_late_rejection_is_no_acceptance() -> None:
    """Five servers: the old P2A ⟨1,4⟩ reaches a server that has since promised ⟨2,4⟩.

    Its answer names ⟨2,4⟩, which server 4 leads by now; counted as an acceptance it would make a
    value chosen that only two of five servers hold.
    """
    cluster = Cluster(5, options={"policy": "random"}).start()
    cluster.lead(4)
    first = cluster.servers[4].promised
    session = cluster.open_session(4)
    executed = cluster.servers[4].application.executed

    cluster.command(4, session, 1, b"x")
    late = cluster.drop(P2A)  # sent in the first ballot, still somewhere on its way
    cluster.campaign(5)
    cluster.deliver(P1A, target=4)  # preempted
    cluster.drop()
    cluster.servers[4].campaign()
    cluster.step(4)
    cluster.stabilize()
    again = cluster.servers[4].promised
    assert cluster.servers[4].role == "leader" and again > first

    # Now leading again, server 4 proposes in a new slot and only server 1 gets to hear of it …
    cluster.command(4, session, 2, b"y")
    cluster.deliver(P2A, target=1)
    cluster.drop(P2A)
    cluster.deliver(P2B)
    slot = cluster.servers[4].log.last
    assert cluster.servers[4].log.status(slot) == "ACCEPTED"
    # … while late P2As for that very slot number, of the first ballot, reach servers 2 and 3.
    for packet in late:
        if packet.target in (2, 3):
            packet.message = P2A(first, slot, b"", 0)
            cluster.packets.append(packet)
    cluster.deliver(P2A)
    rejections = [p.message for p in cluster.packets if type(p.message) is P2B]
    assert [(r.ballot, r.promised) for r in rejections] == [(first, again)] * 2
    cluster.deliver(P2B)
    assert cluster.servers[4].role == "leader"
    assert cluster.servers[4].log.status(slot) == "ACCEPTED"
    assert executed < slot


def _execute_everywhere(cluster: Cluster, commands: int) -> int:
    cluster.lead(1)
    session = cluster.open_session(1)
    for seq in range(1, commands + 1):
        cluster.command(1, session, seq, b"c%d" % seq)
        cluster.stabilize()
    return session


def test_garbage_collection_of_three_servers_at_4_4_3() -> None:
    """Executed 4, 4, 3 → slots 1 to 3 go, everywhere."""
    cluster = Cluster(3).start()
    session = _execute_everywhere(cluster, 2)  # slots 1 (the session), 2 and 3
    cluster.pass_time(1.5)  # heartbeats tell commit and discard watermarks, disks sync them
    for seq in (3,):
        cluster.command(1, session, seq, b"slot 4")
        cluster.drop(P2A, target=3)
        cluster.stabilize()
    for _ in range(130):
        cluster.clock.now += 0.01
        for server in (1, 2, 3):
            cluster.step(server)
        cluster.drop(Heartbeat, target=3)  # server 3 is at 3 and stays there
        cluster.deliver()
        cluster.deliver()
    executed = {s: cluster.servers[s].application.executed for s in (1, 2, 3)}
    assert executed == {1: 4, 2: 4, 3: 3}
    assert cluster.servers[1].first_non_cleared() == 4
    assert cluster.servers[2].first_non_cleared() == 4
    assert cluster.servers[1].status(3) == "CLEARED"
    assert cluster.servers[1].status(4) == "CHOSEN"


def test_garbage_collection_waits_for_two_of_five_that_executed_nothing() -> None:
    """Five servers of which two have executed nothing → nothing goes."""
    cluster = Cluster(5).start()
    cluster.isolate(4, 5)
    _execute_everywhere(cluster, 4)
    cluster.pass_time(2.0)
    assert cluster.servers[1].application.executed == 5
    for server in (1, 2, 3):
        assert cluster.servers[server].first_non_cleared() == 1
    assert any(type(p.message) is HeartbeatReply for p in cluster.packets) is False

    cluster.heal()
    cluster.pass_time(3.0)
    for server in cluster.ids:
        assert cluster.servers[server].first_non_cleared() == 6


def test_competing_proposers_choose_one_value_a_slot() -> None:
    """Two candidates, interleaved: the one with the higher ballot wins, the other learns."""
    cluster = Cluster(3, options={"policy": "random"}).start()
    cluster.campaign(1)
    cluster.campaign(2)
    assert cluster.servers[1].promised == Ballot(1, 1)
    assert cluster.servers[2].promised == Ballot(1, 2)
    cluster.deliver(P1A, target=3)  # server 3 promises 1.1, then 1.2
    assert cluster.servers[3].promised == Ballot(1, 2)
    cluster.stabilize()
    assert cluster.servers[2].role == "leader"
    assert cluster.servers[1].role == "follower"

    session = cluster.open_session(2)
    cluster.command(2, session, 1, b"two")
    cluster.deliver(P2A, target=3)
    cluster.drop(P2A)
    cluster.drop(P2B)
    cluster.campaign(1)  # preempts server 2 whose value only server 3 knows beside it
    cluster.stabilize()
    assert cluster.servers[1].role == "leader"
    cluster.command(1, session, 2, b"one")
    cluster.stabilize()
    cluster.pass_time(0.2)
    assert cluster.applied(1) == cluster.applied(2) == cluster.applied(3) == [b"two", b"one"]
