"""Addresses are hints (docs/design/addresses.md): who tells whom, who is believed, what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from paxon.actors import Ballot, Settings
from paxon.actors.disk.sqlite_storage import SqliteStorage
from paxon.actors.environment import NEVER
from paxon.actors.members import Member, MemberChange
from paxon.actors.messages import Addresses, Introduction, Made, Place, TellAddresses
from paxon.actors.records.configuration import Configuration
from paxon.actors.records.places import (
    ASK_AGAIN,
    ASKED_IN_VAIN,
    TOLD_AT_ONCE,
    Places,
    plausible,
)
from paxon.transport import Burst, is_dialable
from tests.harness import ADDRESSES
from tests.messages import beat
from tests.protocol.members.test_changes import change, serving
from tests.quiet import QuietNetwork

MADE = Made(7, "test", ((1, 101), (2, 102), (3, 103)), b"")
FILE = {server: f"tcp://host-{server}:7110" for server in (1, 2, 3)}
CLIENTS = {server: f"tcp://host-{server}:7111" for server in (1, 2, 3)}


def at(server: int, moves: int = 1, host: str = "new", incarnation: int | None = None) -> Place:
    return Place(
        server, incarnation or 100 + server, moves, f"tcp://{host}-{server}:1",
        f"tcp://{host}-{server}:2",
    )  # fmt: skip


def places(*found: Place, file: dict[int, str] | None = None) -> Places:
    made = Places(
        Settings(
            cluster="test", server=1, servers=(1, 2, 3), client_addresses=CLIENTS,
            peer_addresses=FILE | (file or {}),
        )
    )  # fmt: skip
    made.recover(101, found)
    made.join(Configuration.of(MADE).members, 0.0)
    return made


def told(*places: Place, to: int = 0) -> Introduction:
    return Introduction(5, to, False, "test", (1, 2, 3), MADE, True, places)


def test_the_own_file_is_dialled_first_and_what_was_told_next() -> None:
    known = places()
    assert known.addresses(2) == [FILE[2]]
    assert known.hear(told(at(2)), 2, 0.0) == [2]
    assert known.addresses(2) == [FILE[2], "tcp://new-2:1"]
    assert known.client_address(2) == "tcp://new-2:2"
    assert known.client_address(3) == CLIENTS[3]


def test_an_own_word_goes_before_what_others_remember() -> None:
    known = places(at(2, moves=9, host="remembered"))
    assert known.hear(told(at(2, moves=2, host="own")), 2, 0.0) == [2]
    assert known.addresses(2)[1] == "tcp://own-2:1"
    assert known.hear(told(at(2, moves=2, host="older")), 3, 0.0) == []
    assert known.hear(told(at(2, moves=3, host="later")), 3, 0.0) == [2]
    assert known.addresses(2)[1] == "tcp://later-2:1"


def test_who_is_no_member_or_has_another_directory_is_not_remembered() -> None:
    known = places()
    assert known.hear(told(at(2, incarnation=5), at(4)), 3, 0.0) == []
    assert [place.server for place in known.known] == [1]
    assert known.hear_unknown(2, "tcp://rejoins:1")
    assert not known.hear_unknown(2, "tcp://rejoins:1")
    assert known.addresses(2) == [FILE[2], "tcp://rejoins:1"]
    assert [place.server for place in known.known] == [1]


def test_a_move_is_counted_by_the_directory() -> None:
    first = places().known[0]
    assert (first.moves, first.peer) == (1, FILE[1])
    assert places(first).known == (first,)
    moved = places(first, file={1: "tcp://elsewhere:1"}).known[0]
    assert (moved.moves, moved.peer) == (2, "tcp://elsewhere:1")


def test_a_server_that_is_remembered_at_another_place_contradicts() -> None:
    """Its own number of moves did not reach its disk, or the other's was damaged."""
    known = places()
    mine = at(1, moves=5, host="wrong")
    assert known.hear(told(mine), 2, 0.0) == [1]
    assert (known.known[0].moves, known.known[0].peer) == (6, FILE[1])
    assert known.hear(told(mine), 2, 0.0) == []


def test_telling_ends_with_an_answer_that_names_this_very_place() -> None:
    known = places()
    assert known.ask_again(0.0) == ([2, 3], [])
    assert known.due == ASK_AGAIN
    known.hear(told(at(2), to=101), 2, 0.0)  # 2 does not know of us
    known.hear(told(at(2), *known.known, to=102), 2, 0.0)  # not an answer to us
    assert known.ask_again(1.0) == ([2, 3], [])
    known.hear(told(at(2), *known.known, to=101), 2, 0.0)
    assert known.ask_again(2.0) == ([3], [])
    known.hear(told(*known.known, to=101), 3, 0.0)
    assert known.due == NEVER
    known.tell(3, 10.0)  # its connection has ended
    assert known.due == 10.0 + ASK_AGAIN


def test_who_never_answers_is_looked_for_elsewhere() -> None:
    known = places()
    silent = [known.ask_again(float(turn))[1] for turn in range(2 * ASKED_IN_VAIN + 1)]
    assert silent == [[], [], [], [2, 3], [], [], [2, 3]]


