"""What all services share: the client of the cluster, the headers of answers, who is a member."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from paxon.actors.messages import ReadMode, StatusReply
from paxon.kvstore.client.calls.calls import Call, Steps
from paxon.kvstore.client.core import KVTicket
from paxon.kvstore.client.leases.async_lease import AsyncLease
from paxon.kvstore.errors import PaxonError
from paxon.kvstore.etcd.calls import Asking
from paxon.kvstore.etcd.errors import Refused, accepted, too_large
from paxon.kvstore.etcd.messages import message
from paxon.kvstore.recipes.clients import AsyncClient
from paxon.kvstore.store import operations as wire
from paxon.kvstore.store.operations import Operation, Result, is_refusal, is_split
from paxon.kvstore.store.spans import TO_THE_END, prefix_span

__all__ = ["REGISTERED", "RESERVED", "REVISION", "Front", "span_end"]

T = TypeVar("T")
RESERVED = b"\xff" * 64
"""Keys from here on are not etcd's clients': gateways say there where they are to be found."""
_GATEWAYS = RESERVED + b"paxon/etcd/"
REVISION = wire.Range(b"\0", count_only=True)
"""Reads nothing but the revision."""
REGISTERED = wire.Range(*prefix_span(_GATEWAYS))
"""Reads where gateways are."""
_TTL_SECONDS = 10
_PATIENCE = 5.0
"""Seconds for what the gateway asks for itself."""
_BEHIND_SECONDS, _BEHIND_PAUSE = 1.0, 0.01
"""So long, and so often, is a server asked that is behind what was answered before."""
_FIRST_LOOKS = 5
"""So often is a busy cluster asked who it is before that is given up."""
_LOOK_SECONDS = 1.0
"""How often the servers are asked for their ballots."""


def span_end(end: bytes) -> bytes | None:
    """Where a span of etcd's ends, as the store has it: without the reserved keys."""
    if not end:
        return None
    return RESERVED if end == TO_THE_END or end > RESERVED else end


class _Ask(Call[list[Result]]):
    """Operations as they stand; the results as they come."""

    __slots__ = ("_operations",)

    def __init__(self, operations: Sequence[Operation]) -> None:
        super().__init__(operations[0])
        self._operations = operations

    def steps(self) -> Steps[list[Result]]:
        """All in one request."""
        return (yield self._operations)


def _tell_nobody(_outcome: Any) -> None: ...


class _Asked:
    """One operation that was asked for without a task; see `Front.begin`."""

    __slots__ = ("_answer", "_core", "_done", "_operation", "_ticket")

    def __init__(
        self, kv: AsyncClient, operation: Operation, timeout: float,
        answer: Callable[[Any, Result], Any], done: Callable[[Any], None],
    ) -> None:  # fmt: skip
        self._core, self._operation, self._answer, self._done = kv._core, operation, answer, done
        now = kv._driver.enter()
        self._ticket = self._core.submit_operation(
            operation, now=now, deadline=now + timeout, mode="linearizable"
        )
        if self._ticket.done:
            asyncio.get_running_loop().call_soon(self._ended, self._ticket)
        else:
            self._ticket.on_done = self._ended
        kv._driver.pump_or_plan()

    def _ended(self, ticket: KVTicket) -> None:
        outcome: Any
        ticket.on_done = None  # (it would be a circle, and so would `_done`)
        try:
            [result] = ticket.value()
            if is_split(result):
                raise too_large()
            outcome = self._answer(self._operation, accepted(result))
        except Exception as error:
            outcome = error
        done, self._done = self._done, _tell_nobody
        done(outcome)

    def give_up(self) -> None:
        """See `Asking`."""
        self._ticket.on_done = None
        self._core.abandon(self._ticket)


class Member(msgspec.Struct, frozen=True):
    """A server of the cluster as etcd's clients see it."""

    id: int
    name: str
    reply: StatusReply | None


class _Said(msgspec.Struct):
    """A gateway's word on itself."""

    url: str
    member: int


