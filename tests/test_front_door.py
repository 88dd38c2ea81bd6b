"""The package `paxon` itself: what applications import."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import paxon
from paxon import actors, kvstore

ROOT = Path(__file__).resolve().parents[1]


def test_every_name_is_there_and_is_the_one_behind() -> None:
    for name in paxon.__all__:
        value = getattr(paxon, name)
        homes = [home for home in (actors, kvstore) if name in home.__all__]
        assert name == "__version__" or [getattr(home, name) for home in homes] == [value]


def test_every_error_of_a_client_comes_through_it() -> None:
    errors = {name for name in kvstore.__all__ if name[0].isupper()}
    assert errors <= set(paxon.__all__)


def test_type_checkers_are_told_of_every_name() -> None:
    """What is imported for them is what `__getattr__` finds."""
    text = (ROOT / "paxon" / "__init__.py").read_text(encoding="utf-8")
    told = {
        alias.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("paxon.")
        for alias in node.names
    }
    assert told == set(paxon.__all__) - {"__version__"}


def test_importing_it_costs_next_to_nothing() -> None:
    heavy = {"zmq", "pykka", "msgspec", "loguru", "sqlite3", "asyncio", "multiprocessing", "typer"}
    script = "import sys, paxon; print(paxon.__version__, *sorted(sys.modules))"
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not heavy & set(printed[1:])
    assert not [name for name in printed if name.startswith("paxon.")]


def test_the_version_is_that_of_the_distribution() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert paxon.__version__ == tomllib.load(file)["project"]["version"]


def test_it_lists_its_names_and_knows_no_others() -> None:
    assert set(paxon.__all__) <= set(dir(paxon))
    assert not [name for name in dir(paxon) if name not in paxon.__all__ and name[:2] != "__"]
    with pytest.raises(AttributeError, match="'paxon' has no attribute 'Cleint'"):
        paxon.Cleint  # noqa: B018
    with pytest.raises(ImportError):
        exec("from paxon import Cleint", {})


def test_the_packages_behind_it_are_found_from_a_checkout() -> None:
    """There the folder `paxon` has no neighbours of theirs; a program may be started beside it."""
    script = "import paxon.transport, paxon.bench; print(paxon.__file__)"
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.strip()
    assert Path(printed) == ROOT / "paxon" / "__init__.py"
    assert importlib.import_module("paxon.transport").__name__ == "paxon.transport"


def test_pydoc_shows_it() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "pydoc", "paxon"], capture_output=True, text=True, check=True
    ).stdout
    for name in ("class Client", "class LocalCluster", "class StateMachine", "start_server("):
        assert name in printed
