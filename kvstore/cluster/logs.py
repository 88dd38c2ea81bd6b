"""Where the processes of Paxon log: a bounded file for the whole story, stderr for warnings only.

Libraries leave logging to the application, so none of this is called but in processes of our own.
Nothing here waits for whoever reads stderr: a pipe that is full, or closed, must not keep a server
from serving, nor from stopping (docs/design/interrupts.md).
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from loguru import logger

from paxon.kvstore.cluster.options import OptionError
from paxon.transport.log import BackgroundWriter, background, flush_log

if TYPE_CHECKING:
    from loguru import Record

__all__ = [
    "LOG_BYTES",
    "LOG_FILES",
    "LogFormat",
    "check_log_format",
    "check_log_level",
    "log_to_file",
    "log_to_stderr",
    "named",
    "say",
    "tell",
    "flush_all",
]

LOG_BYTES = 10 << 20
"""A log file of this size is put aside and a new one begun."""

LOG_FILES = 4
"""How many files put aside are kept."""

LogFormat = Literal["text", "json"]
"""How lines look in a log file and on stderr: for people, or JSON, an object a line."""

_FORMAT = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level:<8} {name}:{line} {message}"
_BOUND = " [server {extra[server]}, ballot {extra[ballot]}, slot {extra[slot]}]"
_BOUND_NAMES = ("cluster", "server", "ballot", "slot")


def _as_text(record: Record) -> str:
    bound = _BOUND if "server" in record["extra"] else ""
    traceback = "\n{exception}" if record["exception"] else ""
    return _FORMAT + bound + traceback  # (the handler adds the end of the line)


def _as_json(record: Record) -> str:
    """A template for loguru, which stands for the line that is put beside the record."""
    line = {
        "time": record["time"].isoformat(),
        "level": record["level"].name,
        "message": record["message"],
        "where": f"{record['name']}:{record['line']}",
        **{name: record["extra"][name] for name in _BOUND_NAMES if name in record["extra"]},
    }
    exception = record["exception"]
    if exception is not None:
        lines = traceback.format_exception(exception.type, exception.value, exception.traceback)
        line["exception"] = "".join(lines)
    record["extra"]["_json"] = json.dumps(line, ensure_ascii=False)
    return "{extra[_json]}"


def _write_to_stderr(text: str) -> None:
    data = text.encode("utf-8", "backslashreplace")
    while data:
        data = data[os.write(2, data) :]  # not by `sys.stderr`: its lock outlives a blocked writer


_stderr = BackgroundWriter[str](
    _write_to_stderr, lambda count: _write_to_stderr(f"paxon: {count} lines were left out\n")
)


def say(text: str) -> None:
    """Put a text, with its newline, on stderr, without waiting for whoever reads it."""
    _stderr.put(text)


def named(server: int, sentence: str) -> str:
    """What a server says, with its name before it, unless it begins with that itself."""
    name = f"server {server}"
    begins = sentence.startswith((f"{name} ", f"{name}'", f"{name}:"))
    return sentence if begins else f"{name}: {sentence}"


def tell(level: str, message: str, form: LogFormat) -> None:
    """Say what is for people, and for whatever reads what is logged, where that is JSON."""
    line = {"time": datetime.now(UTC).isoformat(), "level": level, "message": message}
    as_text = f"paxon: {message}" if form == "text" else json.dumps(line, ensure_ascii=False)
    say(f"{as_text}\n")


def flush_all() -> None:
    """Wait a moment for what is still to be logged or said: before the process ends."""
    flush_log()
    _stderr.flush()


class _LogFile(logging.handlers.RotatingFileHandler):
    """A rotated file that says once, in one sentence, when it can no longer be written."""

    _complained = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, into a new file if this one was deleted or put aside (logrotate)."""
        path = Path(self.baseFilename)
        if self.stream and path.parent.is_dir():
            try:
                gone = not os.path.samestat(path.stat(), os.fstat(self.stream.fileno()))
            except FileNotFoundError:
                gone = True
            if gone:
                with suppress(OSError):  # its last lines may have found no room
                    self.stream.close()
                self.stream = None  # (what writes opens it)
        super().emit(record)

    def close(self) -> None:
        """Whether or not the last lines can still be written."""
        with suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """A full disk must not bring a traceback on stderr for each line that is logged."""
        if self._complained:
            return
        self._complained = True
        error = sys.exc_info()[1]
        why = error.strerror if isinstance(error, OSError) else error
        say(f"paxon: the log file {self.baseFilename} cannot be written: {why}\n")


class _OnlyText(logging.Formatter):
    """For lines that hold their exception already."""

    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage()


class _ToLoguru(logging.Handler):
    """Passes on what libraries (pykka) log by the standard library."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        background.opt(exception=error).log(record.levelname, "{}", record.getMessage())


def check_log_level(level: str) -> str:
    """A level's name, in capitals. Raises `OptionError` if there is no such level."""
    levels = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")
    if not isinstance(level, str) or level.upper() not in levels:
        raise OptionError(f"log level {level!r}: must be one of {', '.join(levels)}")
    return level.upper()


def check_log_format(form: str) -> LogFormat:
    """Raises `OptionError` for what is none."""
    if form not in get_args(LogFormat):
        raise OptionError(f"log format {form!r}: must be text or json")
    return cast("LogFormat", form)


def log_to_file(path: Path, level: str = "INFO", form: LogFormat = "text") -> None:
    """Log to a file, too, from now on. Raises OSError if it cannot be opened."""
    sink = _LogFile(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
    shape = _as_json if form == "json" else _as_text
    if form == "json":
        sink.setFormatter(_OnlyText())
    logger.add(sink, level=level, format=shape, backtrace=False, diagnose=False)
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.WARNING, force=True)


def log_to_stderr(level: str = "WARNING", *, hide: str = "", form: LogFormat = "text") -> None:
    """Show warnings on stderr, a line each and without tracebacks, in place of all sinks so far.

    Errors that the module `hide` logs are left out: somebody else tells people about them.
    """
    logger.remove()

    def line(record: Record) -> str:
        # The exception, if any, goes to the file: a format function decides what is appended.
        return "paxon: {level}: {message}\n" if record["message"] else ""

    def shown(record: Record) -> bool:
        return record["name"] != hide or record["level"].no < logging.ERROR

    shape = (lambda record: _as_json(record) + "\n") if form == "json" else line
    logger.add(say, level=level, format=shape, filter=shown, backtrace=False, diagnose=False)
