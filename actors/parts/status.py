"""A server's report on itself: for `paxon status`, and for the tests."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from paxon.actors.ballot import Ballot
from paxon.actors.environment import ClientToken, ServerBurst
from paxon.actors.execution.agreed import agreed_values, differences
from paxon.actors.members import AskMembers, Members, Outcome
from paxon.actors.messages import (
    VERSION,
    OtherCluster,
    SlotReply,
    SlotRequest,
    StatusReply,
    StatusRequest,
    Stranger,
    TellAddresses,
)
from paxon.actors.parts.host import Host, Part
from paxon.actors.records.configuration import MOST_REQUESTS
from paxon.transport.log import logger

__all__ = ["COUNTERS", "Telling", "describe", "members_now", "outcome"]

COUNTERS = (
    "elections", "pre_votes", "phase1_rounds", "preemptions", "leaderships", "step_downs",
    "handovers", "leading_us", "p2a_sent", "p2b_rejected", "slots_proposed", "slots_chosen",
    "slots_executed", "commands_executed", "queries_answered", "read_rounds", "lease_reads",
    "syncs", "bursts", "peer_messages_received", "client_messages_received", "retransmissions",
    "catch_ups", "snapshots_taken", "snapshots_received", "refused_incarnations",
    "refused_clients", "malformed_messages", "inquiries", "digest_alarms", "refused_numbers",
    "commits_denied", "refused_rejoins", "renewals", "times_proposed", "watches_answered",
    "overloaded", "without_room", "foreign_introductions",
)  # fmt: skip
"""What a server counts; `paxon status --json` shows each by name. `leading_us` is microseconds,
`overloaded` requests (and whole frames) that were refused for a bound, `without_room` values that
other servers sent and the disk could not take."""

STATUS_BYTES = 2048
"""What a status reply counts for, about."""


class Telling(Part):
    """Answers those that ask how this server is, or take it for another cluster's."""

    _warned_of: Sequence[str] = ()
    """How this server's own settings differ from what is agreed."""

    def tell_status(self, burst: ServerBurst) -> None:
        """This state is nobody's yet, or may be old: tell how it is, and send clients elsewhere."""
        host, reception = self._host, self._host.reception
        may = (
            StatusRequest, SlotRequest, TellAddresses,
            *(() if host.making.in_force else (AskMembers,)),
        )  # fmt: skip
        reception.open()
        for client, requests in burst.clients:
            for request in requests:
                if type(request) in may and not reception.spent:
                    reception.handlers[type(request)](request, client)
                else:
                    host._refuse(client)

    def on_status_request(self, request: StatusRequest, client: ClientToken) -> None:
        """Tell how this server is."""
        self._outbox.reply(client, describe(self._host, request))
        self._host.reception.count_work(client, STATUS_BYTES)

    def on_tell_addresses(self, _request: TellAddresses, client: ClientToken) -> None:
        """Tell a client where all servers are, from now on whenever that changes."""
        self._host.places.listen(client)
        self._outbox.reply(client, self._host.membership.client_places())

    def on_slot_request(self, request: SlotRequest, client: ClientToken) -> None:
        """Tell what is in a slot."""
        host, slot = self._host, request.slot
        value = host.command(slot) or b""
        ends = host.first_non_cleared(), host.last_non_empty()
        self._outbox.reply(client, SlotReply(request.id, slot, host.status(slot), value, *ends))
        host.reception.count_work(client, len(value))

    def on_stranger(self, request: Stranger, client: ClientToken) -> None:
        """A client of another cluster: it must not take our answers for that one's."""
        made = self._host.making.made
        assert made is not None  # frames of any cluster pass while this server belongs to none
        self._counters["refused_clients"] += 1
        self._outbox.reply(client, OtherCluster(made.name, made.identity, request.identity))

    def note_settings(self) -> None:
        """The last slot executed changed the agreed settings."""
        changed_at = self._application.agreed.changed_at
        logger.info(
            "server {}: settings were changed in slot {}", self._settings.server, changed_at
        )
        self.warn_of_differences()

    def warn_of_differences(self) -> None:
        """Say which of the settings given to this server count for nothing (rule 15)."""
        found = differences(self._application.agreed, self._settings.agreed_given)
        if found and found != self._warned_of:
            logger.warning(
                "server {}: {}: the agreed value stays; to change it for all servers use "
                "`paxon settings set`",
                self._settings.server, ", ".join(found),
            )  # fmt: skip
        self._warned_of = found


