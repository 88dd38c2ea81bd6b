"""The services Lock and Election, in the layout of etcd's own client and of Paxon's recipes.

A contender is a key `name/<lease in hex>` that goes with this very lease; the oldest one holds
(docs/recipes.md). All else under the name is ignored. Locks have no value and candidates have one.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

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
from paxon.kvstore.store.operations import Events
from paxon.kvstore.store.spans import prefix_span

__all__ = ["LockService"]

_SESSION_SECONDS = 60
"""How long a lock is held of which no lease is named, as with etcd."""


def _key(name: bytes, lease: int) -> bytes:
    return name + b"/%x" % lease


def _is_contender(name: bytes, row: Row, *, empty: bool) -> bool:
    return bool(row[5]) and row[0] == _key(name, row[5]) and bool(row[1]) is not empty


def _created(key: bytes, revision: int) -> wire.Compare:
    return wire.Compare(key, "created", "=", revision)


class LockService:
    """Answers the calls of both services."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self.methods = [
            Method("/v3lockpb.Lock/Lock", "/v3/lock/lock", "LockRequest", self.lock),
            Method("/v3lockpb.Lock/Unlock", "/v3/lock/unlock", "UnlockRequest", self.unlock),
            Method(
                "/v3electionpb.Election/Campaign", "/v3/election/campaign", "CampaignRequest",
                self.campaign,
            ),
            Method(
                "/v3electionpb.Election/Proclaim", "/v3/election/proclaim", "ProclaimRequest",
                self.proclaim,
            ),
            Method(
                "/v3electionpb.Election/Leader", "/v3/election/leader", "LeaderRequest",
                self.leader,
            ),
            Method(
                "/v3electionpb.Election/Observe", "/v3/election/observe", "LeaderRequest", None,
                self.observe,
            ),
            Method(
                "/v3electionpb.Election/Resign", "/v3/election/resign", "ResignRequest",
                self.resign,
            ),
        ]  # fmt: skip

    # --- taking turns ------------------------------------------------------------------------

    async def _contend(self, name: bytes, lease: int, value: bytes) -> tuple[bytes, int, int]:
        """Wait for one's turn: the key, the revision that made it, and the lease.

        Whoever gives up leaves no key behind that this call has made.
        """
        if not lease:
            lease = new_id()
            grant = wire.Grant(lease, _SESSION_SECONDS * 1000)
            await self._front.ask_one(grant, TIMEOUT)
        key = _key(name, lease)
        made, _, results = await self._front.ask_one(
            wire.Txn(
                [_created(key, 0)],
                [wire.PutItem(key, value, lease), wire.Range(key)],
                [wire.Range(key)],
            ),
            TIMEOUT,
        )
        row: Row = results[-1][3][0]
        fence = row[2]
        try:
            if not made and row[1] != value:
                await self._front.ask_one(
                    wire.Txn([_created(key, fence)], [wire.PutItem(key, value, lease)], []), TIMEOUT
                )
            await self._wait(name, key, fence, empty=not value)
        except BaseException:
            if made:
                with contextlib.suppress(PaxonError, Refused):
                    await asyncio.shield(self._give_up(key, fence))
            raise
        return key, fence, lease

    async def _give_up(self, key: bytes, fence: int) -> None:
        await self._front.ask_one(
            wire.Txn([_created(key, fence)], [wire.DeleteRange(key)], []), TIMEOUT
        )

    async def _wait(self, name: bytes, key: bytes, fence: int, *, empty: bool) -> None:
        first, end = prefix_span(name + b"/")
        everyone = wire.Range(first, end, order="created", max_created=fence)
        while True:
            revision, _, _, rows, _ = await self._front.ask_one(everyone, TIMEOUT)
            if not any(row[0] == key and row[2] == fence for row in rows):
                raise Refused(Code.UNKNOWN, "mutex: session is expired")
            before = [
                row for row in rows if row[2] < fence and _is_contender(name, row, empty=empty)
            ]
            if not before:
                return
            answers = Answers(
                self._front, Events(revision, [(before[-1][0], None), (key, None)], False)
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
        key, _, _ = await self._contend(request.name, request.lease, b"")
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
        key, fence, lease = await self._contend(request.name, request.lease, request.value)
        leader = message("LeaderKey")(name=request.name, key=key, rev=fence, lease=lease)
        return message("CampaignResponse")(header=self._front.header(), leader=leader)

    def _leader_key(self, request: Any) -> Any:
        if not request.HasField("leader"):
            raise Refused(Code.UNKNOWN, '"leader" field must be provided')
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
        """Lead no more."""
        leader = self._leader_key(request)
        _, revision, _ = await self._front.ask_one(
            wire.Txn([_created(leader.key, leader.rev)], [wire.DeleteRange(leader.key)], []),
            timeout,
        )
        return message("ResignResponse")(header=self._front.header(revision))

    async def _leader(self, name: bytes) -> tuple[int, Row | None]:
        """The store's revision, and who leads then."""
        first, end = prefix_span(name + b"/")
        revision, _, _, rows, _ = await self._front.ask_one(
            wire.Range(first, end, order="created"), TIMEOUT
        )
        leads = (row for row in rows if _is_contender(name, row, empty=False))
        return revision, next(leads, None)

    async def leader(self, request: Any, _timeout: float) -> Any:
        """Who leads."""
        revision, row = await self._leader(request.name)
        if row is None:
            raise Refused(Code.UNKNOWN, "election: no leader")
        return message("LeaderResponse")(header=self._front.header(revision), kv=key_value(row))

    async def observe(self, call: Call) -> None:
        """Who leads, and each change."""
        request = await call.receive()
        if request is None:
            return
        told: Row | None = None
        while True:
            revision, row = await self._leader(request.name)
            if row is not None and row != told:
                told = row
                header = self._front.header(revision)
                await call.send(message("LeaderResponse")(header=header, kv=key_value(row)))
            span = prefix_span(request.name + b"/")
            answers = Answers(self._front, Events(revision, [span]))
            try:
                await answers.next()
            except Gone:
                pass  # it was long ago: look
            finally:
                answers.close()
