"""The thread that owns the server processes of a `LocalCluster`.

All processes are started, signalled and reaped by this one thread. It has to be one that lives as
long as they do, for the kernel ends a server together with the *thread* that started it
(paxon.kvstore.cluster.spawning); and as nobody else reaps, no signal can hit a stranger that was
given the number of a process gone since.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Literal

import msgspec

from paxon.actors import ServerId
from paxon.kvstore.cluster.cluster_file import ServerPlan
from paxon.kvstore.cluster.server_process import EXIT_OK, LOG_NAME, output_path, serve_child
from paxon.kvstore.cluster.spawning import SERVER_PROCESS, UNGUARDED, start_process
from paxon.kvstore.streams import open_standard_descriptors
from paxon.transport.log import log_in_background, logger
from paxon.transport.wake import Waker

__all__ = ["ProcessState", "ProcessInfo", "Supervisor", "forget_logs"]

ProcessState = Literal["starting", "running", "paused", "stopping", "stopped", "killed", "failed"]
"""stopped: as asked; killed: by `kill`; failed: died or stopped by itself."""

_SEE = "; see its logs, "
"""Comes before where they are."""

STOP_SECONDS = 10.0
"""A server that has not ended this long after SIGTERM gets SIGKILL."""

_STOP_POLL_SECONDS = 0.001
"""How often to ask whether a process that got SIGSTOP has stopped; no descriptor tells."""

_BLIND_SECONDS = 0.05
"""How often to look after the servers if there is nothing to sleep on."""

_STOPPED = "the cluster has been stopped for good"
_FORKED = "the cluster belongs to the process that started it, of which this is a fork"


class ProcessInfo(msgspec.Struct, frozen=True):
    """A server's process, as its supervisor sees it."""

    state: ProcessState
    pid: int | None
    """None while there is no process."""
    reason: str = ""
    """Why it failed, "" if it did not."""


class _Child:
    """One server: its plan, and its process while there is one."""

    def __init__(self, server: ServerId) -> None:
        self.server = server
        self.state: ProcessState = "stopped"
        self.reason = ""
        self.plan: ServerPlan | None = None
        self.process: ChildProcess | None = None
        self.reports: Connection | None = None
        self.started: Future[None] | None = None
        self.ended: list[Future[None]] = []
        self.pausing: list[Future[None]] = []
        self.kill_at = float("inf")

    def settle_pauses(self) -> None:
        """End the futures of those that wait until it has stopped running."""
        pausing, self.pausing = self.pausing, []
        for result in pausing:
            result.set_result(None)


