"""The life of a server process: `run_server` for any, `serve_child` for those of `LocalCluster`.

The main thread only waits: for a signal to stop, or for the server's actor to stop by itself.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
from loguru import logger

from paxon.kvstore.cluster_file import ServerPlan
from paxon.kvstore.logs import log_to_file, log_to_stderr
from paxon.kvstore.node import (
    MachineError,
    ServerStartError,
    load_machine,
    reason_in_words,
    start_server,
)
from paxon.kvstore.spawning import die_with_parent

__all__ = [
    "EXIT_OK",
    "EXIT_FAILED",
    "EXIT_USAGE",
    "LOG_NAME",
    "Report",
    "run_server",
    "serve_child",
]

EXIT_OK = 0
EXIT_FAILED = 1
"""Something at run time: an address in use, a full disk, a directory that is in use."""
EXIT_USAGE = 2
"""What the server was told makes no sense, whatever the machine's state."""

LOG_NAME = "server.log"
"""A server process logs here, in its data directory."""


class Report(msgspec.Struct, frozen=True):
    """What a server process tells its supervisor: that it serves, or why it stops."""

    ready: bool
    sentence: str = ""


def run_server(
    plan: ServerPlan,
    report: Callable[[Report], None],
    *,
    log_level: str = "INFO",
    stderr_level: str | None = "WARNING",
) -> int:
    """Run one server until SIGTERM or SIGINT, or until it fails; returns the exit code.

    Call it from the main thread. `report` is told once that the server serves, and the reason if it
    stops by itself; nothing but warnings of `stderr_level` and above is printed here.
    """
    stopping = threading.Event()
    failures: list[BaseException] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stopping.set())

    def failed(error: BaseException) -> None:
        failures.append(error)
        stopping.set()

    directory = Path(plan.entry.directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        log_to_file(directory / LOG_NAME, log_level)
    except OSError as error:
        report(Report(False, f"the data directory {directory} cannot be used: {error.strerror}"))
        return EXIT_FAILED
    if stderr_level is not None:
        log_to_stderr(stderr_level)
    try:
        reference = start_server(
            plan.settings,
            load_machine(plan.machine),
            peers=plan.peers,
            peer_bind=plan.entry.peer_bind,
            client_bind=plan.entry.client_bind,
            directory=directory,
            durability=plan.durability,
            on_failed=failed,
        )
    except MachineError as error:
        report(Report(False, str(error)))
        return EXIT_USAGE
    except ServerStartError as error:
        report(Report(False, str(error)))
        return EXIT_FAILED
    _settle_garbage_collector()
    logger.info(
        "server {} of cluster {} serves clients at {} and servers at {}",
        plan.entry.id, plan.settings.cluster, plan.entry.client_bind, plan.entry.peer_bind,
    )  # fmt: skip
    report(Report(True))
    stopping.wait()
    if failures:
        report(Report(False, reason_in_words(failures[0])))
        return EXIT_FAILED
    reference.stop()
    logger.info("server {} stopped as asked", plan.entry.id)
    return EXIT_OK


def _settle_garbage_collector() -> None:
    """Keep the collector's pauses short and rare.

    What exists once the server serves (modules, classes) lives as long as the process, so the
    collector need never look at it again. What messages create is freed by reference counts;
    cycles are rare, so a look at the youngest objects is enough nearly always.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def serve_child(plan_bytes: bytes, reports: Connection, log_level: str) -> None:
    """Main function of a `LocalCluster`'s process; ends the process.

    The plan comes as msgpack and not as pickled objects, which keeps unpickling free of imports.
    """
    die_with_parent()
    # Ctrl-C in the terminal goes to the whole group of processes; the supervisor decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    plan = msgspec.msgpack.decode(plan_bytes, type=ServerPlan)
    _catch_output(Path(plan.entry.directory))

    def report(what: Report) -> None:
        with suppress(BrokenPipeError):  # the parent is gone, and this process about to follow
            reports.send((what.ready, what.sentence))

    code = run_server(plan, report, log_level=log_level, stderr_level=None)
    reports.close()
    logger.complete()
    # Nothing is left to do; threads of the interpreter or of libraries must not keep us here.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _catch_output(directory: Path) -> None:
    """Keep what would go to the parent's terminal (a crash of the interpreter) in a file."""
    target = str(directory.with_name(directory.name + ".out"))
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    faulthandler.enable()
