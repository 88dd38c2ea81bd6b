"""Checks that stay on: Python drops `assert` under -O, these it keeps."""

from __future__ import annotations

__all__ = ["InvariantViolation", "invariant"]


class InvariantViolation(AssertionError):
    """The protocol's state is impossible; the server stops at once rather than spread it."""


def invariant(condition: object, text: str, *args: object) -> None:
    """Stop this server unless `condition` holds; `text % args` is only built when it does not."""
    if not condition:
        raise InvariantViolation(text % args if args else text)
