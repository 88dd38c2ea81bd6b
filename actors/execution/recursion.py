"""The same room for recursion in the user's state machine, wherever the caller stands.

Python counts how deep calls nest from the bottom of a thread's stack. A state machine that recurses
would fail at one server and not at another, whose call came from another place. So what is called
here finds room for exactly `ALLOWANCE` nested calls: frames that do nothing use up what is beyond
that. The interpreter's limit, which all threads share, is raised where it leaves less room, and
never lowered: other threads of an embedding program may stand deep already.

CPython 3.12 and later count calls made from C (a parser's, for example) apart and in a way that
cannot be set. Their room is the same on every server as long as only Python code calls from the
server's loop down to here: no `sum`, `map` or `sorted` on the way (docs/design/digests.md).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

from paxon.actors.execution.machine_errors import MachineFailure

__all__ = ["ALLOWANCE", "with_allowance"]

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

ALLOWANCE = 1000
"""Calls that may nest in a state machine's method, Python's usual limit."""
MOST = 20_000
"""A limit above this is refused: using up what it leaves would take milliseconds each time."""


def with_allowance(call: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call with room for exactly `ALLOWANCE` nested calls, the called one included.

    The limit is raised to what the deepest caller so far has needed, so there is little to use up:
    in a server's own thread the difference between its few ways to get here.
    """
    while True:
        limit = sys.getrecursionlimit()
        if limit > MOST:
            raise MachineFailure(
                f"this process has raised Python's recursion limit to {limit}, so that a state "
                f"machine may not fail here where it fails on other servers: set it to at most "
                f"{MOST}, or run the server in a process of its own"
            )
        # How deep the interpreter stands, by its own count, in which C's calls may have a part, it
        # says when it is asked for a limit that would already be passed; it changes nothing then.
        try:
            sys.setrecursionlimit(1)
        except RecursionError as error:
            text: str = error.args[0]
            depth = int(text[text.rindex("depth ") + 6 : text.rindex(":")])
        else:
            raise MachineFailure("this Python does not say how deep its calls nest")
        spare = limit - depth - ALLOWANCE
        if spare == 0:
            return call(*args)
        if spare > 0:
            return _sink(spare, call, args)
        sys.setrecursionlimit(limit - spare)


def _sink(levels: int, call: Callable[..., T], args: tuple[Any, ...]) -> T:
    if levels > 1:
        return _sink(levels - 1, call, args)
    return call(*args)
