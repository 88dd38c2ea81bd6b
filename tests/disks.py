"""A disk in memory, for everything that crashes servers: `Storage` with what tests do to it."""

from __future__ import annotations

import copy
from typing import Self

from paxon.actors.disk.memory_storage import MemoryStorage

__all__ = ["MemoryDisk"]


class MemoryDisk(MemoryStorage):
    """`MemoryStorage` that can crash: what was committed is kept apart from what is pending."""

    def crash(self, keep_pending: bool = False) -> Self:
        """The storage as a restarted server finds it; this one is closed.

        What was not committed is lost, or with `keep_pending` has reached the disk just before the
        crash, all of it: a transaction is never torn.
        """
        found = self.duplicate(keep_pending=keep_pending)
        self.close()
        return found

    def duplicate(self, keep_pending: bool = False) -> Self:
        """A copy of the directory as it is on the disk, without what was not committed."""
        found = copy.copy(self)
        found._accepted, found._images = dict(self._accepted), dict(self._images)
        found._ballots = {}
        if keep_pending and not self._unusable:
            found._received = bytearray(self._received)
            found.dirty = True
            found.commit()
        else:
            found._incoming, found._received = None, bytearray()
        found.close()
        found.created, found._unusable = False, ""
        return found
