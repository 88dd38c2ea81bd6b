"""What holds for the source as a whole: who may import whom, and how files are laid out."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

MAY_IMPORT = {
    "transport": set(),
    "actors": {"transport"},
    "kvstore": {"transport", "actors"},
    "bench": {"transport", "actors", "kvstore"},
}
"""The arrows between the folders, one way only (docs/ARCHITECTURE.md)."""

MAY_IMPORT_IN_KVSTORE = {
    "store": set(),
    "client": {"store"},
    "recipes": {"store", "client"},
    "objects": {"store", "client", "recipes"},
    "etcd": {"store", "client", "recipes"},
    "cluster": {"store", "client", "recipes", "objects", "etcd"},
    "testing": {"store", "client", "recipes", "objects", "cluster"},
    "cli": {"store", "client", "recipes", "objects", "cluster", "etcd"},
}
"""Likewise inside kvstore/, whose `errors` and `streams` are for all."""

WORLD = {
    "asyncio", "multiprocessing", "os", "pathlib", "random", "secrets", "selectors", "signal",
    "socket", "sqlite3", "subprocess", "tempfile", "threading", "time", "zmq",
}  # fmt: skip
"""Clocks, chance, threads, network and disk: the protocol gets them from its `Environment`."""

MAX_LINES = 700
MAX_FUNCTION_LINES = 70
MAX_FILES = 20
"""In a folder, directly."""

MAX_BENCH_LINES = 7000
"""Of all benches together: what measures must not outgrow what is measured."""

LONG_FILES = {"actors/server.py": 1620}
"""All of `PaxosServer`, to be read from top to bottom, and the lines that it may have.

What decides something without a message or the outbox is in `actors/records/`, what decides nothing
on ballots and slots in `actors/parts/`."""


def sources(folder: str) -> list[Path]:
    """All modules of a folder, sub-packages included."""
    return sorted((ROOT / folder).rglob("*.py"))


def all_sources() -> list[Path]:
    return [path for folder in ("paxon", *MAY_IMPORT) for path in sources(folder)]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parsed(path: Path) -> list[ast.AST]:
    """The module, and all that is in it."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path: Path) -> Iterator[str]:
    """Full names of all that a module imports, inside functions and for type checkers too."""
    for node in parsed(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno} imports relatively"
            assert node.module is not None
            if node.module.count(".") < 2 and node.module.split(".")[0] == "paxon":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def module_name(path: Path) -> str:
    """The name under which a source file is imported."""
    parts = (
        path.relative_to(ROOT / "paxon" if path.parts[-2] == "paxon" else ROOT)
        .with_suffix("")
        .parts
    )
    return ".".join(("paxon", *parts)).removesuffix(".__init__")


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_arrows_between_folders_run_one_way(folder: str) -> None:
    wrong = []
    for path in sources(folder):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "paxon":
                continue
            if parts[1] != folder and parts[1] not in MAY_IMPORT[folder]:
                wrong.append(f"{name_of(path)} imports {name}")
    assert not wrong


@pytest.mark.parametrize(
    "folder", [name for name in MAY_IMPORT_IN_KVSTORE if (ROOT / "kvstore" / name).exists()]
)
def test_arrows_inside_kvstore_run_one_way(folder: str) -> None:
    allowed = {folder, "errors", "streams", *MAY_IMPORT_IN_KVSTORE[folder]}
    wrong = [
        f"{name_of(path)} imports {name}"
        for path in sources(f"kvstore/{folder}")
        for name in imports(path)
        if name.startswith("paxon.kvstore") and (*name.split("."), "")[2] not in allowed
    ]
    assert not wrong


def test_every_folder_of_kvstore_has_its_place() -> None:
    folders = {
        path.name for path in (ROOT / "kvstore").iterdir() if (path / "__init__.py").exists()
    }
    assert folders <= set(MAY_IMPORT_IN_KVSTORE)


def test_no_server_and_no_client_waits_for_a_log_sink() -> None:
    """loguru's own logger waits for its sinks: paxon.transport.log does not."""
    programs = {"logs.py", "server_process.py", "up.py"}  # which have sinks of their own
    wrong = [
        name_of(path)
        for folder in ("transport", "actors", "kvstore")
        for path in sources(folder)
        if "loguru" in imports(path) and path.name not in programs | {"log.py"}
    ]
    assert not wrong


def test_nothing_is_imported_by_its_folder_name() -> None:
    wrong = [
        f"{name_of(path)} imports {name}"
        for path in [*all_sources(), *sources("tests")]
        for name in imports(path)
        if name.split(".")[0] in MAY_IMPORT
    ]
    assert not wrong


def test_the_protocol_reaches_the_world_only_through_what_it_is_given() -> None:
    """Whatever `paxon.actors` imports itself. Storage engines are handed to it, and are not."""
    wrong = []
    found, waiting = set(), [ROOT / "actors" / "__init__.py"]
    while waiting:
        path = waiting.pop()
        found.add(path)
        for name in imports(path):
            if name.split(".")[0] in WORLD:
                wrong.append(f"{name_of(path)} imports {name}")
            module = ROOT / f"{name.removeprefix('paxon.').replace('.', '/')}.py"
            if name.startswith("paxon.actors.") and module.exists() and module not in found:
                waiting.append(module)
    assert not wrong
    assert {"server.py", "storage.py", "election.py"} <= {path.name for path in found}
    assert "sqlite_storage.py" not in {path.name for path in found}


