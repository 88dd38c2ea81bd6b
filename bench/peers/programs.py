"""Other people's programs: where they are, how they are started, and that they end with us."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.machine import cpu_seconds
from paxon.bench.harness.repeater import wait_until

__all__ = ["Programs", "Program", "default_directory", "INSTALL_SCRIPT"]

INSTALL_SCRIPT = Path(__file__).with_name("install.sh")

_LINES_SHOWN = 3


def default_directory() -> Path:
    """Where the peers are put unless said otherwise; `PAXON_PEERS` says otherwise."""
    named, cache = os.environ.get("PAXON_PEERS"), os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named).absolute()
    return (Path(cache) if cache else Path.home() / ".cache") / "paxon" / "peers"


class Programs:
    """Finds what is installed: in the directory that `install.sh` fills, else in the system."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._root = directory / "root"
        self.python_directory = directory / f"python{sys.version_info[0]}.{sys.version_info[1]}"

    def find(self, name: str) -> Path | None:
        """The path of a program; None if it is nowhere."""
        path = f"{self._root / 'usr' / 'bin'}:{os.environ.get('PATH', os.defpath)}"
        found = shutil.which(name, path=path)
        return Path(found) if found else None

    def environment(self) -> dict[str, str]:
        """The environment in which a program finds the libraries that were installed with it."""
        found = [path for lib in ("usr/lib", "lib") for path in self._root.glob(f"{lib}/*-*-*")]
        known = os.environ.get("LD_LIBRARY_PATH")
        path = ":".join([*map(str, found), *([known] if known else [])])
        return {**os.environ, **({"LD_LIBRARY_PATH": path} if path else {})}

    def python_version(self, distribution: str) -> str | None:
        """The version of a Python package; None if it is nowhere."""
        path = [str(self.python_directory), *sys.path]
        found = metadata.distributions(name=distribution, path=path)
        return next((it.version for it in found), None)

    def install(self) -> None:
        """Run `install.sh`, which writes to the terminal. Raises `BenchError` if it fails."""
        command = ["sh", str(INSTALL_SCRIPT), str(self.directory), sys.executable]
        if subprocess.run(command, check=False).returncode != 0:
            raise BenchError("the peers could not be fetched; what is said above tells why")

    def output(self, command: Sequence[str | Path]) -> str:
        """Run a program and return what it prints. Raises `BenchError` if it fails."""
        try:
            done = subprocess.run(
                list(map(str, command)), env=self.environment(), capture_output=True, text=True,
                timeout=60.0, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BenchError(f"{command[0]} cannot be run: {error}") from None
        if done.returncode != 0:
            raise BenchError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout


class Program:
    """A server process of another project; it ends when this process does."""

    def __init__(self, command: Sequence[str | Path], *, programs: Programs, log: Path) -> None:
        """Start it. Raises `BenchError` if there is no such program."""
        self._name = Path(command[0]).name
        self._log = log
        line = [str(part) for part in command]
        # util-linux' setpriv asks the kernel for what `die_with_parent` asks for in our own
        # processes, and becomes the program. Where it is missing, only kill -9 leaves orphans.
        setpriv = shutil.which("setpriv")
        if setpriv is not None:
            line = [setpriv, "--pdeathsig", "KILL", "--", *line]
        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    line, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    env=programs.environment(),
                )  # fmt: skip
        except OSError as error:
            raise BenchError(f"{self._name} cannot be started: {error}") from None

    def cpu(self) -> float:
        """CPU seconds so far. Raises `BenchError` if it is gone."""
        try:
            return cpu_seconds(self._process.pid)
        except ProcessLookupError:
            raise BenchError(self.obituary()) from None

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until it is ready. Raises `BenchError` if it ends before, or takes longer."""

        def ready_or_dead() -> bool:
            if not self.alive():
                raise BenchError(self.obituary())
            return ready()

        wait_until(ready_or_dead, f"{self._name} was not ready", seconds)

    def obituary(self) -> str:
        """A sentence on how it ended, with its last words."""
        code = self._process.poll()
        text = self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""
        last = " / ".join(text.strip().splitlines()[-_LINES_SHOWN:])
        return f"{self._name} has ended (exit code {code}): {last or 'it has said nothing'}"

    def kill(self) -> None:
        """End it by SIGKILL and wait until it is gone; may be called twice."""
        self._process.kill()
        self._process.wait()
