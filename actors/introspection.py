"""What a server says of itself when it is asked: its status, and what is in a slot."""

from __future__ import annotations

from typing import Literal

from paxon.actors.agreed import agreed_values
from paxon.actors.ballot import ServerId
from paxon.actors.comparing import Comparing
from paxon.actors.environment import ClientToken
from paxon.actors.making import in_list
from paxon.actors.messages import SlotReply, SlotRequest, StatusReply, StatusRequest
from paxon.actors.phase1 import Candidacy
from paxon.actors.version import VERSION

__all__ = ["Introspection"]

STATUS_BYTES = 2048
"""What a status reply counts for, about."""


class Introspection(Comparing):
    """Answers questions and changes nothing."""

    role: Literal["leader", "candidate", "follower"]
    leader: ServerId
    _leading_since: float
    _candidacy: Candidacy | None
    _known_commit: int

    def on_status_request(self, request: StatusRequest, client: ClientToken) -> None:
        self._reply(client, self.describe(request))
        self._count_work(client, STATUS_BYTES)

    def _leading_us(self) -> int:
        """Microseconds of the present reign; 0 while not leading."""
        return round((self._now - self._leading_since) * 1e6) if self.role == "leader" else 0

    def rejoining(self) -> str:
        """Where this server stands on its way back to its vote; "" if it votes."""
        if self.voting:
            return ""
        if self.log.chosen_to < self._known_commit:
            return f"is catching up, at slot {self.log.chosen_to:,} of {self._known_commit:,}"
        if self._candidacy is None:
            return "waits for its turn to ask all other servers for their promises"
        missing = [s for s in self._others if s not in self._candidacy.promised]
        return f"waits for the promise of {in_list(missing)}, for all others have to give theirs"

    def describe(self, request: StatusRequest = StatusRequest(0)) -> StatusReply:  # noqa: B008
        """This server's state now, as `paxon status` shows it."""
        snapshot, chain = self._storage.snapshot, self.application.chain
        digest_slot = request.digest_slot or chain.last
        return StatusReply(
            id=request.id,
            server=self.settings.server,
            cluster=self.settings.cluster,
            role=self.role,
            ballot=self.promised,
            leader=self.leader,
            accepted=self.log.last,
            chosen=self.log.chosen_to,
            executed=self.application.executed,
            discarded=self.log.discarded,
            snapshot=0 if snapshot is None else snapshot.slot,
            uptime=self._clock.monotonic() - self._started_at,
            disk_bytes=self._storage.size_bytes(),
            state_digest=self.application.digest() if request.state else "",
            counters={
                **self._counters,
                "leading_us": self._counters["leading_us"] + self._leading_us(),
                **self._network.counters(),
                "log_slots": len(self.log),
                "log_bytes": self.log.value_bytes,
                "session_reply_bytes": self.application.sessions.kept,
                "client_requests_waiting": self._turns.messages,
            },
            policy=self.settings.policy,
            sessions=len(self.application.sessions),
            agreed=agreed_values(self.application.agreed),
            agreed_from=self.application.agreed.changed_at + 1,
            version=VERSION,
            voting=self.voting,
            digest_version=chain.version,
            digest_slot=digest_slot,
            digest=chain.at(digest_slot).hex(),
            alarm=self.alarm,
            identity=self.making.made.identity if self.making.made and self._in_force else 0,
            members=() if self.making.made is None else self.making.made.servers,
            waits_for=self.waits_for() if self._in_force else self.making.waits_for(),
            rejoining=self.rejoining(),
            addresses=self.settings.client_addresses,
        )

    def on_slot_request(self, request: SlotRequest, client: ClientToken) -> None:
        value = self.command(request.slot) or b""
        self._reply(
            client,
            SlotReply(
                request.id, request.slot, self.status(request.slot), value,
                self.first_non_cleared(), self.last_non_empty(),
            ),
        )  # fmt: skip
        self._count_work(client, len(value))
