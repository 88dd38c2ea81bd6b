"""What clients ask about members, and what is refused: one server in this process, and a script."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from paxon import AsyncClient, ChangeRefused, Client, InvalidRequest, RequestTimeout
from paxon.actors import Ballot
from paxon.actors.members import AskMembers, ChangeMembers, Member, MemberChange, Members
from paxon.kvstore.cli import outlet
from paxon.kvstore.cli.outlet import waiting
from paxon.kvstore.client import agreement
from paxon.kvstore.client.agreement import MemberSteps, Quest, Tell, add_member, change_members
from paxon.kvstore.client.leader_search import CoreOptions, LeaderSearch
from paxon.kvstore.client.sightings import Sightings
from paxon.testing import MemoryCluster

ADDRESS: dict[str, Any] = {"peer": "tcp://10.0.0.4:7140", "client": "tcp://10.0.0.4:7141"}


@pytest.fixture
def kv() -> Iterator[Client]:
    with MemoryCluster() as cluster, cluster.client() as client:
        yield client


def ids(found: Members, *, voter: bool) -> list[int]:
    return [member.server for member in found.members if member.voter is voter]


def test_a_learner_is_added_and_removed_again(kv: Client) -> None:
    assert ids(kv.cluster_members(), voter=True) == [1]
    found = kv.add_member(4, learner=True, incarnation=77, **ADDRESS)
    assert (ids(found, voter=True), ids(found, voter=False)) == ([1], [4])
    assert found.outcome == "done" and found.epoch == 1
    assert found.members[1] == Member(4, 77, False, *ADDRESS.values())
    kv.put("k", "v")
    found = kv.change_members(MemberChange("remove", 4))
    assert ids(found, voter=True) == [1] and found.epoch == 2
    with pytest.raises(ChangeRefused, match="was a member's before and never comes back"):
        kv.add_member(4, learner=True, incarnation=77, **ADDRESS)
    assert kv.cluster_members(stale=True) == kv.cluster_members()


def test_the_same_for_asyncio() -> None:
    async def main(addresses: list[str]) -> None:
        async with AsyncClient(addresses) as kv:
            assert ids(await kv.cluster_members(), voter=True) == [1]
            found = await kv.add_member(4, learner=True, incarnation=77, **ADDRESS)
            assert ids(found, voter=False) == [4]
            with pytest.raises(ChangeRefused, match="is a learner already"):
                await kv.add_member(4, learner=True, incarnation=78, **ADDRESS)
            with pytest.raises(ChangeRefused, match="server 5 is no member"):
                await kv.replace_member(5, timeout=0.2)
            found = await kv.change_members(MemberChange("remove", 4))
            assert found.epoch == 2

    with MemoryCluster() as cluster:
        asyncio.run(main(cluster.addresses))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (MemberChange("remove", 1), "nobody would have a vote: leave at least one voter"),
        (MemberChange("remove", 9), "server 9 is no member; the members are server 1"),
        (MemberChange("promote", 1), "server 1 has a vote already"),
        (MemberChange("add", 1, 5), "server 1 is a member already"),
        (MemberChange("add", 64, 5), "server 64: ids run from 1 to 63"),
        (MemberChange("add", 2, 0), "server 2: name its data directory"),
        (MemberChange("add", 2, 5, "tcp://h:0"), "'tcp://h:0' cannot be dialled"),
        (MemberChange("add", 2, 5, client="h:1"), "'h:1' cannot be dialled: tcp://HOST:PORT can"),
        (MemberChange("replace", 1, 5), "its old directory is in use: stop that server first"),
        (MemberChange("demote", 1), "nobody would have a vote"),
    ],
)
def test_a_change_that_cannot_be_is_refused_in_a_sentence(
    kv: Client, change: MemberChange, sentence: str
) -> None:
    with pytest.raises(ChangeRefused, match=f"^nothing was changed: .*{sentence}"):
        kv.change_members(change)
    assert kv.cluster_members().epoch == 0


def test_what_could_not_be_served_is_refused(kv: Client) -> None:
    """A learner that nobody hears cannot be half of the voters."""
    kv.add_member(2, learner=True, incarnation=5)
    unheard = "server 2 was not heard of late|do not reach each other"  # (at first, heard by grace)
    with pytest.raises(ChangeRefused, match=unheard):
        kv.change_members(MemberChange("promote", 2))
    with pytest.raises(ChangeRefused, match="server 2 is named twice"):
        kv.change_members(MemberChange("promote", 2), MemberChange("remove", 2))
    own = kv.cluster_members().members[0].client
    with pytest.raises(ChangeRefused, match="nothing was changed"):
        kv.change_members(MemberChange("add", 3, 6, client=own))
    assert ids(kv.cluster_members(), voter=False) == [2]


odd: Any = MemberChange
ODD = (odd("remove", "1"), odd("drop", 1), odd("remove", 1 << 70), odd("move", 1, "\udc80"))


@pytest.mark.parametrize("changes", [(), ("remove",), *((each,) for each in ODD)])
def test_what_is_no_change_is_not_sent(kv: Client, changes: Any) -> None:
    with pytest.raises(InvalidRequest):
        kv.change_members(*changes)


class Script:
    """A cluster that answers as it is told; what is asked of it."""

    def __init__(self, *answers: Members | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Any]] = []

    def run(self, steps: MemberSteps[Any]) -> Any:
        said: Members | None = None
        while True:
            try:
                asked = steps.send(said)
            except StopIteration as end:
                return end.value
            said = None
            if asked.address:
                self.asked.append((asked.address, asked.question))
                said = self.answers.pop(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Each look at the clock takes half a second."""
    now = [0.0]

    def look() -> float:
        now[0] += 0.5
        return now[0]

    monkeypatch.setattr(agreement, "time", SimpleNamespace(monotonic=look))
    return now


