"""A server's disk in sizes alone, and the worst that clients can do (docs/design/full-disks.md).

The rule is the real one, `Disk.room`. A state that takes no more than two fifths of its disk must
never be held back for good, and the disk never be full.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from paxon.actors.disk.room import GROWTH, LOG_ROOM, PAGE_BYTES, Disk, checkpoint_pages, later_bytes
from paxon.actors.disk.storage import ENOUGH_ROOM, NO_ROOM, SnapshotInfo
from paxon.actors.records.catching_up import Snapshots
from paxon.actors.settings import Settings

MIB = 1 << 20
VALUE = 100_000
DELETED_AT_ONCE = 8 * MIB
SETTINGS = Settings(cluster="model", server=1, servers=(1,))


@dataclass
class Child:
    """Takes a snapshot of `size` bytes, of all that `covered` logged bytes have made."""

    covered: int
    size: int
    guess: int
    taken: int = 0


class Server:
    """What is on the disk of one server; bytes."""

    def __init__(self, disk: int) -> None:
        self.disk = disk
        self.most = disk * 9 // 20 - MIB
        self.state = self.snapshot = 1
        self.logged = self.log_file = 0
        self.rows = self.inside = self.database = 0
        self.discarded = 0
        self.child: Child | None = None
        self.plan = Snapshots()
        self.written = 0

    def look(self) -> Disk:
        child, last = self.child, self.snapshot
        free = self.disk - last - self.database - self.log_file - (child.taken if child else 0)
        assert free >= 0, "the disk is full"
        size, covered = (last, 0) if child is None else (child.taken or child.guess, child.covered)
        wanted = size - (0 if child is None else child.taken)
        later = later_bytes(last, size, self.logged, covered)
        growth = max(0, self.rows + self.inside - self.database)
        return Disk(free, wanted, later, child is not None, growth, self.inside)

    @property
    def room(self) -> int:
        return self.look().room()

    def write(self, size: int, growth: int) -> None:
        """Log values; the state grows by so many times their size, but not beyond its part."""
        self.state = max(self.state, min(self.most, self.state + growth * size))
        self.inside -= min(self.inside, size)
        self.rows += size
        self.log_file += size
        self.logged += size
        self.written += size
        if self.log_file >= checkpoint_pages(self.room) * PAGE_BYTES:
            self.checkpoint()

    def checkpoint(self) -> None:
        self.database, self.log_file = self.rows + self.inside, 0
        self.look()

    def shrink(self, missing: int) -> None:
        self.inside -= max(0, min(self.inside, missing))
        self.checkpoint()

    def tick(self, *, goes_on: bool) -> None:
        """Housekeeping; the child goes on, or is kept waiting by a busy machine."""
        deleted = min(self.discarded, DELETED_AT_ONCE)
        self.discarded -= deleted
        self.rows -= deleted
        self.inside += deleted
        if self.child is not None:
            if goes_on:
                self.go_on(self.child)
            return
        disk = self.look()
        if disk.room() < ENOUGH_ROOM and not self.discarded:
            self.shrink(disk.surplus())
        self.plan.executed_bytes = self.logged
        is_due = self.plan.is_due(0, SnapshotInfo(0, self.snapshot, 0), SETTINGS)
        if self.logged and (is_due or self.logged >= self.room):
            guess = self.snapshot + GROWTH * self.logged
            self.shrink(guess + LOG_ROOM - self.look().free)
            self.child = Child(self.logged, self.state, guess)

    def go_on(self, child: Child) -> None:
        if not child.taken and self.look().free < child.size + LOG_ROOM:
            self.child = None  # there is no room for it
        elif not child.taken:
            child.taken = child.size
        else:
            self.child, self.snapshot = None, child.size
            self.logged -= child.covered
            self.discarded += child.covered


phases = st.tuples(
    st.integers(1, 80),  # ticks
    st.sampled_from([0, 1, 1, GROWTH]),  # by how much a value makes the state larger
    st.sampled_from([VALUE, MIB, 4 * MIB]),  # as much as clients send between two ticks
    st.sampled_from([1, 10, 60]),  # ticks that a child needs for a step
    st.sampled_from([0, PAGE_BYTES, MIB // 4]),  # small values beside, which need no room
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sampled_from([32, 100, 300]), st.lists(phases, min_size=1, max_size=12))
def test_a_state_that_fits_is_never_held_back_for_good(
    disk: int, story: list[tuple[int, int, int, int, int]]
) -> None:
    server = Server(disk * MIB)
    for ticks, growth, burst, steps, small in story:
        for tick in range(ticks):
            if (size := min(burst, server.room)) > 0:
                server.write(size, growth)
            if small and server.room > NO_ROOM:
                server.write(small, growth)
            server.tick(goes_on=tick % steps == 0)
    before = server.written
    for _ in range(100):
        if server.room >= VALUE:
            server.write(VALUE, 1)
        server.tick(goes_on=True)
    assert server.written >= before + 10 * VALUE, vars(server)
