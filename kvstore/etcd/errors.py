"""What goes wrong, in etcd's own codes and texts: its clients match on both."""

from __future__ import annotations

from paxon.kvstore import errors
from paxon.kvstore.store.operations import Result, is_refusal

__all__ = ["CODES", "Code", "Refused", "accepted", "in_etcds_terms"]


class Code:
    """gRPC's codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


CODES = {
    Code.OK: 200,
    Code.CANCELLED: 408,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 412,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
}
"""The status that the JSON gateway answers for each."""


class Refused(Exception):
    """A call ends with this code and text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def empty_key() -> Refused:
    return Refused(Code.INVALID_ARGUMENT, "etcdserver: key is not provided")


def key_not_found() -> Refused:
    return Refused(Code.INVALID_ARGUMENT, "etcdserver: key not found")


def value_provided() -> Refused:
    return Refused(Code.INVALID_ARGUMENT, "etcdserver: value is provided")


def lease_provided() -> Refused:
    return Refused(Code.INVALID_ARGUMENT, "etcdserver: lease is provided")


def too_many_operations() -> Refused:
    return Refused(Code.INVALID_ARGUMENT, "etcdserver: too many operations in txn request")


def duplicate_key() -> Refused:
    return Refused(Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request")


def invalid_sort() -> Refused:
    return Refused(Code.INVALID_ARGUMENT, "etcdserver: invalid sort option")


def compacted() -> Refused:
    return Refused(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")


def future_revision() -> Refused:
    return Refused(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")


def lease_not_found() -> Refused:
    return Refused(Code.NOT_FOUND, "etcdserver: requested lease not found")


def lease_exists() -> Refused:
    return Refused(Code.FAILED_PRECONDITION, "etcdserver: lease already exists")


def lease_ttl_too_large() -> Refused:
    return Refused(Code.OUT_OF_RANGE, "etcdserver: too large lease TTL")


def too_large() -> Refused:
    return Refused(Code.INVALID_ARGUMENT, "etcdserver: request is too large")


def answer_too_large(size: int, most: int) -> Refused:
    text = f"grpc: trying to send message larger than max ({size} vs. {most})"
    return Refused(Code.RESOURCE_EXHAUSTED, text)


def too_many_requests() -> Refused:
    return Refused(Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests")


def timed_out() -> Refused:
    return Refused(Code.UNAVAILABLE, "etcdserver: request timed out")


def stopped() -> Refused:
    return Refused(Code.UNAVAILABLE, "etcdserver: server stopped")


def accepted(result: Result) -> Result:
    """The result of an operation. Raises `Refused` if the store refused it."""
    if not is_refusal(result):
        return result
    match result.get("kind", ""):
        case "compacted":
            raise compacted()
        case "future":
            raise future_revision()
        case "lease":
            raise lease_not_found()
        case "exists":
            raise lease_exists()
        case "missing":
            raise key_not_found()
        case "large":
            raise too_large()
        case _:
            raise Refused(Code.INVALID_ARGUMENT, f"etcdserver: {result.get('error', 'refused')}")


def in_etcds_terms(error: errors.PaxonError) -> Refused:
    """An error of Paxon's client as etcd would say it."""
    match error:
        case errors.Compacted():
            return compacted()
        case errors.FutureRevision():
            return future_revision()
        case errors.TooLarge():
            return too_large()
        case errors.LeaseExpired():
            return lease_not_found()
        case errors.Overloaded():
            return too_many_requests()
        case errors.ClientClosed():
            return stopped()
        case errors.RequestTimeout():
            return timed_out()
        case errors.InvalidRequest():
            return Refused(Code.INVALID_ARGUMENT, f"etcdserver: {error}")
        case _:
            return Refused(Code.UNAVAILABLE, f"etcdserver: {error}")
