"""Servers that are added, dropped, and moved while an endpoint runs, on real sockets."""

from __future__ import annotations

import select
from pathlib import Path
from typing import Any

from paxon.transport import EndpointOptions

ALL = {2: "", 3: ""}


def descriptors() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


def test_whom_it_meets_no_more_is_dialled_no_more(zmq_wire: Any, shapes: Any) -> None:
    """What waits for such a server is gone with it; the others notice nothing."""
    servers = zmq_wire.servers(3)
    one = servers[1]
    for other in (2, 3):
        zmq_wire.introduce(one, servers[other], other)
    one.meet({3: ""})
    dropped = one.counters()["dropped_frames"]
    one.broadcast([2, 3], [shapes.Note("to whom it knows")])
    burst = zmq_wire.receive(servers[3], lambda b: b.peers)
    assert burst.peers == [(1, 1001, [shapes.Note("to whom it knows")])]
    assert one.counters()["dropped_frames"] == dropped + 1
    assert not servers[2].receive()
    assert one.receive().lost == []  # it was no loss
    # It comes back, and gets nothing of what was said meanwhile.
    one.meet(ALL)
    one.reach(2, [zmq_wire.addresses[2][0]])
    again = [shapes.Note("again")]
    burst = zmq_wire.receive(servers[2], lambda b: b.peers, each=lambda: one.send(2, again))
    assert shapes.Note("to whom it knows") not in [m for _, _, ms in burst.peers for m in ms]


def test_dropped_servers_leave_no_descriptor_and_no_wake_up(zmq_wire: Any, shapes: Any) -> None:
    servers = zmq_wire.servers(2)
    one, address = servers[1], zmq_wire.addresses[2][0]
    zmq_wire.introduce(one, servers[2], 2)
    one.wait(0.0, zmq_wire.wake_fd)
    before = descriptors()
    for _ in range(20):
        one.meet({})
        one.meet(ALL)
        one.reach(2, [address])
        zmq_wire.introduce(one, servers[2], 2)
        one.wait(0.0, zmq_wire.wake_fd)
    one.meet({})
    zmq_wire.until(one, lambda: descriptors() < before)  # libzmq closes in a thread of its own
    assert not [event for _, event in one._awaited.poll(0) if event & select.POLLNVAL]


def test_frames_that_wait_for_a_server_are_gone_when_it_is_dropped(
    zmq_wire: Any, shapes: Any
) -> None:
    """Large ones too: their bytes count no longer, or what is dialled anew would get none."""
    options = EndpointOptions(large_queue_bytes=1 << 20)
    servers = zmq_wire.servers(2, options)
    one, two = servers[1], servers[2]
    zmq_wire.introduce(one, two, 2)
    large, sent = bytes(600_000), 0
    dropped = one.counters()["dropped_frames"]
    while one.counters()["dropped_frames"] == dropped:  # (2 reads nothing)
        one.send(2, [shapes.Ping(sent, large)])
        sent += 1
        assert sent < 1000, "nothing was dropped though nobody reads"
    one.meet({})
    zmq_wire.until(one, lambda: one._large.bytes == 0)
    one.meet(ALL)
    one.reach(2, [zmq_wire.addresses[2][0]])
    again = [shapes.Ping(-1, large)]
    zmq_wire.receive(
        two,
        lambda b: any(m.number == -1 for _, _, ms in b.peers for m in ms),
        each=lambda: one.send(2, again),
    )


def test_a_server_that_moved_gets_nothing_of_what_was_meant_for_the_old_place(
    zmq_wire: Any, shapes: Any
) -> None:
    servers = zmq_wire.servers(3)
    one, old, new = servers[1], servers[2], servers[3]
    zmq_wire.introduce(one, old, 2)
    one.reach(2, [zmq_wire.addresses[3][0]])
    note = [shapes.Note("at the new place")]
    burst = zmq_wire.receive(new, lambda b: b.peers, each=lambda: one.send(2, note))
    assert {m for _, _, ms in burst.peers for m in ms} == set(note)
    assert not old.receive()


def test_whoever_belongs_to_the_cluster_may_speak_though_nobody_has_met_it(
    zmq_wire: Any, shapes: Any
) -> None:
    """A server that slept through a change has to hear of it from those that it does not know."""
    servers = zmq_wire.servers(2)
    zmq_wire.send_to_peer_port(1, shapes.peer_codec(44).encode([shapes.Note("news")]))
    burst = zmq_wire.receive(servers[1], lambda b: b.peers)
    assert burst.peers == [(44, 1044, [shapes.Note("news")])]


def test_a_server_of_which_no_address_is_known_is_left_alone(zmq_wire: Any) -> None:
    one = zmq_wire.servers(1)[1]
    one.meet({2: ""})
    one.reach(2, [])
    assert one.receive().lost == []
