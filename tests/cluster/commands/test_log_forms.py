"""Lines of a server's log: who says it and how far it is, as text, as JSON, or where one wants."""

from __future__ import annotations

import _thread
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import loguru
import pytest

from paxon.kvstore.cluster import logs
from paxon.kvstore.cluster.logs import check_log_format, log_to_file
from paxon.kvstore.cluster.options import OptionError
from paxon.transport.log import BackgroundWriter, flush_log, logger
from tests.cluster.commands.test_metrics import serving
from tests.cluster.helpers import paxon_here
from tests.waiting import wait_until


@pytest.fixture
def sinks() -> Iterator[None]:
    """Loguru's sinks as they were."""
    handlers, level = logging.root.handlers[:], logging.root.level
    loguru.logger.remove()
    yield
    loguru.logger.remove()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def lines_of(path: Path) -> list[str]:
    flush_log()
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.usefixtures("sinks")
def test_a_server_binds_itself_to_each_line(tmp_path: Path) -> None:
    text, objects = tmp_path / "text.log", tmp_path / "json.log"
    log_to_file(text, "INFO")
    log_to_file(objects, "INFO", "json")
    with serving():
        wait_until(lambda: any("leads in ballot" in line for line in lines_of(text)))
    text.rename(tmp_path / "put aside")  # as logrotate does
    logger.info("nobody's {} line, {{}}", "own")
    (line,) = [line for line in lines_of(tmp_path / "put aside") if "leads in ballot" in line]
    assert line.endswith(" server 1 leads in ballot 1.1 [server 1, ballot 1.1, slot 0]")
    (line,) = lines_of(text)
    assert line.endswith("nobody's own line, {}")

    told = [json.loads(line) for line in lines_of(objects)]
    (about,) = [each for each in told if "leads in ballot" in each["message"]]
    bound = {name: about[name] for name in ("cluster", "server", "ballot", "slot", "level")}
    assert bound == {
        "cluster": "metrics", "server": 1, "ballot": "1.1", "slot": 0, "level": "INFO",
    }  # fmt: skip
    assert about["where"].startswith("paxon.actors.server:") and "T" in about["time"]
    assert told[-1]["message"] == "nobody's own line, {}" and "server" not in told[-1]


@pytest.mark.usefixtures("sinks")
def test_a_traceback_is_part_of_its_line(tmp_path: Path) -> None:
    path, plain = tmp_path / "json.log", tmp_path / "text.log"
    log_to_file(path, "INFO", "json")
    log_to_file(plain, "INFO")
    try:
        raise ValueError("with {braces} and <tags>")
    except ValueError as error:
        logger.opt(exception=error).error("it \n broke {}", "twice")
    (line,) = lines_of(path)
    told = json.loads(line)
    assert told["message"] == "it \n broke twice"
    assert "ValueError: with {braces} and <tags>" in told["exception"]
    text = plain.read_text(encoding="utf-8")
    assert "Traceback" in text and "ValueError: with {braces} and <tags>" in text


@pytest.mark.usefixtures("sinks")
def test_a_log_file_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once, and neither a line nor the end raises what would be printed."""
    said: list[str] = []
    monkeypatch.setattr(logs, "say", said.append)
    log_to_file(Path("/dev/full"))
    for _ in range(2):
        logger.info("a line")
    flush_log()
    loguru.logger.remove()
    assert said == ["paxon: the log file /dev/full cannot be written: No space left on device\n"]


def test_where_no_thread_is_to_be_had_the_last_words_are_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    writer = BackgroundWriter[str](said.append, lambda _: None)
    with monkeypatch.context() as limited:
        limited.setattr(_thread, "start_new_thread", mock.Mock(side_effect=RuntimeError))
        writer.put("why it ends")
        assert writer.flush()
    assert said == ["why it ends"]


def test_a_fork_says_nothing_that_its_parent_is_about_to_say() -> None:
    read, write = os.pipe()
    go_on = threading.Event()

    def deliver(text: bytes) -> None:
        go_on.wait()
        os.write(write, text)

    writer = BackgroundWriter[bytes](deliver, lambda _: None)
    for text in (b"taken ", b"waiting "):
        writer.put(text)
    child = os.fork()
    if child == 0:
        try:
            go_on.set()
            writer.put(b"the fork's")
            writer.flush()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"the fork's"
    go_on.set()
    assert writer.flush()
    assert os.read(read, 100) == b"taken waiting "
    os.close(read)
    os.close(write)


@pytest.mark.usefixtures("sinks")
def test_an_embedded_server_logs_where_the_application_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    to_loguru: list[str] = []
    loguru.logger.add(lambda message: to_loguru.append(str(message)))
    own = logging.getLogger("application.paxon")
    with caplog.at_level(logging.INFO, own.name), serving(log=own):
        wait_until(lambda: any("leads in" in record.message for record in caplog.records))
    flush_log()
    (record,) = [record for record in caplog.records if "leads in" in record.message]
    assert record.name == "application.paxon" and record.levelno == logging.INFO
    assert record.__dict__["paxon_server"] == 1 and record.__dict__["paxon_ballot"] == "1.1"
    assert not [line for line in to_loguru if "leads in" in line]


def test_what_a_server_says_has_the_form_of_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(logs, "say", said.append)
    logs.tell("ERROR", "it stops: “why”", "text")
    logs.tell("ERROR", "it stops: “why”", "json")
    assert said[0] == "paxon: it stops: “why”\n" and said[1].endswith("\n")
    told = json.loads(said[1])
    assert (told["level"], told["message"]) == ("ERROR", "it stops: “why”") and "T" in told["time"]


def test_forms_that_are_none(tmp_path: Path) -> None:
    assert check_log_format("json") == "json"
    with pytest.raises(OptionError, match="must be text or json"):
        check_log_format("xml")
    file = tmp_path / "cluster.toml"
    file.write_text('[cluster]\nid = "x"\n[[server]]\nid = 1\n', encoding="utf-8")
    done = paxon_here("server", "-c", str(file), "-i", "1", "--log-format", "xml")
    assert done.returncode == 2 and b"must be text or json" in done.stderr
