"""`Watch`: what happens to keys, for threads that block."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Self

from paxon.kvstore.client.checks import check_callable, check_wait
from paxon.kvstore.client.core import ClientCore
from paxon.kvstore.client.sync_driver import SyncDriver
from paxon.kvstore.client.watches.events import Event, Quiet, Told
from paxon.kvstore.errors import ClientClosed, PaxonError
from paxon.kvstore.store.operations import Events, Result

__all__ = ["Watch"]


class Watch:
    """An iterator over events, in the order of revisions; made by `Client.watch`.

    It goes on whatever happens to servers and connections, and tells each event once. One thread
    may use it at a time; another may close it.
    """

    def __init__(self, core: ClientCore, driver: SyncDriver, wanted: Events) -> None:
        self._core, self._driver = core, driver
        driver.enter()
        with driver.lock:
            driver.check()
            self._watched = core.start_watch(wanted)
            driver.pump()
        self._told = Told(self._watched)
        self._closed = False
        self._end = weakref.finalize(self, core.watches.abandon, self._watched)

    @property
    def revision(self) -> int:
        """Every event up to this revision was told.

        `after=` this, another watch goes on without a gap and tells nothing twice. It rises while
        nothing happens, too.
        """
        with self._driver.lock:  # or events could come between the looks at them and at this
            return self._told.revision

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        """Wait for the next event. Ends when the watch is closed; raises as `next` does."""
        try:
            return self.next()
        except ClientClosed:
            if self._closed:
                raise StopIteration from None
            raise

    def next(self, timeout: float | None = None) -> Event:
        """Wait for the next event.

        Args:
            timeout: seconds to wait; None: for ever.

        Raises:
            TimeoutError: nothing has happened in that time. The watch goes on.
            Compacted: the next events are gone from history. The watch has ended.
            ClientClosed: the watch, or its client, was closed.
        """
        self._wait(timeout)
        return self._told.next_event()

    def batch(self, timeout: float | None = None) -> list[Event]:
        """Wait until something happens: all events that have come, of whole revisions.

        Arguments and errors as those of `next`.
        """
        self._wait(timeout)
        return self._told.rest_of_revisions()

    @property
    def looked(self) -> Result:
        """The last answer's look at something besides the events, if the watch was to take one."""
        return self._told.looked

    def call(
        self,
        callback: Callable[[Event], object],
        on_end: Callable[[PaxonError | None], object] = lambda _: None,
    ) -> threading.Thread:
        """Call back with each event, in a thread of its own, until the watch or client is closed.

        Args:
            callback: gets one event after the other; what it raises ends the watch and the thread.
            on_end: gets the error that ended the watch, such as `Compacted`; None if it was closed.

        Returns:
            The thread, a daemon. (Do not use the watch otherwise from then on, but to close it.)
        """

        check_callable("what is called with each event", callback)
        check_callable("what is called at the end", on_end)

        def run() -> None:
            error: PaxonError | None = None
            try:
                for event in self:
                    callback(event)
            except ClientClosed:
                pass
            except PaxonError as ended:
                error = ended
            finally:
                self.close()
            on_end(error)

        thread = threading.Thread(target=run, name="paxon watch", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """End the watch; may be called twice. Those that wait for it see its end."""
        self._closed = True
        if self._end.detach() is None:
            return
        driver = self._driver
        if driver.held():  # below a finalizer, in the midst of the client's work: soon
            self._core.watches.abandon(self._watched)
            return
        with driver.lock:
            self._core.watches.drop(self._watched, ClientClosed("the watch is closed"))
            driver.pump_if_usable()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self, timeout: float | None) -> None:
        """Return once there is an event that was not told yet."""
        timeout = check_wait(timeout)
        if self._told:
            return
        until = math.inf if timeout is None else time.monotonic() + timeout
        driver, watched = self._driver, self._watched
        driver.enter()
        with driver.lock:
            if self._closed:
                raise ClientClosed("the watch is closed")
            driver.check()
            ticket = self._core.next_answer(watched, now=time.monotonic(), deadline=math.inf)
            if not ticket.done:
                driver.pump()
        try:
            driver.wait(ticket, until)
        finally:  # also where a signal's handler raises: what has come is kept
            with driver.lock:
                if self._told.settle(self._core.watches):
                    driver.pump_if_usable()
        if self._told.error is not None:
            error = self._told.error
            self.close()  # it cannot go on
            raise error
        if not self._told:
            raise Quiet(f"nothing has happened within {timeout:g} s; the watch goes on")
