"""The store's state, and the one way in which it changes: all that a revision does, at once."""

from __future__ import annotations

from paxon.kvstore.store.history import FIRST_REVISION, Before, History, event_bytes
from paxon.kvstore.store.items import Item, tombstone, value_bytes
from paxon.kvstore.store.key_index import KeyIndex
from paxon.kvstore.store.leases import MAX_LEASE_KEYS, LeaseTable
from paxon.kvstore.store.past import Now, Past, Then, View
from paxon.kvstore.store.refusals import Refusal

__all__ = ["MAX_REVISION_BYTES", "MAX_REVISION_EVENTS", "State", "leased_bytes"]

# Parts of the format.
MAX_REVISION_EVENTS = 10_000
"""One revision changes at most so many keys …"""
MAX_REVISION_BYTES = 24 << 20
"""… with so many bytes, those that are replaced included: its events have to fit into a frame."""
_EVENT_BYTES = 64
_INDEX_BACKLOG = 2048
"""Keys that may wait to be put in or taken out of the index, once there is one."""


class State:
    """Keys, revision, history and leases."""

    def __init__(self) -> None:
        self.data: dict[bytes, Item] = {}
        self.revision = FIRST_REVISION
        self.history = History(self.data)
        self.leases = LeaseTable()
        self.index: KeyIndex | None = None
        """Built when a range is first asked for and kept since; before, it costs nothing."""
        self.unindexed: set[bytes] = set()
        """Keys put in or removed since the index was last brought up to date."""
        self._past: Past | None = None
        self.now = Now(self.data, self.up_to_date_index)

    # --- reading -----------------------------------------------------------------------------

    def at(self, revision: int) -> View:
        """The store as it was after a revision; 0: as it is. Raises `Refusal`."""
        self.check_revision(revision)
        if revision in (0, self.revision):
            return self.now
        if self._past is None or not self._past.usable:
            self._past = Past(self.history)
        self._past.bring_up_to_date()
        return Then(self.now, self._past, revision)

    def check_revision(self, revision: int) -> None:
        """Raise `Refusal` for a revision that cannot be read."""
        if revision > self.revision:
            raise Refusal(
                f"revision {revision} is in the future: the store is at {self.revision}",
                "future",
                revision=self.revision,
            )
        if revision and revision < self.history.oldest:
            raise self.compacted(revision)

    def compacted(self, revision: int) -> Refusal:
        """The refusal of a revision that history does not know any more."""
        oldest = self.history.oldest
        return Refusal(
            f"revision {revision} has been compacted: the oldest that is kept is {oldest}",
            "compacted",
            oldest=oldest,
            revision=self.revision,
        )

    # --- changing ----------------------------------------------------------------------------

    def commit(self, changes: dict[bytes, Item | None]) -> None:
        """Make these changes, in order, as the next revision; none, and there is no revision.

        The items name that revision already; None deletes a key that is there. Raises `Refusal`,
        with nothing changed, if they are too many or too large.
        """
        if not changes:
            return
        self._check(changes)
        data, history, indexed = self.data, self.history, self.index is not None
        self.revision += 1
        size = 0
        for key, item in changes.items():
            before = data.get(key)
            if before is not None and before.lease:
                self._detach(before)
            if item is None:
                del data[key]
            else:
                data[key] = item
                if item.lease:
                    self._attach(item)
            if indexed and (before is None or item is None):
                self.unindexed.add(key)
            made = tombstone(key, self.revision) if item is None else item
            replaced: Before = made.key if before is None else before
            history.items.append(made)
            history.befores.append(replaced)
            size += event_bytes(made, replaced)
        history.count(len(changes), size)

    def commit_one(self, item: Item, before: Item | None) -> None:
        """`commit` of one put without a lease, of a key that was so before.

        (Two values, the longest there are, are within a revision's bounds.)
        """
        if before is not None and before.lease:
            self.commit({item.key: item})
            return
        replaced: Before = item.key if before is None else before
        history = self.history
        self.revision += 1
        if before is None and self.index is not None:
            self.unindexed.add(item.key)
        self.data[item.key] = item
        history.items.append(item)
        history.befores.append(replaced)
        history.count(1, event_bytes(item, replaced))

    def _check(self, changes: dict[bytes, Item | None]) -> None:
        """Raise `Refusal` if the revision, or a lease's last one, would be beyond bounds."""
        if len(changes) > MAX_REVISION_EVENTS:
            raise Refusal(
                f"it would change {len(changes)} keys at once; at most {MAX_REVISION_EVENTS} are "
                "allowed: do it in parts",
                "large",
            )
        size = 0
        leased: dict[int, tuple[int, int]] = {}
        for key, item in changes.items():
            before = self.data.get(key)
            size += len(key) + _EVENT_BYTES
            for held, sign in ((before, -1), (item, 1)):
                if held is None:
                    continue
                length = value_bytes(held.value)
                size += length
                if held.lease:
                    keys, total = leased.get(held.lease, (0, 0))
                    leased[held.lease] = keys + sign, total + sign * leased_bytes(held)
        if size > MAX_REVISION_BYTES:
            raise Refusal(
                f"it would change {size} bytes at once, replaced values included; at most "
                f"{MAX_REVISION_BYTES} are allowed: do it in parts",
                "large",
            )
        for number, (keys, total) in leased.items():
            self._check_lease(number, keys, total)

    def _check_lease(self, number: int, keys: int, size: int) -> None:
        lease = self.leases.get(number)
        if lease is None:
            raise Refusal(f"there is no lease {number:x}: it has ended", "lease")
        if keys > 0 and len(lease.keys) + keys > MAX_LEASE_KEYS:
            raise Refusal(f"the lease {number:x} has {MAX_LEASE_KEYS} keys already", "large")
        if size > 0 and lease.bytes + size > MAX_REVISION_BYTES:
            raise Refusal(
                f"the keys of the lease {number:x} would hold more than {MAX_REVISION_BYTES} bytes",
                "large",
            )

    def _attach(self, item: Item) -> None:
        lease = self.leases.get(item.lease)
        assert lease is not None
        lease.keys[item.key] = None
        lease.bytes += leased_bytes(item)

    def _detach(self, item: Item) -> None:
        lease = self.leases.get(item.lease)
        assert lease is not None
        del lease.keys[item.key]
        lease.bytes -= leased_bytes(item)

    def end_lease(self, number: int) -> None:
        """The lease and its keys go, in one revision if it has any."""
        lease = self.leases.get(number)
        assert lease is not None
        self.commit(dict.fromkeys(sorted(lease.keys)))
        self.leases.remove(lease)

    # --- the index ---------------------------------------------------------------------------

    def up_to_date_index(self) -> KeyIndex:
        """All keys in order."""
        if self.index is None:
            self.index = KeyIndex(self.data)
        elif self.unindexed:
            self._update_index(self.index)
        return self.index

    def keep_index(self) -> None:
        """Called after each command: not too many keys may wait for the index."""
        if self.index is not None and len(self.unindexed) > _INDEX_BACKLOG:
            self._update_index(self.index)

    def _update_index(self, index: KeyIndex) -> None:
        data = self.data
        for key in self.unindexed:
            if key in data:
                index.add(key)
            else:
                index.discard(key)
        self.unindexed.clear()


def leased_bytes(item: Item) -> int:
    """The bytes that a key counts for in its lease."""
    return len(item.key) + value_bytes(item.value) + _EVENT_BYTES
