"""A command that runs while something is held: `paxon lock NAME -- COMMAND`, and elections.

It is a process group of its own. It gets the signals that we get, and the terminal if we have it.
When what is held is about to be lost it is ended, by SIGTERM and soon by SIGKILL; where the lease
merely could not be renewed, before anybody else can hold. A process beside it, which runs this very
file, sees to it that it does not outlive us either, or its lease, whatever ends or stops us.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

if TYPE_CHECKING:
    from paxon.kvstore.client.client import Client
    from paxon.kvstore.recipes.held import Held

__all__ = ["CannotRun", "Ended", "run_while_held"]

_GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL at most …"""
_GRACE_PART = 0.25
"""… and of the time to live."""
_LOOK_SECONDS = 1.0
"""How often to look at the clock: the machine may have slept."""
_NEW_SECONDS = 0.1
"""A lease that ends so much later has been renewed."""
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1,
              signal.SIGUSR2)  # fmt: skip
_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_TOO_LATE = "it could not be renewed in time"
_NEVER = float("inf")
_DONE = b"done"
_OVERDUE = 9
"""Exit code of the process beside that has ended the command."""
_ONCE_ALLOWED = ["/bin/sh", "-c", '(read -r _) <&3 && exec "$@" 3<&-', "sh"]
"""Begins once we say so, on a pipe: the process beside knows of the command before it runs, and it
has the terminal before it reads from that. If we are killed meanwhile the pipe ends, and nothing
runs. Its environment is the command's: it sets no variable of its own."""
_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)

_Happening: TypeAlias = tuple[Literal["signal", "stopped", "ended", "lost"], int]


class CannotRun(Exception):
    """There is no such command, or it may not be run."""

    def __init__(self, command: str, number: int) -> None:
        super().__init__(f"{command} cannot be run: {os.strerror(number)}")
        self.code = 127 if number == errno.ENOENT else 126
        """As a shell's exit code."""


class Ended:
    """How the command ended."""

    def __init__(self, code: int, lost: str) -> None:
        self.code = code if code >= 0 else 128 - code
        """As a shell tells it: 128 and the number of the signal that ended it."""
        self.lost = lost
        """Why it was ended by us; "" if it was not."""


def run_while_held(
    kv: Client, held: Held, command: Sequence[str], more: Mapping[str, str]
) -> Ended:
    """Run it to its end, or until the loss of what is held.

    Args:
        kv: whose watch tells that the key is gone.
        held: what is held; the caller releases it.
        command: the program, and its arguments.
        more: what its environment has besides ours.

    Raises `CannotRun`.
    """
    _check(command[0])
    happenings: SimpleQueue[_Happening] = SimpleQueue()
    held.lease.when_lost(lambda: happenings.put(("lost", 0)))
    gone = kv.watch(held.key, after=held.fence, puts=False)
    watching = gone.call(lambda _: happenings.put(("lost", 0)))
    try:
        with _signals_to(happenings), _Running(command, more, held, happenings) as running:
            ended = _attend(running, held, happenings)
        if running.was_overdue and not ended.lost:
            ended.lost = _TOO_LATE
        return ended
    finally:
        gone.close()
        watching.join()


def _check(program: str) -> None:
    if shutil.which(program) is None:
        is_there = "/" in program and Path(program).exists()
        raise CannotRun(program, errno.EACCES if is_there else errno.ENOENT)


def _grace(held: Held) -> float:
    return min(_GRACE_SECONDS, held.lease.ttl * _GRACE_PART)


def _attend(running: _Running, held: Held, happenings: SimpleQueue[_Happening]) -> Ended:
    grace = _grace(held)
    lost, kill_at = "", float("inf")
    while True:
        left = held.lease.time_left()
        if not lost and left > grace:
            running.may_last(left, grace)
        elif not lost:
            lost = held.lease.reason or _TOO_LATE
            kill_at = time.monotonic() + (left or grace)
            running.end(left or grace)
        if lost and time.monotonic() >= kill_at:
            running.send(signal.SIGKILL)
            kill_at = float("inf")
        wait = min(_LOOK_SECONDS, kill_at - time.monotonic(), max(0.0, left - grace) or 1.0)
        try:
            kind, number = happenings.get(timeout=max(0.0, wait))
        except Empty:
            continue
        if kind == "ended":
            if lost:
                running.send(signal.SIGKILL)  # whatever it has started, and left
            return Ended(number, lost)
        if kind == "signal":
            running.send(signal.Signals(number))
        elif kind == "stopped":
            running.stopped(signal.Signals(number), held.lost.is_set)
        elif not lost:
            lost = "its key is gone" if held.lease.time_left() else held.lease.reason
            kill_at = time.monotonic() + grace
            running.end(grace)


