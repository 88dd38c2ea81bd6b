"""Arguments that the clients share: checked before anything is sent."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from paxon.actors.execution.machine_errors import in_short
from paxon.actors.messages import ReadMode
from paxon.kvstore.client.leader_search import CoreOptions
from paxon.kvstore.errors import InvalidRequest
from paxon.transport.log import logger

__all__ = [
    "DEFAULT_TIMEOUT",
    "DEFAULT_IN_FLIGHT",
    "check_timeout",
    "check_mode",
    "check_limit",
    "check_payload",
    "check_wait",
    "check_in_flight",
    "check_client",
    "check_flag",
    "call_async",
    "call_back",
    "call_plain",
    "check_callable",
]

A = TypeVar("A")
T = TypeVar("T")

DEFAULT_TIMEOUT = 10.0
"""Seconds."""
_FOR_EVER = 1e9
"""Seconds: no timeout is longer."""
DEFAULT_IN_FLIGHT = 4096
"""Operations of a pipeline under way."""


def check_timeout(timeout: float | None, default: float, least: str = "above 0") -> float:
    """A timeout in seconds, or the default. Raises `InvalidRequest`, which says the least."""
    if timeout is None:
        return default
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not number or not timeout > 0:
        raise InvalidRequest(f"the timeout has to be a number of seconds {least}, not {timeout!r}")
    return float(timeout) if timeout < _FOR_EVER else math.inf


def check_wait(timeout: float | None) -> float | None:
    """How long to wait for a future, in seconds; 0 only looks. Raises `InvalidRequest`."""
    if timeout is None or (timeout == 0 and type(timeout) is not bool):
        return timeout
    return check_timeout(timeout, 0.0, "from 0")


def check_in_flight(number: object) -> int:
    """How many operations of a pipeline may be under way. Raises `InvalidRequest`."""
    if type(number) is not int or number < 1:
        raise InvalidRequest(f"max_in_flight has to be an int from 1, not {number!r}")
    return number


def check_flag(name: str, flag: object) -> None:
    """Raise `InvalidRequest` for what is neither True nor False."""
    if type(flag) is not bool:
        raise InvalidRequest(f"{name} has to be True or False, not {flag!r}")


def check_client(redirect: object, options: object, secure: object) -> None:
    """The arguments that a client is made with. Raises `InvalidRequest`."""
    check_flag("redirect", redirect)
    if options is not None and not isinstance(options, CoreOptions):
        raise InvalidRequest(f"options have to be CoreOptions(…), not {options!r}")
    if secure is not None and not callable(secure):
        raise InvalidRequest(f"secure has to be a function, such as secure_with(…), not {secure!r}")


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
        raise InvalidRequest(f"a command or query has to be bytes, not {type(payload).__name__}")
    if not payload:
        raise InvalidRequest("a command or query must not be empty")


def call_plain(what: str, function: Callable[[A], T], argument: A) -> T:
    """Call a caller's function. Raises `InvalidRequest` if nobody would run what it returns."""
    check_callable(what, function)
    found = function(argument)
    if inspect.iscoroutine(found) or inspect.isgenerator(found):
        found.close()  # nothing of it has been run
        raise InvalidRequest(f"{what} has to be a plain function, not {function!r}")
    return found


def call_back(when: str, function: Callable[..., object], *arguments: object) -> None:
    """Call a caller's function in a thread that has to go on: what it raises is logged."""
    try:
        function(*arguments)
    except (Exception, SystemExit) as error:
        try:
            name = repr(function)
        except (Exception, SystemExit):  # (nor can the error be relied on: `in_short`)
            name = type(function).__name__
        logger.error("{}: {} raised {}", when, name, in_short(error))


async def call_async(what: str, function: Callable[[A], Awaitable[T]], argument: A) -> T:
    """The same of a function that is to be awaited."""
    if not callable(function) or not inspect.isawaitable(found := function(argument)):
        raise InvalidRequest(f"{what} has to be a coroutine function, not {function!r}")
    return await found


def check_callable(what: str, function: object) -> None:
    """Raise `InvalidRequest` for what cannot be called here, or would only make a coroutine."""
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise InvalidRequest(f"{what} has to be a plain function, not {function!r}")
