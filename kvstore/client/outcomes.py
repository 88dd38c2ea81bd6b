"""The errors that callers get: one for each way in which a request can end badly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from paxon.actors.messages import OtherCluster, ReplyStatus
from paxon.kvstore import errors
from paxon.kvstore.client.requests import Request, Ticket
from paxon.kvstore.client.sightings import Sightings
from paxon.kvstore.errors import PaxonError
from paxon.kvstore.store.operations import LANGUAGE
from paxon.transport import MAX_FRAME_BYTES, cluster_name

__all__ = [
    "CLOSED",
    "FORKED",
    "MOST_BYTES",
    "timeout",
    "overloaded",
    "wrong_cluster",
    "refused",
    "too_large",
    "not_leader",
    "other_machine",
    "session_expired",
    "not_the_store",
    "not_followed",
    "without_followers",
    "keep",
    "not_kept",
]

MOST_BYTES = MAX_FRAME_BYTES - (64 << 10)
"""A request of more fits into no frame. (Servers take less still, and say how much.)"""
CLOSED = "the client is closed: make a new one"
FORKED = (
    "the client was made in the parent process and cannot be used after a fork: "
    "make a new one in this process"
)


def timeout(
    ticket: Ticket[Any, Any], opening: Request | None, servers: Sequence[str], sightings: Sightings
) -> PaxonError:
    """The error of a ticket whose deadline has passed; a write may wait for the `opening`."""
    request = ticket.request
    # With others in its request it may yet be sent, for their sake.
    sent = request is not None and (request.undecided > 0 or len(request.tickets) > 1)
    waits_for = opening if request is None and ticket.mode is None else request
    if waits_for is not None and waits_for.overloaded is not None and not sent:
        return overloaded(ticket, *waits_for.overloaded)
    unknown = sent and ticket.mode is None
    seconds = f"{ticket.deadline - ticket.submitted:.3g} s"
    outcome = ""
    if ticket.mode is None:
        not_taken = "; the write has not been taken in, so it has no effect"
        outcome = errors.UNKNOWN if sent else not_taken
    if sightings.heard_at < ticket.submitted:
        if request is not None and request.address:
            servers = [request.address]
        return errors.ClusterUnavailable(
            f"no server answered within {seconds}{sightings.silence(servers)}{outcome}",
            sent=sent,
            unknown=unknown,
        )
    why = sightings.why(ticket.submitted, servers)
    return errors.RequestTimeout(
        f"no answer within {seconds}{': ' if why else ''}{why}{outcome}",
        sent=sent,
        unknown=unknown,
    )


def overloaded(ticket: Ticket[Any, Any], retry_after: float, why: str) -> errors.Overloaded:
    """The error of a ticket that was refused for some bound until its deadline had passed."""
    return errors.Overloaded(
        f"the servers are overloaded ({why}) and did not take it in within "
        f"{ticket.deadline - ticket.submitted:.3g} s, so it has no effect; "
        f"try again in {retry_after:g} s",
        retry_after=retry_after,
    )


def refused(status: ReplyStatus, payload: bytes) -> PaxonError:
    """The error of a request that a server answered with this status, which is not OK."""
    text = payload.decode(errors="replace")
    if status == ReplyStatus.TOO_LARGE:
        return errors.TooLarge(text)
    if status == ReplyStatus.INVALID:
        return errors.InvalidRequest(text)
    if status == ReplyStatus.FORGOTTEN:
        return errors.OutcomeUnknown(f"the write was executed, but its reply is gone: {text}")
    return errors.OperationFailed(text)


def too_large(size: int) -> errors.TooLarge:
    """The error of what no server would take, so that it is not even sent."""
    return errors.TooLarge(
        f"the request has about {size} bytes, which is more than servers take at once: "
        "do it in parts"
    )


def not_leader(target: str, leader: int, address: str) -> errors.NotLeader:
    """The error of what `target` will not do because `leader` (0: unknown) leads."""
    who = f"server {leader} at {address}" if leader else "none that it knows of"
    return errors.NotLeader(
        f"the server at {target} does not lead; the leader is {who}", leader=leader, address=address
    )


def other_machine(theirs: str, ours: str) -> errors.OperationFailed:
    """The error of all that a client of the store, or a proxy, asks of another state machine."""
    takes = f" (it takes commands in {theirs!r})" if theirs else ""
    _, proxied, name = ours.rpartition("/")
    what = f"the class {name!r}" if proxied else "the key-value store"
    use = "use Client" if theirs == LANGUAGE else "use a CommandClient"
    if "/" in theirs:
        use = "use a proxy of the class that they run"
    return errors.OperationFailed(
        f"the servers' state machine is not {what}{takes}, so nothing was sent that it would "
        f"execute: {use}"
    )


def session_expired() -> errors.OutcomeUnknown:
    """The error of a write whose session is gone, and of which a copy may have been executed."""
    return errors.OutcomeUnknown(
        "the client's session expired while the write was being retried: "
        "it may or may not have taken effect; read to find out"
    )


def not_the_store(text: str) -> errors.OperationFailed:
    """The error of a watch that was answered in another language than the store's."""
    return errors.OperationFailed(
        "the reply is not one of the key-value store: if the cluster runs another state machine, "
        f"it holds no watches of keys; what came is malformed: {text}"
    )


