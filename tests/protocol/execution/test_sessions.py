"""Rule 5: sessions' ids, when sessions expire, and the replies that they keep: alike everywhere."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest

from paxon.actors.execution.agreed import encode_agreed, first_agreed
from paxon.actors.execution.application import Application, encode_batch
from paxon.actors.execution.sessions import Reply, SessionTable
from paxon.actors.messages import RENEWAL, Batch, Entry, Made, ReplyStatus
from tests.harness import Register


def session_table(max_sessions: int, identity: int = 0) -> SessionTable:
    return SessionTable(first_agreed({"max_sessions": max_sessions}, {}), identity)


def ids(identity: int, slot: int, count: int, *, nonce: int = 5) -> list[int]:
    table = session_table(count, identity)
    opened = [table.open(slot, index, nonce) for index in range(count)]
    return [number for number in opened if number is not None]


class Numbered(Register):
    """Writes down which cluster it is told to be of."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[int] = []

    def made(self, number: int) -> None:
        self.numbers.append(number)


def test_sessions_of_two_clusters_and_of_two_lives_have_nothing_in_common() -> None:
    first = ids(1, 1, 1000)
    assert first == ids(1, 1, 1000)  # the same on every server
    assert first[0] == 5856205194686909709  # … of any release
    assert not set(first) & set(ids(2, 1, 1000))  # another cluster, or this one made anew
    assert not set(first) & set(ids(1, 1, 1000, nonce=6))  # other clients
    assert not set(first) & set(ids(1, 2, 1000))
    assert all(0 < number < 1 << 63 for number in first)
    machine = Numbered()
    made = Application(machine, first_agreed({}, {}))  # its cluster is made later
    made.begin_with(Made(1, "test", ((1, 11),), encode_agreed(made.agreed)))
    assert made.sessions.open(1, 0, 5) == first[0]
    assert machine.numbers == [0, 1]  # (what its random numbers are drawn from)


@pytest.mark.slow
def test_a_slot_takes_more_sessions_than_fit_into_twenty_bits() -> None:
    count = (1 << 20) + 50
    table = session_table(2 * count)
    table._unused = _Numbers()
    for index in range(count):
        table.open(7, index, 5)
    for index in range(100):
        table.open(8, index, 5)
    assert len(table._unused) == count + 100


class _Numbers(dict[int, Any]):
    """Keeps the numbers alone, to spare the memory of a million sessions."""

    def __setitem__(self, number: int, _session: object) -> None:
        assert number not in self
        super().__setitem__(number, None)


def test_an_id_that_a_live_session_has_is_not_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    place = SessionTable._id
    monkeypatch.setattr(SessionTable, "_id", lambda self, *p: place(self, *p) % 3)
    table = session_table(2)
    first, second = table.open(1, 0, 5), table.open(1, 1, 5)
    assert {first, second} == {1, 2}
    assert table.open(1, 2, 5) == first  # whose session made room


