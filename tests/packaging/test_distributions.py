"""What is in the wheel and the source distribution, and what the wheel needs."""

from __future__ import annotations

import ast
import re
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.conftest import ROOT, Distributions, Installed, run

pytestmark = [pytest.mark.process, pytest.mark.slow]  # (in one place, so that it is built once)

FOLDERS = ("actors", "transport", "kvstore", "bench")
"""Each is a package of its name in `paxon`; the folder `paxon` is that package itself."""

IMPORTED_AS = {"prometheus-client": "prometheus_client", "pyzmq": "zmq"}
"""Distributions whose module has another name."""


PYTEST_PLUGIN = ROOT / "kvstore/testing/plugin.py"


def source_modules() -> set[str]:
    """All source files, as the wheel names them."""
    return {"paxon/__init__.py", "paxon/testing.py", "paxon/py.typed"} | {
        "paxon/" + path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for pattern in ("*.py", "py.typed", "install.sh")
        for path in (ROOT / folder).rglob(pattern)
    }


def test_the_wheel_holds_every_module_and_nothing_else(distributions: Distributions) -> None:
    with zipfile.ZipFile(distributions.wheel) as wheel:
        names = set(wheel.namelist())
    metadata = {name for name in names if ".dist-info/" in name}
    assert names - metadata == source_modules()
    assert any(name.endswith("/licenses/LICENSE") for name in metadata)


def test_the_source_distribution_is_enough_to_build_and_test(distributions: Distributions) -> None:
    with tarfile.open(distributions.source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", ".ci/run"}
    wanted |= {"paxon/__init__.py", "paxon/py.typed"}
    wanted |= {
        module.removeprefix("paxon/")
        for module in source_modules()
        if module.removeprefix("paxon/").startswith(FOLDERS)
    }
    wanted |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert wanted <= names
    assert not {name for name in names if name.endswith(".pyc")}


def test_the_installation_adds_one_package_and_its_metadata(installed: Installed) -> None:
    version = re.escape(project()["version"])
    assert "paxon" in installed.added
    (other,) = installed.added - {"paxon"}
    assert re.fullmatch(rf"paxon-{version}\.dist-info", other)
    inside = {path.name for path in (installed.site_packages / "paxon").iterdir()}
    assert inside - {"__pycache__"} == {*FOLDERS, "__init__.py", "testing.py", "py.typed"}
    assert installed.command.exists()


def test_every_library_that_is_imported_is_declared() -> None:
    """The tests' environment has more installed than a user gets."""
    required = declared(project()["dependencies"])
    extras = {name: declared(of) for name, of in project()["optional-dependencies"].items()}
    extras["etcd"] |= {"google"}  # as protobuf calls itself
    wrong = []
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            known = required | (extras["bench"] if folder == "bench" else set())
            if path.parent == ROOT / "kvstore" / "etcd":
                known |= extras["etcd"]
            if path == PYTEST_PLUGIN:  # loaded by pytest alone
                known |= {"pytest"}
            unknown = libraries(path) - known - set(sys.stdlib_module_names) - {"paxon"}
            wrong += [f"{path.relative_to(ROOT)}: {name}" for name in unknown]
    assert not wrong


def test_the_command_knows_its_version(installed: Installed, tmp_path: Path) -> None:
    assert run(installed.command, "--version", cwd=tmp_path) == f"paxon {project()['version']}\n"


def project() -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        table: dict[str, Any] = tomllib.load(file)["project"]
    return table


def declared(requirements: list[str]) -> set[str]:
    """The modules that these requirements bring."""
    names = [re.split(r"[^A-Za-z0-9_-]", requirement)[0] for requirement in requirements]
    return {IMPORTED_AS.get(name, name) for name in names}


def libraries(path: Path) -> set[str]:
    """Top-level names of all that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found
