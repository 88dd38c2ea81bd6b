"""The services Lock and Election, in the layout of etcd's own client and of Paxon's recipes.

A contender is a key `name/<lease in hex>` that goes with this very lease; the oldest one holds
(docs/recipes.md). All else under the name is ignored. A lock's key has an empty value that was
written once; a candidate's has another, or had one before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

from paxon.kvstore.client.leases.requests import new_id
from paxon.kvstore.errors import PaxonError
from paxon.kvstore.etcd import errors
from paxon.kvstore.etcd.calls import TIMEOUT, Call, Method
from paxon.kvstore.etcd.errors import Code, Refused
from paxon.kvstore.etcd.feeds import Answers, Gone
from paxon.kvstore.etcd.front import Front
from paxon.kvstore.etcd.kv import key_value
from paxon.kvstore.etcd.messages import message
from paxon.kvstore.store import operations as wire
from paxon.kvstore.store.items import Row
from paxon.kvstore.store.operations import Events, Result

__all__ = ["LockService"]

_NOTHING_YET = b"-"
"""What a candidate without a value says first, to be known as one."""
_OUTCOME_SECONDS, _MOST_UNDONE = 60.0, 10_000
"""For so long the gateway asks whether the key of a client that gave up was made, of so many at a
time, and for so long it tries to remove it."""
_ODD = 3
"""So many more keys than decide are read at first: odd ones may stand among them."""
_SESSION_SECONDS = 60
"""How long a lock is held of which no lease is named, as with etcd."""


def _key(name: bytes, lease: int) -> bytes:
    return name + b"/%x" % lease


def _is_contender(name: bytes, row: Row, *, election: bool) -> bool:
    key, value, _, _, version, lease = row
    return bool(lease) and key == _key(name, lease) and (bool(value) or version > 1) is election


Answer: TypeAlias = Callable[[Any, float], Awaitable[Any]]


def _of_no_code(answer: Answer) -> Answer:
    """As these services of etcd's have it, which pass on what the store says without its code."""

    async def answered(request: Any, timeout: float) -> Any:
        try:
            return await answer(request, timeout)
        except Refused as refused:
            if refused.code in {Code.NOT_FOUND, Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION}:
                raise Refused(Code.UNKNOWN, refused.text) from None
            raise

    return answered


def _created(key: bytes, revision: int) -> wire.Compare:
    return wire.Compare(key, "created", "=", revision)


