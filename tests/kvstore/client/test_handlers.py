"""A client used by a signal handler or finalizer in the midst of its own thread's call."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from paxon.actors.messages import Command
from paxon.kvstore import Client, ClientBusy, ClientClosed, PaxonError
from paxon.kvstore.client.sync_driver import SyncDriver
from tests.interrupts import ends
from tests.kvstore.client.fake_cluster import SocketCluster


@contextmanager
def at_each_step(handler: Callable[[], None]) -> Iterator[None]:
    """Run `handler` once at each place where the interpreter would run a signal's.

    A profile function is not called below itself, so no handler interrupts another.
    """

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event in ("call", "c_return") and "paxon" in frame.f_globals.get("__name__", ""):
            handler()

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


def test_at_every_step_a_handler_is_answered_or_refused_at_once(servers: SocketCluster) -> None:
    outcomes: dict[str, int] = {"answered": 0, "busy": 0}

    def handler() -> None:
        try:
            assert client.get("key") == b"value"
            outcomes["answered"] += 1
        except ClientBusy:
            outcomes["busy"] += 1

    def run() -> None:
        with at_each_step(handler):
            client.put("other", "value")
            assert client.get("key") == b"value"

    with Client(servers.addresses, timeout=20) as client:
        client.put("key", "value")
        assert ends(run)
    assert outcomes["answered"] > 20
    assert outcomes["busy"] > 20


@contextmanager
def alarmed(handle: Callable[[], None]) -> Iterator[None]:
    """Run `handle` in a signal's handler a moment later; again after another if that is refused.

    (The thread sleeps nearly all the time. Where a busy machine lets the signal strike while it is
    at work, `ClientBusy` is right.)
    """

    def handler(_number: int, _frame: FrameType | None) -> None:
        try:
            handle()
        except ClientBusy:
            signal.setitimer(signal.ITIMER_REAL, 0.02)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_command(message: object) -> bool:
    return isinstance(message, Command)


def test_a_handler_works_while_its_thread_sleeps(servers: SocketCluster) -> None:
    """And takes in the sleeper's own answer too, which is not left asleep by that."""
    seen: list[object] = []
    with Client(servers.addresses, timeout=60) as client:
        client.put("key", "value")

        def handle() -> None:
            seen.append(client.get("key"))
            servers.drop = lambda _: False
            before = len(servers.cluster.received)
            while not any(is_command(message) for _, message in servers.cluster.received[before:]):
                client.get("key")
            seen.append(client.get("key"))  # answered after the sleeper's put

        servers.drop = is_command
        with alarmed(handle):
            client.put("other", "value")
        assert seen == [b"value"] * 2
        assert client.get("other") == b"value"


def test_a_handler_closes_the_client_of_its_thread(servers: SocketCluster) -> None:
    client = Client(servers.addresses, timeout=60)
    client.put("key", "value")
    servers.drop = lambda _: True
    with alarmed(client.close), pytest.raises(ClientClosed):
        client.put("other", "value")


def test_other_threads_are_served_on(servers: SocketCluster) -> None:
    """A handler that was refused, or drove for a moment, leaves no driver behind."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                client.put("theirs", "value")
        except BaseException as error:
            failures.append(error)

    def handler() -> None:
        try:
            client.get("key", timeout=20)
        except PaxonError as error:
            assert isinstance(error, ClientBusy)

    with Client(servers.addresses, timeout=20) as client:
        client.put("key", "value")
        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers:
            worker.start()
        try:
            with at_each_step(handler):
                for _ in range(5):
                    client.put("ours", "value")
        finally:
            stop.set()
            for worker in workers:
                worker.join(60)
        assert not failures
        driver: SyncDriver = client._driver
        assert driver._driver is None
        assert not driver._gates
