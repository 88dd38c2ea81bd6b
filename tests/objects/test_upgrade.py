"""A replicated class on real servers: its code is replaced, and calls time out in the middle."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from paxon import (
    InvalidRequest,
    PipelineError,
    RequestTimeout,
    async_proxy,
    calls,
    proxy,
)
from tests.cluster.helpers import wait_until
from tests.faults.networks.network import RelayedCluster
from tests.objects.upgrades import FIRST, SECOND
from tests.unknown import executed_of, unknown_of
from tests.waiting import happens_soon

pytestmark = pytest.mark.process

SOON = 60.0
CUT = "cut"
SHORT = 0.3
"""Seconds that a call has whose answer does not come."""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file with the class, as servers import it."""
    directory = tmp_path_factory.mktemp("code")
    sys.path.insert(0, str(directory))
    path = directory / "tally_of_tests.py"
    path.write_text(FIRST)
    yield path
    sys.path.remove(str(directory))


@pytest.fixture(scope="module")
def tally(code: Path) -> Any:
    return importlib.import_module(code.stem).Tally


@pytest.fixture(scope="module")
def cluster(tally: Any) -> Iterator[RelayedCluster]:
    with RelayedCluster(3, machine=tally) as running:
        running.leader(timeout=SOON)
        yield running


@contextmanager
def unheard(cluster: RelayedCluster, *, lost: bool = False) -> Iterator[None]:
    """No answer reaches the group `CUT`; or no request either."""
    for server in cluster.servers:
        cluster.network.cut(server, CUT, one_way=not lost)
    try:
        yield
    finally:
        cluster.network.heal()


def test_a_call_that_timed_out_is_asked_for_again_and_executed_once(
    cluster: RelayedCluster, tally: Any
) -> None:
    """Through proxies, futures, batches and pipelines of threads."""
    doors = cluster.doors(CUT)
    with proxy(**doors, cls=tally, timeout=SOON) as mine, cluster.proxy(tally) as other:
        expected = mine.add()
        short = calls(mine).options(timeout=SHORT)

        def batch() -> Any:
            with calls(mine).batch(timeout=SHORT) as gathered:
                return [gathered.add(mine.add) for _ in range(3)]

        def pipeline() -> Any:
            with calls(mine).pipeline(timeout=SHORT) as many:
                for _ in range(3):
                    many.add(mine.add)

        ways: list[tuple[Callable[[], Any], int]] = [
            (short.add, 1),
            (lambda: calls(short).submit(short.add).result(), 1),
            (batch, 3),
            (pipeline, 3),
        ]
        for way, count in ways:
            for lost in (False, True):
                with unheard(cluster, lost=lost):
                    with pytest.raises((RequestTimeout, PipelineError)) as failed:
                        way()
                    if not lost:
                        expected_now = expected + count
                        happens_soon(lambda e=expected_now: other.sum() == e)  # type: ignore[misc]
                expected += executed_of(failed.value, count)
                for error in unknown_of(failed.value):
                    answer = error.retry(timeout=SOON)
                    assert error.retry(timeout=SOON) == answer, "as often as one likes"
                assert other.sum() == expected


def is_sum(proxied: Any, total: int) -> bool:
    return bool(proxied.sum() == total)


def test_the_same_from_asyncio(cluster: RelayedCluster, tally: Any) -> None:
    sync = cluster.proxy(tally)

    async def main() -> None:
        doors = cluster.doors(CUT)
        async with (
            async_proxy(**doors, cls=tally, timeout=SHORT) as short,
            async_proxy(**cluster.doors(), cls=tally, timeout=SOON) as other,
        ):
            expected = -1
            while expected < 0:
                try:
                    expected = await short.add(0)
                except RequestTimeout:
                    continue  # a busy machine

            async def batch() -> None:
                async with short.batch() as gathered:
                    for _ in range(3):
                        gathered.add(tally.add)

            async def pipeline() -> None:
                async with short.pipeline() as many:
                    for _ in range(3):
                        many.add(tally.add)

            ways: list[tuple[Callable[[], Any], int]] = [(short.add, 1), (batch, 3), (pipeline, 3)]
            for way, count in ways:
                for lost in (False, True):
                    with unheard(cluster, lost=lost):
                        with pytest.raises((RequestTimeout, PipelineError)) as failed:
                            await way()
                        if not lost:
                            goal = expected + count
                            await asyncio.to_thread(happens_soon, partial(is_sum, sync, goal))
                    expected += executed_of(failed.value, count)
                    for error in unknown_of(failed.value):
                        answer = await error.retry(timeout=SOON)
                        assert await error.retry(timeout=SOON) == answer, "as often as one likes"
                    assert await other.sum() == expected

    with sync:
        asyncio.run(main())


def test_the_code_is_replaced_server_by_server(
    cluster: RelayedCluster, tally: Any, code: Path
) -> None:
    """Version 2 is in force once all have it, and not before; nobody waits meanwhile."""
    newer = _loaded(code, SECOND)
    ended = threading.Event()
    answers: list[int] = []

    with cluster.proxy(tally, timeout=SOON) as old, cluster.proxy(newer, timeout=SOON) as new:
        start = old.sum()

        def load() -> None:
            with cluster.proxy(tally, timeout=SOON) as mine:
                while not ended.is_set():
                    answers.append(mine.add())

        thread = threading.Thread(target=load)
        thread.start()
        try:
            code.write_text(SECOND)
            for server in cluster.servers:
                with pytest.raises(InvalidRequest):
                    calls(new).raise_version()
                with pytest.raises(InvalidRequest):
                    new.add(1, who="early")
                cluster.restart(server)
                before = len(answers)
                wait_until(lambda b=before: len(answers) > b + 5, "it goes on", SOON)  # type: ignore[misc]
            assert calls(new).version() == 1
            wait_until(lambda: _raised(new), "all have said that they have the code", SOON)
            cluster.kill(cluster.leader(timeout=SOON))
            total = new.add(5, who="ann")
            assert total > 5 and new.of("ann") == 5
        finally:
            ended.set()
            thread.join(SOON)
        assert answers == sorted(set(answers)), "one was executed twice"
        assert old.sum() == start + len(answers) + 5
        assert new.of("") > 0, "programs of version 1 go on"
        for row in cluster.status(state=False):
            if row.state != "running":
                cluster.restart(row.server)
        cluster.stop_server(3)
        code.write_text(FIRST)
        with pytest.raises(Exception, match="version 2 of tally is in force"):
            cluster.restart(3)
        code.write_text(SECOND + "\n")
        cluster.restart(3)

        def equal() -> bool:
            replies = [row.reply for row in cluster.status() if row.reply is not None]
            return len({(r.executed, r.state_digest) for r in replies}) == 1 and len(replies) == 3

        wait_until(equal, "all have the same state", SOON)


def _raised(new: Any) -> bool:
    try:
        return int(calls(new).raise_version()) == 2
    except InvalidRequest:
        return False


def _loaded(code: Path, text: str) -> Any:
    """The class of another text than the file's, for this process alone."""
    path = code.with_name("tally_to_come.py")
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module.Tally