def describe(server: Host, request: StatusRequest) -> StatusReply:
    """A server's state now. It is looked at, and never changed."""
    application, log, made = server.application, server.log, server.making.made
    snapshot, chain = server._storage.durable.snapshot, application.chain
    now = server._clock.monotonic()
    digest_slot = request.digest_slot or chain.last
    return StatusReply(
        id=request.id,
        server=server.settings.server,
        cluster=server.settings.cluster,
        role=server.role,
        ballot=server.promised,
        leader=server.leader,
        accepted=log.last,
        chosen=log.chosen_to,
        executed=application.executed,
        discarded=log.discarded,
        snapshot=0 if snapshot is None else snapshot.slot,
        uptime=now - server._started_at,
        disk_bytes=server._storage.size_bytes(),
        state_digest=application.digest() if request.state else "",
        counters=_counters(server),
        policy=server.settings.policy,
        sessions=len(application.sessions),
        agreed=agreed_values(application.agreed),
        agreed_from=application.agreed.changed_at + 1,
        version=VERSION,
        digest_version=chain.version,
        digest_slot=digest_slot,
        digest=chain.at(digest_slot).hex(),
        alarm=server.comparing.alarm(now),
        identity=made.identity if made is not None and server.making.in_force else 0,
        members=server.configuration.servers or (() if made is None else made.servers),
        epoch=server.configuration.epoch,
        part=_part(server),
        waits_for=server.membership.waits_for,
        addresses=server.places.client_addresses(),
        time=max(server.log_time.now(server._clock.awake()), application.time),
    )


def _part(server: Host) -> str:
    if not server.making.in_force:
        return ""
    configuration, me = server.configuration, server.settings.server
    if configuration.incarnations.get(me) != server.making.incarnation:
        return "none"
    return "voter" if me in configuration.voters else "learner"


def members_now(server: Host, request: int, ballot: Ballot) -> Members:
    """The members, and how the change `request` ended, which was meant for `ballot`."""
    reign, made, log = server._reign, server.making.made, server.log
    joining = server.membership.wait_to_join()
    behind = {}
    if reign is not None:
        behind = reign.behind(server.membership.alive(), log.chosen_to)
        new = {m.server: held for m, held in joining.items() if m.server not in reign.followers}
        behind |= {server: max(0, log.chosen_to - held) for server, held in new.items()}
    ended, reason = outcome(server, request, ballot) if request else ("", "")
    clients = server.membership.places.client_address  # where each says that it is now
    members = server.membership.located().members
    return Members(
        server=server.settings.server,
        epoch=server.configuration.epoch,
        ballot=server.promised,
        leader=server.leader,
        leads=server._serves() is not None,
        members=tuple(structs.replace(m, client=clients(m.server) or m.client) for m in members),
        outcome=ended,
        reason=reason,
        behind=behind,
        joining=(*server.making.own_wish(), *joining),
        cluster=server.settings.cluster,
        identity=made.identity if made is not None and server.making.in_force else 0,
    )


def outcome(server: Host, request: int, ballot: Ballot) -> tuple[Outcome, str]:
    """How a change ended, as far as this server may say (docs/membership.md, M16)."""
    configuration, reign = server.configuration, server._reign
    if request in configuration.earlier:  # (a later one was sealed in the epoch that it began)
        return "done", ""
    if request == configuration.request and configuration.epoch:
        return ("done", "") if server._opening is None else ("pending", "")
    if reign is None:
        return "unknown", ""
    if request in reign.asked:
        refusal = reign.asked[request]
        return ("refused", refusal) if refusal else ("pending", "")
    settled = (
        ballot < server.promised
        and server.application.executed > reign.takeover_end
        and configuration.epoch - ballot.epoch < MOST_REQUESTS
    )
    return ("not done" if settled else "unknown"), ""


def _counters(server: Host) -> dict[str, int]:
    led, reign = server._counters["leading_us"], server._reign
    return {
        **server.application.figures(),
        **server._counters,
        "leading_us": led if reign is None else led + reign.microseconds(server._now),
        "watches": len(server.watches.held),
        **server._network.counters(),
        "log_slots": len(server.log),
        "log_bytes": server.log.value_bytes,
        "session_reply_bytes": server.application.sessions.kept,
        "client_requests_waiting": server.reception.turns.messages,
        "wake_ups": server.application.timer.woken,
        "failed_wake_ups": server.application.timer.failed,
    }
