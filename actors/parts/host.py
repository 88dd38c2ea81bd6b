"""What the parts of a server have in common, and who their server is to them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

if TYPE_CHECKING:
    from paxon.actors.server import PaxosServer

__all__ = ["Host", "Part", "handlers"]

Host: TypeAlias = "PaxosServer"
"""The server as its parts know it: they look at its records, queue in its outbox, and tell it what
follows from what they heard (`come_into_force`, `look_for_vote`, `confirmed`, `become`)."""


class Part:
    """Something that goes on beside the protocol, with a state of its own."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._settings = host.settings
        self._application = host.application
        self._outbox = host._outbox
        self._counters = host._counters
        self._oddities = host._oddities


def handlers(union: Any, host: Host) -> dict[type, Callable[..., None]]:
    """The handler of each message of a union: the server's method of its name, or a part's.

    `on_p1a` handles a P1A.
    """
    names = {re.sub("(?<=[a-z])(?=[A-Z])", "_", m.__name__).lower(): m for m in get_args(union)}
    parts = [part for part in vars(host).values() if isinstance(part, Part)]
    return {
        message: getattr(one, f"on_{name}")
        for name, message in names.items()
        for one in (host, *parts)
        if hasattr(one, f"on_{name}")
    }
