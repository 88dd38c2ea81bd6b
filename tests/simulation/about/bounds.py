"""Small bounds: a run about overload (docs/design/overload.md), drawn apart from the rest.

The bounds of earnest are megabytes and thousands; a simulated run has a few dozen commands. So some
runs have bounds that a few of them reach. What decides how a command ends is agreed (`max_kept`,
`max_kept_each`) or belongs to the format, so it is the same on all servers; the rest is each
server's own business. Under such bounds a client is refused often, and what it is then told ("it
has no effect") is checked: no network delivers its frames twice there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from types import ModuleType
from typing import TYPE_CHECKING

from paxon.actors.limits import allowances, turns
from paxon.transport.outgoing import LargeFrames
from tests.simulation.about.rarities import LIMITS

if TYPE_CHECKING:
    from tests.simulation.plan import Plan

__all__ = ["BOUNDS", "UNREAD", "UnreadFrames", "bounded", "draw_bounds"]

SHARE = 0.25
"""So many of all runs are about bounds."""

BOUNDS: dict[str, tuple[int | float, ...]] = {
    # of the replicated state
    "KEPT_SHARE": (1, 100, 150),
    "SLOT_REPLIES": (1, 80, 150),
    "SLOT_REPLIES_AT_MOST": (150, 300),
    "LARGE_REPLY": (1, 65, 70),
    # of a step
    "CLIENT_SECONDS": (0.0,),
    "EXECUTE_SECONDS": (0.0,),
    "FRAME_BYTES": (1, 100, 1000),
    "IN_FLIGHT_BYTES": (1, 100),
    "TRANSFERS_PER_PEER": (1, 100),
    "BURST_MESSAGES": (1, 2),
    "TURN_MESSAGES": (1,),
    # of what waits (a client's frame has to fit in)
    "MAX_PENDING": (1, 2),
    "MAX_READS": (1, 2),
    "MAX_READ_BYTES": (1,),
    "MAX_MESSAGES": (12, 16),
    "MAX_BYTES": (1200, 1600),
    "MAX_TOTAL_MESSAGES": (16, 24),
    "MAX_TOTAL_BYTES": (1600, 2400),
    "OPENINGS": (1, 2),
}
"""Constants of the servers, and what may be drawn for each."""

ON_REPLIES = ("KEPT_SHARE", "SLOT_REPLIES", "SLOT_REPLIES_AT_MOST", "LARGE_REPLY")
"""What is the same on every server: drawn together, or few commands would meet it."""

UNREAD = ("unread_bytes", "unread_total", "unread_seconds")
"""Bytes that may wait for one receiver, and for all; and for how long a frame waits to be read."""


def draw_bounds(plan: Plan, wanted: bool | None) -> None:
    """Make it a run that is about bounds, if `wanted`; None: perhaps."""
    random = Random(f"bounds {plan.seed}")
    chance = random.random() < SHARE
    if not (chance if wanted is None else wanted):
        return
    if random.random() < 0.5:
        plan.bounds |= {name: random.choice(BOUNDS[name]) for name in ON_REPLIES}
    for name, values in BOUNDS.items():
        if name not in ON_REPLIES and random.random() < 0.35:
            plan.bounds[name] = random.choice(values)
    if random.random() < 0.3:
        limits = random.choice((100, 500)), random.choice((200, 1000)), random.choice((0.02, 0.2))
        plan.bounds |= dict(zip(UNREAD, limits, strict=True))
    if random.random() < 0.7:
        plan.settings["max_kept_each"] = random.choice((1, 100, 200))
    if random.random() < 0.5:
        plan.settings["max_kept"] = random.choice((1, 150, 400))
    clients = plan.clients
    clients.duplicates = False
    clients.outstanding = random.choice((1, 2, 5, 8))
    clients.patience = random.choice((0.1, 0.3, 1.0, 30.0))
    clients.weights |= {"append": 3, "cas": 3}


@contextmanager
def bounded(bounds: dict[str, int | float]) -> Iterator[None]:
    """While it lasts servers have these bounds."""
    changed: list[tuple[ModuleType, str, object]] = []
    for name in (BOUNDS | LIMITS).keys() & bounds.keys():
        places = _places(name)
        assert places, f"no bound {name}: tests/simulation/about/bounds.py is of an earlier day"
        for module in places:
            changed.append((module, name, vars(module)[name]))
            setattr(module, name, bounds[name])
    try:
        yield
    finally:
        for module, name, value in changed:
            setattr(module, name, value)


def _places(name: str) -> list[ModuleType]:
    """The modules that hold this constant, which may import it from each other by name."""
    modules = [
        module
        for path, module in sorted(sys.modules.items())
        if path.startswith("paxon.actors.") and name in vars(module)
    ]
    for home in (allowances, turns):  # another module may have one of the same name
        if home in modules:
            return [m for m in modules if vars(m)[name] == vars(home)[name]]
    return modules


class _Unread:
    """Stands for a frame until its receiver has read it."""

    def __init__(self, until: float, now: Callable[[], float]) -> None:
        self._until = until
        self._now = now

    @property
    def done(self) -> bool:
        return self._now() >= self._until


class UnreadFrames:
    """What a server has sent and receivers have not read: the bookkeeping of the real endpoint."""

    def __init__(
        self, bounds: dict[str, int | float], random: Random, now: Callable[[], float]
    ) -> None:
        self._bounds = bounds
        self._random = random
        self._now = now
        limit, total = bounds.get("unread_bytes", 1 << 30), bounds.get("unread_total", 1 << 30)
        self._peers = LargeFrames(int(limit))
        self._clients = LargeFrames(int(limit), int(total))

    @property
    def _seconds(self) -> float:
        return self._bounds.get("unread_seconds", 0.0)  # 0 from the healing of all faults on

    def congested(self, client: bytes) -> bool:
        return bool(self._seconds) and not self._clients.has_room(client, 1)

    def takes(self, receiver: int | bytes, body: bytes) -> bool:
        """Whether a frame can be sent; it waits for its receiver from now on."""
        if not self._seconds:
            return True
        frames = self._clients if isinstance(receiver, bytes) else self._peers
        if not frames.has_room(receiver, len(body)):
            return False
        frames.send(self, receiver, bytearray(body), 0)  # type: ignore[arg-type] # as its socket
        return True

    def send(self, *_frame: object, **_how: object) -> _Unread:
        return _Unread(self._now() + self._random.random() * self._seconds, self._now)
