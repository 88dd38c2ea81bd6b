"""Calls that timed out in the middle: what of them to ask for again, and how many count.

A client on a busy machine may have had no time to send some. Those have no effect, and say so.
"""

from __future__ import annotations

from paxon import PipelineError, RequestTimeout

__all__ = ["executed_of", "unknown_of"]


def unknown_of(error: BaseException) -> list[RequestTimeout]:
    """The errors whose outcome is unknown."""
    return [each for each in _errors_of(error) if each.unknown]


def executed_of(error: BaseException, count: int) -> int:
    """How many of so many calls are executed in the end, if each of those is asked for again."""
    unsent = sum(not each.unknown for each in _errors_of(error))
    if isinstance(error, PipelineError):
        return count - unsent
    return 0 if unsent else count


def _errors_of(error: BaseException) -> list[RequestTimeout]:
    errors = error.errors.values() if isinstance(error, PipelineError) else [error]
    found = [each for each in errors if isinstance(each, RequestTimeout)]
    assert len(found) == len(list(errors)), errors
    return found
