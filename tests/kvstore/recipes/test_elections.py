"""Elections: one leads, the next one follows, and whoever observes is told each change."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from paxon import (
    AsyncLeadership,
    Client,
    Contender,
    Event,
    InvalidRequest,
    Leadership,
    LockLost,
    NotAcquired,
    Put,
    RangeResult,
)
from paxon.kvstore.recipes.contests import Contest, Standing, first_of
from paxon.testing import MemoryCluster
from tests.kvstore.recipes.bridge import only
from tests.kvstore.recipes.others import cut_off_once
from tests.waiting import wait_until


def value_of(leader: Contender | None) -> bytes | None:
    return None if leader is None else leader.value


def test_one_leads_until_it_resigns(cluster: MemoryCluster, kv: Client) -> None:
    election = kv.election("cron")
    assert election.leader() is None and election.name == "cron"
    first = election.campaign("one")
    leader = election.leader()
    assert leader is not None
    assert leader == Contender(first.key, b"one", first.lease.id, first.fence)
    assert first.key == f"cron/{first.lease.id:x}"
    with pytest.raises(NotAcquired, match="election 'cron' was not to be had"):
        election.campaign("two", timeout=0)

    won: list[Leadership] = []
    done = threading.Event()

    def follow() -> None:
        with cluster.client() as other:
            won.append(other.election("cron").campaign("two"))
            done.wait(60)
            won[0].resign()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    wait_until(lambda: len(election.contenders()) == 2)
    assert first.proclaim("uno") > first.fence
    assert value_of(election.leader()) == b"uno"
    assert kv.txn(if_=[first], then=[Put("x", "1")]).succeeded
    first.resign()
    first.resign()
    wait_until(lambda: bool(won))
    assert won[0].fence > first.fence and value_of(election.leader()) == b"two"
    with pytest.raises(LockLost, match="election 'cron' is lost"):
        first.proclaim("again")
    assert not kv.txn(if_=[first], then=[Put("x", "2")]).succeeded
    done.set()
    thread.join(60)
    assert election.leader() is None and kv.leases() == []


def test_observers_are_told_each_change_and_of_nobody(kv: Client) -> None:
    election = kv.election("cron")
    told = election.observe()
    assert next(told) is None
    with election.campaign("one") as leading:
        assert value_of(next(told)) == b"one"
        kv.put("cron/config", "x")  # is no contender
        leading.proclaim("uno")
        assert value_of(next(told)) == b"uno"
        late = election.observe()
        assert value_of(next(late)) == b"uno"
    assert next(told) is None and next(late) is None


def test_no_leader_is_left_out_where_events_come_together() -> None:
    contest = Contest("cron", "election", 10.0)
    standing = Standing(contest, first_of)
    assert standing.begin(RangeResult([], 0, False, 4)) == [None]
    first, second = contest.key(1), contest.key(2)
    events = [
        Event("put", first, b"one", 5, 5, 1, 1),
        Event("put", second, b"two", 6, 6, 1, 2),
        Event("delete", first, b"", 7, 0, 0, 0),
        Event("delete", second, b"", 8, 0, 0, 0),
        Event("put", second, b"zwei", 8, 8, 1, 2),
    ]
    assert list(map(value_of, standing.after(events))) == [b"one", b"two", b"zwei"]
    assert standing.after([]) == []


def test_observers_go_on_after_history_was_cut(kv: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    election = kv.election("cron")
    told = election.observe()
    assert next(told) is None
    cut_off_once(monkeypatch)
    with election.campaign("one"):
        assert value_of(next(told)) == b"one"
    assert next(told) is None


@only("threads")
def test_one_that_is_closed_while_it_reads_watches_nothing(
    kv: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, do = kv.election("cron").observe(), kv._do

    def close_meanwhile(*args: Any) -> Any:
        told.close()
        return do(*args)

    monkeypatch.setattr(kv, "_do", close_meanwhile)
    assert next(told) is None and list(told) == []
    assert told._watch is not None and list(told._watch) == []


def test_nothing_is_left_out_between_the_reading_and_the_watch(
    cluster: MemoryCluster, kv: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = getattr(kv, "_of", kv)
    begin = client.watch

    def late(**options: Any) -> Any:
        with MemoryCluster.client(cluster) as other, other.election("cron").campaign("one"):
            pass
        return begin(**options)

    monkeypatch.setattr(client, "watch", late)
    told = kv.election("cron").observe()
    assert next(told) is None and value_of(next(told)) == b"one" and next(told) is None


def test_a_lock_and_an_election_of_one_name_do_not_touch(kv: Client) -> None:
    with kv.lock("a", timeout=0), kv.election("a").campaign("me", timeout=0):
        assert len(kv.lock("a").contenders()) == 1 == len(kv.election("a").contenders())


def test_a_leader_that_proclaims_nothing_leads_still(kv: Client) -> None:
    """As others' clients may."""
    with kv.election("a").campaign("me") as leading:
        kv.put(leading.key, "", lease=leading.lease)
        assert value_of(kv.election("a").leader()) == b"" and not kv.lock("a").locked()


def test_names_that_begin_alike_are_others(kv: Client) -> None:
    kv.put("xyz", "1")
    with kv.election("xy").campaign("me", timeout=0) as leading:
        assert [each.key for each in kv.election("xy").contenders()] == [leading.key]


@only("threads")
def test_it_runs_a_function_and_resigns(kv: Client) -> None:
    election = kv.election("cron")
    assert election.run(lambda leading: leading.fence) > 0

    def fail(_: Leadership) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        election.run(fail, "me")
    assert election.leader() is None and kv.leases() == []
    with election.campaign("me"), pytest.raises(NotAcquired):
        election.run(fail, timeout=0)
    before = kv.range("cron").revision
    with pytest.raises(InvalidRequest, match="what an election runs"):
        election.run(None)  # type: ignore[arg-type]
    assert kv.range("cron").revision == before, "nobody was led in vain"


def test_a_value_is_needed(kv: Client) -> None:
    with pytest.raises(InvalidRequest, match="an election's value is not empty"):
        kv.election("cron").campaign("")
    with kv.election("cron").campaign("me") as leading, pytest.raises(InvalidRequest):
        leading.proclaim(b"")
    with pytest.raises(InvalidRequest):
        kv.election("cron", ttl=-1)


@only("asyncio")
def test_it_runs_a_coroutine_function_and_resigns(cluster: MemoryCluster) -> None:
    async def main() -> None:
        async with cluster.async_client() as kv:
            election = kv.election("cron")

            async def act(leading: AsyncLeadership) -> int:
                await leading.check()
                return leading.fence

            assert await election.run(act) > 0

            async def fail(_: AsyncLeadership) -> None:
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await election.run(fail, "me")
            with pytest.raises(InvalidRequest, match="what an election runs"):
                await election.run(lambda _: 7)  # type: ignore[arg-type, return-value]
            async with await election.campaign("me"):
                with pytest.raises(NotAcquired):
                    await election.run(act, timeout=0)
            assert await kv.leases() == []

    asyncio.run(main())
