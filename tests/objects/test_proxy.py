"""Calling your class: what comes back, and what bad input gets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import paxon
from paxon import Replicated, calls, command, query
from paxon.kvstore.objects.proxy import proxy
from paxon.testing import MemoryCluster
from tests.objects.classes import Account, Bank, Flags, Job, Jobs, Poor, Worded


@pytest.fixture
def bank() -> Iterator[Bank]:
    with MemoryCluster(Bank) as cluster, cluster.proxy(Bank) as bank:
        yield bank


def test_commands_and_queries_return_what_they_declare(bank: Bank) -> None:
    assert bank.pay_in("ann", 5) == Account(5)
    assert bank.pay_in(name="ann") == Account(6)
    bank.move("ann", "bob", amount=2)
    assert (bank.balance("ann"), bank.balance("bob")) == (4, 2)
    assert isinstance(bank, Bank)


def test_declared_exceptions_come_back_as_themselves(bank: Bank) -> None:
    with pytest.raises(KeyError) as missing:
        bank.move("ann", "bob", 1)
    assert missing.value.args == ("ann",)
    bank.pay_in("ann", 3)
    with pytest.raises(Poor) as poor:
        bank.move("ann", "bob", 5)
    assert (poor.value.name, poor.value.lacking) == ("ann", 2)
    with pytest.raises(KeyError, match="eve"):
        bank.balance("eve")
    with pytest.raises(LookupError, match=r"^LookupError: <object object at 0x"):
        bank.fail("declared")  # with what cannot be carried: its text stands for that
    with pytest.raises(Worded, match=r"^3 of money are lacking$"):
        bank.fail("worded")


@pytest.mark.parametrize(
    ("how", "name"),
    [("zero", "ZeroDivisionError"), ("exit", "SystemExit"), ("deep", "RecursionError")],
)
def test_other_exceptions_are_named(bank: Bank, how: str, name: str) -> None:
    with pytest.raises(paxon.CallFailed, match=f"Bank.fail raised {name}") as caught:
        bank.fail(how)
    assert caught.value.name == name
    bank.pay_in("ann")  # the server goes on


def test_bad_input_is_refused_and_changes_nothing(bank: Bank) -> None:
    bank.pay_in("ann", 1)
    wrong: dict[str, Callable[..., object]] = {
        "Bank.pay_in: argument 'amount': expected int, got str": lambda: bank.pay_in("ann", "x"),  # type: ignore[arg-type]
        "Bank.pay_in: it lacks the argument name": bank.pay_in,
        "Bank.pay_in: nmae is not one of its arguments": lambda: bank.pay_in(nmae="ann"),  # type: ignore[call-arg]
        "Bank.pay_in: name is given twice": lambda: bank.pay_in("a", name="b"),  # type: ignore[misc]
        "Bank.pay_in takes 2 arguments, not 3": lambda: bank.pay_in("a", 1, 2),  # type: ignore[call-arg]
        "Bank.pay_in: argument 'name': expected str, got bytes": lambda: bank.pay_in(b"ann"),  # type: ignore[arg-type]
        "the command exceeds 16777216 bytes": lambda: bank.pay_in("x" * (16 << 20)),
        "Bank.pay_in: ": lambda: bank.pay_in("ann", 1 << 70),
    }
    for text, call in wrong.items():
        with pytest.raises(paxon.InvalidRequest) as caught:
            call()
        assert text in str(caught.value)
    assert bank.balance("ann") == 1


def test_a_proxy_has_no_state_and_none_can_be_set(bank: Bank) -> None:
    with pytest.raises(AttributeError, match=r"Bank has no command or query 'accounts'"):
        bank.accounts  # noqa: B018
    with pytest.raises(AttributeError, match="write a command"):
        bank.accounts = {}
    with pytest.raises(AttributeError, match="the state is with the servers"):
        bank.now  # noqa: B018


def test_who_calls_other_servers_is_told_what_to_use() -> None:
    with MemoryCluster(Bank) as cluster, cluster.client() as kv, cluster.proxy(Flags) as flags:
        puts: list[Callable[[], object]] = [lambda: kv.put("k", ""), lambda: flags.set("k", True)]
        for call in puts:
            with pytest.raises(paxon.OperationFailed, match="use a proxy of the class that they"):
                call()
    store = pytest.raises(paxon.OperationFailed, match=r"not the class 'Flags'.*use Client$")
    with MemoryCluster() as cluster, cluster.proxy(Flags) as flags, store:
        flags.set("dark", True)


def test_a_closed_proxy_says_so(bank: Bank) -> None:
    view = calls(bank).options(timeout=1.0)
    bank.close()
    bank.close()
    for closed in (bank, view):
        with pytest.raises(paxon.ClientClosed):
            closed.pay_in("ann")
    with pytest.raises(paxon.InvalidRequest, match="is no proxy"):
        calls(Bank())


def test_a_timeout_says_that_the_outcome_is_unknown() -> None:
    with MemoryCluster(Bank) as cluster, cluster.proxy(Bank, timeout=0.2) as bank:
        bank.pay_in("ann")
        cluster.stop()
        with pytest.raises(paxon.RequestTimeout, match="no server answered within"):
            bank.pay_in("ann")


def test_a_cluster_of_another_class_executes_nothing() -> None:
    with MemoryCluster(Bank) as cluster, cluster.proxy(Flags) as flags:
        with pytest.raises(
            paxon.OperationFailed, match=r"not the class 'Flags' .*'paxon.objects/Bank'.*class that"
        ):
            flags.set("dark", True)
        with pytest.raises(paxon.InvalidRequest, match=r"Flags.get|no such method"):
            flags.get("dark")
        with cluster.client() as kv, pytest.raises(paxon.OperationFailed, match=r"paxon\.objects"):
            kv.put("a", b"b")
        with cluster.client() as kv, pytest.raises(paxon.OperationFailed, match=r"the class Bank"):
            kv.get("a")
    with pytest.raises(paxon.InvalidRequest, match=r"give a subclass of paxon.Replicated"):
        proxy("127.0.0.1:1", int)  # type: ignore[type-var]


def test_calls_without_waiting_batches_and_pipelines(bank: Bank) -> None:
    more = calls(bank)
    futures = [more.submit(bank.pay_in, "ann") for _ in range(10)]
    assert sorted(future.result().balance for future in futures) == list(range(1, 11))
    with more.batch() as batch:
        before = batch.add(bank.balance, "ann")
        batch.add(bank.pay_in, "ann", 5)
        after = batch.add(bank.balance, "ann")
        with pytest.raises(RuntimeError, match="not done yet"):
            after.result()
    assert (before.result(), after.result()) == (10, 15)
    with more.pipeline(max_in_flight=7) as pipeline:
        paid = []
        for _ in range(50):
            paid.append(pipeline.add(bank.pay_in, "ann"))
            assert sum(not future._ticket.done for future in paid) <= 7
    assert [future.result().balance for future in paid] == list(range(16, 66))


def test_arguments_may_have_the_names_that_submit_and_others_use_themselves() -> None:
    class Echo(Replicated):
        def __init__(self) -> None:
            self.heard: list[int] = []

        @command
        def echo(self, method: int, time: int = 0, seconds: int = 0) -> int:
            if time:
                self.timers.at(0, self.echo, method=method, seconds=1)
                self.timers.after(0.001, self.echo, method=method + 1, seconds=2)
            self.heard.append(method)
            return method

        @query
        def all(self) -> list[int]:
            return self.heard

    with MemoryCluster(Echo) as cluster, cluster.proxy(Echo) as echo:
        more = calls(echo)
        assert more.submit(echo.echo, method=1).result() == 1
        with more.batch() as batch, more.pipeline() as pipeline:
            batch.add(echo.echo, method=2)
            assert pipeline.add(echo.echo, method=3, time=1).result() == 3
        cluster.let_pass(1)
        assert sorted(echo.all()) == [1, 2, 3, 3, 4]

        async def main() -> None:
            async with cluster.async_proxy(Echo) as other:
                assert await other.call(Echo.echo, method=5) == 5
                async with other.batch() as batch, other.pipeline() as pipeline:
                    batch.add(Echo.echo, method=6)
                    pipeline.add(Echo.echo, method=7)

        asyncio.run(main())
        assert sorted(echo.all())[-3:] == [5, 6, 7]


def test_batches_and_pipelines_say_which_calls_failed(bank: Bank) -> None:
    more = calls(bank)
    for gather in (more.batch, more.pipeline):
        with pytest.raises(paxon.PipelineError) as caught, gather() as gathered:
            gathered.add(bank.pay_in, "ann", 2)
            failed = gathered.add(bank.balance, "eve")
            gathered.add(bank.pay_in, "ann", 2)
        assert list(caught.value.errors) == [1]
        assert isinstance(caught.value.errors[1], KeyError)
        with pytest.raises(KeyError):
            failed.result()
    assert bank.balance("ann") == 8
    with pytest.raises(ZeroDivisionError), more.batch() as batch:
        batch.add(bank.pay_in, "ann", 2)
        raise ZeroDivisionError
    assert bank.balance("ann") == 8  # nothing of it was sent


def test_other_modes_of_reading(bank: Bank) -> None:
    bank.pay_in("ann")
    for mode in ("lease", "stale", "linearizable"):
        assert calls(bank).options(mode=mode).balance("ann") == 1
    with pytest.raises(paxon.InvalidRequest, match="the mode is"):
        calls(bank).options(mode="newest")  # type: ignore[arg-type]


def test_from_asyncio() -> None:
    async def main(cluster: MemoryCluster) -> None:
        async with cluster.async_proxy(Bank) as bank:
            paid = await asyncio.gather(*(bank.pay_in("ann", 2) for _ in range(20)))
            assert max(account.balance for account in paid) == 40
            assert await bank.call(Bank.balance, "ann") == 40
            with pytest.raises(Poor):
                await bank.call(Bank.move, "ann", "bob", 99)
            view = calls(bank).options(timeout=1.0, mode="stale")
            assert await view.balance("ann") == 40 and calls(view).client is calls(bank).client
            with pytest.raises(paxon.InvalidRequest, match="the mode is"):
                calls(bank).options(mode="newest")  # type: ignore[arg-type]
            with pytest.raises(paxon.InvalidRequest, match="timeout"):
                calls(bank).options(timeout=-1.0)
            assert await calls(bank).version() == await calls(bank).raise_version() == 1
            with pytest.raises(
                paxon.InvalidRequest, match="version = 2: the leader's state machine knows none"
            ):
                await calls(bank).raise_version(2)
            for odd in (True, 1.0, "1"):
                with pytest.raises(paxon.InvalidRequest, match=r"version = .*: must be a"):
                    await calls(bank).raise_version(odd)  # type: ignore[arg-type]
            async with bank.batch() as batch:
                first = batch.add(Bank.pay_in, "ann", 1)
            assert first.result() == Account(41)
            async with bank.pipeline() as pipeline:
                last = [pipeline.add(Bank.pay_in, "ann") for _ in range(9)][-1]
            assert last.result() == Account(50)
            with pytest.raises(paxon.PipelineError):
                async with bank.pipeline() as pipeline:
                    pipeline.add(Bank.balance, "eve")
            with pytest.raises(paxon.InvalidRequest, match="neither a command nor a query"):
                await bank.steal("ann")
            with pytest.raises(AttributeError, match="a proxy of Bank has no accounts to set"):
                bank.accounts = {}
        with pytest.raises(paxon.ClientClosed):
            await bank.pay_in("ann")

    with MemoryCluster(Bank) as cluster:
        asyncio.run(main(cluster))


def test_dataclasses_go_both_ways() -> None:
    with MemoryCluster(Jobs) as cluster, cluster.proxy(Jobs) as jobs:
        jobs.put(Job("a", 2.5))
        jobs.put(Job("b"))
        assert jobs.take(1000.0) == Job("a", 2.5)
        cluster.restart()
        assert jobs.names() == ["b"]
        with pytest.raises(paxon.InvalidRequest, match="argument 'job'"):
            jobs.put("c")  # type: ignore[arg-type]


SAMPLE = """
from paxon import LocalCluster, Replicated, async_proxy, calls, command, proxy, query

