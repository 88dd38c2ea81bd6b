"""The services Cluster, Maintenance and Auth: of what etcd's clients ask of a member."""

from __future__ import annotations

import asyncio
import tempfile
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

from paxon.kvstore.etcd.calls import Call, Method
from paxon.kvstore.etcd.errors import Code, Refused
from paxon.kvstore.etcd.front import Front
from paxon.kvstore.etcd.messages import message
from paxon.kvstore.store import operations as wire

__all__ = ["ETCD_VERSION", "ClusterService", "Save"]

Save: TypeAlias = Callable[[Path, str], object]
"""Writes a backup of the store into a new file, given the cluster's name. Raises `PaxonError`."""
_PART_BYTES = 64 << 10

ETCD_VERSION = "3.4.23"
"""The etcd that this was held against, and whose API is served."""

_OTHERWISE = "is done by Paxon's own means, not by this API"
_AUTH = (
    "AuthEnable", "Authenticate", "UserAdd", "UserGet", "UserList", "UserDelete",
    "UserChangePassword", "UserGrantRole", "UserRevokeRole", "RoleAdd", "RoleGet", "RoleList",
    "RoleDelete", "RoleGrantPermission", "RoleRevokePermission",
)  # fmt: skip
_AUTH_PATHS = {
    "AuthEnable": "enable", "Authenticate": "authenticate", "UserAdd": "user/add",
    "UserGet": "user/get", "UserList": "user/list", "UserDelete": "user/delete",
    "UserChangePassword": "user/changepw", "UserGrantRole": "user/grant",
    "UserRevokeRole": "user/revoke", "RoleAdd": "role/add", "RoleGet": "role/get",
    "RoleList": "role/list", "RoleDelete": "role/delete", "RoleGrantPermission": "role/grant",
    "RoleRevokePermission": "role/revoke",
}  # fmt: skip


def _refuses(code: int, text: str) -> Callable[[Any, float], Awaitable[Any]]:
    async def refuse(_request: Any, _timeout: float) -> Any:
        raise Refused(code, text)

    return refuse