def quest(seconds: float = 60.0, tell: Tell | None = None) -> Quest:
    search = LeaderSearch(["a", "b"], random.Random(1), CoreOptions(), redirect=True)
    return Quest(search, Sightings(), random.Random(1), seconds, tell)


def members(outcome: Any = "", *, leads: bool = True, epoch: int = 0, round_: int = 1) -> Members:
    told = (Member(1, 11, client="a"), Member(2, 12, client="b"), Member(3, 13, client="c"))
    return Members(1, epoch, Ballot(round_, 1), 1, leads, told, outcome, identity=1)


REMOVE = (MemberChange("remove", 2),)


def test_one_change_has_one_number_however_often_it_is_asked_for() -> None:
    """Its answers are lost; those asked next know nothing; the leader is given the same again."""
    script = Script(
        members(), None, members("unknown", leads=False), members("unknown"), None,
        members("pending"), members("done", epoch=1),
    )  # fmt: skip
    assert script.run(change_members(quest(), REMOVE)).epoch == 1
    asked = [question for _, question in script.asked[1:]]
    sent = [question for question in asked if isinstance(question, ChangeMembers)]
    assert len(sent) == 2 and len(set(sent)) == 1
    rest = [question for question in asked if isinstance(question, AskMembers)]
    assert {(question.request, question.ballot) for question in rest} == {
        (sent[0].id, Ballot(1, 1))
    }


def test_a_change_that_is_settled_as_not_done_is_asked_for_anew() -> None:
    script = Script(
        members(), members("not done", round_=2), members(round_=2), members("done", epoch=1)
    )
    script.run(change_members(quest(), REMOVE))
    first, second = (q for _, q in script.asked if isinstance(q, ChangeMembers))
    assert (first.ballot, second.ballot) == (Ballot(1, 1), Ballot(2, 1))
    assert first.id != second.id


def test_it_is_not_asked_for_anew_where_others_have_changed_the_members() -> None:
    script = Script(members(), members("not done", epoch=1), members(epoch=1))
    with pytest.raises(ChangeRefused, match="another change of the members came first"):
        script.run(change_members(quest(), REMOVE))


def test_what_nobody_settles_in_time_may_have_been_made(clock: list[float]) -> None:
    script = Script(members(), *[members("pending")] * 9)
    with pytest.raises(RequestTimeout, match="it may have been made") as caught:
        script.run(change_members(quest(5.0), REMOVE))
    assert caught.value.unknown


def test_a_silent_server_is_left_for_the_next_and_new_ones_are_learnt() -> None:
    script = Script(None, members(leads=False), members())
    found = quest()
    script.run(agreement.find_members(found))
    assert [address for address, _ in script.asked] == ["a", "b", "a"]
    assert "c" in found._search.servers


def test_a_server_that_is_added_gets_its_vote_once_it_is_level() -> None:
    joiner = Member(4, 14, False, "peer", "client", "key")
    waits = msgspec.structs.replace(members(), joining=(joiner,))
    late = msgspec.structs.replace(members(epoch=1), behind={4: 5000})
    level = msgspec.structs.replace(members(epoch=1), behind={4: 10})
    script = Script(
        members(), members(), waits, waits, members("done", epoch=1), late, level, level,
        members("done", epoch=2),
    )  # fmt: skip
    told: list[str] = []
    adding = add_member(quest(tell=told.append), MemberChange("add", 4))
    assert script.run(adding).epoch == 2
    learner = "server 4 is a learner so far, and has no vote"
    again = "; `paxon member add 4` goes on from here"
    assert [text for text, _ in itertools.groupby(told)] == [
        "nothing was changed so far, for nobody has said who leads",
        "nothing was changed so far, for no server 4 waits to become a member",
        UNDER_WAY,
        learner,
        f"{learner}: it is 5000 slots behind{again}",
        f"{learner}: it is 10 slots behind{again}",
        UNDER_WAY,
    ]
    sent = [question.changes for _, question in script.asked if isinstance(question, ChangeMembers)]
    assert sent == [
        (MemberChange("add", 4, 14, "peer", "client", "key"),),
        (MemberChange("promote", 4),),
    ]


UNDER_WAY = (
    "the change of members is under way, and nobody has said how it ended: see what `paxon member "
    "list` says"
)


def test_who_gives_up_waiting_is_told_where_that_leaves_him(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(outlet, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with pytest.raises(KeyboardInterrupt), waiting("nothing was changed") as tell:
        for seconds in (1.9, 2.0, 2.1, 2.2, 3.9, 4.1):
            now[0] = seconds
            tell(f"server 4 is {5 - int(seconds)} slots behind")
        raise KeyboardInterrupt
    assert capsys.readouterr().err == (
        "paxon: waiting: server 4 is 3 slots behind\n"
        "paxon: waiting: server 4 is 1 slots behind\n"
        "paxon: given up: server 4 is 1 slots behind\n"
    )


def test_a_learner_that_never_catches_up_stays_one_and_it_is_said_what_to_do(
    clock: list[float],
) -> None:
    late = msgspec.structs.replace(members(), behind={3: 5000})
    late = msgspec.structs.replace(late, members=(Member(1, 11), Member(3, 13, voter=False)))
    script = Script(*[late] * 50)
    with pytest.raises(
        RequestTimeout, match=r"it is 5000 slots behind.*paxon member promote 3"
    ) as no:
        script.run(add_member(quest(5.0), MemberChange("add", 3)))
    assert not no.value.unknown
    assert not any(isinstance(question, ChangeMembers) for _, question in script.asked)