class Flags(Replicated):
    def __init__(self) -> None:
        self.on: dict[str, bool] = {}

    @command
    def set(self, name: str, value: bool) -> bool:
        return self.on.setdefault(name, value)

    @query
    def get(self, name: str) -> bool:
        return self.on[name]

def use(cluster: LocalCluster) -> bool:
    with cluster.proxy(Flags) as flags:
        calls(flags).submit(flags.set, "dark", True).result()
        return flags.set("dark", True) and flags.get(name="dark")

async def use_async() -> bool:
    async with async_proxy("127.0.0.1:1", Flags) as flags:
        return await flags.call(Flags.set, "dark", True)

flags = proxy("127.0.0.1:1", Flags)
"""

WRONG = {
    'flags.set("dark", "yes")': "arg-type",
    'flags.put("dark", True)': "attr-defined",
    'flags.set("dark")': "call-arg",
    'x: str = flags.get("dark")': "assignment",
    'calls(flags).submit(flags.set, "dark", "yes")': "arg-type",
    "proxy('127.0.0.1:1', dict)": "type-var",
}


@pytest.mark.slow
def test_type_checkers_see_the_classs_own_signatures(tmp_path: Path) -> None:
    """Method names, arguments, results, also without waiting and from asyncio."""
    path = tmp_path / "sample.py"
    path.write_text(SAMPLE + "\n".join(WRONG) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(path)],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    first = SAMPLE.count("\n") + 1
    found = {
        int(line.split(":")[1]): line.rsplit("[", 1)[1].rstrip("]")
        for line in done.stdout.splitlines()
        if ": error:" in line
    }
    assert found == dict(enumerate(WRONG.values(), first)), done.stdout + done.stderr
