"""A plugin for the pytest that runs another project's tests: see test_client_suites.py.

Runs with whatever pytest that environment has, and without Paxon.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from pathlib import Path
from typing import Any

WANTED: dict[str, Any] = json.loads(os.environ["PAXON_SUITE"])
"""`outcomes`: the file to write to; `part`, `of`: take every so manieth test; `port`; `examples`;
`only`: take these, by their last names; `without`: leave them to others; `asleep`: leave them."""


def pytest_configure(config: Any) -> None:
    with contextlib.suppress(ImportError):
        import hypothesis

        hypothesis.settings.register_profile("few", deadline=None, max_examples=WANTED["examples"])
        hypothesis.settings.load_profile("few")
    with contextlib.suppress(ImportError):  # its tests take the usual port here and there
        client: Any = importlib.import_module("etcd3").client
        host, _, *rest = client.__defaults__
        client.__defaults__ = (host, WANTED["port"], *rest)


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    names = WANTED["only"] or WANTED["without"]
    chosen = [each for each in items if (each.originalname in names) is bool(WANTED["only"])]
    items[:] = []
    for each in chosen[WANTED["part"] :: WANTED["of"]]:
        if each.originalname in WANTED["asleep"]:
            note(each.nodeid, "asleep")
        else:
            items.append(each)


def note(test: str, outcome: str, said: str = "") -> None:
    with Path(WANTED["outcomes"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps([test, outcome, said]) + "\n")


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" or report.outcome != "passed":
        said = str(report.longrepr)[-300:] if report.failed else ""
        note(report.nodeid, report.outcome, said)