def wrong_cluster(
    address: str, reply: OtherCluster, requests: Iterable[Request]
) -> errors.WrongCluster:
    """The error of all that is asked for when a server of another cluster has answered.

    It takes in nothing, but what was sent to the client's own cluster may be executed, at this very
    address, too: a server of that may have been here before. The requests of which that is so end
    here, with an error that says it.
    """
    text = (
        f"the servers at {address} belong to another cluster, "
        f"{cluster_name(reply.identity, reply.name)}, than this client, which belongs to "
        f"{cluster_name(reply.asked)}: give it the servers of one cluster, and make a new client "
        "if that one was made anew"
    )
    outcome = (
        "; the write may have taken effect in the client's own cluster: its outcome is unknown"
    )
    for request in requests:
        if request.kind == "command" and request.undecided > 0:
            for ticket in request.tickets:
                error = errors.WrongCluster(text + outcome, address=address, unknown=True)
                ticket.complete(None, error, False)
    return errors.WrongCluster(text, address=address)


def not_followed(error: PaxonError | None, sent: bool = False) -> PaxonError:
    """The error of a command that was to follow one that failed with `error`."""
    if isinstance(error, errors.NotLeader | errors.ClientClosed):
        return error
    if sent:
        return errors.OutcomeUnknown(
            f"it was to follow an operation that failed ({error}); "
            "it may have taken effect if that one did"
        )
    return errors.OperationFailed(
        f"it was not executed, since an operation before it failed ({error})"
    )


def without_followers(waiting: list[Request], chain: list[Request]) -> list[Request]:
    """Of commands that wait for a new session all but these, and those that follow them.

    The latter fail, and join the chain.
    """
    kept = []
    for request in waiting:
        if request in chain:
            continue
        if request.after in chain:
            for ticket in request.tickets:
                ticket.complete(None, not_followed(chain[0].tickets[0].error), False)
            chain.append(request)
        else:
            kept.append(request)
    return kept


def keep(error: PaxonError, ticket: Ticket[Any, Any], request: Request) -> None:
    """Have a write's request kept for as long as this error is, if its outcome is unknown."""
    if isinstance(error, errors.RequestTimeout) and error.unknown:
        error.kept = request.keep(ticket)


def not_kept() -> errors.OutcomeUnknown:
    """The error of asking again for a write of which servers cannot be asked any more."""
    return errors.OutcomeUnknown(
        "the write cannot be asked for again: its session has ended, too much was asked since, or "
        "it is being asked for already; it may or may not have taken effect; read to find out"
    )
