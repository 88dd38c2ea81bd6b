"""Start server processes by multiprocessing's *spawn*, and see to it that none outlives its parent.

Three things that the standard library leaves open (docs/running/local-cluster.md):

- A spawned child first runs the user's script again, under another name, so that classes defined
  there can be unpickled. A script without an `if __name__ == "__main__":` guard would start a
  cluster in every server, and a script read from stdin cannot be run again at all. A server needs
  nothing from there, so `start_process` leaves that step out, unless it is asked to keep it.
- Ctrl-C, and the closing of the terminal, reach every process of its group. A child that is still
  importing would die of it, so `start_process` starts it with these signals blocked.
- When the parent is killed with SIGKILL it cannot end its children. `die_with_parent` asks the
  kernel to do it, and watches the parent from a thread for systems that have no such call.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import multiprocessing.resource_tracker
import multiprocessing.spawn
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from paxon.transport.orphans import end_with_parent

__all__ = [
    "FROM_TERMINALS",
    "start_process",
    "SERVER_PROCESS",
    "UNGUARDED",
    "being_imported_by_spawn",
    "end_unguarded_server",
    "die_with_parent",
]

FROM_TERMINALS = (signal.SIGINT, signal.SIGHUP)
"""Signals that mean the program as a whole, which says to its servers what follows."""

SERVER_PROCESS = "paxon-server-"
"""How names of servers' processes begin."""
UNGUARDED = 79
"""Exit code of a server in which its class's script or module would start a cluster."""
_ENDING_SECONDS = 1.0
"""Threads that such a script has started may keep the server from ending so long."""

_patch_lock = threading.Lock()


def start_process(process: SpawnProcess, *, import_main: bool = False) -> None:
    """Start a spawned process, which imports the caller's main module only if `import_main`.

    Signals `FROM_TERMINALS` are blocked in it, until it says otherwise.

    Call it from a thread that lives at least as long as the process should: `die_with_parent`
    ends the process when the *thread* that started it ends (prctl(2), PR_SET_PDEATHSIG).
    """
    try:
        Path.cwd()  # which the new process begins in
    except FileNotFoundError:
        raise OSError("the working directory is deleted: change to one that exists") from None
    if not multiprocessing.spawn.get_executable():
        raise OSError(
            "Python does not know its own program (sys.executable is empty, as where Python is "
            "embedded in another): name an interpreter with multiprocessing.set_executable(…)"
        )
    with _interrupts_blocked():
        if import_main:
            process.start()
            return
        with _main_left_out():
            process.start()


def being_imported_by_spawn() -> bool:
    """Whether this is a spawned child that is still importing its parent's main module."""
    return bool(getattr(multiprocessing.process.current_process(), "_inheriting", False))


def end_unguarded_server() -> None:
    """If this is a server's process: end it, without a word. Its supervisor says it for all."""
    if not multiprocessing.process.current_process().name.startswith(SERVER_PROCESS):
        return
    timer = threading.Timer(_ENDING_SECONDS, os._exit, (UNGUARDED,))
    timer.daemon = True
    timer.start()
    raise SystemExit(UNGUARDED)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """While inside, this thread blocks what terminals send, and children inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # Would be started with the first child otherwise, and unblocks SIGINT when it has been.
        multiprocessing.resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, FROM_TERMINALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _main_left_out() -> Iterator[None]:
    """While inside, processes that *this thread* spawns do not import the main module.

    Other threads may spawn processes of their own meanwhile: theirs are as usual.
    """
    me = threading.get_ident()
    with _patch_lock:
        original = multiprocessing.spawn.get_preparation_data

        def without_main(name: str) -> dict[str, Any]:
            data: dict[str, Any] = dict(original(name))
            if threading.get_ident() == me:
                data.pop("init_main_from_name", None)
                data.pop("init_main_from_path", None)
            return data

        multiprocessing.spawn.get_preparation_data = without_main
        try:
            yield
        finally:
            multiprocessing.spawn.get_preparation_data = original


def die_with_parent() -> None:
    """Have this process end with SIGKILL as soon as its parent is gone, however that ended.

    The kernel does it on Linux, even while this process is stopped. A thread that waits on a pipe
    held open by the parent does the same wherever the kernel does not.
    """
    parent = multiprocessing.process.parent_process()
    if parent is None:
        return
    end_with_parent()
    threading.Thread(
        target=_watch, args=(parent.sentinel,), name="paxon-parent-watch", daemon=True
    ).start()
    if os.getppid() != parent.pid:  # it died before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)


def _watch(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
