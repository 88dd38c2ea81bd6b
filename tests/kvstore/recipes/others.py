"""Somebody else at the same cluster: what the tests of recipes contend with."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from paxon import AsyncWatch, Client, Compacted, Held, Lock, Watch
from paxon.testing import MemoryCluster
from tests.waiting import wait_until

__all__ = ["Other", "Waiter", "cut_off_once", "interrupted"]


class Other:
    """Does something in a thread, with a client of its own."""

    def __init__(self, cluster: MemoryCluster, act: Callable[[Client], object]) -> None:
        self.result: object = None
        self.error: BaseException | None = None
        self.client = cluster.client()
        self._act = act
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = self._act(self.client)
        except BaseException as error:
            self.error = error

    @property
    def waits(self) -> bool:
        return self.thread.is_alive()

    def join(self) -> object:
        self.thread.join(60)
        assert not self.waits
        return self.result


class Waiter(Other):
    """Acquires a lock, and is in the queue for it once it is made."""

    def __init__(self, cluster: MemoryCluster, kind: Callable[[Client], Lock]) -> None:
        with cluster.client() as looking:
            lock = kind(looking)
            before = len(lock.contenders())
            super().__init__(cluster, lambda client: kind(client).acquire())
            wait_until(lambda: len(lock.contenders()) > before or self.error is not None)

    def join(self) -> Held:
        super().join()
        assert isinstance(self.result, Held), self.error
        return self.result

    def failure(self) -> BaseException:
        super().join()
        assert self.error is not None
        return self.error


def cut_off_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next watch of each client has missed what history no longer has."""
    seen: dict[int, object] = {}
    """By the clients' cores."""
    for cls in (Watch, AsyncWatch):
        monkeypatch.setattr(cls, "batch", _cut(cls.batch, seen))


def _cut(batch: Callable[..., Any], seen: dict[int, object]) -> Callable[..., Any]:
    def cut(watch: Any, timeout: float | None = None) -> Any:
        if seen.setdefault(id(watch._core), watch) is watch:
            raise Compacted("it is gone")
        return batch(watch, timeout)

    return cut


@contextlib.contextmanager
def interrupted(
    cluster: MemoryCluster, once: Callable[[Client], bool], error: type[BaseException]
) -> Iterator[None]:
    """The block ends by this error, which a signal's handler raises once that is true."""

    def handler(*_: object) -> None:
        raise error("by a signal's handler")

    def interrupt(client: Client) -> None:
        wait_until(lambda: once(client))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, handler)
    try:
        other = Other(cluster, interrupt)
        with pytest.raises(error, match="by a signal's handler"):
            yield
        other.join()
    finally:
        signal.signal(signal.SIGINT, before)
