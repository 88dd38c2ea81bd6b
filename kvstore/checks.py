"""Arguments that the clients share: checked before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from paxon.actors.messages import ReadMode
from paxon.kvstore.errors import ClusterUnavailable, InvalidRequest

__all__ = [
    "DEFAULT_TIMEOUT",
    "DEFAULT_IN_FLIGHT",
    "check_timeout",
    "check_mode",
    "check_limit",
    "check_payload",
    "unreachable",
]

DEFAULT_TIMEOUT = 10.0
"""Seconds."""
DEFAULT_IN_FLIGHT = 4096
"""Operations of a pipeline under way."""


def check_timeout(timeout: float | None, default: float) -> float:
    """A timeout in seconds, or the default. Raises `InvalidRequest`."""
    if timeout is None:
        return default
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise InvalidRequest(f"the timeout has to be a number of seconds above 0, not {timeout!r}")
    return float(timeout)


def check_mode(mode: str) -> ReadMode:
    """A read mode. Raises `InvalidRequest`."""
    if mode not in ("linearizable", "lease", "stale"):
        raise InvalidRequest(f'the mode is "linearizable", "lease" or "stale", not {mode!r}')
    return cast("ReadMode", mode)


def check_limit(limit: object) -> None:
    """Raise `InvalidRequest` for what is no limit of a scan over several requests."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidRequest(f"the limit has to be an int from 1, not {limit!r}")


def check_payload(payload: object) -> None:
    """Raise `InvalidRequest` for what cannot be a command or query."""
    if type(payload) is not bytes:
        raise InvalidRequest(f"a command has to be bytes, not {type(payload).__name__}")
    if not payload:
        raise InvalidRequest("a command must not be empty")


def unreachable(addresses: Iterable[str], seconds: float) -> ClusterUnavailable:
    """The error of a question that none of these servers answered."""
    return ClusterUnavailable(
        f"no server answered within {seconds:g} s (asked {', '.join(addresses)}): "
        "check that they are running and reachable"
    )
