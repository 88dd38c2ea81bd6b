"""The documents say what is so: functions, files, messages and links that they name are there."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from rich.text import Text

from paxon.actors.messages import ClientMessage, PeerMessage, ServerReply
from paxon.bench.cli.app import app as benches
from paxon.kvstore.cli.commands import app
from paxon.kvstore.cluster.cluster_file import ClusterDescription

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").glob("*.md")]
)
ARCHITECTURE = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def section(title: str) -> str:
    """The text below a heading of ARCHITECTURE.md, up to the next of its level."""
    level = title.split(" ", maxsplit=1)[0]
    after = ARCHITECTURE.split(f"\n{title}\n")[1]
    return re.split(rf"^{level} ", after, maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize(
    ("title", "union"),
    [
        ("### Between servers", PeerMessage),
        ("### From clients", ClientMessage),
        ("### To clients", ServerReply),
    ],
)
def test_the_table_of_messages_names_each_of_them(title: str, union: object) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", section(title), re.MULTILINE)
    assert rows == [message.__name__ for message in get_args(union)]


@pytest.mark.parametrize(
    ("page", "least"),
    [("ARCHITECTURE.md", 15), ("membership.md", 25)],
    ids=["the trace of a put", "where each rule of membership is"],
)
def test_every_function_that_a_table_places_in_a_file_is_there(page: str, least: int) -> None:
    """`| … | file | functions |`, and `| file | function | … |`."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    steps = [
        (file, owner, function)
        for file, cell in re.findall(r"\| `([\w/]+\.py)` \| ([^|]*) \|", text)
        for owner, function in re.findall(r"`(?:(\w+)\.)?(\w+)`", cell)
    ]
    assert len(steps) >= least
    missing = []
    for file, owner, function in steps:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        bodies = {node.name: node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
        inside = bodies.get(owner, []) if owner else tree.body
        if not any(isinstance(n, ast.FunctionDef) and n.name == function for n in inside):
            missing.append(f"{file}: {owner}.{function}")
    assert not missing


def test_the_rules_are_numbered_without_a_gap() -> None:
    numbers = re.findall(r"^(\d+)\. \*\*", section("## The rules"), re.MULTILINE)
    assert [int(number) for number in numbers] == list(range(1, 17))


def test_code_cites_rules_that_there_are() -> None:
    """And this page, not one that is not in the repository."""
    wrong = []
    folders = ("paxon", "transport", "actors", "kvstore", "bench", "tests")
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        relative = path.relative_to(ROOT)
        text = path.read_text(encoding="utf-8")
        if path != Path(__file__) and re.search(r"\bDESIGN\b", text):
            wrong.append(f"{relative} cites DESIGN")
        wrong += [
            f"{relative} cites rule {number}"
            for number in re.findall(r"\brule (\d+)", text)
            if not 1 <= int(number) <= 16
        ]
    assert not wrong


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_files_that_a_document_names_are_there(path: Path) -> None:
    named = re.findall(
        r"`((?:paxon|transport|actors|kvstore|bench|tests|docs|examples)/[\w./-]*)`",
        path.read_text(encoding="utf-8"),
    )
    assert not [name for name in named if not (ROOT / name).exists()]


def test_pages_and_programs_that_anything_names_are_there() -> None:
    """Source, comments and workflows too: `docs/….md`, and tests to be run with `python -m`."""
    folders = ("paxon", "transport", "actors", "kvstore", "bench", "tests", "examples", "deploy")
    found = [
        path for folder in (*folders, "docs", ".github") for path in (ROOT / folder).rglob("*")
    ]
    wrong = []
    for path in [*found, *ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "pyproject.toml"]:
        if path.suffix not in {".py", ".md", ".toml", ".yml", ".yaml", ".sh", ".service", ""}:
            continue
        if path.is_dir():
            continue
        text = path.read_text(encoding="utf-8")
        pages = re.findall(r"\bdocs/[\w./-]+\.md\b", text)
        wrong += [f"{name_of(path)} names {page}" for page in pages if not (ROOT / page).exists()]
        for module in re.findall(r"python -m (tests(?:\.\w+)+)", text):
            file = ROOT / module.replace(".", "/")
            file = file / "__main__.py" if file.is_dir() else file.with_suffix(".py")
            if not file.exists() or '"__main__"' not in file.read_text(encoding="utf-8"):
                wrong.append(f"{name_of(path)} names {module}")
    assert not wrong


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_between_the_documents_lead_somewhere(path: Path) -> None:
    """To a file, and to a heading of it where the link names one."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        other = path.parent / file if file else path
        if not other.exists() or (heading and heading not in headings(other)):
            broken.append(target)
    assert not broken


def test_the_index_of_the_documents_has_each_of_them() -> None:
    index = ROOT / "docs" / "README.md"
    linked = re.findall(r"\]\(([^)#]+)\)", index.read_text(encoding="utf-8"))
    pages = {path.relative_to(index.parent).as_posix() for path in index.parent.rglob("*.md")}
    assert sorted(linked) == sorted(pages - {"README.md"})


def test_the_argument_of_safety_cites_planted_bugs_that_there_are() -> None:
    """In italics, each after the step that it breaks."""
    page = (ROOT / "docs" / "safety.md").read_text(encoding="utf-8")
    argument = page.split("## Why no slot gets two values")[1].split("\n## ")[0]
    cited = re.findall(r"(?<!\*)\*([a-zA-Z]\w+ [\w' ]+)\*(?!\*)", " ".join(argument.split()))
    planted = (ROOT / "docs" / "planted-bugs.md").read_text(encoding="utf-8")
    assert len(cited) >= 12
    assert not [name for name in cited if f"**{name}**" not in planted]


def headings(path: Path) -> set[str]:
    """Of a document, as links name them."""
    found = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_python_blocks_are_python(path: Path) -> None:
    """They compile; what they import is there. README's blocks are run as well (test_readme.py)."""
    for block in re.findall(
        r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        tree = ast.parse(block.replace("…", "..."))
        compile(tree, name_of(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        imported = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("paxon")
        ]
        for node in imported:
            exec(compile(ast.Module([node], []), name_of(path), "exec"), {})


command_of: Any = functools.cache(typer.main.get_command)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands_that_a_document_shows_are_there(path: Path) -> None:
    """`paxon …` in blocks and in sentences: the command, and each flag. Not run: they are many."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    shown = re.findall(r"^(?:    |\S*\$ )(paxon [a-z][^#\n]*)", text, re.MULTILINE)
    wrong = []
    for line in (*shown, *re.findall(r"`(paxon [a-z][^`]*)`", text)):
        at = command_of(app)
        words = [word.strip("[],") for word in line.split(" -- ")[0].split()[1:]]
        while words and getattr(at, "commands", None) and words[0] in (*at.commands, "bench"):
            word = words.pop(0)
            at = command_of(benches) if word == "bench" else at.commands[word]
        named = words and words[0].isalpha() and words[0].islower()
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        known = {flag for one in at.params for flag in (*one.opts, *one.secondary_opts)}
        if (getattr(at, "commands", None) and named) or flags - known - {"--help"}:
            wrong.append(line)
    assert not wrong


@pytest.mark.parametrize("page", ["local-cluster", "keys"])
def test_a_cluster_file_that_a_document_shows_is_one(page: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "running" / f"{page}.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "cluster.toml").write_text(block, encoding="utf-8")
    assert 1 in ClusterDescription.read(tmp_path / "cluster.toml").servers


def test_every_command_shows_an_example() -> None:
    """In its `--help`, and with its own name. Nothing is taken for markup, lines flow."""
    wrong = []

    def look(command: Any, name: str) -> None:
        for word, child in getattr(command, "commands", {}).items():
            look(child, f"{name} {word}")
        shows = re.search(rf"Examples?: .*\b{re.escape(name)}\b", command.help, re.DOTALL)
        if not getattr(command, "commands", None) and not shows:
            wrong.append(name)
        texts = (command.help, *(getattr(one, "help", None) or "" for one in command.params))
        wrong.extend(
            f"{name}: {text}"
            for text in texts
            if Text.from_markup(text).plain != text.replace(r"\[", "[")
            or re.search(r"\S\n\S", text)
        )

    look(command_of(app), "paxon")
    assert not wrong
