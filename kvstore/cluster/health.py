"""What is wrong with a cluster, told from its servers' rows: for people, and for exit codes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from paxon.actors import ServerId
from paxon.actors.ballot import in_list
from paxon.actors.messages import StatusReply
from paxon.kvstore.cluster.status import ServerStatus
from paxon.transport import cluster_name

__all__ = ["answering", "members", "problems", "troubles"]


def answering(rows: Sequence[ServerStatus]) -> tuple[int, int]:
    """How many answer of how many that decide: of the members, not of the addresses asked.

    A learner does not count, nor an address at which nobody is any more.
    """
    replies = [row.reply for row in rows if row.reply is not None]
    known = members(rows)
    if not known:
        return len(replies), len(rows)
    voters = known - {r.server for r in replies if r.part in ("learner", "none")}
    return len(voters & {reply.server for reply in replies}), len(voters)


def members(rows: Sequence[ServerStatus]) -> set[ServerId]:
    """The members in force, by the latest word of those that answer; empty if nobody knows."""
    replies = [row.reply for row in rows if row.reply is not None]
    return set(max(replies, key=lambda reply: reply.epoch).members) if replies else set()


def problems(rows: Sequence[ServerStatus]) -> list[str]:
    """A sentence for each thing that is wrong; a server that is down is not, while most are up."""
    replies = [row.reply for row in rows if row.reply is not None]
    if strangers := _of_several_clusters(replies):
        return [strangers]
    found = []
    there, all_ = answering(rows)
    if there <= all_ // 2:
        some = f"only {there} of {all_} servers answer"
        silent = ": check that they are running" if not any(row.trouble for row in rows) else ""
        found.append(some if there else f"no server answers{silent}")
    found += troubles(rows)
    found += _differences(replies)
    found += _leaders(replies)
    found += [f"server {r.server} takes no part yet: {r.waits_for}" for r in replies if r.waits_for]
    return found


def troubles(rows: Sequence[ServerStatus]) -> list[str]:
    """A sentence for each server that is there, but cannot be talked to."""
    return [
        f"the server at {row.address} cannot be talked to: {row.trouble}"
        for row in rows
        if row.trouble
    ]


def _of_several_clusters(replies: Sequence[StatusReply]) -> str:
    """Of one and its restored backup, say: what they executed, and who leads, is not comparable."""
    found: dict[str, list[ServerId]] = defaultdict(list)
    for reply in replies:
        if reply.identity:
            found[cluster_name(reply.identity, reply.cluster)].append(reply.server)
    said = ", ".join(f"{in_list(who)} of {name}" for name, who in found.items())
    if len(found) < 2:
        return ""
    return (
        f"these are servers of several clusters: {said}; if one was recovered or restored in place "
        "of another, stop what is left of the other for good, and start it on empty directories "
        "with --join"
    )


def _differences(replies: Sequence[StatusReply]) -> list[str]:
    """Servers that executed something else than others, by hashes after one slot."""
    by_slot: dict[tuple[int, int], dict[str, list[ServerId]]] = {}
    for reply in replies:
        if reply.digest:
            there = by_slot.setdefault((reply.digest_version, reply.digest_slot), defaultdict(list))
            there[reply.digest].append(reply.server)
    found = [
        f"servers have executed different things up to slot {slot}: "
        + ", ".join(f"{digest[:8]} on {in_list(who)}" for digest, who in sorted(there.items()))
        for (_, slot), there in by_slot.items()
        if len(there) > 1
    ]
    return found + [f"server {r.server} says: {r.alarm}" for r in replies if r.alarm]


def _leaders(replies: Sequence[StatusReply]) -> list[str]:
    leaders = [reply for reply in replies if reply.role == "leader"]
    if len(leaders) > 1:
        said = " and ".join(f"server {reply.server} in {reply.ballot}" for reply in leaders)
        return [f"{said} say that they lead; one may not have heard of the other yet: look again"]
    answering = {reply.server for reply in replies}
    absent = {reply.leader for reply in replies} - answering - {0}
    if replies and not leaders and not absent:
        return ["none leads"]
    return []
