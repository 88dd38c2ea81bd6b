"""What a service manager is told (sd_notify(3)): ready, alive, stopping. Nothing if none asked.

The watchdog is fed by the server's own thread: it is asked for its figures, and only an answer
counts.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

import pykka

from paxon.actors import PaxosServer
from paxon.actors.embedding import AskFigures, Figures

__all__ = ["Notifier"]


class Notifier:
    """Tells the manager that started this process how it is; never waits."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        # (@ stands for the zero byte of Linux's abstract names.)
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._watched = environment.get("WATCHDOG_USEC", "").isdigit()
        self._asking: pykka.Future[Figures] | None = None
        self._untold: dict[str, None] = {}
        """What the manager had no room for, in order."""

    def tell(self, text: str) -> None:
        """Assignments, a line each."""
        if self._address:
            self._untold[text] = None
            self._go_on()

    def _go_on(self) -> None:
        """A reader that does not read is not waited for, but hears of it later."""
        if not self._untold:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
            door.setblocking(False)
            for text in list(self._untold):
                door.sendto(text.encode(), self._address)
                del self._untold[text]

    def feed(self, server: pykka.ActorRef[PaxosServer]) -> None:
        """Called now and then: feed the watchdog if the server has answered since the last time."""
        self._go_on()
        if not (self._address and self._watched):
            return
        if self._asking is not None:
            try:
                self._asking.get(timeout=0)
            except pykka.Timeout:
                return
            except Exception:  # it has stopped: whoever waits for it will say so
                return
            self.tell("WATCHDOG=1")
        with suppress(pykka.ActorDeadError):
            self._asking = server.ask(AskFigures(), block=False)
