"""The life of a server process: `run_server` for any, `serve_child` for those of `LocalCluster`.

The main thread only waits: for a signal to stop, or for the server's actor to stop by itself.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import loguru
import msgspec
import pykka

from paxon.actors import PaxosServer, ServerRef
from paxon.actors.disk.data_directory import in_words, make_directory, owner_of
from paxon.actors.disk.sqlite_format import held_in
from paxon.actors.disk.storage import StorageError
from paxon.actors.embedding import HandOver
from paxon.actors.records.making import Retired
from paxon.kvstore.cluster.cluster_file import ServerPlan
from paxon.kvstore.cluster.logs import LogFormat, flush_all, log_to_file, log_to_stderr
from paxon.kvstore.cluster.node import (
    MachineError,
    ServerStartError,
    load_machine,
    reason_in_words,
    start_server,
)
from paxon.kvstore.cluster.notify import Notifier
from paxon.kvstore.cluster.options import misspelt
from paxon.kvstore.cluster.spawning import FROM_TERMINALS, die_with_parent
from paxon.kvstore.streams import open_standard_descriptors
from paxon.transport import (
    CurveKeys,
    CurveSecurity,
    TransportError,
    check_descriptor_limit,
    in_ephemeral_range,
    raise_descriptor_limit,
)
from paxon.transport.intake import return_large_blocks
from paxon.transport.log import log_in_background, logger

__all__ = [
    "EXIT_OK",
    "EXIT_FAILED",
    "EXIT_USAGE",
    "LOG_NAME",
    "settle_garbage_collector",
    "Report",
    "output_path",
    "run_server",
    "security_of",
    "serve_child",
]

EXIT_OK = 0
EXIT_FAILED = 1
"""Something at run time: an address in use, a full disk, a directory that is in use."""
EXIT_USAGE = 2
"""What the server was told makes no sense, whatever the machine's state."""

LOG_NAME = "server.log"
"""A server process logs here, in its data directory."""

_LARGE_BLOCK = 4 << 20
"""Bytes; most values and all batches are smaller."""
_HAND_OVER_SECONDS = 1.0
"""How long a leader that is to stop waits for the next one …"""
_HAND_OVER_PAUSE = 0.002
"""… and between two looks."""

_CHECK_SECONDS = 1.0
"""How often to look whether the server's actor is still alive."""


class Report(msgspec.Struct, frozen=True):
    """A server process's word to its supervisor: that it serves, or why it stops."""

    ready: bool
    sentence: str = ""


class _Asked(BaseException):
    """A signal to stop has come while the server was starting."""


class _Ending:
    """The event that the main thread sleeps on: a signal to stop, or the server's failure.

    Signals come through a pipe. Python runs their handlers in the main thread only, and the kernel
    may hand a signal to another thread (it does so to a process that was stopped): then a main
    thread that waits for a lock would sleep on.
    """

    def __init__(self, signals: Sequence[signal.Signals]) -> None:
        self.failure: BaseException | None = None
        self.asked_by: int | None = None
        """The signal that came."""
        self._starting = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in signals:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, self._note)
        # Whoever started us may have had them blocked, and the next process inherits that.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    def _note(self, number: int, _frame: object) -> None:
        first, self.asked_by = self.asked_by is None, number
        if first and self._starting:
            raise _Asked

    @contextmanager
    def while_starting(self) -> Iterator[None]:
        """A signal ends at once whatever a start waits for (an address, a name), by `_Asked`.

        Nothing was promised yet, so a start may end as by a crash.
        """
        try:
            self._starting = True
            if self.asked_by is not None:
                raise _Asked
            yield
        finally:
            self._starting = False

    def failed(self, error: BaseException) -> None:
        """Called in the server's thread when it has stopped by itself."""
        self.failure = error
        os.write(self._write, b"\0")

    def wait(self, alive: Callable[[], bool]) -> bool:
        """Sleep until it is time to end: True if that was asked for, False if the server failed."""
        while not select.select([self._read], [], [], _CHECK_SECONDS)[0]:
            if not alive():  # (this feeds the watchdog, too)
                return False  # without a word, which would be a bug; but never wait for ever
        return self.failure is None