def test_no_second_copy_of_a_module_under_a_bare_name() -> None:
    """Loaded as `actors.…` too, a file would make a second, distinct set of classes."""
    script = "\n".join(
        [
            "import importlib, sys",
            *(
                f"importlib.import_module({module_name(path)!r})"
                for path in all_sources()
                if path.name != "__main__.py"
            ),
            f"print(sorted(set(sys.modules) & {set(MAY_IMPORT)!r}))",
        ]
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert found.stdout == "[]\n", found.stderr
    assert not set(sys.modules) & set(MAY_IMPORT)


def test_the_command_line_does_not_wait_for_plots_and_benches() -> None:
    script = "import paxon.kvstore.cli.commands, sys; print(*sorted(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert not {"matplotlib", "paxon.bench", "paxon.bench.cli"} & set(found.stdout.split())


def test_every_module_says_what_it_is_and_what_it_offers() -> None:
    for path in all_sources():
        tree = parsed(path)[0]
        assert isinstance(tree, ast.Module)
        assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
        offered = [value for name, value in _assignments(tree) if name == "__all__"]
        assert len(offered) == 1, f"{name_of(path)} needs one __all__"
        names = ast.literal_eval(offered[0])
        defined = _top_level_names(path)
        assert set(names) <= defined, f"{name_of(path)}: __all__ names what is not there"
        assert len(names) == len(set(names)), f"{name_of(path)}: __all__ names something twice"


def _assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Names that a module gives values to, and these."""
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value
            case _:
                pass


def _top_level_names(path: Path) -> set[str]:
    """All that a module defines or imports, under conditions too."""
    names: set[str] = set()
    for node in parsed(path):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Import() | ast.ImportFrom():
                names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
            case _:
                pass
    return names


def test_no_file_is_too_long_to_be_read_in_a_sitting() -> None:
    files = [*all_sources(), *sources("tests")]
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert not {f: n for f, n in lines.items() if n > LONG_FILES.get(f, MAX_LINES)}


def test_the_benches_stay_small() -> None:
    texts = (path.read_text(encoding="utf-8") for path in sources("bench"))
    assert sum(len(text.splitlines()) for text in texts) < MAX_BENCH_LINES


def test_no_function_is_too_long_to_be_read_at_once() -> None:
    wrong = [
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in [*all_sources(), *sources("tests"), *sources("examples")]
        for node in parsed(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert not wrong


def test_no_folder_holds_too_much_to_be_overlooked() -> None:
    folders = {path.parent for path in [*all_sources(), *sources("tests")]}
    counts = {name_of(folder): len(list(folder.glob("*.py"))) for folder in folders}
    pages = {path.parent for path in (ROOT / "docs").rglob("*.*")}
    counts |= {name_of(folder): len(list(folder.glob("*.*"))) for folder in pages}
    assert not {name: count for name, count in counts.items() if count > MAX_FILES}


def test_the_page_of_the_tests_names_every_folder_of_them() -> None:
    page = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    folders = {name_of(path.parent) for path in sources("tests")} - {"tests"}
    assert not [name for name in sorted(folders) if f"`{name}/`" not in page]


def test_every_folder_says_in_which_order_to_read_it() -> None:
    """Each `__init__` names all its modules and packages, but for those that start it."""
    wrong = []
    for init in (path for path in all_sources() if path.name == "__init__.py"):
        text = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
        inside = [path.parent.name for path in init.parent.glob("*/__init__.py")]
        inside += [path.stem for path in init.parent.glob("*.py")]
        wrong += [
            f"{name_of(init)} does not name {name}"
            for name in inside
            if not name.startswith("__") and f"`{name}`" not in text
        ]
    assert not wrong


def test_every_package_is_typed_and_in_the_wheel() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    tools = project["tool"]["setuptools"]
    folders = sorted({path.parent for path in all_sources()})
    packages = {module_name(folder / "__init__.py"): folder for folder in folders}
    assert sorted(tools["packages"]) == sorted(packages)
    for package, folder in packages.items():
        assert (folder / "__init__.py").exists(), f"{package} is not a package"
        if package.count(".") < 2:
            assert (folder / "py.typed").exists()
            assert "py.typed" in tools["package-data"][package]


def is_for_the_type_checker(test: ast.expr) -> bool:
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return all(map(is_for_the_type_checker, test.values))
    if isinstance(test, ast.Call):
        return isinstance(test.func, ast.Name) and test.func.id == "isinstance"
    return isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot)


@pytest.mark.parametrize("folder", ["transport", "actors", "kvstore"])
def test_nothing_rests_on_an_assertion_that_python_leaves_out_when_it_optimizes(
    folder: str,
) -> None:
    """`python -O` runs none of them: what must hold is an `invariant`."""
    for path in sources(folder):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assert):
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                assert is_for_the_type_checker(node.test), f"{where} is to be an invariant"


def test_the_changelog_has_a_section_for_the_version_that_is_tagged_next() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert sections[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d", sections[1])
