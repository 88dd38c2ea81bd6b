"""Requests of clients to the cluster itself, for threads and for asyncio."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from paxon.actors.execution.agreed import Number
from paxon.actors.members import MemberChange, Members
from paxon.actors.messages import StatusReply
from paxon.kvstore.client.agreement import (
    Asked,
    ClusterSettings,
    MemberSteps,
    Quest,
    Tell,
    add_member,
    change_members,
    check_changes,
    check_new_values,
    decode_settings,
    find_members,
    replace_member,
    settings_request,
    transfer_request,
)
from paxon.kvstore.client.async_driver import AsyncDriver
from paxon.kvstore.client.checks import check_flag, check_timeout
from paxon.kvstore.client.core import ClientCore, RawCore
from paxon.kvstore.client.links import server_addresses
from paxon.kvstore.client.sync_driver import SyncDriver
from paxon.kvstore.errors import RequestTimeout

__all__ = ["AsyncClusterCalls", "ClusterCalls"]

T = TypeVar("T")


class ClusterCalls:
    """The calls of blocking clients."""

    _core: ClientCore | RawCore
    _driver: SyncDriver
    _timeout: float

    def status(
        self, server: str | None = None, *, timeout: float | None = None
    ) -> dict[str, StatusReply]:
        """Each server's own status, by its address; those that do not answer are missing.

        Args:
            server: ask the one at this address only.
            timeout: seconds to wait for the answers.

        Raises:
            ClusterUnavailable: none answered.
        """
        limit = check_timeout(timeout, 1.0)
        driver = self._driver
        driver.enter()
        with driver.lock:
            driver.check()
            now = time.monotonic()
            addresses = (
                server_addresses(server) if server is not None else list(self._core.search.servers)
            )
            asked = {a: self._core.ask(a, now=now, deadline=now + limit) for a in addresses}
            driver.pump()
        answers: dict[str, StatusReply] = {}
        for address, ticket in asked.items():
            driver.wait(ticket)
            if ticket.error is None:
                answers[address] = ticket.value()
            elif not isinstance(ticket.error, RequestTimeout):
                raise ticket.error
        if not answers:
            raise self._core.sightings.unreachable(addresses, limit)
        return answers

    def settings(self, *, timeout: float | None = None) -> ClusterSettings:
        """The agreed settings (docs/running/settings.md), as the leader knows them."""
        return self._ask_for_settings(None, {}, timeout)

    def change_settings(self, *, timeout: float | None = None, **new: float) -> ClusterSettings:
        """Have all servers agree on new values, such as `max_sessions=1000`, while they serve.

        Returns what is agreed then; `from_slot` is the slot from which on it is in force.

        Raises:
            InvalidRequest: a name is unknown, a value out of range, or a server does not know it.
            OperationFailed: somebody else changed settings meanwhile.
            RequestTimeout: no answer in time; the outcome is unknown, asking again does no harm.
        """
        values = check_new_values(new)
        return self._ask_for_settings(self._ask_for_settings(None, {}, timeout), values, timeout)

    def transfer_leader(
        self, to: int | None = None, *, only_from: int | None = None, timeout: float | None = None
    ) -> int:
        """Have server `to` lead, or the fittest, if `only_from` leads; returns who leads then.

        Raises `OperationFailed` if it cannot, or nobody can; the text says why, and what to do.
        """
        end = time.monotonic() + check_timeout(timeout, self._timeout)
        before = found = self._ask_who_leads(end)
        if before.server != to and only_from in (None, before.server):
            body, left = transfer_request(before.ballot, to), end - time.monotonic()
            self._ask_leader("transfer", body, left, changes=True)
            while found.ballot <= before.ballot:
                found = self._ask_who_leads(end)
        return found.server

    def _ask_who_leads(self, end: float) -> StatusReply:
        """The status of the server that leads now."""
        while True:
            self.settings(timeout=(left := max(1e-3, end - time.monotonic())))
            for reply in self.status(self._core.search.target, timeout=left).values():
                if reply.role == "leader":
                    return reply

    def _ask_for_settings(
        self, known: ClusterSettings | None, new: Mapping[str, Number], timeout: float | None
    ) -> ClusterSettings:
        limit, body = check_timeout(timeout, self._timeout), settings_request(known, new)
        return decode_settings(self._ask_leader("settings", body, limit, changes=bool(new)))

    def _ask_leader(self, kind: str, body: bytes, limit: float, *, changes: bool) -> Any:
        driver = self._driver
        driver.enter()
        with driver.lock:
            driver.check()
            end = (now := time.monotonic()) + limit
            ticket = self._core.ask_leader(kind, body, now=now, deadline=end, changes=changes)
            driver.pump()
        driver.wait(ticket)
        return ticket.value()

    def cluster_members(self, *, stale: bool = False, timeout: float | None = None) -> Members:
        """The members of the cluster, as the leader knows them (docs/membership.md).

        With `stale` as any server knows that answers: it may have slept through a change.
        """
        return self._carry_out(find_members(self._quest(timeout), stale=stale))

    def change_members(
        self, *changes: MemberChange, timeout: float | None = None, tell: Tell | None = None
    ) -> Members:
        """Have the members changed so, all at once, while they serve; returns what they are then.

        The servers that left may be switched off when this returns, and not before. Meanwhile
        `tell` is told many times how it stands, in words.

        Raises:
            ChangeRefused: it is refused, and nothing was changed; the text says what to do.
            RequestTimeout: nobody said in time how it ended; it may have been made if `unknown`.
        """
        checked = check_changes(changes)
        return self._carry_out(change_members(self._quest(timeout, tell), checked))

    def add_member(
        self,
        server: int,
        *,
        learner: bool = False,
        timeout: float | None = None,
        tell: Tell | None = None,
        **given: Any,
    ) -> Members:
        """Make a server that waits (`paxon server --join`) a learner and, once level, a voter.

        Args:
            server: its id.
            learner: leave it a learner, without a vote.
            timeout: seconds for all of it.
            tell: is told how it stands, in words, again and again.
            **given: fields of `MemberChange` that it does not tell by itself, such as `key`.

        Raises as `change_members`. May be asked for again where it stopped half way.
        """
        check_flag("learner", learner)
        change = check_changes((MemberChange("add", server, **given),))[0]
        return self._carry_out(add_member(self._quest(timeout, tell), change, learner=learner))

    def replace_member(
        self,
        server: int,
        *,
        timeout: float | None = None,
        tell: Tell | None = None,
        **given: Any,
    ) -> Members:
        """Give the place of a server whose directory is lost to the new one that waits.

        Arguments and errors are those of `add_member`.
        """
        change = check_changes((MemberChange("replace", server, **given),))[0]
        return self._carry_out(replace_member(self._quest(timeout, tell), change))

    def _quest(self, timeout: float | None, tell: Tell | None = None) -> Quest:
        seconds = check_timeout(timeout, self._timeout)
        return Quest(self._core.search, self._core.sightings, random.SystemRandom(), seconds, tell)

    def _carry_out(self, steps: MemberSteps[T]) -> T:
        said: Members | None = None
        while True:
            try:
                asked = steps.send(said)
            except StopIteration as end:
                found: T = end.value
                return found
            said = self._ask_of_members(asked)

    def _ask_of_members(self, asked: Asked) -> Members | None:
        if not asked.address:
            time.sleep(asked.seconds)
            return None
        driver = self._driver
        driver.enter()
        with driver.lock:
            driver.check()
            end = (now := time.monotonic()) + asked.seconds
            ticket = self._core.ask(asked.address, now=now, deadline=end, what=asked.question)
            driver.pump()
        driver.wait(ticket)
        return _answer(ticket)


class AsyncClusterCalls:
    """The calls of clients for asyncio."""

    _core: ClientCore | RawCore
    _driver: AsyncDriver
    _timeout: float

    async def status(
        self, server: str | None = None, *, timeout: float | None = None
    ) -> dict[str, StatusReply]:
        """Each server's own status, by its address; see `Client.status`."""
        limit = check_timeout(timeout, 1.0)
        now = self._driver.enter()
        addresses = (
            server_addresses(server) if server is not None else list(self._core.search.servers)
        )
        asked = {a: self._core.ask(a, now=now, deadline=now + limit) for a in addresses}
        self._driver.plan_pump()
        answers: dict[str, StatusReply] = {}
        for address, ticket in asked.items():
            await self._driver.wait(ticket)
            if ticket.error is None:
                answers[address] = ticket.value()
            elif not isinstance(ticket.error, RequestTimeout):
                raise ticket.error
        if not answers:
            raise self._core.sightings.unreachable(addresses, limit)
        return answers

    async def settings(self, *, timeout: float | None = None) -> ClusterSettings:
        """The settings that all servers agree on; see `Client.settings`."""
        return await self._ask_for_settings(None, {}, timeout)

    async def change_settings(
        self, *, timeout: float | None = None, **new: float
    ) -> ClusterSettings:
        """Have all servers agree on new values; see `Client.change_settings`."""
        values = check_new_values(new)
        known = await self._ask_for_settings(None, {}, timeout)
        return await self._ask_for_settings(known, values, timeout)

    async def _ask_for_settings(
        self, known: ClusterSettings | None, new: Mapping[str, Number], timeout: float | None
    ) -> ClusterSettings:
        limit, body = check_timeout(timeout, self._timeout), settings_request(known, new)
        return decode_settings(await self._ask_leader("settings", body, limit, changes=bool(new)))

    async def transfer_leader(
        self, to: int | None = None, *, only_from: int | None = None, timeout: float | None = None
    ) -> int:
        """Have another server lead; see `Client.transfer_leader`."""
        end = time.monotonic() + check_timeout(timeout, self._timeout)
        before = found = await self._ask_who_leads(end)
        body = transfer_request(before.ballot, to)
        if before.server != to and only_from in (None, before.server):
            await self._ask_leader("transfer", body, end - time.monotonic(), changes=True)
            while found.ballot <= before.ballot:
                found = await self._ask_who_leads(end)
        return found.server

    async def _ask_who_leads(self, end: float) -> StatusReply:
        """The status of the server that leads now."""
        while True:
            await self.settings(timeout=max(1e-3, end - time.monotonic()))
            address = self._core.search.target
            left = max(1e-3, end - time.monotonic())
            for reply in (await self.status(address, timeout=left)).values():
                if reply.role == "leader":
                    return reply

    async def _ask_leader(self, kind: str, body: bytes, limit: float, *, changes: bool) -> Any:
        now = self._driver.enter()
        ticket = self._core.ask_leader(kind, body, now=now, deadline=now + limit, changes=changes)
        self._driver.plan_pump()
        await self._driver.wait(ticket)
        return ticket.value()

    async def cluster_members(
        self, *, stale: bool = False, timeout: float | None = None
    ) -> Members:
        """The members, as the leader knows them; see `Client.cluster_members`."""
        return await self._carry_out(find_members(self._quest(timeout), stale=stale))

    async def change_members(
        self, *changes: MemberChange, timeout: float | None = None, tell: Tell | None = None
    ) -> Members:
        """Have the members changed so; see `Client.change_members`."""
        checked = check_changes(changes)
        return await self._carry_out(change_members(self._quest(timeout, tell), checked))

    async def add_member(
        self,
        server: int,
        *,
        learner: bool = False,
        timeout: float | None = None,
        tell: Tell | None = None,
        **given: Any,
    ) -> Members:
        """Make a server that waits a member; see `Client.add_member`."""
        check_flag("learner", learner)
        change = check_changes((MemberChange("add", server, **given),))[0]
        quest = self._quest(timeout, tell)
        return await self._carry_out(add_member(quest, change, learner=learner))

    async def replace_member(
        self,
        server: int,
        *,
        timeout: float | None = None,
        tell: Tell | None = None,
        **given: Any,
    ) -> Members:
        """Give a lost directory's place to a new one; see `Client`."""
        change = check_changes((MemberChange("replace", server, **given),))[0]
        return await self._carry_out(replace_member(self._quest(timeout, tell), change))

    def _quest(self, timeout: float | None, tell: Tell | None = None) -> Quest:
        seconds = check_timeout(timeout, self._timeout)
        return Quest(self._core.search, self._core.sightings, random.SystemRandom(), seconds, tell)

    async def _carry_out(self, steps: MemberSteps[T]) -> T:
        said: Members | None = None
        while True:
            try:
                asked = steps.send(said)
            except StopIteration as end:
                found: T = end.value
                return found
            said = await self._ask_of_members(asked)

    async def _ask_of_members(self, asked: Asked) -> Members | None:
        if not asked.address:
            await asyncio.sleep(asked.seconds)
            return None
        now = self._driver.enter()
        end = now + asked.seconds
        ticket = self._core.ask(asked.address, now=now, deadline=end, what=asked.question)
        self._driver.plan_pump()
        await self._driver.wait(ticket)
        return _answer(ticket)


def _answer(ticket: Any) -> Members | None:
    """The answer; None if there was none in time."""
    if isinstance(ticket.error, RequestTimeout):
        return None
    return msgspec.msgpack.decode(ticket.value(), type=Members)
