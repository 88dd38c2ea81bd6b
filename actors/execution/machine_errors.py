"""What a state machine's method may raise or return, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from paxon.actors.execution.agreed import NAMES, Limit
from paxon.actors.execution.state_machine import StateMachine

__all__ = [
    "MachineFailure", "ExecutionFailed", "bytes_from", "check_limits", "depends_on_process",
    "error_reply", "in_short",
]  # fmt: skip

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


def check_limits(machine: StateMachine | type[StateMachine]) -> str:
    """A sentence on what is wrong with a state machine's limits; "" if nothing is."""
    limits: object = machine.limits
    name = machine.__name__ if isinstance(machine, type) else type(machine).__name__
    if not isinstance(limits, Mapping):
        return f"{name}.limits has to be a dict of Limit(…) by name, not {limits!r:.80}"
    for key, limit in limits.items():
        where = f"{name}.limits[{key!r}]"
        if not isinstance(key, str) or not key.isidentifier() or key in NAMES or len(key) > 100:
            return f"{where}: its name has to be a word of its own, and no setting of Paxon's"
        if not isinstance(limit, Limit):
            return f"{where} = {limit!r:.80}: write Limit(default=…, least=…, most=…, before=…)"
        numbers = (limit.default, limit.least, limit.most, limit.before)
        if any(type(number) is not int or abs(number) >= 1 << 63 for number in numbers):
            return f"{where}: its values have to be whole numbers within 63 bits"
        if not limit.least <= limit.default <= limit.most:
            return f"{where}: default has to be from least ({limit.least}) to most ({limit.most})"
    return ""
