"""Methods of `Client` about what happens to keys; `AsyncWatchCalls` has the twins."""

from __future__ import annotations

from typing import Any

import msgspec

from paxon.kvstore.client.arguments import Key
from paxon.kvstore.client.calls.answers import RangeResult
from paxon.kvstore.client.calls.keys import Bounds
from paxon.kvstore.client.watches.async_watch import AsyncWatch
from paxon.kvstore.client.watches.events import events_wanted
from paxon.kvstore.client.watches.mirror import AsyncMirror, Mirror
from paxon.kvstore.client.watches.watch import Watch

__all__ = ["AsyncWatchCalls", "WatchCalls"]

_ANY_KEY = "\0"


class WatchCalls:
    """`watch` and `mirror`."""

    _core: Any
    _driver: Any

    def range(self, key: Key | None = None, *, prefix: Key | None = None) -> RangeResult:
        """Read keys; see `Client.range`."""
        raise NotImplementedError

    def watch(
        self,
        key: Key | None = None,
        *,
        prefix: Key | None = None,
        range: Bounds | None = None,  # noqa: A002 (the store's word)
        after: int | None = None,
        puts: bool = True,
        deletes: bool = True,
        previous: bool = False,
    ) -> Watch:
        """Watch a key, or all keys with a prefix or in a range.

            with kv.watch(prefix="jobs/") as events:
                for event in events:
                    print(event.kind, event.key, event.value)

        Each event comes once, in the order of revisions, whatever happens to servers. Nothing is
        asked of the leader: any server that is up to date holds the watch.

        Args:
            key: watch this key …
            prefix: … or all keys that begin so …
            range: … or those from the first key up to, without, the second.
            after: events of later revisions only, such as the `revision` of a read or of an earlier
                watch; None: what happens from now on.
            puts: tell of writes.
            deletes: tell of deletions.
            previous: tell also what the value was before.

        Raises:
            InvalidRequest: a wrong argument.
            RequestTimeout: (without `after`) no server said in the client's time which revision
                is the present one.
            Compacted: (when it is read) history does not reach back to `after`.
        """
        wanted = events_wanted(
            key, prefix, range, after=0 if after is None else after,
            puts=puts, deletes=deletes, previous=previous,
        )  # fmt: skip
        if after is None:
            now = self.range(_ANY_KEY).revision
            wanted = msgspec.structs.replace(wanted, after=now)
        return Watch(self._core, self._driver, wanted)

    def mirror(self, prefix: Key) -> Mirror:
        """A mapping that follows the keys with this prefix.

            flags = kv.mirror("flags/")
            flags.wait(lambda flags: flags.get("flags/dark") == b"on", timeout=5)

        Reading it asks no server; a thread of its own keeps it up to date. Close it, or use it in a
        `with` statement. Raises `RequestTimeout` if the keys cannot be read to begin with.
        """
        return Mirror(self, prefix)


class AsyncWatchCalls:
    """The same for asyncio."""

    _core: Any
    _driver: Any

    async def range(self, key: Key | None = None, *, prefix: Key | None = None) -> RangeResult:
        """Read keys; see `Client.range`."""
        raise NotImplementedError

    def watch(
        self,
        key: Key | None = None,
        *,
        prefix: Key | None = None,
        range: Bounds | None = None,  # noqa: A002 (the store's word)
        after: int | None = None,
        puts: bool = True,
        deletes: bool = True,
        previous: bool = False,
    ) -> AsyncWatch:
        """Watch keys; see `Client.watch`.

            async with kv.watch(prefix="jobs/") as events:
                async for event in events:
                    print(event.kind, event.key, event.value)

        Without `after` it begins when it is entered (or first read), for which it has the client's
        own timeout.
        """
        wanted = events_wanted(
            key, prefix, range, after=0 if after is None else after,
            puts=puts, deletes=deletes, previous=previous,
        )  # fmt: skip

        async def now() -> int:
            return (await self.range(_ANY_KEY)).revision

        return AsyncWatch(self._core, self._driver, wanted, now if after is None else None)

    def mirror(self, prefix: Key) -> AsyncMirror:
        """A mapping that follows the keys with this prefix: `async with kv.mirror(…) as flags`."""
        return AsyncMirror(self, prefix)
