"""Threads that share a `Client`, forks, and closing it under them."""

from __future__ import annotations

import gc
import math
import os
import signal
import threading
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from paxon.kvstore import (
    Client,
    ClientClosed,
    RequestTimeout,
)
from paxon.kvstore.client import command_core, sync_driver
from paxon.kvstore.client.core import CoreOptions
from paxon.testing import MemoryCluster
from tests.kvstore.client.fake_cluster import SocketCluster


def test_threads_share_a_client(servers: SocketCluster) -> None:
    with Client(servers.addresses) as kv:
        errors: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for i in range(40):
                    assert kv.append(f"own{number}", b"x") == i + 1
                    kv.append("shared", b"y")
                    assert len(kv.get(f"own{number}") or b"") == i + 1
                with kv.pipeline() as p:
                    for _ in range(300):
                        p.append(f"own{number}", b"z")
                assert p.results[-1] == 340
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not errors
        assert len(kv.get("shared") or b"") == 16 * 40
        assert not kv._driver._gates
        assert kv._driver._driver is None


def test_threads_with_timeouts_of_their_own(servers: SocketCluster) -> None:
    """None waits for as long as another."""
    with Client(servers.addresses) as kv:
        kv.put("k", b"v")
        servers.silent.update(servers.addresses)
        got: list[bytes | None] = []
        patient = threading.Thread(target=lambda: got.append(kv.get("k", timeout=60.0)))
        patient.start()

        def work(timeout: float) -> None:
            began = time.monotonic()
            with pytest.raises(RequestTimeout):
                kv.get("k", timeout=timeout)
            assert time.monotonic() - began >= timeout - 0.02
            in_vain.append(timeout)

        in_vain: list[float] = []
        timeouts = [0.5, 0.1, 0.7, 0.3]
        threads = [threading.Thread(target=work, args=(timeout,)) for timeout in timeouts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(in_vain) == sorted(timeouts)
        assert not got
        servers.silent.clear()
        patient.join(30)
        assert got == [b"v"]


def test_a_thread_that_leaves_hands_its_role_on(servers: SocketCluster) -> None:
    with Client(servers.addresses) as kv:
        kv.put("k", b"v")
        servers.silent.update(servers.addresses)

        def drive() -> None:
            with pytest.raises(RequestTimeout):
                kv.get("k", timeout=0.3)

        drives = threading.Thread(target=drive)
        drives.start()
        end = time.monotonic() + 60
        while kv._driver._driver is None and time.monotonic() < end:
            threading.Event().wait(0.001)
        took: list[float] = []

        def follow() -> None:
            started = time.monotonic()
            kv.append("k", b"w", timeout=200.0)
            took.append(time.monotonic() - started)

        follows = threading.Thread(target=follow)
        follows.start()
        drives.join()
        servers.silent.clear()
        follows.join(200)
        assert took[0] < 60.0
        assert kv.get("k") == b"vw"


PATIENT = CoreOptions(retry_first=60.0, retry_max=60.0, resend_after=60.0)
"""With these nothing but what is tested wakes a thread that waits for a silent server."""


def test_what_was_gathered_is_sent_by_whoever_waits_next(
    servers: SocketCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether answers have come since that somebody only looked for, or nothing has."""
    with Client(servers.addresses, options=PATIENT, timeout=30.0) as kv:
        kv.put("k", b"v")
        core, driver, poll = kv._core, kv._driver, kv._driver._poll
        answered = threading.Event()

        def sleep(milliseconds: float) -> Any:
            assert not core._writes, "it sleeps, and has not sent these"
            if milliseconds:
                answered.set()
            return poll.poll(milliseconds)

        monkeypatch.setattr(command_core, "GRACE", math.inf)  # however slow this machine is
        monkeypatch.setattr(driver, "_poll", SimpleNamespace(poll=sleep, register=poll.register))
        servers.drop = lambda _: not answered.wait(30)
        kv.submit_put("k", b"1")
        gathered = [kv.submit_put("k", b"2") for _ in range(20)]
        assert len(core._writes) == 20
        gathered[-1].result()
        answered.clear()
        many = [kv.submit_put("k", b"3") for _ in range(20)]
        driver.look()
        last = kv.submit_put("k", b"4")
        driver.look()
        assert len(core._writes) == 1, "it waits for what is under way"
        answered.set()
        monkeypatch.setattr(core, "holds_back", lambda now: True)
        while not many[-1].done():
            time.sleep(0.0001)
        assert len(core._writes) == 1
        last.result()


def asleep(kv: Client) -> None:
    """Wait until some thread drives the client and sleeps."""
    end = time.monotonic() + 5
    while kv._driver._sleeps_until < 0 and time.monotonic() < end:
        threading.Event().wait(0.001)


def test_the_driver_is_woken_when_another_thread_takes_in_its_answer(
    servers: SocketCluster,
) -> None:
    with Client(servers.addresses, options=PATIENT, timeout=30.0) as kv:
        kv.put("k", b"v")
        servers.silent.update(servers.addresses)
        results: list[bytes | None] = []
        thread = threading.Thread(target=lambda: results.append(kv.get("k")))
        thread.start()
        asleep(kv)
        with kv._driver.lock:
            ticket = kv._driver._driven_for
            assert ticket is not None
            ticket.complete([b"answer"], None, True)
        thread.join(5)
        assert results == [b"answer"]


def test_the_driver_is_woken_for_an_earlier_deadline(servers: SocketCluster) -> None:
    with Client(servers.addresses, options=PATIENT) as kv:
        kv.put("k", b"v")
        servers.silent.update(servers.addresses)

        def drive() -> None:
            with pytest.raises(ClientClosed):
                kv.get("k", timeout=30.0)

        thread = threading.Thread(target=drive)
        thread.start()
        asleep(kv)
        expired = threading.Event()
        kv.submit_get("k", timeout=0.1).add_done_callback(lambda _: expired.set())
        assert expired.wait(5)
        kv.close()
        thread.join(5)


def test_closing_fails_what_other_threads_wait_for(servers: SocketCluster) -> None:
    servers.silent.update(servers.addresses)
    kv = Client(servers.addresses)
    failures: list[type[BaseException]] = []
    waiting = threading.Barrier(6)

    def work() -> None:
        waiting.wait()
        try:
            kv.put("k", b"v")
        except ClientClosed as error:
            failures.append(type(error))

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    waiting.wait()
    end = time.monotonic() + 5
    while len(kv._driver._gates) < 4 and time.monotonic() < end:
        threading.Event().wait(0.005)
    kv.close()
    for thread in threads:
        thread.join(10)
    assert failures == [ClientClosed] * 5
    kv.close()
    with pytest.raises(ClientClosed, match="make a new one"):
        kv.get("k")
    with pytest.raises(ClientClosed):
        kv.pipeline().execute() or kv.status()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told_and_the_parent_goes_on(servers: SocketCluster) -> None:
    with Client(servers.addresses) as kv:
        kv.put("k", b"v")
        with MemoryCluster() as cluster, cluster.client() as local, local.mirror("") as mirror:
            busy = cluster.client()
            held = busy.lock("a").acquire()
            struck, forked = threading.Event(), threading.Event()

            def in_parent() -> None:
                with busy._care._changed:  # as its keeper may in the moment of a fork
                    struck.set()
                    forked.wait(60)

            at_work = threading.Thread(target=in_parent)
            at_work.start()
            assert struck.wait(60)
            uses = (lambda: kv.get("k"), partial(mirror.wait, lambda _: False, 1.0))
            for use in uses:
                pid = os.fork()
                if pid == 0:
                    signal.alarm(30)
                    try:
                        busy.close()
                        use()
                    except ClientClosed as error:
                        os._exit(0 if "after a fork" in str(error) else 2)
                    finally:
                        os._exit(1)
                _, status = os.waitpid(pid, 0)
                assert os.waitstatus_to_exitcode(status) == 0
            forked.set()
            at_work.join()
            held.check()
            busy.close()
        assert kv.get("k") == b"v"


def test_threads_that_use_a_client_past_the_programs_end_hold_it_up_no_longer(
    servers: SocketCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the main thread does in hooks and finalizers is refused at once."""
    monkeypatch.setattr(sync_driver, "_LAST_SECONDS", 60.0)
    client = Client(servers.addresses)
    client._driver.end()

    def use() -> None:
        with pytest.raises(ClientClosed):
            client.put("k", "v")

    for _ in range(4):
        threading.Thread(target=use, daemon=True).start()
    time.sleep(0.05)
    started = time.monotonic()
    with pytest.raises(ClientClosed):
        client.get("k")
    assert time.monotonic() - started < 30.0


def test_a_client_that_nobody_closed_does_not_hold_up_its_collection() -> None:
    """Even with the servers gone and a frame still unsent: garbage collection must never wait."""
    cluster = SocketCluster()
    client = Client(cluster.addresses)
    client.put("k", "v")
    cluster.close()
    collector = threading.Thread(target=_collect, args=([client],), daemon=True)
    del client
    collector.start()
    collector.join(10.0)
    assert not collector.is_alive()


def _collect(holder: list[Client]) -> None:
    holder.clear()
    gc.collect()
