"""Ctrl-C at a chosen step, instead of at a moment that some run may hit and another may not.

A step is a place where the interpreter itself looks for signals: where a Python function begins, or
where a built-in function has returned but what it returned has not been stored yet. There are more:
where a loop turns back, and in calls that wait.
"""

from __future__ import annotations

import dis
import gc
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["interrupted_at_each_step", "interrupt_in", "ends"]

_PATIENCE_SECONDS = 20.0


class _Interrupt:
    """While it is entered, raises KeyboardInterrupt in this thread, once, where `when` says so."""

    def __init__(self, when: Callable[[FrameType], bool]) -> None:
        self._when = when
        self.came = False

    def __enter__(self) -> Self:
        sys.setprofile(self._profile)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _argument: Any) -> None:
        ours = frame.f_code in (_Interrupt.__enter__.__code__, _Interrupt.__exit__.__code__)
        if event not in ("call", "c_return") or ours or self.came or _is_swallowed(frame):
            return
        if event == "c_return" and _is_entering(frame):
            return
        self.came = self._when(frame)
        if self.came:
            raise KeyboardInterrupt


def _is_entering(frame: FrameType) -> bool:
    """Whether a `with` has just called `__enter__`, and would never call `__exit__` if struck here.

    CPython 3.14 does look for signals there, which is a bug of its own (docs/design/interrupts.md).
    """
    before = frame.f_code.co_code[frame.f_lasti - 2]
    return dis.opname[before] == "LOAD_SPECIAL"


def _is_swallowed(frame: FrameType | None) -> bool:
    """Whether Python would swallow the interrupt, as it does with what a finalizer raises."""
    swallowing = (".__del__", "<locals>._remove")  # finalizers and weakref.WeakSet's callback
    while frame is not None and not frame.f_code.co_qualname.endswith(swallowing):
        frame = frame.f_back
    return frame is not None


def interrupt_in(
    function: Callable[..., Any], only_if: Callable[[], bool] = lambda: True
) -> _Interrupt:
    """Interrupt this thread where `function` is next called, or next called while `only_if`."""
    return _Interrupt(lambda frame: frame.f_code is function.__code__ and only_if())


def interrupted_at_each_step(action: Callable[[], object]) -> Iterator[BaseException]:
    """Run `action` again and again, interrupted one step later each time, until it gets through.

    Yields the interrupts. As for a caller whose `finally` tidies up, the frames that they went
    through live on while they are looked at.
    """
    for step in itertools.count():
        steps = itertools.count()
        interrupt = _Interrupt(lambda _, steps=steps, step=step: next(steps) == step)  # type: ignore[misc]
        gc.disable()  # what it calls swallows interrupts too
        try:
            with interrupt:
                action()
        except KeyboardInterrupt as error:
            gc.enable()
            yield error
        finally:
            gc.enable()
        if not interrupt.came:
            assert step > 0
            return


def ends(action: Callable[[], object]) -> bool:
    """Whether `action` comes to an end, in a thread of its own: a test must not hang with it."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(_PATIENCE_SECONDS)
    return not thread.is_alive()
