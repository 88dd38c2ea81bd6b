"""What commands cost before they are executed: an estimate, at the leader alone."""

from __future__ import annotations

from collections.abc import Callable

from paxon.actors.execution.machine_errors import error_reply
from paxon.actors.execution.state_machine import StateMachine
from paxon.actors.limits.allowances import COST_PER_SLOT, TURN_BYTES
from paxon.actors.messages import Command, Entry

__all__ = ["Costs"]


class Costs:
    """Refuses what is too dear for a slot, and remembers what the dear ones cost."""

    def __init__(self, machine: StateMachine, on_dear: Callable[[], None]) -> None:
        """`on_dear` is called whenever dear ones wait for their slot that cost `TURN_BYTES`."""
        self._cost = machine.cost
        self.dear: dict[tuple[int, int], int] = {}
        """What those waiting cost that cost more than they are long, and …"""
        self.total = 0
        """… all of these together."""
        self._on_dear = on_dear

    def refusal(self, command: Command) -> bytes:
        """Why a command is too dear; empty if it is not. It has been checked."""
        try:
            cost = int(self._cost(command.command))
        except BaseException as error:  # the user's code may raise anything: it stops nobody
            return error_reply(error)
        if cost <= len(command.command):
            return b""
        if cost > COST_PER_SLOT:
            text = (
                f"it would cost about {cost} bytes of work; {COST_PER_SLOT} are allowed: split it"
            )
            return text.encode()
        self.dear[command.session, command.seq] = cost
        self.total += cost
        if self.total >= TURN_BYTES:
            self._on_dear()
        return b""

    def of(self, entry: Entry) -> int:
        """The cost of a waiting entry; 0 if it is not dear."""
        return self.dear.get((entry.session, entry.seq), 0)

    def forget(self, entry: Entry) -> None:
        """It has got its slot."""
        self.total -= self.dear.pop((entry.session, entry.seq), 0)