@pytest.mark.parametrize("seed", range(10))
def test_sessions_expire_when_they_were_idle_for_longer_than_agreed(seed: int) -> None:
    """At the same slot on a server that has begun from a snapshot right before it."""
    chance, time, seen = random.Random(seed), 0, dict[int, int]()
    agreed = first_agreed({"session_ttl": 0.1}, {})
    ttl = 10**8
    table = SessionTable(agreed)
    for slot in range(1, 200):
        time += chance.choice([0, 1, ttl // 4, ttl // 2, ttl - 1, ttl])
        late = SessionTable(agreed)
        late.load(table.dump())
        for each in (table, late):
            each.advance(time)
        seen = {number: at for number, at in seen.items() if at >= time - ttl}
        assert [number for number in seen if table.get(number) is None] == []
        assert len(table) == len(seen)
        assert late.dump() == table.dump()
        for _ in range(chance.randrange(3)):
            if seen and chance.random() < 0.6:
                used = chance.choice(list(seen))
                assert table.touch(Entry(used, 1, 0, 0, b"x")) is not None
                seen[used] = time
            else:
                opened = table.open(slot, len(seen), chance.randrange(1 << 40))
                assert opened is not None
                seen[opened] = time


@pytest.mark.parametrize("seed", range(10))
def test_replies_are_kept_until_they_are_acknowledged_and_counted_for_so_long(seed: int) -> None:
    """One that is forgotten too early is a command that is executed twice."""
    chance, floor, kept = random.Random(seed), 1, dict[int, Reply]()
    table = session_table(1)
    number = table.open(1, 0, 5)
    assert number is not None
    for _ in range(300):
        acked = chance.choice([0, floor, floor + 1, *kept, floor + chance.randrange(60)])
        floor = max(floor, acked)
        seq = floor + chance.randrange(40)
        session = table.touch(Entry(number, seq, acked, 0, b"x"))
        assert session is not None
        kept = {each: reply for each, reply in kept.items() if each >= floor}
        assert (session.floor, session.replies) == (floor, kept)
        assert session.kept == table.kept == sum(map(table.reply_bytes, kept.values()))
        if not session.executed(seq):
            status = chance.choice([ReplyStatus.OK, ReplyStatus.FAILED])
            kept[seq] = reply = Reply(status, bytes(chance.randrange(50)))
            assert table.keep(session, seq, reply) == table.reply_bytes(reply)
    late = session_table(1)
    late.load(table.dump())
    assert late.kept == table.kept > 0
    other = session_table(1)
    other.count = lambda _: 7  # a state machine's new code, say
    other.load(table.dump())
    assert (found := other.get(number)) is not None
    assert found.kept == other.kept == sum(map(other.reply_bytes, found.replies.values()))
    other.touch(Entry(number, 0, floor + 10_000, 0, b""))
    assert found.kept == other.kept == 0


class Wordy(Register):
    """Refuses with a text that is as long as it happens to be on this server."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def apply(self, command: bytes) -> bytes:
        if command == b"bad":
            raise ValueError(self.text)
        return b"ok"


class Replying(Wordy):
    """Has the text in a reply, in which it says itself what to compare and to count."""

    def apply(self, command: bytes) -> bytes:
        return b"bad" + self.text.encode() if command == b"bad" else b"ok"

    def comparable(self, reply: bytes) -> bytes:
        return reply[:3]

    def reply_bytes(self, reply: bytes) -> int:
        return 4096 if reply.startswith(b"bad") else len(reply)


@pytest.mark.parametrize("kind", [Wordy, Replying])
def test_how_long_an_errors_text_is_decides_nothing(
    monkeypatch: pytest.MonkeyPatch, kind: type[Wordy]
) -> None:
    """It may hold an address in memory, or read otherwise in another Python."""
    monkeypatch.setattr("paxon.actors.execution.application.SLOT_REPLIES", 1000)
    monkeypatch.setattr("paxon.actors.execution.application.SLOT_REPLIES_AT_MOST", 3000)
    ends = []
    for text in ("", "x" * 4000):
        machine = kind(text)
        agreed = first_agreed({"max_kept_each": 20_000}, machine.limits)
        application = Application(machine, agreed)
        opening = Batch(0, [Entry(0, 1, 0, 0, b"")])
        [(_, opened)] = application.execute(1, encode_batch(opening))
        session = int.from_bytes(opened.payload, "big")
        statuses = []
        for seq in range(1, 40):
            batch = Batch(0, [Entry(session, seq, 1, 0, b"bad")])
            [(_, reply)] = application.execute(1 + seq, encode_batch(batch))
            statuses.append(reply.status)
        full = application.sessions.kept
        acknowledging = Batch(0, [Entry(session, 40, 40, 0, b"good")])
        application.execute(41, encode_batch(acknowledging))
        assert application.sessions.kept < 100
        own = Batch(0, [Entry(0, 1, 0, 0, b"bad")] * 20)
        statuses += [reply.status for _, reply in application.execute(42, encode_batch(own))]
        ends.append((statuses, full, application.chain.head))
    assert ends[0] == ends[1]
    assert ReplyStatus.OVERLOADED in ends[0][0][:39]
    ended = ReplyStatus.FAILED if kind is Wordy else ReplyStatus.OK
    assert set(ends[0][0][39:]) == {ended, ReplyStatus.OVERLOADED}


def test_slot_after_slot_a_machine_that_counts_its_replies_finds_the_same_room() -> None:
    """Python's limit on nested calls rose with each, and after 2,700 slots every server stopped."""
    application = Application(Replying(""), first_agreed({}, {}))
    [(_, opened)] = application.execute(1, encode_batch(Batch(0, [Entry(0, 1, 0, 0, b"")])))
    session, limits = int.from_bytes(opened.payload, "big"), []
    for seq in range(1, 40):
        entries = [Entry(session, seq, seq, 0, b"x"), Entry(0, 1, RENEWAL, 0, b"x")]
        application.execute(seq + 1, encode_batch(Batch(0, entries)))
        application.restore(b"".join(application.image()))
        limits.append(sys.getrecursionlimit())
    assert limits[1:] == limits[1:2] * 38


@pytest.mark.parametrize("size", [-(1 << 70), 1 << 70])
def test_what_a_reply_is_said_to_count_for_can_be_kept(size: int) -> None:
    class Absurd(Register):
        def reply_bytes(self, reply: bytes) -> int:
            return size

    application = Application(Absurd(), first_agreed({}, {}))
    [(_, opened)] = application.execute(1, encode_batch(Batch(0, [Entry(0, 1, 0, 0, b"")])))
    session = int.from_bytes(opened.payload, "big")
    application.execute(2, encode_batch(Batch(0, [Entry(session, 1, 1, 0, b"x")])))
    assert 0 < application.sessions.kept < 1 << 41
    application.restore(b"".join(application.image()))
