"""The state machine's timer: when it wants to be woken, and waking it (rule 13)."""

from __future__ import annotations

from paxon.actors.execution.machine_errors import ExecutionFailed, depends_on_process, in_short
from paxon.actors.execution.state_machine import StateMachine
from paxon.transport.log import logger

__all__ = ["MachineTimer"]


class MachineTimer:
    """Runs at every server in the slots whose time reaches what the state machine asked for."""

    def __init__(self, machine: StateMachine) -> None:
        self._machine = machine
        self.tells = type(machine).advance is not StateMachine.advance
        self.asks = type(machine).next_wakeup is not StateMachine.next_wakeup
        """Whether the machine has use for `advance`, and for `wake`."""
        self.next: int | None = None
        """When the machine wants to be woken, as it said after the last slot."""
        self.due: int | None = None
        """When a leader has to propose a slot for it: the same, but never while it is tired."""
        self.tired = False
        """It was still due after it was woken. Replicated: no slot wakes it before a command."""
        self.woken = self.failed = 0
        """How often it was woken, and raised."""

    def advance(self, slot: int, time: int) -> None:
        """A slot with this time is executed next."""
        try:
            self._machine.advance(time)
        except BaseException as error:  # the user's code may raise anything
            self._say("advance", slot, error)

    def ring(self, slot: int, time: int) -> bytes:
        """Wake the machine, which is due; what enters the chain of hashes for it.

        (`look`, after the slot's entries, says when it is due again.)
        """
        self.woken += 1
        more = False
        outcome = b"\1"
        try:
            more = bool(self._machine.wake(time))
        except BaseException as error:  # the user's code may raise anything
            self._say("wake", slot, error)
            self.failed += 1
            outcome = b"\2"
        self.next = self._ask(slot)
        self.tired = not more and self.next is not None and self.next <= time
        return outcome

    def look(self, slot: int, *, commands: bool) -> None:
        """Entries of a slot were executed: ask when to wake the machine next."""
        due = self.next = self._ask(slot)
        if self.tired:
            self.tired = not commands
        self.due = None if self.tired else due

    def restored(self, slot: int, *, tired: bool) -> None:
        """The machine has become that of a snapshot."""
        self.tired = tired
        if self.asks:
            self.look(slot, commands=False)

    def _ask(self, slot: int) -> int | None:
        try:
            due = self._machine.next_wakeup()
            if due is None or type(due) is int:
                return due
            raise TypeError(f"it returned {due!r:.80}, not a whole number of nanoseconds")
        except BaseException as error:
            self._say("next_wakeup", slot, error)
            return None

    def _say(self, method: str, slot: int, error: BaseException) -> None:
        if depends_on_process(error):
            raise ExecutionFailed(self._machine, slot, error, method) from error
        kind = type(self._machine).__name__
        logger.error("{}.{}() raised in slot {}: {}", kind, method, slot, in_short(error))
