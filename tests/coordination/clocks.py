"""A wall clock that jumps, for processes that are started meanwhile.

A small library that is loaded before libc's answers for CLOCK_REALTIME alone: it adds what a file
says, one file a process. (No namespace has a wall clock of its own.)
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

__all__ = ["Clocks", "jumping_clocks"]

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long long *offset;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *directory = getenv("PAXON_TEST_CLOCKS");
    char path[4096];
    real = dlsym(RTLD_NEXT, "clock_gettime");
    if (!directory) return;
    snprintf(path, sizeof path, "%s/%d", directory, (int)getpid());
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) return;
    if (ftruncate(file, sizeof *offset) == 0) {
        void *map = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
        if (map != MAP_FAILED) offset = map;
    }
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *offset;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *store) {
    struct timespec precise;
    if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
    if (store) *store = precise.tv_sec;
    return precise.tv_sec;
}
"""


class Clocks:
    """The wall clocks of all processes that were started inside `jumping_clocks`."""

    def __init__(self, directory: Path, library: Path | None) -> None:
        self._directory = directory
        self._library = library

    @property
    def missing(self) -> str:
        """Why they cannot jump; "" if they can."""
        return "" if self._library else "no C compiler here, or no LD_PRELOAD"

    def environment(self) -> dict[str, str]:
        """What a process has to be started with."""
        if self._library is None:
            return {}
        return {"LD_PRELOAD": str(self._library), "PAXON_TEST_CLOCKS": str(self._directory)}

    def jump(self, pid: int, seconds: int) -> None:
        """A process's wall clock is so many seconds ahead from now on."""
        with (self._directory / str(pid)).open("r+b") as file:  # it has made the file itself
            file.write(struct.pack("q", seconds))


@contextmanager
def jumping_clocks(directory: Path) -> Iterator[Clocks]:
    """Processes that are started inside have clocks that can be made to jump."""
    directory.mkdir(parents=True)
    clocks = Clocks(directory, _build(directory))
    with mock.patch.dict(os.environ, clocks.environment()):
        yield clocks


def _build(directory: Path) -> Path | None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or os.uname().sysname != "Linux" or "LD_PRELOAD" in os.environ:
        return None
    source, library = directory / "clock.c", directory / "clock.so"
    source.write_text(_SOURCE)
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, check=False)
    return library if done.returncode == 0 else None