class ClusterService:
    """Answers the calls of these services."""

    def __init__(self, front: Front, save: Save | None = None) -> None:
        """`save`: writes a backup; None: there is nothing that does."""
        self._front, self._save = front, save
        self._saving = asyncio.Lock()
        change = _refuses(Code.UNIMPLEMENTED, f"etcdserver: a change of members {_OTHERWISE}")
        self.methods = [
            Method(
                "/etcdserverpb.Cluster/MemberList", "/v3/cluster/member/list",
                "MemberListRequest", self.members,
            ),
            Method(
                "/etcdserverpb.Cluster/MemberAdd", "/v3/cluster/member/add", "MemberAddRequest",
                change,
            ),
            Method(
                "/etcdserverpb.Cluster/MemberRemove", "/v3/cluster/member/remove",
                "MemberRemoveRequest", change,
            ),
            Method(
                "/etcdserverpb.Cluster/MemberUpdate", "/v3/cluster/member/update",
                "MemberUpdateRequest", change,
            ),
            Method(
                "/etcdserverpb.Cluster/MemberPromote", "/v3/cluster/member/promote",
                "MemberPromoteRequest", change,
            ),
            Method(
                "/etcdserverpb.Maintenance/Status", "/v3/maintenance/status", "StatusRequest",
                self.status,
            ),
            Method(
                "/etcdserverpb.Maintenance/Alarm", "/v3/maintenance/alarm", "AlarmRequest",
                self.alarm,
            ),
            Method(
                "/etcdserverpb.Maintenance/Defragment", "/v3/maintenance/defragment",
                "DefragmentRequest", self.defragment,
            ),
            Method("/etcdserverpb.Maintenance/Hash", "", "HashRequest", self.hash),
            Method(
                "/etcdserverpb.Maintenance/HashKV", "/v3/maintenance/hash", "HashKVRequest",
                self.hash_kv,
            ),
            Method(
                "/etcdserverpb.Maintenance/Snapshot", "/v3/maintenance/snapshot",
                "SnapshotRequest", None, self.snapshot,
            ),
            Method(
                "/etcdserverpb.Maintenance/MoveLeader", "/v3/maintenance/transfer-leadership",
                "MoveLeaderRequest",
                _refuses(Code.UNIMPLEMENTED, f"etcdserver: a transfer of leadership {_OTHERWISE}"),
            ),
            Method("/grpc.health.v1.Health/Check", "", "HealthCheckRequest", self.health),
            Method(
                "/etcdserverpb.Auth/AuthStatus", "/v3/auth/status", "AuthRequest",
                self.auth_status,
            ),
            Method(
                "/etcdserverpb.Auth/AuthDisable", "/v3/auth/disable", "AuthRequest",
                self.auth_status,
            ),
        ]  # fmt: skip
        not_enabled = _refuses(
            Code.FAILED_PRECONDITION, "etcdserver: authentication is not enabled"
        )
        for name in _AUTH:
            path = f"/v3/auth/{_AUTH_PATHS[name]}"
            self.methods.append(
                Method(f"/etcdserverpb.Auth/{name}", path, "AuthRequest", not_enabled)
            )

    async def members(self, _request: Any, _timeout: float) -> Any:
        """The cluster's servers, each with the gateways that stand for it."""
        front = self._front
        answer = message("MemberListResponse")(header=front.header(0))
        answer.header.revision = 0  # as etcd: it is of no revision
        for member in front.members:
            urls = front.urls_of(member.id)
            answer.members.add(
                ID=member.id, name=member.name, clientURLs=urls,
                peerURLs=urls,  # (some clients want one; servers' own ports are not for them)
                isLearner=member.reply is not None and member.reply.part == "learner",
            )  # fmt: skip
        return answer

    async def status(self, _request: Any, _timeout: float) -> Any:
        """How this gateway's member is, as far as the last look showed."""
        front = self._front
        await front.look()
        replies = [each.reply for each in front.members if each.id == front.member_id]
        answer = message("StatusResponse")(
            header=front.header(), version=ETCD_VERSION, leader=front.leader, raftTerm=front.term
        )
        if replies and replies[0] is not None:
            reply = replies[0]
            answer.dbSize = answer.dbSizeInUse = reply.disk_bytes
            answer.raftIndex, answer.raftAppliedIndex = reply.chosen, reply.executed
            answer.isLearner = reply.part == "learner"
            if reply.alarm:
                answer.errors.append(reply.alarm)
        return answer

    async def alarm(self, _request: Any, _timeout: float) -> Any:
        """There are none. (As etcd: without a header.)"""
        return message("AlarmResponse")()

    async def defragment(self, _request: Any, _timeout: float) -> Any:
        """There is nothing to do. (As etcd: without a header.)"""
        return message("DefragmentResponse")()

    async def health(self, request: Any, _timeout: float) -> Any:
        """Whether this process serves, as gRPC's own service for that asks it."""
        if request.service:
            raise Refused(Code.NOT_FOUND, "unknown service")
        return message("HealthCheckResponse")(status=1)

    def _digest(self) -> int:
        """Of what was executed: the same for all servers at the same slot."""
        replies = [each.reply for each in self._front.members if each.reply is not None]
        newest = max(replies, key=lambda reply: reply.digest_slot, default=None)
        return zlib.crc32(b"" if newest is None else newest.digest.encode())

    async def hash(self, _request: Any, _timeout: float) -> Any:
        """A hash of Paxon's own."""
        await self._front.look()
        return message("HashResponse")(header=self._front.header(), hash=self._digest())

    async def hash_kv(self, request: Any, timeout: float) -> Any:
        """A hash of Paxon's own, of now: there is none of a revision, but it has to be one."""
        wanted = wire.Range(b"\0", revision=max(0, request.revision), count_only=True)
        await self._front.ask_one(wanted, timeout)
        await self._front.look()
        return message("HashKVResponse")(header=self._front.header(), hash=self._digest())

    async def snapshot(self, call: Call) -> None:
        """A backup of Paxon's own kind (docs/running/backups.md): etcd's would be no use to it."""
        if self._save is None:
            raise Refused(Code.UNIMPLEMENTED, f"etcdserver: a backup {_OTHERWISE}")
        await call.receive()
        front = self._front
        async with self._saving:  # (one at a time: each takes a client and a file)
            with tempfile.TemporaryDirectory(prefix="paxon-snapshot-") as directory:
                path = Path(directory) / "backup"
                await asyncio.to_thread(self._save, path, front.cluster)
                left = path.stat().st_size
                with path.open("rb") as file:
                    while part := file.read(_PART_BYTES):
                        left -= len(part)
                        await call.send(message("SnapshotResponse")(
                            header=front.header(), remaining_bytes=left, blob=part
                        ))  # fmt: skip

    async def auth_status(self, _request: Any, _timeout: float) -> Any:
        """Say that access is not for etcd's API to decide here."""
        return message("AuthStatusResponse")(header=self._front.header())