@pytest.mark.parametrize(
    "place",
    [
        at(64), at(0), at(2, moves=0), at(2, moves=1 << 62), at(2, host="h" * 300),
        Place(2, 1, 1, "", ""), Place(2, 1, 1, "tcp://*:5", ""), Place(2, 1, 1, "tcp://h:0", ""),
        Place(2, 1, 1, "tcp://h:99999", ""), Place(2, 1, 1, "udp://h:1", ""),
        Place(2, 1, 1, "tcp://h:1", "nonsense"), Place(2, 1, 1, "tcp://:1", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_an_address_is_malformed(place: Place) -> None:
    assert plausible([at(2)])
    assert not plausible([at(2), place])


def test_places_are_on_the_disk(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path, "test", 1)
    storage.save_places((at(1), at(2, host="ünï")), lazily=False)
    assert storage.dirty
    storage.commit()
    storage.save_places((at(1), at(2, host="ünï")), lazily=False)
    assert not storage.dirty
    storage.close()
    again = SqliteStorage(tmp_path, "test", 1)
    assert again.load().places == (at(1), at(2, host="ünï"))
    again.close()


def test_dialable() -> None:
    assert is_dialable("tcp://h:1") and is_dialable("tcp://[::1]:1") and is_dialable("ipc:///a")
    for host in ("", "*", "0.0.0.0", "[::]", "h h", "h\n", "h;g", "[g]", "\udc80"):
        assert not is_dialable(f"tcp://{host}:1")
    for port in ("", "*", "0", "65536", "1" * 5000):
        assert not is_dialable(f"tcp://h:{port}")
    assert not is_dialable("ipc:///a*") and not is_dialable("ipc:///a\0b")


def test_clients_that_listen_are_told_once_each_of_each_move_though_they_are_silent() -> None:
    known = places()
    for client in (b"a", b"b", b"c"):
        known.listen(client)
    assert not known.untold
    known.hear(told(at(2, host="new")), 2, 10.0)
    assert known.take_untold(2) == [b"a", b"b"]
    known.listen(b"c")  # (over a new connection: it is told at once)
    assert not known.untold
    known.hear(told(at(2, host="new")), 2, 13.0)  # nothing new
    assert not known.untold
    known.forget(b"b")
    known.hear(told(at(3, host="newer")), 3, 20.0)
    assert known.take_untold(9) == [b"a", b"c"]


def test_where_there_is_no_room_for_more_clients_the_latest_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Clients of one command each come and go, and nobody hears that they are gone."""
    monkeypatch.setattr("paxon.actors.records.places.MOST_LISTENERS", 2)
    known = places()
    for client in (b"a", b"b", b"a", b"c"):
        known.listen(client)
    known.hear(told(at(2, host="new")), 2, 10.0)
    assert known.take_untold(9) == [b"a", b"c"]


def test_clients_are_told_where_a_replaced_server_is_though_the_old_one_told_otherwise() -> None:
    """Who talks to the leader alone would know of none that is left once that is replaced, too."""
    known = places(at(2))
    new = Member(2, 202, peer="tcp://other:1", client="tcp://other:2")
    first, _, third = Configuration.of(MADE).members
    known.listen(b"a")
    known.join((first, new, third), 5.0)
    assert known.take_untold(1) == [b"a"]
    assert known.client_addresses()[2] == "tcp://other:2"


def test_silent_clients_are_told_of_moves_some_in_each_step_and_all_by_who_retires() -> None:
    files = {server: f"tcp://h-{server}:1" for server in (1, 2, 3, 4)}
    clients = {server: f"tcp://h-{server}:2" for server in (1, 2, 3, 4)}
    cluster = serving(4, (1, 2, 3), peer_addresses=files, client_addresses=clients)
    silent = [f"silent {number}".encode() for number in range(8 * TOLD_AT_ONCE)]
    cluster.step(3, Burst(clients=[(client, [TellAddresses()]) for client in silent]))
    told = [addresses for _, _, addresses in cluster.replies if isinstance(addresses, Addresses)]
    assert told == [Addresses({s: clients[s] for s in (1, 2, 3)})] * len(silent)
    cluster.replies.clear()
    incarnation = cluster.storages[4].incarnation
    swap = (MemberChange("add", 4, incarnation, files[4], clients[4]), MemberChange("remove", 3))
    change(cluster, 1, *swap)
    while cluster.epochs(3) == [0]:
        cluster.deliver()
    news = Addresses({s: clients[s] for s in (1, 2, 4)})

    def heard() -> list[bytes]:
        return [client for _, client, reply in cluster.replies if reply == news]

    assert heard() == silent[: len(heard())] and len(heard()) % TOLD_AT_ONCE == 0
    assert 0 < len(cluster.servers[3].places.untold) == len(silent) - len(heard())
    cluster.hand(3, 1, beat(Ballot.first_of(1).next_for(1), 1))
    assert list(cluster.retired) == [3] and heard() == silent


def test_clients_are_told_the_keys_of_the_servers_that_they_are_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = {1: "one", 3: "three", 9: "stranger"}
    monkeypatch.setattr(QuietNetwork, "keys", lambda _: keys)
    cluster = serving(3, (1, 2, 3))
    cluster.request(2, TellAddresses())
    [told] = cluster.told(Addresses)
    assert (told.addresses, told.keys) == (ADDRESSES, {1: "one", 3: "three"})
