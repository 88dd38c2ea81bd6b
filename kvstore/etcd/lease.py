"""The service Lease. Leases are the store's own (docs/design/time.md)."""

from __future__ import annotations

from typing import Any

from paxon.kvstore.client.leases.requests import new_id, renewal
from paxon.kvstore.etcd import errors
from paxon.kvstore.etcd.calls import TIMEOUT, Call, Method
from paxon.kvstore.etcd.front import REGISTERED, REVISION, Front
from paxon.kvstore.etcd.messages import message
from paxon.kvstore.store import operations as wire
from paxon.kvstore.store.leases import MAX_TTL_MS
from paxon.kvstore.store.operations import MAX_NUMBER, decode_results, is_refusal

__all__ = ["LeaseService"]

_TOGETHER = 1000
"""So many leases are renewed at once."""


class LeaseService:
    """Answers the calls of this service."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self.methods = [
            Method(
                "/etcdserverpb.Lease/LeaseGrant", "/v3/lease/grant", "LeaseGrantRequest",
                self.grant,
            ),
            Method(
                "/etcdserverpb.Lease/LeaseRevoke", "/v3/lease/revoke", "LeaseRevokeRequest",
                self.revoke,
            ),
            Method(
                "/etcdserverpb.Lease/LeaseKeepAlive", "/v3/lease/keepalive",
                "LeaseKeepAliveRequest", None, self.keep_alive,
            ),
            Method(
                "/etcdserverpb.Lease/LeaseTimeToLive", "/v3/lease/timetolive",
                "LeaseTimeToLiveRequest", self.time_to_live,
            ),
            Method(
                "/etcdserverpb.Lease/LeaseLeases", "/v3/lease/leases", "LeaseLeasesRequest",
                self.leases,
            ),
        ]  # fmt: skip

    async def grant(self, request: Any, timeout: float) -> Any:
        """A new lease: its id is drawn here, before anything is sent, if the client gives none."""
        number = request.ID or new_id()
        if not 0 < number <= MAX_NUMBER:
            raise errors.Refused(
                errors.Code.INVALID_ARGUMENT, "etcdserver: a lease's id has to be above 0"
            )
        if request.TTL * 1000 > MAX_TTL_MS:
            raise errors.lease_ttl_too_large()
        granted, now = await self._front.ask(
            wire.Grant(number, max(1, request.TTL) * 1000), REVISION, timeout=timeout
        )
        return message("LeaseGrantResponse")(
            header=self._front.header(now[0]), ID=number, TTL=errors.accepted(granted) // 1000
        )

    async def revoke(self, request: Any, timeout: float) -> Any:
        """End a lease, with its keys."""
        revision = await self._front.ask_one(wire.Revoke(request.ID), timeout)
        return message("LeaseRevokeResponse")(header=self._front.header(revision))

    async def keep_alive(self, call: Call) -> None:
        """Renew leases; of one that has ended, 0 is left.

        Those that have come go together: the leader has each renewal wait for others a little, and
        of a client's thousands the last ones would wait for longer than they live.
        """
        while (request := await call.receive()) is not None:
            numbers: list[int] = [request.ID]
            while call.waiting and len(numbers) < _TOGETHER:
                numbers.append((await call.receive()).ID)
            seconds = dict.fromkeys(numbers, 0)
            if sound := [number for number in numbers if 0 < number <= MAX_NUMBER]:
                payload = await self._front.kv._ask_to_renew(renewal(sound), TIMEOUT)
                for number, result in zip(sound, decode_results(payload), strict=True):
                    seconds[number] = 0 if is_refusal(result) else result // 1000
            for number in numbers:
                await call.send(
                    message("LeaseKeepAliveResponse")(
                        header=self._front.header(), ID=number, TTL=seconds[number]
                    )
                )

    async def time_to_live(self, request: Any, timeout: float) -> Any:
        """The time left of a lease; -1 if there is none of that id."""
        found, now = await self._front.ask(
            wire.TimeLeft(request.ID, request.keys), REVISION, timeout=timeout
        )
        answer = message("LeaseTimeToLiveResponse")(
            header=self._front.header(now[0]), ID=request.ID
        )
        if found is None:
            answer.TTL = -1
        else:
            left, granted, keys = errors.accepted(found)
            answer.TTL, answer.grantedTTL = left // 1000, granted // 1000
            answer.keys.extend(keys)
        return answer

    async def leases(self, request: Any, timeout: float) -> Any:
        """The ids of all leases, but for those under which gateways say where they are."""
        ids, registered = await self._front.ask(wire.Leases(), REGISTERED, timeout=timeout)
        ours = {row[5] for row in errors.accepted(registered)[3]}
        answer = message("LeaseLeasesResponse")(header=self._front.header(registered[0]))
        for number in errors.accepted(ids):
            if number not in ours:
                answer.leases.add(ID=number)
        return answer
