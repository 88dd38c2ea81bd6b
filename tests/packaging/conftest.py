"""Builds the distribution once, and makes environments to install it into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SOURCE = (
    "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "Makefile",
    "paxon", "actors", "transport", "kvstore", "bench", "docs", "examples", "tests", ".ci",
)  # fmt: skip


def run(*command: str | Path, cwd: Path, timeout: float = 90.0) -> str:
    """Run a command in an environment that knows nothing of this checkout; returns its stdout."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV") and not name.startswith("PAXON_")
    }
    finished = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=timeout,
        check=False,
    )
    assert finished.returncode == 0, f"{command}:\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


@dataclass(frozen=True)
class Distributions:
    """The files that would be uploaded."""

    wheel: Path
    source: Path


@dataclass(frozen=True)
class Installed:
    """An environment that holds the wheel, and what its installation brought there."""

    python: Path
    command: Path
    site_packages: Path
    added: frozenset[str]


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Build from a copy of the tree: setuptools leaves files of old builds beside the source.

    The wheel is built from the source distribution, which therefore has all that it takes.
    """
    copy = tmp_path_factory.mktemp("source") / "with space"
    copy.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache", ".hypothesis")
    for name in SOURCE:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, copy / name, ignore=ignored)
        elif path.exists():
            shutil.copy(path, copy / name)
    target = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, copy, cwd=copy)
    (wheel,) = target.glob("*.whl")
    (source,) = target.glob("*.tar.gz")
    return Distributions(wheel=wheel, source=source)


@pytest.fixture(scope="session")
def installed(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A fresh environment with the wheel in it.

    The libraries that Paxon depends on are borrowed from the environment that runs the tests: a
    line in a .pth file leads there, where a checkout's editable installation is not seen.
    """
    folder = tmp_path_factory.mktemp("empty environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    where = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    site_packages = Path(where.strip())
    (site_packages / "borrowed.pth").write_text(
        "\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}) + "\n"
    )
    before = {path.name for path in site_packages.iterdir()}
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps",
        "--no-index", distributions.wheel, cwd=folder,
    )  # fmt: skip
    after = {path.name for path in site_packages.iterdir()}
    return Installed(
        python=python,
        command=folder / "bin" / "paxon",
        site_packages=site_packages,
        added=frozenset(after - before),
    )
