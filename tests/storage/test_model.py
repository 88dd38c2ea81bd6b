"""Random lives of a storage against a model of it: crashes, restarts, snapshots, discards."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from paxon.actors import NO_BALLOT, Ballot
from paxon.actors.disk.storage import Storage
from paxon.actors.messages import Made
from paxon.actors.records.configuration import Configuration, Member
from tests.disks import MemoryDisk
from tests.storage.engines import (
    CLUSTER,
    MADE,
    SERVER,
    Engine,
    SqliteEngine,
    info_of,
    take_snapshot,
)

RAM = Path("/dev/shm")
"""Syncs cost nothing there, and a crash of a process alone does not need them."""
SLOTS = st.integers(1, 40)
VALUES = st.binary(max_size=20) | st.integers(1, 9000).map(bytes)


@dataclass
class Disk:
    """What should be there."""

    promised: Ballot = NO_BALLOT
    accepted: dict[int, tuple[Ballot, bytes]] = field(default_factory=dict)
    chosen_to: int = 0
    discarded: int = 0
    made: Made | None = None
    in_force: bool = False
    image: tuple[int, bytes] | None = None
    configuration: Configuration | None = None

    def drop(self) -> None:
        self.accepted = {s: held for s, held in self.accepted.items() if s > self.discarded}


class CrashingMemory:
    """The memory engine; `keep_pending` is drawn by the machine."""

    def __init__(self) -> None:
        self.storage = MemoryDisk(CLUSTER, SERVER)
        self.keep_pending = False

    def restart(self) -> Storage:
        self.storage.close()
        return self.crash()

    def crash(self) -> Storage:
        self.storage = self.storage.crash(keep_pending=self.keep_pending)
        self.keep_pending = False
        return self.storage


class StorageMachine(RuleBasedStateMachine):
    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        self.durable = Disk()
        self.pending = Disk()

    @property
    def storage(self) -> Storage:
        return self.engine.storage

    # --- collecting ------------------------------------------------------------------------------

    @rule(up=st.integers(0, 2), leader=st.integers(1, 3))
    def promise(self, up: int, leader: int) -> None:
        ballot = Ballot(self.pending.promised.round + up, leader)
        if ballot.round and ballot > self.pending.promised:
            self.storage.save_promise(ballot)
            self.pending.promised = ballot

    @precondition(lambda self: self.pending.promised != NO_BALLOT)
    @rule(slots=st.lists(SLOTS, max_size=6), value=VALUES)
    def accept(self, slots: list[int], value: bytes) -> None:
        for slot in slots:
            if slot > self.pending.discarded:
                self.storage.save_accepted(slot, self.pending.promised, value)
                self.pending.accepted[slot] = (self.pending.promised, value)

    @rule(slot=SLOTS, lazily=st.booleans())
    def choose(self, slot: int, lazily: bool) -> None:
        self.storage.save_chosen_to(slot, lazily=lazily)
        self.pending.chosen_to = max(slot, self.pending.chosen_to)

    @rule(slot=SLOTS)
    def seal(self, slot: int) -> None:
        """An epoch ends: all above it that is there so far goes with the next commit."""
        pending = self.pending
        slot = max(slot, pending.discarded)
        epoch = 1 if pending.configuration is None else pending.configuration.epoch + 1
        pending.configuration = Configuration(epoch, slot, (Member(1, 5), Member(2, 6, False)))
        pending.promised = Ballot.first_of(epoch)
        pending.chosen_to = max(slot, pending.chosen_to)
        pending.accepted = {s: held for s, held in pending.accepted.items() if s <= slot}
        self.storage.save_promise(pending.promised)
        self.storage.save_seal(pending.configuration)

    @rule()
    def belong(self) -> None:
        self.storage.save_made(MADE, in_force=self.pending.in_force)
        self.pending.made = MADE

    @rule()
    def come_into_force(self) -> None:
        made = self.pending.made
        if made is not None:
            self.storage.save_made(made, in_force=True)
            self.pending.in_force = True

    @precondition(lambda self: self.durable.image is not None)
    @rule(back=st.integers(0, 10))
    def discard(self, back: int) -> None:
        assert self.durable.image is not None
        slot = self.durable.image[0] - back
        self.storage.discard_to(slot)
        self.pending.discarded = max(slot, self.pending.discarded)
        self.pending.drop()

    # --- snapshots -------------------------------------------------------------------------------

    @rule(up=st.integers(1, 8), image=VALUES)
    def snapshot(self, up: int, image: bytes) -> None:
        slot = up + (self.pending.image[0] if self.pending.image else 0)
        assert take_snapshot(self.storage, slot, image) == info_of(slot, image)
        self.pending.image = (slot, image)

    @rule(up=st.integers(1, 8), image=VALUES, cut=st.integers(0, 9000), spoilt=st.booleans())
    def adopt(self, up: int, image: bytes, cut: int, spoilt: bool) -> None:
        slot = up + (self.pending.image[0] if self.pending.image else 0)
        info = info_of(slot, image + b"!" if spoilt else image)
        held = self.storage.receive_snapshot(info, 0, image[:cut])
        self.storage.receive_snapshot(info, held, image[held:])
        assert (self.storage.adopt_snapshot(info) is None) == spoilt
        if not spoilt:
            pending = self.pending
            pending.image = (slot, image)
            pending.discarded = max(slot, pending.discarded)
            pending.chosen_to = max(slot, pending.chosen_to)
            pending.drop()

    # --- commits and endings ---------------------------------------------------------------------

    @rule()
    def commit(self) -> None:
        self.storage.commit()
        self.durable = copy.deepcopy(self.pending)

    @rule(times=st.integers(1, 3))
    def maintain(self, times: int) -> None:
        for _ in range(times):
            self.storage.maintain()

    @rule()
    def crash(self) -> None:
        self.engine.crash()
        self.check()

    @rule()
    def restart(self) -> None:
        self.engine.restart()
        self.check()

    def check(self) -> None:
        """What is there after a restart is what was committed, no more and no less."""
        self.pending = copy.deepcopy(self.durable)
        found, durable = self.storage.load(), self.durable
        assert found.promised == durable.promised
        assert found.chosen_to == durable.chosen_to
        assert found.discarded == durable.discarded
        assert found.configuration == durable.configuration
        assert (found.made, found.in_force) == (durable.made, durable.in_force)
        assert found.snapshot == (info_of(*durable.image) if durable.image else None)
        assert [(held.slot, held.ballot, held.value) for held in found.accepted] == [
            (slot, *durable.accepted[slot]) for slot in sorted(durable.accepted)
        ]

    @invariant()
    def serves_the_durable_snapshot(self) -> None:
        image = self.durable.image
        assert self.storage.durable.snapshot == (info_of(*image) if image else None)
        if image is not None:
            assert self.storage.read_snapshot(image[0], 0, len(image[1])) == image[1]

    def teardown(self) -> None:
        self.engine.restart()
        self.check()
        self.storage.close()


class MemoryMachine(StorageMachine):
    def __init__(self) -> None:
        super().__init__()
        self.engine = self.memory = CrashingMemory()

    @rule()
    def crash_after_the_sync(self) -> None:
        """The commit under way reached the disk, though its caller never heard of it."""
        self.memory.keep_pending = True
        self.durable = copy.deepcopy(self.pending)
        self.crash()


class SqliteMachine(StorageMachine):
    def __init__(self) -> None:
        super().__init__()
        self._root = tempfile.TemporaryDirectory(dir=RAM if RAM.exists() else None)
        self.engine = SqliteEngine(Path(self._root.name))

    def teardown(self) -> None:
        super().teardown()
        self._root.cleanup()


NO_CHECKS = list(HealthCheck)
TestMemoryModel = MemoryMachine.TestCase
TestMemoryModel.settings = settings(
    max_examples=100, stateful_step_count=40, suppress_health_check=NO_CHECKS
)
TestSqliteModel = SqliteMachine.TestCase
TestSqliteModel.settings = settings(
    max_examples=25, stateful_step_count=40, suppress_health_check=NO_CHECKS
)