class Supervisor:
    """Starts, signals, watches and reaps server processes; any thread may call any method."""

    def __init__(
        self, servers: list[ServerId], *, import_main: bool = False, log_level: str = "INFO"
    ) -> None:
        self._children = {server: _Child(server) for server in servers}
        self._import_main = import_main
        self._log_level = log_level
        self._context = multiprocessing.get_context("spawn")
        self._owner = os.getpid()
        self._lock = threading.RLock()  # a signal handler may use the cluster while we do
        self._jobs: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._closing = False
        self._deaf = False
        open_standard_descriptors()
        self._waker = Waker()
        self._thread = threading.Thread(target=self._run, name="paxon-supervisor", daemon=True)
        self._thread.start()

    # --- for any thread --------------------------------------------------------------------------

    def look_after(self, server: ServerId) -> None:
        """There is one server more."""
        self._children = self._children | {server: _Child(server)}

    def forget(self, server: ServerId) -> None:
        """A server that has no process any more belongs to the cluster no longer."""
        self._children = {s: child for s, child in self._children.items() if s != server}

    def start(self, plan: ServerPlan) -> Future[None]:
        """Start a server that has no process; the future ends once it serves.

        It raises RuntimeError with the server's own sentence if it does not come to that.
        """
        result: Future[None] = Future()
        self._submit(lambda: self._start(plan, result), result)
        return result

    def send(self, server: ServerId, number: signal.Signals) -> Future[None]:
        """Send SIGTERM, SIGKILL, SIGSTOP or SIGCONT.

        The future ends when the process has (SIGTERM, SIGKILL), when it has stopped running
        (SIGSTOP: the kernel stops a busy process well after the signal), or once it is sent.
        """
        result: Future[None] = Future()
        self._submit(lambda: self._signal(self._children[server], number, result), result)
        return result

    def info(self, server: ServerId) -> ProcessInfo:
        """How the process of a server is doing now."""
        child = self._children.get(server) or _Child(server)  # one that is forgotten by now
        process = child.process
        return ProcessInfo(child.state, process.pid if process is not None else None, child.reason)

    def is_ours(self) -> bool:
        """Whether this process made it, and is not a forked copy of that process."""
        return os.getpid() == self._owner

    def close(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End all servers by this signal, by SIGKILL those that do not stop, and end the thread.

        May be called twice, and does nothing in a forked copy of the process that made this.
        """
        if not self.is_ours() or not self._thread.is_alive():
            return
        if threading.current_thread() is self._thread:
            self._drop_everything()
            return
        timeout = STOP_SECONDS + 5.0
        endings = [self.send(server, number) for server in self._children]
        for ending in endings:
            ending.exception(timeout)
        with self._lock:
            self._closing = True
        self._wake()
        self._thread.join(timeout)

    def _submit(self, job: Callable[[], None], result: Future[None]) -> None:
        if not self.is_ours():
            result.set_exception(RuntimeError(_FORKED))
            return
        with self._lock:
            if self._closing:
                result.set_exception(RuntimeError(_STOPPED))
                return
            self._jobs.append((job, result))
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            if not self._deaf:
                with contextlib.suppress(OSError):  # closed under us: `_wait` then looks by itself
                    self._waker.wake()

    # --- the supervisor's own thread -------------------------------------------------------------

    def _run(self) -> None:
        log_in_background()  # this thread must not wait for a sink: its servers end with it
        while not self._closing:
            self._wait()
            while self._jobs:
                job, result = self._jobs.popleft()
                try:
                    job()
                except Exception as error:  # is the job's, and must not take the servers along
                    if not result.done():
                        result.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
            for child in self._children.values():
                try:
                    self._look_after(child)
                except Exception as error:
                    logger.opt(exception=error).error("server {} is hard to watch", child.server)
        with self._lock:  # whoever closes us a second time must not write to a stranger's file
            self._deaf = True
            self._waker.close()
            for _, result in self._jobs:  # came together with the end
                result.set_exception(RuntimeError(_STOPPED))

    def _drop_everything(self) -> None:
        """The collector found the cluster while this very thread ran: there is no waiting here."""
        for child in self._children.values():
            if child.process is not None:
                child.process.send(signal.SIGKILL)
        if not self._closing:
            self._closing = True
            self._wake()

    def _wait(self) -> None:
        """Sleep until there is a job, a report or a death, or a stop is overdue."""
        waiting: list[int | Connection] = [self._waker.descriptor]
        overdue_at = float("inf")
        for child in self._children.values():
            if child.process is not None:
                waiting.append(child.process.sentinel)
                overdue_at = min(overdue_at, child.kill_at)
            if child.pausing:
                overdue_at = min(overdue_at, time.monotonic() + _STOP_POLL_SECONDS)
            if child.reports is not None:
                waiting.append(child.reports)
        timeout = None if overdue_at == float("inf") else max(0.0, overdue_at - time.monotonic())
        try:
            ready = multiprocessing.connection.wait(waiting, timeout)
            if self._waker.descriptor in ready:
                self._waker.clear()
        except OSError:  # the program has closed descriptors that are not its own
            time.sleep(_BLIND_SECONDS)

    def _start(self, plan: ServerPlan, result: Future[None]) -> None:
        child = self._children[plan.entry.id]
        if child.process is not None:
            result.set_exception(RuntimeError(f"server {child.server} is {child.state} already"))
            return
        reports, childs_end = self._context.Pipe(duplex=False)
        try:
            process = self._context.Process(
                target=serve_child,
                args=(msgspec.msgpack.encode(plan), childs_end, self._log_level),
                name=f"{SERVER_PROCESS}{child.server}",
                daemon=True,
            )
            if self._import_main:  # whether the child comes to make this anew tells how far it got
                output_path(Path(plan.entry.directory)).unlink(missing_ok=True)
            start_process(process, import_main=self._import_main)
            running = ChildProcess(process)
        except Exception as error:  # of many kinds; all of them end this start, and nothing else
            reports.close()
            child.state = "failed"
            child.reason = f"no process could be started: {error}"
            result.set_exception(RuntimeError(child.reason))
            return
        finally:
            childs_end.close()
        child.plan, child.process, child.reports = plan, running, reports
        child.state, child.reason, child.started = "starting", "", result

    def _signal(self, child: _Child, number: signal.Signals, result: Future[None]) -> None:
        process = child.process
        if process is None:
            if number in (signal.SIGTERM, signal.SIGKILL):
                result.set_result(None)
            else:
                result.set_exception(RuntimeError(f"server {child.server} is {child.state}"))
            return
        if number == signal.SIGTERM:
            child.state = "stopping"
            child.kill_at = time.monotonic() + STOP_SECONDS
            process.send(signal.SIGTERM)
            process.send(signal.SIGCONT)  # a paused one has to wake up to stop
        elif number == signal.SIGKILL:
            child.state = "killed"
            process.send(signal.SIGKILL)
        else:
            process.send(number)
            if child.state in ("running", "paused"):
                child.state = "paused" if number == signal.SIGSTOP else "running"
        if number in (signal.SIGTERM, signal.SIGKILL):
            child.ended.append(result)
        elif number == signal.SIGSTOP:
            child.pausing.append(result)
            return
        else:
            result.set_result(None)
        child.settle_pauses()  # whoever waited for one waits in vain from here on

    def _look_after(self, child: _Child) -> None:
        """Take its reports, notice its death, and hurry a stop that takes too long."""
        process = child.process
        if process is None:
            return
        ended = process.ended()
        self._take_reports(child)
        if ended:
            self._bury(child, process)
        elif child.pausing and process.is_stopped():
            child.settle_pauses()
        elif time.monotonic() >= child.kill_at:
            logger.warning(
                "server {} did not stop within {:.0f} s and is killed", child.server, STOP_SECONDS
            )
            child.kill_at = float("inf")
            process.send(signal.SIGKILL)

    def _take_reports(self, child: _Child) -> None:
        reports = child.reports
        if reports is None:
            return
        try:
            while reports.poll():
                ready, sentence = reports.recv()
                if not ready:
                    child.reason = sentence
                    continue
                if child.state == "starting":
                    child.state = "running"
                if child.started is not None:
                    child.started.set_result(None)
                    child.started = None
        except (EOFError, ConnectionResetError):
            reports.close()
            child.reports = None

    def _bury(self, child: _Child, process: ChildProcess) -> None:
        """A process has ended: was that asked for?"""
        code = process.exit_code
        asked_for = child.state in ("stopping", "killed")
        if not asked_for and code == EXIT_OK and child.state == "running":
            child.state = "stopped"  # it was taken out of the cluster, as it says
        elif not asked_for:
            was = child.state
            child.reason = child.reason or _how_it_ended(code, child.plan, self._import_main)
            child.state = "failed"
            if was != "starting":
                logger.error("server {} died unexpectedly: {}", child.server, child.reason)
        elif child.state == "stopping":
            child.state = "stopped"
        if child.started is not None:
            reason = child.reason or f"it was {child.state} before it served"
            child.started.set_exception(RuntimeError(reason))
            child.started = None
        if child.reports is not None:
            child.reports.close()
            child.reports = None
        child.process = None
        child.kill_at = float("inf")
        child.settle_pauses()
        process.close()
        ended, child.ended = child.ended, []
        for result in ended:
            result.set_result(None)


def _how_it_ended(code: int | None, plan: ServerPlan | None, imports_main: bool) -> str:
    """A sentence on a process that ended without a word."""
    if code == UNGUARDED:
        return (
            "each server imports the script or module of the state machine's class, which starts a "
            "cluster: put the class into a module of its own, or what starts the cluster under "
            '`if __name__ == "__main__":`'
        )
    if code is not None and code < 0:
        try:
            how = f"killed by {signal.Signals(-code).name}"
        except ValueError:
            how = f"killed by signal {-code}"
    elif code is None:
        how = "its process ended, and another part of the program took its exit code"
    else:
        how = f"its process ended with exit code {code}"
    if plan is None:
        return how
    directory = Path(plan.entry.directory)
    output = output_path(directory)
    if imports_main and not output.exists():
        return (
            f"{how} while it imported the main script, for the state machine's class (stderr says "
            'why): there, put what starts the cluster under `if __name__ == "__main__":`'
        )
    try:
        lines = output.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        lines = []
    # The last line of a traceback says most.
    last = next((f": {line.strip()}" for line in reversed(lines) if line.strip()), "")
    return f"{how}{last}{_SEE}{directory / LOG_NAME} and {output}"


def forget_logs(error: BaseException, kept: Path | None) -> None:
    """Have an error point at no logs if they went with a directory that nobody keeps."""
    said, pointed, _ = str(error).partition(_SEE)
    if pointed and kept is None:
        gone = "its logs went with the temporary directory: give the cluster one of its own"
        error.args = (f"{said}; {gone}",)


_UNKNOWN = 255
"""What multiprocessing is told of a code that nobody knows, so that it leaves the process alone."""


class ChildProcess:
    """A process started just now by this thread, which it alone signals and reaps.

    Whatever else the program does: it may ignore SIGCHLD, so that the kernel reaps; it may call
    `waitpid(-1)` and reap our children with its own; it may fork, and multiprocessing would have
    the copy end "its" children when that exits. So a child is signalled through a descriptor of its
    own where the kernel has such (pidfd), a process reaped by somebody else counts as ended with a
    code that nobody knows, and multiprocessing's list of children does not hold it.
    """

    def __init__(self, process: SpawnProcess) -> None:
        assert process.pid is not None
        self.pid: int = process.pid
        self.exit_code: int | None = None
        """As multiprocessing's, once it has ended; None if somebody else has reaped it."""
        self._process = process
        self._ended = False
        self._pidfd = _open_pidfd(self.pid)
        # Its private list of children; all on it get SIGTERM when this process, or a fork, exits.
        getattr(multiprocessing.process, "_children", set()).discard(process)

    @property
    def sentinel(self) -> int:
        """A descriptor that can be read once it has ended."""
        return self._pidfd if self._pidfd >= 0 else self._process.sentinel

    def ended(self) -> bool:
        """Whether it has ended; if so it is reaped, and `exit_code` says how."""
        if not self._ended and multiprocessing.connection.wait([self.sentinel], 0):
            try:
                self.exit_code = self._reap()
                self._ended = self.exit_code is not None
            except ChildProcessError:
                self._ended = True
        return self._ended

    def _reap(self) -> int | None:
        """Its exit code; None if it is ending. Raises ChildProcessError if it was reaped."""
        if self._pidfd < 0:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            return os.waitstatus_to_exitcode(status) if pid else None
        result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return None
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    def is_stopped(self) -> bool:
        """Whether none of its threads runs after SIGSTOP; True where nobody can tell.

        (`waitid` tells as well, but a program that waits for its own children may take that away.)
        """
        states = set()
        for stat in Path(f"/proc/{self.pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):  # that thread has ended
                states.add(stat.read_text(errors="replace").rpartition(")")[2].split()[0])
        return states <= {"T", "t", "Z", "X"}

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended; never to a stranger that has its number now."""
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, number)
            elif not self.ended():
                os.kill(self.pid, number)

    def close(self) -> None:
        """Give back what was open for a process that has ended."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        popen = getattr(self._process, "_popen", None)
        if popen is not None and popen.returncode is None:
            popen.returncode = _UNKNOWN if self.exit_code is None else self.exit_code
        with contextlib.suppress(ValueError):
            self._process.close()


def _open_pidfd(pid: int) -> int:
    """A descriptor for this process; -1 where there are none, or where it is gone already."""
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1
