"""What `Storage` promises, on every engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from paxon.actors import Ballot, InvariantViolation, StorageError
from paxon.actors.disk.storage import Recovered, Storage
from paxon.actors.records.configuration import Configuration, Member
from tests.storage.engines import (
    FIRST,
    MADE,
    SECOND,
    Engine,
    MemoryEngine,
    SqliteEngine,
    accept,
    accepted_slots,
    info_of,
    take_snapshot,
    value,
    without_rows,
)


@pytest.fixture(params=["memory", "sqlite", "sqlite-forking"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    if request.param == "memory":
        return MemoryEngine()
    return SqliteEngine(tmp_path, fork=request.param == "sqlite-forking")


def now_and_after_a_crash(engine: Engine) -> Iterator[Storage]:
    yield engine.storage
    yield engine.crash()


# --- commits -------------------------------------------------------------------------------------


def test_a_new_storage_is_empty(engine: Engine) -> None:
    assert engine.storage.load() == Recovered()
    assert engine.storage.durable.snapshot is None
    assert not engine.storage.dirty


def test_the_incarnation_belongs_to_the_disk(engine: Engine, tmp_path: Path) -> None:
    incarnation = engine.storage.incarnation
    assert 0 <= incarnation < 1 << 63
    assert engine.crash().incarnation == incarnation
    assert engine.restart().incarnation == incarnation
    assert SqliteEngine(tmp_path / "other").storage.incarnation != incarnation


@pytest.mark.parametrize("ending", ["crash", "restart"])
def test_all_that_was_committed_is_there_again(engine: Engine, ending: str) -> None:
    storage = engine.storage
    accept(storage, 1, 2, 4)
    storage.save_chosen_to(2)
    storage.save_made(MADE, in_force=False)
    storage.save_made(MADE, in_force=True)
    assert storage.dirty
    storage.commit()
    assert not storage.dirty
    accept(storage, 4, 5, ballot=SECOND)
    storage.commit()
    found = getattr(engine, ending)().load()
    assert without_rows(found) == Recovered(promised=SECOND, chosen_to=2, made=MADE, in_force=True)
    assert [(a.slot, a.ballot, a.value) for a in found.accepted] == [
        (1, FIRST, value(1)),
        (2, FIRST, value(2)),
        (4, SECOND, value(4, SECOND)),
        (5, SECOND, value(5, SECOND)),
    ]


def test_a_seal_is_one_transaction_with_what_goes_above_it(engine: Engine) -> None:
    """docs/membership.md, M2; and what is accepted after it in the same transaction stays."""
    storage = engine.storage
    accept(storage, 1, 2, 3, 4)
    storage.commit()
    accept(storage, 3, 5)
    after = Configuration(1, 2, (Member(1, 5, peer="tcp://h:1"), Member(4, 9, voter=False)))
    first = Ballot.first_of(1)
    storage = engine.crash()
    assert storage.load().configuration is None and accepted_slots(storage) == [1, 2, 3, 4]
    storage.save_promise(first.next_for(3))
    storage.save_seal(after)
    storage.save_accepted(4, first.next_for(3), b"new")
    assert storage.dirty
    storage.commit()
    for storage in now_and_after_a_crash(engine):
        held = storage.load()
        assert (held.configuration, held.chosen_to, held.promised) == (after, 2, first.next_for(3))
        assert [(a.slot, a.ballot.epoch) for a in held.accepted] == [(1, 0), (2, 0), (4, 1)]
    with pytest.raises(InvariantViolation, match="epoch 1 after 1"):
        engine.storage.save_seal(after)


@pytest.mark.parametrize("ending", ["crash", "restart"])
def test_what_was_not_committed_is_lost(engine: Engine, ending: str) -> None:
    accept(engine.storage, 1)
    engine.storage.commit()
    accept(engine.storage, 1, 2, ballot=SECOND)
    engine.storage.save_chosen_to(1)
    engine.storage.save_made(MADE, in_force=False)
    storage = getattr(engine, ending)()
    found = storage.load()
    assert without_rows(found) == Recovered(promised=FIRST)
    assert [(a.slot, a.ballot) for a in found.accepted] == [(1, FIRST)]
    storage.save_accepted(1, FIRST, b"again")  # the lost ballot binds nobody
    storage.commit()


def test_a_directory_belongs_to_one_cluster_for_good(engine: Engine) -> None:
    storage = engine.storage
    assert storage.load().made is None
    storage.save_made(MADE, in_force=False)
    storage.commit()
    storage = engine.restart()
    assert (storage.load().made, storage.load().in_force) == (MADE, False)
    for other in (replace(MADE, identity=7), replace(MADE, members=MADE.members[:2])):
        with pytest.raises(InvariantViolation, match="would change over"):
            storage.save_made(other, in_force=True)
    storage.save_made(MADE, in_force=True)
    storage.commit()
    with pytest.raises(InvariantViolation, match="cease to be in force"):
        storage.save_made(MADE, in_force=False)
    found = engine.crash().load()
    assert (found.made, found.in_force) == (MADE, True)
    storage = engine.storage
    assert not storage.dirty


def test_the_last_write_to_a_slot_wins(engine: Engine) -> None:
    accept(engine.storage, 1)
    accept(engine.storage, 1, ballot=SECOND)
    engine.storage.commit()
    (held,) = engine.crash().load().accepted
    assert (held.ballot, held.value) == (SECOND, value(1, SECOND))


def test_values_of_all_sizes(engine: Engine) -> None:
    sizes = [0, 1, 4050, 4096, 8192, 3_000_000]
    engine.storage.save_promise(FIRST)
    for slot, size in enumerate(sizes, start=1):
        engine.storage.save_accepted(slot, FIRST, b"\xa5" * size)
    engine.storage.commit()
    assert [len(held.value) for held in engine.crash().load().accepted] == sizes


def test_lazy_writes_ride_on_the_next_commit(engine: Engine) -> None:
    storage = engine.storage
    accept(storage, 1)
    storage.commit()
    storage.save_chosen_to(1)
    assert not storage.dirty
    storage.save_made(MADE, in_force=False)
    storage.commit()
    assert engine.crash().load().chosen_to == 1


def test_a_commit_of_lazy_writes_alone_makes_them_durable(engine: Engine) -> None:
    engine.storage.save_chosen_to(3)
    engine.storage.commit()
    assert engine.crash().load().chosen_to == 3


def test_chosen_to_can_ask_for_a_sync(engine: Engine) -> None:
    engine.storage.save_chosen_to(3)
    engine.storage.save_chosen_to(3, lazily=False)
    assert engine.storage.dirty
    engine.storage.commit()
    engine.storage.save_chosen_to(3, lazily=False)
    assert not engine.storage.dirty


def test_chosen_to_never_falls(engine: Engine) -> None:
    engine.storage.save_chosen_to(5)
    engine.storage.save_chosen_to(4, lazily=False)
    engine.storage.commit()
    assert engine.crash().load().chosen_to == 5


def test_an_empty_commit_costs_no_sync(engine: Engine) -> None:
    accept(engine.storage, 1)
    engine.storage.commit()
    commits = engine.storage.count
    engine.storage.commit()
    engine.storage.save_promise(FIRST)
    assert not engine.storage.dirty
    engine.storage.commit()
    assert engine.storage.count == commits


def test_a_closed_storage_commits_nothing(engine: Engine) -> None:
    engine.storage.close()
    engine.storage.close()
    engine.storage.save_promise(FIRST)
    with pytest.raises(StorageError, match="closed"):
        engine.storage.commit()


# --- invariants ----------------------------------------------------------------------------------


def test_a_promise_never_falls(engine: Engine) -> None:
    engine.storage.save_promise(SECOND)
    with pytest.raises(InvariantViolation, match="promise"):
        engine.storage.save_promise(FIRST)
    engine.storage.commit()
    with pytest.raises(InvariantViolation, match="promise"):
        engine.crash().save_promise(FIRST)


@pytest.mark.parametrize("between", ["nothing", "commit", "crash"])
def test_an_accepted_ballot_never_falls(engine: Engine, between: str) -> None:
    accept(engine.storage, 1, ballot=SECOND)
    if between != "nothing":
        engine.storage.commit()
    storage = engine.crash() if between == "crash" else engine.storage
    with pytest.raises(InvariantViolation, match="slot 1"):
        storage.save_accepted(1, FIRST, b"older")


def test_nothing_is_accepted_above_the_promise(engine: Engine) -> None:
    engine.storage.save_promise(FIRST)
    with pytest.raises(InvariantViolation, match="above the promise"):
        engine.storage.save_accepted(1, SECOND, b"")


def test_nothing_is_discarded_without_a_durable_snapshot(engine: Engine) -> None:
    storage = engine.storage
    accept(storage, *range(1, 10))
    storage.commit()
    with pytest.raises(InvariantViolation, match="discarded"):
        storage.discard_to(1)
    take_snapshot(storage, 5)
    with pytest.raises(InvariantViolation, match="discarded"):
        storage.discard_to(1)  # recorded, but not committed
    storage.commit()
    with pytest.raises(InvariantViolation, match="discarded"):
        storage.discard_to(6)
    storage.discard_to(5)


def test_a_discarded_slot_accepts_nothing(engine: Engine) -> None:
    storage = engine.storage
    accept(storage, 1, 2)
    take_snapshot(storage, 1)
    storage.commit()
    storage.discard_to(1)
    with pytest.raises(InvariantViolation, match="slot 1"):
        storage.save_accepted(1, FIRST, b"")


@pytest.mark.parametrize(("round_", "slot"), [(1 << 63, 1), (1, 1 << 63)])
def test_numbers_beyond_63_bits_are_refused(engine: Engine, round_: int, slot: int) -> None:
    with pytest.raises(InvariantViolation, match="63 bits"):
        accept(engine.storage, slot, ballot=Ballot(round_, 1))


# --- discarding ----------------------------------------------------------------------------------


def test_discarded_rows_are_gone_after_the_next_commit(engine: Engine) -> None:
    storage = engine.storage
    accept(storage, *range(1, 1001))
    take_snapshot(storage, 900)
    storage.commit()
    storage.discard_to(800)
    assert not storage.dirty
    storage.save_made(MADE, in_force=False)
    storage.commit()
    found = engine.crash().load()
    assert found.discarded == 800
    assert [accepted.slot for accepted in found.accepted] == list(range(801, 1001))


def test_a_large_discard_is_spread_over_commits_and_completes(engine: Engine) -> None:
    storage = engine.storage
    accept(storage, *range(1, 2001))
    take_snapshot(storage, 2000)
    storage.commit()
    storage.discard_to(1990)
    for slot in range(2001, 2031):
        accept(storage, slot)
        storage.commit()
    assert accepted_slots(storage) == list(range(1991, 2031))
    assert accepted_slots(engine.crash()) == list(range(1991, 2031))


def test_a_collected_row_that_a_discard_covers_goes_too(engine: Engine) -> None:
    storage = engine.storage
    accept(storage, 1, 2)
    take_snapshot(storage, 2)
    storage.commit()
    accept(storage, 1, 2, 3, ballot=SECOND)
    storage.discard_to(2)
    storage.commit()
    assert accepted_slots(engine.crash()) == [3]


# --- snapshots -----------------------------------------------------------------------------------


def test_a_snapshot_counts_after_its_commit(engine: Engine) -> None:
    storage = engine.storage
    info = take_snapshot(storage, 7, b"the state")
    assert info == info_of(7, b"the state")
    assert storage.dirty
    assert storage.durable.snapshot is None
    assert storage.read_snapshot(7, 0, 100) == b""
    storage.commit()
    assert storage.durable.snapshot == info
    for opened in now_and_after_a_crash(engine):
        assert opened.load().snapshot == opened.durable.snapshot == info
        assert opened.read_snapshot(7, 0, info.size) == b"the state"
        assert opened.read_snapshot(7, 4, 3) == b"sta"
        assert opened.read_snapshot(7, 4, 100) == b"state"
        assert opened.read_snapshot(7, 9, 1) == b""
        assert opened.read_snapshot(6, 0, 1) == b""


def test_an_uncommitted_snapshot_is_lost_in_a_crash(engine: Engine) -> None:
    take_snapshot(engine.storage, 7)
    storage = engine.crash()
    assert storage.load().snapshot is None
    assert storage.poll_snapshot() is None
    assert take_snapshot(storage, 7, b"again") == info_of(7, b"again")
    storage.commit()
    assert storage.read_snapshot(7, 0, 10) == b"again"


def test_the_snapshot_before_the_newest_is_kept_while_a_peer_fetches_it(engine: Engine) -> None:
    storage = engine.storage
    for slot in (3, 6, 9):
        take_snapshot(storage, slot, b"state %d" % slot)
        storage.commit()
        assert storage.read_snapshot(slot, 0, 100) == b"state %d" % slot
    assert storage.read_snapshot(6, 0, 100) == b"state 6"
    assert storage.read_snapshot(3, 0, 100) == b""
    for opened in now_and_after_a_crash(engine):
        assert opened.read_snapshot(9, 0, 100) == b"state 9"


def test_one_snapshot_at_a_time_and_each_newer(engine: Engine) -> None:
    storage = engine.storage
    storage.begin_snapshot(3, lambda: [b"one"])
    assert storage.taking_snapshot
    with pytest.raises(InvariantViolation, match="second"):
        storage.begin_snapshot(4, lambda: [b"two"])
    while storage.taking_snapshot:
        storage.poll_snapshot()
    with pytest.raises(InvariantViolation, match="no newer"):
        storage.begin_snapshot(3, lambda: [b"two"])


@pytest.mark.parametrize("image", [b"", b"x" * 5_000_001])
def test_images_of_all_sizes(engine: Engine, image: bytes) -> None:
    assert take_snapshot(engine.storage, 1, image) == info_of(1, image)
    engine.storage.commit()
    storage = engine.crash()
    assert storage.load().snapshot == info_of(1, image)
    assert storage.read_snapshot(1, 0, len(image)) == image


# --- snapshots from peers ------------------------------------------------------------------------


def receive(engine: Engine, slot: int, image: bytes, piece: int = 4) -> None:
    info = info_of(slot, image)
    for offset in range(0, len(image), piece):
        held = engine.storage.receive_snapshot(info, offset, image[offset : offset + piece])
        assert held == min(offset + piece, len(image))


def test_a_received_snapshot_replaces_the_log_up_to_its_slot(engine: Engine) -> None:
    storage = engine.storage
    accept(storage, 1, 2, 30, 31)
    storage.commit()
    accept(storage, 2, 29, 32, ballot=SECOND)
    receive(engine, 30, b"a state from afar")
    info = info_of(30, b"a state from afar")
    assert storage.adopt_snapshot(info)
    assert storage.dirty
    storage.commit()
    for opened in now_and_after_a_crash(engine):
        found = opened.load()
        assert (found.snapshot, found.discarded, found.chosen_to) == (info, 30, 30)
        assert [held.slot for held in found.accepted] == [31, 32]
        assert opened.read_snapshot(30, 0, 100) == b"a state from afar"


def test_an_adoption_without_commit_is_lost(engine: Engine) -> None:
    accept(engine.storage, 1)
    engine.storage.commit()
    receive(engine, 30, b"state")
    assert engine.storage.adopt_snapshot(info_of(30, b"state"))
    found = engine.crash().load()
    assert (found.snapshot, found.discarded, found.chosen_to) == (None, 0, 0)
    assert [held.slot for held in found.accepted] == [1]


def test_a_damaged_snapshot_is_thrown_away(engine: Engine) -> None:
    info = info_of(30, b"state")
    assert engine.storage.receive_snapshot(info, 0, b"stats") == 5
    assert not engine.storage.adopt_snapshot(info)
    assert not engine.storage.dirty
    assert engine.storage.receive_snapshot(info, 0, b"") == 0
    receive(engine, 30, b"state")
    assert engine.storage.adopt_snapshot(info)


def test_an_incomplete_or_unknown_snapshot_is_not_adopted(engine: Engine) -> None:
    assert not engine.storage.adopt_snapshot(info_of(8, b"never sent"))
    engine.storage.receive_snapshot(info_of(9, b"whole"), 0, b"who")
    assert not engine.storage.adopt_snapshot(info_of(9, b"whole"))


def test_pieces_out_of_place_are_ignored(engine: Engine) -> None:
    info = info_of(9, b"0123456789")
    storage = engine.storage
    assert storage.receive_snapshot(info, 0, b"0123") == 4
    assert storage.receive_snapshot(info, 0, b"0123") == 4  # came twice
    assert storage.receive_snapshot(info, 6, b"6789") == 4  # overtook another
    assert storage.receive_snapshot(info, 4, b"456789 and more") == 4  # too long
    assert storage.receive_snapshot(info, 4, b"456789") == 10
    assert storage.adopt_snapshot(info)


def test_another_snapshot_starts_afresh(engine: Engine) -> None:
    storage = engine.storage
    assert storage.receive_snapshot(info_of(9, b"0123456789"), 0, b"0123") == 4
    assert storage.receive_snapshot(info_of(9, b"abc"), 0, b"ab") == 2
    assert storage.receive_snapshot(info_of(9, b"0123456789"), 4, b"456789") == 0


def test_an_own_snapshot_overtaken_by_an_adopted_one_is_dropped(engine: Engine) -> None:
    storage = engine.storage
    storage.begin_snapshot(5, lambda: [b"own"])
    receive(engine, 30, b"state")
    assert storage.adopt_snapshot(info_of(30, b"state"))
    storage.commit()
    while storage.taking_snapshot:
        assert storage.poll_snapshot() is None
    assert storage.durable.snapshot == info_of(30, b"state")
    assert engine.crash().load().snapshot == info_of(30, b"state")


def test_size_on_disk(engine: Engine) -> None:
    before = engine.storage.size_bytes()
    accept(engine.storage, 1)
    engine.storage.save_accepted(2, FIRST, b"x" * 1_000_000)
    engine.storage.commit()
    assert engine.storage.size_bytes() >= before + 1_000_000