def _number(*parts: object) -> int:
    """An id of 63 bits that stays the same: (not all languages have 64 unsigned ones)."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1 or 1


class Front:
    """One gateway's view of its cluster."""

    def __init__(self, kv: AsyncClient) -> None:
        self.kv = kv
        self._url = ""
        self._lease: AsyncLease | None = None
        self._urls: dict[int, list[str]] = {}
        """Where the gateways are that stand for a member."""
        self.revision = 0
        """The highest that was seen of the store's."""
        self.term = 0
        """The highest ballot round that was seen."""
        self.cluster = ""
        """Its name."""
        self.cluster_id = 0
        self.member_id = 0
        self.members: list[Member] = []
        self.leader = 0
        """The id of the member that leads, 0 if nobody is known to."""
        self._header = message("ResponseHeader")
        self._looking: asyncio.Task[None] | None = None

    # --- asking ------------------------------------------------------------------------------

    async def ask(
        self, *operations: Operation, timeout: float, mode: ReadMode = "linearizable"
    ) -> list[Result]:
        """Have operations executed together: their results, those of refused ones too."""
        return await self.kv._do(_Ask(operations), timeout, mode)

    async def ask_one(
        self, operation: Operation, timeout: float, mode: ReadMode = "linearizable"
    ) -> Result:
        """The result of one operation. Raises `Refused`."""
        [result] = await self.kv._do(_Ask((operation,)), timeout, mode)
        if is_split(result):
            raise too_large()
        return accepted(result)

    def begin(
        self, operation: Operation, timeout: float, answer: Callable[[Any, Result], Any],
        done: Callable[[Any], None],
    ) -> Asking:  # fmt: skip
        """`ask_one` without a task, whose turns in the loop cost as much as all the rest.

        `answer` makes of the operation and its result what `done` is told of; or it is told of what
        went wrong. Raises `ClientClosed`.
        """
        return _Asked(self.kv, operation, timeout, answer, done)

    async def ask_any(
        self, operation: wire.Range | wire.Txn, timeout: float, revision: Callable[[Result], int]
    ) -> Result:
        """Ask any server, whose answer may be old, but no older than one given before.

        As with a member of etcd, a client that reads from one gateway never sees time go back.
        `revision`: the store's, in a result. Raises `Refused`.
        """
        least, begun = self.revision, time.monotonic()
        while (passed := time.monotonic() - begun) < min(_BEHIND_SECONDS, timeout / 2):
            [result] = await self.kv._do(_Ask((operation,)), timeout - passed, "stale")
            if is_split(result):
                raise too_large()
            if is_refusal(result):
                if result.get("kind") != "future":
                    break
            elif revision(result) >= least:
                return result
            await asyncio.sleep(_BEHIND_PAUSE)
        return await self.ask_one(operation, max(0.001, timeout - time.monotonic() + begun))

    async def now(self, timeout: float) -> int:
        """The store's revision, by a linearizable read."""
        result = await self.ask_one(REVISION, timeout)
        revision: int = result[0]
        return revision

    def hurry(self) -> None:
        """Have the servers say now how far the watches are complete."""
        self.kv._core.watches.check_soon(self.kv._driver.enter())
        self.kv._driver.plan_pump()

    # --- headers -----------------------------------------------------------------------------

    def header(self, revision: int | None = None) -> Any:
        """The header of an answer; without a revision, of the newest one seen."""
        if revision is None:
            revision = self.revision
        elif revision > self.revision:
            self.revision = revision
        return self._header(
            cluster_id=self.cluster_id,
            member_id=self.member_id,
            revision=revision,
            raft_term=self.term,
        )

    # --- the cluster -------------------------------------------------------------------------

    async def open(self, url: str) -> None:
        """Get to know the cluster. Raises `PaxonError` if no server answers.

        `url`: where clients are told to find this gateway; "": they are not told.
        """
        self._url = url
        for further in reversed(range(_FIRST_LOOKS)):
            try:
                await self.look()
                break
            except PaxonError:
                if not further:
                    raise
        await self._look_for_gateways()
        await self._register()
        while not self.term:  # nobody led at the first look, and no answer is of term 0
            await self.look()
        self._looking = asyncio.create_task(self._keep_looking())

    async def close(self) -> None:
        """Stop looking, and stop being found."""
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking
        if self._lease is not None:
            with contextlib.suppress(PaxonError):
                await self._lease.revoke(timeout=1.0)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            with contextlib.suppress(PaxonError, Refused):
                await self.look()
                await self._look_for_gateways()
                await self._register()

    async def _register(self) -> None:
        """Say where this gateway is, under a lease, unless that is known."""
        if all(each.id != self.member_id for each in self.members):  # it was removed, or none yet
            self.member_id = min(self.members, key=lambda each: len(self.urls_of(each.id))).id
        if not self._url or self._url in self.urls_of(self.member_id):
            return
        if self._lease is None or self._lease.lost.is_set():
            self._lease = await self.kv.lease(_TTL_SECONDS)
        value = msgspec.json.encode({"url": self._url, "member": self.member_id})
        key = _GATEWAYS + b"%x" % self._lease.id
        await self.ask_one(wire.PutItem(key, value, self._lease.id), _PATIENCE)
        await self._look_for_gateways()

    async def _look_for_gateways(self) -> None:
        found = await self.ask_one(REGISTERED, _PATIENCE)
        self.revision = max(self.revision, found[0])
        self._urls = {}
        for row in found[3]:
            with contextlib.suppress(msgspec.MsgspecError):
                said = msgspec.json.decode(row[1], type=_Said)
                self._urls.setdefault(said.member, []).append(said.url)

    def urls_of(self, member: int) -> list[str]:
        """Where the gateways are that stand for a member."""
        return self._urls.get(member, [])

    async def look(self) -> None:
        """Ask the servers for their ballots and for who they are."""
        replies = await self.kv.status(timeout=_LOOK_SECONDS)
        first = max(replies.values(), key=lambda reply: reply.ballot)
        self.term = max(self.term, *(reply.ballot.round for reply in replies.values()))
        self.cluster = first.cluster
        self.cluster_id = _number(first.identity or first.cluster)
        by_id = {reply.server: reply for reply in replies.values() if reply.part != "none"}
        numbers = sorted(set(first.members) | set(by_id))
        self.members = [
            Member(
                _number(first.identity or first.cluster, number),
                f"server-{number}",
                by_id.get(number),
            )
            for number in numbers
        ]
        leads = [reply.server for reply in replies.values() if reply.role == "leader"]
        self.leader = self._id_of(max(leads) if leads else first.leader)

    def _id_of(self, number: int) -> int:
        name = f"server-{number}"
        return next((member.id for member in self.members if member.name == name), 0)