class LockService:
    """Answers the calls of both services."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._undoing: dict[asyncio.Future[None], bytes] = {}
        """Keys that are being removed, for whoever made them has given up."""
        self.methods = [
            Method(
                "/v3lockpb.Lock/Lock", "/v3/lock/lock", "LockRequest", _of_no_code(self.lock)
            ),
            Method(
                "/v3lockpb.Lock/Unlock", "/v3/lock/unlock", "UnlockRequest",
                _of_no_code(self.unlock),
            ),
            Method(
                "/v3electionpb.Election/Campaign", "/v3/election/campaign", "CampaignRequest",
                _of_no_code(self.campaign),
            ),
            Method(
                "/v3electionpb.Election/Proclaim", "/v3/election/proclaim", "ProclaimRequest",
                _of_no_code(self.proclaim),
            ),
            Method(
                "/v3electionpb.Election/Leader", "/v3/election/leader", "LeaderRequest",
                _of_no_code(self.leader),
            ),
            Method(
                "/v3electionpb.Election/Observe", "/v3/election/observe", "LeaderRequest", None,
                self.observe,
            ),
            Method(
                "/v3electionpb.Election/Resign", "/v3/election/resign", "ResignRequest",
                _of_no_code(self.resign),
            ),
        ]  # fmt: skip

    # --- taking turns ------------------------------------------------------------------------

    async def _contend(
        self, name: bytes, lease: int, value: bytes, *, election: bool
    ) -> tuple[bytes, int, int]:
        """Wait for one's turn: the key, the revision that made it, and the lease.

        Whoever gives up leaves no key behind that this call has made.
        """
        first = value or _NOTHING_YET if election else b""
        if not lease:
            lease = new_id()
            grant = wire.Grant(lease, _SESSION_SECONDS * 1000)
            await self._front.ask_one(grant, TIMEOUT)
        key = _key(name, lease)
        made, _, results = await self._enter(key, first, lease)
        row: Row = results[-1][3][0]
        fence = row[2]
        if not _is_contender(name, row, election=election):
            raise Refused(
                Code.FAILED_PRECONDITION,
                "etcdserver: this lease has another part under this name: take a lease for each",
            )
        try:
            if row[1] != value:
                await self._front.ask_one(
                    wire.Txn([_created(key, fence)], [wire.PutItem(key, value, lease)], []), TIMEOUT
                )
            await self._wait(name, key, fence, election=election)
        except BaseException:
            if made:
                self._later(key, self._give_up(key, fence))
            raise
        return key, fence, lease

    async def _enter(self, key: bytes, value: bytes, lease: int) -> Result:
        """Make the key unless it is there; whether that was so, and the item."""
        if undoing := [each for each, undone in self._undoing.items() if undone == key]:
            _, unfinished = await asyncio.wait(undoing, timeout=TIMEOUT)
            if unfinished:
                raise errors.timed_out()
        txn = wire.Txn(
            [_created(key, 0)],
            [wire.PutItem(key, value, lease), wire.Range(key)],
            [wire.Range(key)],
        )
        entering = asyncio.ensure_future(self._front.ask_one(txn, _OUTCOME_SECONDS))
        try:
            async with asyncio.timeout(TIMEOUT):
                return await asyncio.shield(entering)
        except (asyncio.CancelledError, TimeoutError) as error:
            if len(self._undoing) < _MOST_UNDONE:
                self._later(key, self._undo(entering, key))
            else:
                entering.cancel()
            if isinstance(error, TimeoutError):
                raise errors.timed_out() from None
            raise

    def _later(self, key: bytes, undo: Coroutine[Any, Any, None]) -> None:
        """Nobody waits for a turn any more: see to it that nothing of the key is left.

        Its lease may be renewed on and on, and one that holds without knowing it holds all others
        up. A client that tries again with the same lease waits for that, for it would take over a
        key that goes.
        """
        undoing = asyncio.ensure_future(undo)
        self._undoing[undoing] = key
        undoing.add_done_callback(self._undoing.pop)

    async def _undo(self, entering: asyncio.Future[Result], key: bytes) -> None:
        """Once it is known whether a key was made, remove it."""
        with contextlib.suppress(PaxonError, Refused):
            made, _, results = await entering
            if made:
                await self._give_up(key, results[-1][3][0][2])

    async def _give_up(self, key: bytes, fence: int) -> None:
        with contextlib.suppress(PaxonError, Refused):
            await self._front.ask_one(
                wire.Txn([_created(key, fence)], [wire.DeleteRange(key)], []), _OUTCOME_SECONDS
            )

    async def _contenders(
        self, name: bytes, count: int, *, upto: int = 0, election: bool
    ) -> tuple[int, list[Row]]:
        """The store's revision, and the oldest; or the last that were made up to that revision.

        So many at least, if there are, and those few that come along: not all, with their values.
        """
        limit = count + _ODD
        while True:
            wanted = wire.Range(
                name + b"/0", name + b"/g", limit=limit, order="created", backward=bool(upto),
                max_created=upto,
            )  # fmt: skip
            revision, _, more, rows, _ = await self._front.ask_one(wanted, TIMEOUT)
            found = [row for row in rows if _is_contender(name, row, election=election)]
            if len(found) >= count or not more:
                return revision, found
            limit *= 10

    async def _wait(self, name: bytes, key: bytes, fence: int, *, election: bool) -> None:
        while True:
            revision, rows = await self._contenders(name, 2, upto=fence, election=election)
            if not any(row[0] == key and row[2] == fence for row in rows):
                raise Refused(Code.UNKNOWN, "mutex: session is expired")
            if len(rows) < 2:
                return
            answers = Answers(
                self._front, Events(revision, [(rows[1][0], None), (key, None)], False)
            )
            try:
                await answers.next()
            except Gone:
                pass  # it was long ago: look
            finally:
                answers.close()

    # --- Lock --------------------------------------------------------------------------------

    async def lock(self, request: Any, _timeout: float) -> Any:
        """Wait for the lock; the key that holds it."""
        key, _, _ = await self._contend(request.name, request.lease, b"", election=False)
        return message("LockResponse")(header=self._front.header(), key=key)

    async def unlock(self, request: Any, timeout: float) -> Any:
        """Delete the key that holds a lock."""
        if not request.key:
            raise errors.empty_key()
        result = await self._front.ask_one(wire.DeleteRange(request.key), timeout)
        return message("UnlockResponse")(header=self._front.header(result[0]))

    # --- Election ----------------------------------------------------------------------------

    async def campaign(self, request: Any, _timeout: float) -> Any:
        """Wait until one leads."""
        key, fence, lease = await self._contend(
            request.name, request.lease, request.value, election=True
        )
        leader = message("LeaderKey")(name=request.name, key=key, rev=fence, lease=lease)
        return message("CampaignResponse")(header=self._front.header(), leader=leader)

    def _leader_key(self, request: Any) -> Any:
        if not request.HasField("leader"):
            raise Refused(Code.UNKNOWN, '"leader" field must be provided')
        if not request.leader.key:
            raise errors.empty_key()
        return request.leader

    async def proclaim(self, request: Any, timeout: float) -> Any:
        """Lead with another value."""
        leader = self._leader_key(request)
        put = wire.PutItem(leader.key, request.value, leader.lease)
        succeeded, revision, _ = await self._front.ask_one(
            wire.Txn([_created(leader.key, leader.rev)], [put], []), timeout
        )
        if not succeeded:
            raise Refused(Code.UNKNOWN, "election: not leader")
        return message("ProclaimResponse")(header=self._front.header(revision))

    async def resign(self, request: Any, timeout: float) -> Any:
        """Stop leading."""
        leader = self._leader_key(request)
        _, revision, _ = await self._front.ask_one(
            wire.Txn([_created(leader.key, leader.rev)], [wire.DeleteRange(leader.key)], []),
            timeout,
        )
        return message("ResignResponse")(header=self._front.header(revision))

    async def _leader(self, name: bytes) -> tuple[int, Row | None]:
        """The store's revision, and who leads then."""
        revision, rows = await self._contenders(name, 1, election=True)
        return revision, rows[0] if rows else None

    async def leader(self, request: Any, _timeout: float) -> Any:
        """The leader of an election."""
        revision, row = await self._leader(request.name)
        if row is None:
            raise Refused(Code.UNKNOWN, "election: no leader")
        return message("LeaderResponse")(header=self._front.header(revision), kv=key_value(row))

    async def observe(self, call: Call) -> None:
        """The leader of an election, and each change."""
        request = await call.receive()
        if request is None:
            return
        name: bytes = request.name
        told: Row | None = None
        while True:
            revision, row = await self._leader(name)
            if row is not None and row != told:
                told = row
                await self._tell(call, revision, row)
            span = (row[0], None) if row is not None else (name + b"/0", name + b"/g")
            answers = Answers(self._front, Events(revision, [span]))
            try:
                told = await self._follow(call, name, answers, row)
            except Gone:
                pass  # it was long ago: look
            finally:
                answers.close()

    async def _follow(
        self, call: Call, name: bytes, answers: Answers, leader: Row | None
    ) -> Row | None:
        """Tell each new value of a leader until it stops leading, or somebody may; the last one."""
        while True:
            through, events = await answers.next()
            for row, _ in events:
                if leader is None or not _is_contender(name, row, election=True):
                    return leader
                leader = row
                await self._tell(call, through, row)
            answers.taken(through)

    async def _tell(self, call: Call, revision: int, leader: Row) -> None:
        header = self._front.header(revision)
        await call.send(message("LeaderResponse")(header=header, kv=key_value(leader)))