def run_server(
    plan: ServerPlan,
    report: Callable[[Report], None],
    *,
    log_level: str = "INFO",
    stderr_level: str | None = "WARNING",
    log_format: LogFormat = "text",
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
) -> int:
    """Run one server until one of `signals` comes, or until it fails; returns the exit code.

    Call it from the main thread. `report` is told once that the server serves, and the reason if it
    stops by itself; nothing but warnings of `stderr_level` and above is printed here.
    """
    open_standard_descriptors()
    raise_descriptor_limit()
    ending = _Ending(signals)
    try:
        return _run_until(ending, plan, report, (log_level, stderr_level, log_format))
    finally:
        flush_all()


def _run_until(
    ending: _Ending,
    plan: ServerPlan,
    report: Callable[[Report], None],
    logs: tuple[str, str | None, LogFormat],
) -> int:
    log_level, stderr_level, log_format = logs
    directory = Path(plan.entry.directory)
    log_in_background(whole_process=True)
    loguru.logger.remove()
    if stderr_level is not None:
        # Why the server's actor stops is reported, once, and not as a line of the log.
        log_to_stderr(stderr_level, hide="paxon.actors.actor", form=log_format)
    try:
        with ending.while_starting():
            security = security_of(plan)
            reference = start_server(
                plan.settings,
                load_machine(plan.machine),
                peers=plan.peers,
                peer_bind=plan.entry.peer_bind,
                client_bind=plan.entry.client_bind,
                directory=directory,
                durability=plan.durability,
                security=security,
                on_failed=ending.failed,
                on_opened=lambda: _log_in(directory, log_level, log_format),
                metrics=plan.entry.metrics,
            )
    except _Asked:
        logger.info("server {} stopped as asked, before it served", plan.entry.id)
        return EXIT_OK
    except MachineError as error:
        report(Report(False, str(error)))
        return EXIT_USAGE
    except (ServerStartError, TransportError) as error:
        report(Report(False, str(error)))
        return EXIT_FAILED
    if too_few := check_descriptor_limit(len(plan.settings.servers) - 1):
        reference.stop()
        report(Report(False, too_few))
        return EXIT_FAILED
    _warn_of_ports(plan)
    for sentence in misspelt(os.environ):
        logger.warning("{}", sentence)
    return_large_blocks(_LARGE_BLOCK)
    settle_garbage_collector()
    logger.info(
        "server {} of cluster {} serves clients at {} and servers at {}",
        plan.entry.id, plan.settings.cluster, plan.entry.client_bind, plan.entry.peer_bind,
    )  # fmt: skip
    _say_how_to_be_let_in(plan, directory)
    report(Report(True))
    notifier = Notifier()
    clients = plan.entry.client_bind
    notifier.tell(f"READY=1\nSTATUS=server {plan.entry.id} serves clients at {clients}")

    def alive() -> bool:
        notifier.feed(reference)
        return reference.is_alive()

    if not ending.wait(alive):
        report(Report(False, reason_in_words(ending.failure)))
        return EXIT_OK if isinstance(ending.failure, Retired) else EXIT_FAILED
    notifier.tell("STOPPING=1")
    if ending.asked_by != signal.SIGINT:  # (which goes to a terminal's servers all at once)
        hand_over(reference)
    reference.stop()
    logger.info("server {} stopped as asked", plan.entry.id)
    return EXIT_OK


def _say_how_to_be_let_in(plan: ServerPlan, directory: Path) -> None:
    """With keys nobody hears a server that is to join, so that it cannot say who it is."""
    if plan.settings.join and plan.public_keys and held_in(directory) is None:
        entry = plan.entry
        logger.warning(
            "server {} is let in once the members know its key: `paxon member add {} --client {} "
            "--public-key '{}'` (or member replace); from where it cannot be asked, with "
            "--incarnation {} --peer {} as well",
            entry.id, entry.id, entry.client, entry.public_key, owner_of(directory).incarnation,
            entry.peer,
        )  # fmt: skip


