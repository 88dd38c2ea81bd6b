"""A context of ZeroMQ sockets ends, whatever Ctrl-C has left behind."""

from __future__ import annotations

import _thread
import errno
import gc
import os
import resource
import traceback
import weakref
from typing import Any

import pytest
import zmq

from paxon.transport import Context
from tests.interrupts import ends, interrupted_at_each_step


def open_and_close(context: Context) -> None:
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect("tcp://127.0.0.1:9")
    socket.send(b"to nobody")
    socket.close()


def test_ctrl_c_while_a_socket_is_opened_and_closed() -> None:
    contexts: list[Context] = []

    def action() -> None:
        contexts.append(Context())
        open_and_close(contexts[-1])

    for _interrupt in interrupted_at_each_step(action):
        if contexts:
            context = contexts.pop()
            assert ends(lambda context=context: context.destroy(linger=0))  # type: ignore[misc]
            assert context.closed
            assert not context.unclosed


def test_ctrl_c_while_the_context_ends() -> None:
    context = Context()

    def action() -> None:
        nonlocal context
        context = Context()
        for _ in range(3):
            context.socket(zmq.DEALER).connect("tcp://127.0.0.1:9")
        context.destroy(linger=0)

    cut_short = 0
    for interrupt in interrupted_at_each_step(action):
        if any(entry.name == "_end" for entry in traceback.extract_tb(interrupt.__traceback__)):
            cut_short += 1
            assert context.closed  # all the same
        assert ends(lambda: context.destroy(linger=0))
        assert context.closed
    assert cut_short


@pytest.mark.parametrize("names", [0, 8])
def test_without_descriptors_there_is_an_error_and_no_abort(names: int) -> None:
    """libzmq would end this process, with its threads begun and a few descriptors short."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.dup(0) for _ in range(40)]
    for descriptor in free:
        os.close(descriptor)
    begun = []
    for least in free:
        context = Context(names)
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, hard))
        try:
            context.socket(zmq.DEALER).close()
            begun.append(least)
        except zmq.ZMQError as error:
            assert error.errno == errno.EMFILE and not begun
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        open_and_close(context)
        context.destroy(linger=0)
    assert 0 < len(begun) < len(free)


@pytest.mark.parametrize("names", [0, 8])
def test_without_threads_there_is_an_error_and_no_abort(
    names: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(names)
    start = _thread.start_new_thread
    calls = iter([start] * (2 + len(context.spare)))

    def few(*arguments: Any) -> int:
        for real in calls:
            return real(*arguments)
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limited:
        limited.setattr(_thread, "start_new_thread", few)
        with pytest.raises(zmq.ZMQError, match="may start too few threads"):
            context.socket(zmq.DEALER)
    open_and_close(context)
    context.destroy(linger=0)


def test_a_dropped_context_is_collected_with_its_open_sockets() -> None:
    """Context and sockets refer to each other, so only the collector finds them."""

    def drop() -> weakref.ref[Context]:
        context = Context()
        context.socket(zmq.DEALER).connect("tcp://127.0.0.1:9")
        return weakref.ref(context)

    with pytest.warns(ResourceWarning, match="Unclosed context"):
        dropped = drop()
        assert ends(gc.collect)
    assert dropped() is None


def test_a_closed_socket_is_forgotten() -> None:
    context = Context()
    with context.socket(zmq.DEALER):
        assert len(context.unclosed) == 1
    assert not context.unclosed
    context.destroy()
    context.destroy()
    assert context.closed