@contextlib.contextmanager
def _signals_to(happenings: SimpleQueue[_Happening]) -> Iterator[None]:
    """Note signals instead of being ended by them (but for those that are ignored: nohup)."""
    before = {number: signal.getsignal(number) for number in _FORWARDED}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, lambda number, _: happenings.put(("signal", number)))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Running:
    """The command's processes."""

    def __init__(
        self,
        command: Sequence[str],
        more: Mapping[str, str],
        held: Held,
        happenings: SimpleQueue[_Happening],
    ) -> None:
        self._happenings = happenings
        self._terminal = _our_terminal()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE, start_new_session=True, bufsize=0,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self._group, go = _begin(command, {**os.environ, **more})
        except OSError as error:
            self._guard.communicate()
            raise CannotRun(command[0], error.errno or 0) from None
        self._is_over = False
        self._until = 0.0
        self.was_overdue = False
        """The process beside has ended it."""
        self.may_last(held.lease.time_left(), _grace(held))
        self._hand_over(self._group)
        with contextlib.suppress(BrokenPipeError), os.fdopen(go, "wb", 0) as pipe:
            pipe.write(b"\n")
        self._waiter = threading.Thread(target=self._wait, name="paxon-command", daemon=True)
        self._waiter.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing of it is left, and nobody waits for our death any more."""
        if not self._is_over:  # only if we failed ourselves
            self.send(signal.SIGKILL)
        self._waiter.join()
        self._hand_over(os.getpgrp())
        self._guard.communicate(_DONE + b"\n")
        self.was_overdue = self._guard.returncode == _OVERDUE

    def _wait(self) -> None:
        while True:
            _, status = os.waitpid(self._group, os.WUNTRACED)
            if os.WIFSTOPPED(status):
                self._happenings.put(("stopped", os.WSTOPSIG(status)))
                continue
            self._is_over = True
            self._happenings.put(("ended", os.waitstatus_to_exitcode(status)))
            return

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes that are there still."""
        _send(self._group, number)

    def may_last(self, left: float, grace: float) -> None:
        """Nobody else holds for so many seconds: should we stop meanwhile, it is ended by then.

        A little later than by us, who ask it to end `grace` seconds before.
        """
        until = time.clock_gettime(_BOOT_CLOCK) + left
        if abs(until - self._until) > _NEW_SECONDS:
            self._tell(until - grace / 2, until)

    def _tell(self, ask_at: float, end_at: float) -> None:
        """The process beside: when it is to ask the command to end, and when to end it."""
        self._until = end_at
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.write(f"{self._group} {ask_at} {end_at}\n".encode())

    def end(self, seconds: float) -> None:
        """Ask it to end, even while it is stopped; in so many seconds it is ended."""
        end_at = time.clock_gettime(_BOOT_CLOCK) + seconds
        self._tell(end_at, end_at)
        _send(self._group, signal.SIGTERM, signal.SIGCONT)

    def stopped(self, number: signal.Signals, lost: Callable[[], bool]) -> None:
        """It was stopped: by Ctrl-Z, or as it used a terminal that it did not have yet."""
        if self._terminal is None:
            return
        if number not in (signal.SIGTTIN, signal.SIGTTOU):
            self._hand_over(os.getpgrp())
            os.kill(os.getpid(), signal.SIGSTOP)  # until the shell has us go on
            if lost():
                return
        self._hand_over(self._group)
        self.send(signal.SIGCONT)

    def _hand_over(self, group: int) -> None:
        """Let this group read from our terminal, and get its Ctrl-C."""
        if self._terminal is None:
            return
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        try:
            with contextlib.suppress(OSError):
                os.tcsetpgrp(self._terminal, group)
        finally:
            signal.signal(signal.SIGTTOU, before)


def _begin(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, int]:
    """Start the shell that becomes the command: its process, and the pipe that lets it.

    A shell leaves out variables that it could not have, such as functions that bash exports. It
    finds the pipe at a descriptor of one digit, as it has to, wherever we have it.
    """
    others = [f"{n}={value}" for n, value in environment.items() if not _VARIABLE.fullmatch(n)]
    words = [*_ONCE_ALLOWED, *(["env", *others] if others else []), *command]
    wait, go = os.pipe()
    try:
        process = os.posix_spawn(
            words[0], words, environment, setpgroup=0, setsigdef=_IGNORED_BY_PYTHON,
            file_actions=[*_not_handed_on(), (os.POSIX_SPAWN_DUP2, wait, 3)],
        )  # fmt: skip
    except BaseException:
        os.close(go)
        raise
    finally:
        os.close(wait)
    return process, go


def _not_handed_on() -> Iterator[tuple[int, int]]:
    """What spawns have to close: whoever started us may have opened it for us, by such a number."""
    for descriptor in range(3, 256):
        with contextlib.suppress(OSError):
            if os.get_inheritable(descriptor):
                yield os.POSIX_SPAWN_CLOSE, descriptor


def _our_terminal() -> int | None:
    """stdin, if it is a terminal in which we are in the foreground."""
    with contextlib.suppress(OSError):
        if os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp():
            return 0
    return None


def _stand_by() -> int:
    """In the process beside: hear from us how long the command may last, until it is done.

    It is asked to end, and ended, when that time comes, or when nobody is there any more to say so.
    Returns the exit code.
    """
    group, ask_at, end_at, kept, hears, asked = 0, _NEVER, _NEVER, b"", True, False
    while (now := time.clock_gettime(_BOOT_CLOCK)) < end_at:
        if now >= ask_at and not asked:
            asked, end_at = True, min(end_at, now + _GRACE_SECONDS)
            _send(group, signal.SIGTERM, signal.SIGCONT)
        wait = max(0.0, min(_LOOK_SECONDS, (end_at if asked else ask_at) - now))
        if not hears:
            time.sleep(wait)
        elif select.select([0], [], [], wait)[0]:
            read = os.read(0, 4096)
            *lines, kept = (kept + read).split(b"\n")
            if _DONE in lines or not (lines or group):  # (or it could not be run)
                return _OVERDUE if asked else 0
            if lines and not asked:
                number, *times = lines[-1].split()
                group, (ask_at, end_at) = int(number), map(float, times)
            if not read:
                hears, ask_at = False, now
    _send(group, signal.SIGKILL)
    return _OVERDUE


def _send(group: int, *numbers: signal.Signals) -> None:
    """Send signals to all processes of a group that are there still."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        for number in numbers:
            os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(_stand_by())
