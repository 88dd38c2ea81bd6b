"""When `transact` tries again."""

from __future__ import annotations

import random

from paxon.kvstore.errors import Conflict

__all__ = ["pause_before_next"]

_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.1


def pause_before_next(tries: int, spent: float, left: float) -> float:
    """Seconds to wait after so many tries, which took `spent` seconds together.

    Drawn anew each time, so that those who conflicted do not meet again. Raises `Conflict` if there
    is no time left for that and another try: amid one, it would be said that no server answers.
    """
    longest = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(tries, 10), _LONGEST_PAUSE_SECONDS)
    pause = random.SystemRandom().uniform(0, longest)
    if pause + spent / tries >= left:
        raise Conflict(
            f"what the transaction reads was changed meanwhile, {tries} times: nothing was written"
        )
    return pause
