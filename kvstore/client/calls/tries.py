"""When `transact` tries again."""

from __future__ import annotations

import random

from paxon.kvstore.errors import Conflict

__all__ = ["pause_before_next"]

_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.1


def pause_before_next(tries: int, left: float) -> float:
    """Seconds to wait after so many tries. Raises `Conflict` if no more than that is left.

    Drawn anew each time, so that those who conflicted do not meet again.
    """
    longest = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(tries, 10), _LONGEST_PAUSE_SECONDS)
    pause = random.SystemRandom().uniform(0, longest)
    if pause >= left:
        raise Conflict(
            f"what the transaction reads was changed meanwhile, {tries} times: nothing was written"
        )
    return pause
