"""What a state machine's method may raise or return, and the room for recursion that it finds.

The room is the same wherever the caller stands. Python counts how deep calls nest from the bottom
of a thread's stack, so a state machine that recurses would fail at one server and not at another.
Therefore what is called by `with_allowance` finds room for exactly `ALLOWANCE` nested calls: frames
that do nothing use up what is beyond that. The interpreter's limit, which all threads share, is
raised where it leaves less room, and never lowered: other threads of an embedding program may stand
deep already.

CPython 3.12 and later count calls made from C (a parser's, for example) apart and in a way that
cannot be set. Their room is the same on every server as long as only Python code calls from the
server's loop down to here: no `sum`, `map` or `sorted` on the way (docs/design/digests.md).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

from paxon.actors.execution.state_machine import StateMachine

__all__ = [
    "ALLOWANCE", "MachineFailure", "ExecutionFailed", "bytes_from", "depends_on_process",
    "error_reply", "in_short", "with_allowance",
]  # fmt: skip

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

ALLOWANCE = 1000
"""Calls that may nest in a state machine's method, Python's usual limit."""
MOST = 20_000
"""A limit above this is refused: using up what it leaves would take milliseconds each time."""
MAX_TEXT = 4096
"""Characters of an exception's text that become part of a reply."""
_name_of: Callable[[type], str] = vars(type)["__name__"].__get__
_cause_of, _context_of = (
    vars(BaseException)[f"__{each}__"].__get__ for each in ("cause", "context")
)
_members_of = vars(BaseExceptionGroup)["exceptions"].__get__
"""Python's own, whatever the user's class has in their place: nothing here may raise."""


class MachineFailure(Exception):
    """The state machine keeps this server from going on; the text is one sentence for people."""


class ExecutionFailed(MachineFailure):
    """Executing a slot ended in an error that depends on this process, not on the log alone."""

    def __init__(
        self, machine: StateMachine, slot: int, error: BaseException, method: str = "apply"
    ) -> None:
        self.slot = slot
        super().__init__(
            f"executing slot {slot} stopped this server: {type(machine).__name__}.{method}() ended "
            f"in {in_short(error)}, which other servers may not see; start it again (with more "
            f"memory, if that was short): it goes on from its disk"
        )


def depends_on_process(error: BaseException) -> bool:
    """Whether an exception comes of this process (being short of memory) and not of the command.

    The state machine may have put other exceptions around that one. Whatever else it raises is the
    command's error, `SystemExit`, `GeneratorExit` and `KeyboardInterrupt` too: nobody outside can
    make a server's thread raise them (Ctrl-C reaches the main thread alone), so they come of the
    command, on every server.
    """
    seen: set[int] = set()
    ahead: list[BaseException | None] = [error]
    while ahead:
        next_one = ahead.pop()
        if next_one is None or id(next_one) in seen:
            continue
        if issubclass(type(next_one), MemoryError):
            return True
        seen.add(id(next_one))
        ahead += [_cause_of(next_one), _context_of(next_one)]
        if issubclass(type(next_one), BaseExceptionGroup):
            ahead += _members_of(next_one)
    return False


def error_reply(error: BaseException) -> bytes:
    """An error reply: the exception's class and text."""
    return in_short(error).encode(errors="replace")


def in_short(error: BaseException) -> str:
    """An exception's class and text."""
    name = _name_of(type(error))
    try:
        text = str.__getitem__(str(error), slice(MAX_TEXT))  # (it may be of a class of its own)
    except MemoryError:
        raise
    except BaseException:  # the user's own __str__
        text = ""
    return f"{name}: {text}" if text else name


def bytes_from(machine: StateMachine, method: str, result: object) -> bytes:
    """The result of a method, which has to be bytes. Raises `TypeError`."""
    if isinstance(result, bytes):
        return bytes(result)
    raise TypeError(
        f"{type(machine).__name__}.{method}() returned {type(result).__name__}, not bytes"
    )


class _Depths(dict[str, int]):
    """How deep the interpreter stands by what it says; of each text but once (they are few)."""

    def __missing__(self, text: str) -> int:
        depth = self[text] = int(text[text.rindex("depth ") + 6 : text.rindex(":")])
        return depth


_depth_in = _Depths()


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
            spare = limit - _depth_in[error.args[0]] - ALLOWANCE
        else:
            raise MachineFailure("this Python does not say how deep its calls nest")
        if spare == 0:
            return call(*args)
        if spare > 0:
            return _sink(spare, call, args)
        sys.setrecursionlimit(limit - spare)


def _sink(levels: int, call: Callable[..., T], args: tuple[Any, ...]) -> T:
    if levels > 1:
        return _sink(levels - 1, call, args)
    return call(*args)