def hand_over(reference: ServerRef[PaxosServer]) -> None:
    """Before a server stops that leads: another leads, if one can within a second.

    Its clients then lose a few milliseconds, and not an election. Servers that stop at the same
    time find each other gone, and wait for nobody.
    """
    end = time.monotonic() + _HAND_OVER_SECONDS
    try:
        heir: Any = reference.ask(HandOver(), timeout=_HAND_OVER_SECONDS)
        while heir and time.monotonic() < end:
            time.sleep(_HAND_OVER_PAUSE)
            heir = reference.ask(HandOver(heir), timeout=_HAND_OVER_SECONDS)
    except (pykka.Timeout, pykka.ActorDeadError):
        return  # its disk hangs, or it has failed: it is stopped as it is


def security_of(plan: ServerPlan) -> CurveSecurity | None:
    """The server's keys, if it has any. Raises `TransportError` if they cannot be used."""
    if not plan.public_keys:
        return None
    server, path = plan.entry.id, Path(plan.entry.key_file)
    keys = CurveKeys.load(path)
    if keys.public != plan.public_keys[server]:
        raise TransportError(
            f"the key file {path} holds another key than the cluster file gives server {server}: "
            f'use the right file, or write public_key = "{keys.public}" there on all hosts'
        )
    others = {other: key for other, key in plan.public_keys.items() if other != server}
    return CurveSecurity(keys, others, plan.client_keys)


def _log_in(directory: Path, level: str, form: LogFormat) -> None:
    """Log into the data directory from now on: not before it is known to be this server's own."""
    try:
        make_directory(directory)
        log_to_file(directory / LOG_NAME, level, form)
    except OSError as error:
        raise StorageError(
            f"the log file {directory / LOG_NAME} cannot be opened: {in_words(error)}"
        ) from error


def _warn_of_ports(plan: ServerPlan) -> None:
    """Ports that a killed server may find taken when it comes back, by any outgoing connection."""
    for address in (plan.entry.peer_bind, plan.entry.client_bind):
        if in_ephemeral_range(address):
            logger.warning(
                "server {} listens at {}, a port that the kernel also gives to outgoing "
                "connections: while this server is down another program may be given it; choose "
                "one outside net.ipv4.ip_local_port_range",
                plan.entry.id, address,
            )  # fmt: skip


def settle_garbage_collector() -> None:
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
    # What a terminal sends goes to the whole group of processes; the supervisor decides.
    for number in FROM_TERMINALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FROM_TERMINALS)
    plan = msgspec.msgpack.decode(plan_bytes, type=ServerPlan)
    try:
        _catch_output(Path(plan.entry.directory))
    except OSError as error:
        path = output_path(Path(plan.entry.directory))
        reports.send((False, f"the file {path} cannot be opened: {error.strerror}"))
        os._exit(EXIT_FAILED)

    def report(what: Report) -> None:
        with suppress(BrokenPipeError):  # the parent is gone, and this process about to follow
            reports.send((what.ready, what.sentence))

    code = run_server(
        plan, report, log_level=log_level, stderr_level=None, signals=(signal.SIGTERM,)
    )
    reports.close()
    # Nothing is left to do; threads of the interpreter or of libraries must not keep us here.
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


def output_path(directory: Path) -> Path:
    """Where stdout and stderr of a `LocalCluster`'s server go, next to its data directory."""
    return directory.with_name(directory.name + ".out")


def _catch_output(directory: Path) -> None:
    """Keep what would go to the parent's terminal (a crash of the interpreter) in a file."""
    descriptor = os.open(
        output_path(directory), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644
    )
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    if sys.stderr is None:  # the parent's was closed
        sys.stderr = open(2, "w", errors="backslashreplace")  # noqa: SIM115 (stays open)
    faulthandler.enable()
