"""Which small changes are made to a function: in its syntax tree, and compiled one at a time."""

from __future__ import annotations
import __future__

import ast
import importlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

__all__ = ["Mutant", "mutants"]

BOUNDARY: dict[type[ast.cmpop], ast.cmpop] = {
    ast.Lt: ast.LtE(), ast.LtE: ast.Lt(), ast.Gt: ast.GtE(), ast.GtE: ast.Gt(),
}  # fmt: skip
OPPOSITE = {"min": "max", "max": "min", "any": "all", "all": "any"}

HARMLESS = ("logger.", "invariant(", "super().__init__(")
"""Calls that are left alone: what is logged, and what asserts that something else holds."""
COUNTED = ("self._counters[",)
"""What only counts, for `paxon status`."""

Slot = tuple[ast.AST, str, int | None]
"""Where a node stands: its parent, the field, and the index if that is a list."""


@dataclass(frozen=True)
class Mutant:
    """One change to one function."""

    module: str
    function: str
    """By its qualified name, so that it is found again wherever the function moves."""
    text: str
    """What is changed into what; with a number where the function has the same change twice."""
    lines: tuple[int, ...]
    """Which lines have to be run to reach it, any of them."""
    code: CodeType

    @property
    def name(self) -> str:
        return f"{self.module.removeprefix('paxon.actors.')}:{self.function}: {self.text}"

    def apply(self) -> None:
        """Give the function its new code, in this process, for good."""
        found: Any = importlib.import_module(self.module)
        for part in self.function.split("."):
            found = found.__dict__[part]
        found = getattr(found, "fget", None) or getattr(found, "__func__", found)
        while hasattr(found, "__wrapped__"):  # a context manager, say
            found = found.__wrapped__
        assert isinstance(found, FunctionType), found
        found.__code__ = self.code


def mutants(module: str) -> Iterator[Mutant]:
    """All mutants of a module's functions and methods, in the order of the source."""
    path = importlib.import_module(module).__file__
    assert path is not None
    tree = ast.parse(Path(path).read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield from _of_function(module, path, (), node)
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    yield from _of_function(module, path, (node.name,), inner)


def _of_function(
    module: str, path: str, owners: tuple[str, ...], function: ast.FunctionDef
) -> Iterator[Mutant]:
    function.decorator_list, function.returns = [], None
    declares = function.name == "__init__"  # what is missing there nobody could use
    seen: Counter[str] = Counter()
    for (parent, field, index), new, text, lines in _changes(function):
        if declares and text.startswith("drop self."):
            continue
        held = getattr(parent, field)
        old = held if index is None else held[index]
        ast.copy_location(new, old)
        ast.fix_missing_locations(new)
        _put((parent, field, index), new)
        try:
            code = _compiled(path, owners, function)
        finally:
            _put((parent, field, index), old)
        seen[text] += 1
        numbered = text if seen[text] == 1 else f"{text} [{seen[text]}]"
        if code is not None:
            yield Mutant(module, ".".join((*owners, function.name)), numbered, lines, code)


def _put(slot: Slot, node: ast.AST) -> None:
    parent, field, index = slot
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def _compiled(path: str, owners: tuple[str, ...], function: ast.FunctionDef) -> CodeType | None:
    """The function's code, as if it stood in its class; None if it needs other variables now."""
    body: ast.stmt = function
    for owner in reversed(owners):
        body = ast.ClassDef(owner, [], [], [body], [])
        ast.fix_missing_locations(ast.copy_location(body, function))
    flags = __future__.annotations.compiler_flag
    code = compile(ast.Module([body], []), path, "exec", flags, dont_inherit=True)
    for name in (*owners, function.name):
        code = next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name)
    plain = {"__class__"} if "super" in code.co_names else set()
    return code if set(code.co_freevars) == plain else None


Change = tuple[Slot, ast.AST, str, tuple[int, ...]]


def _changes(function: ast.FunctionDef) -> Iterator[Change]:
    for index, statement in enumerate(function.body):
        if index or not _is_docstring(statement):
            yield from _of_node((function, "body", index), statement)


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _of_node(slot: Slot, node: ast.AST) -> Iterator[Change]:
    source = ast.unparse(node) if isinstance(node, ast.stmt | ast.expr) else ""
    if isinstance(node, ast.Expr) and source.startswith(HARMLESS):
        return
    if isinstance(node, ast.AugAssign) and source.startswith(COUNTED):
        return
    if isinstance(node, ast.stmt | ast.expr):
        head = _head(node)
        for new, text in _replacements(node, source):
            yield slot, new, text, head
        if isinstance(node, ast.If | ast.While | ast.IfExp):
            yield from _of_condition((node, "test", None), node.test, isinstance(node, ast.While))
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "msg", "exc", "cause", "keywords"):
            continue
        if isinstance(value, list):
            for index, inner in enumerate(value):
                if isinstance(inner, ast.AST):
                    yield from _of_node((node, field, index), inner)
        elif isinstance(value, ast.AST):
            yield from _of_node((node, field, None), value)


def _head(node: ast.stmt | ast.expr) -> tuple[int, ...]:
    """The lines of an expression, or of a statement without the statements in it."""
    end = node.end_lineno or node.lineno
    body = getattr(node, "body", None)
    if isinstance(body, list) and body:
        end = max(node.lineno, body[0].lineno - 1)
    return tuple(range(node.lineno, end + 1))


def _of_condition(slot: Slot, test: ast.expr, loop: bool) -> Iterator[Change]:
    for value in (False,) if loop else (True, False):
        if not (isinstance(test, ast.Constant) and test.value == value):
            text = f"if {ast.unparse(test)} -> {value}"
            yield slot, ast.Constant(value), text, _head(test)


def _replacements(node: ast.stmt | ast.expr, source: str) -> Iterator[tuple[ast.AST, str]]:
    match node:
        case ast.BoolOp(values=values):
            for index, left_out in enumerate(values):
                rest = [v for i, v in enumerate(values) if i != index]
                new = rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
                yield new, f"{source} without {ast.unparse(left_out)}"
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in BOUNDARY:
            new = ast.Compare(left, [BOUNDARY[type(op)]], [right])
            yield new, f"{source} -> {ast.unparse(new)}"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand, f"{source} -> {ast.unparse(operand)}"
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=ast.Constant(value=1)):
            yield left, f"{source} -> {ast.unparse(left)}"
        case ast.Call(func=ast.Name(id=name), args=arguments) if name in OPPOSITE:
            yield (
                ast.Call(ast.Name(OPPOSITE[name], ast.Load()), arguments, node.keywords),
                (f"{source} -> {OPPOSITE[name]}"),
            )
        case ast.Return(value=ast.Constant(value=bool() as value)):
            yield ast.Return(ast.Constant(not value)), f"{source} -> {not value}"
        case ast.Return(value=ast.Compare() | ast.BoolOp()):
            yield ast.Return(ast.Constant(True)), f"{source} -> True"
            yield ast.Return(ast.Constant(False)), f"{source} -> False"
        case ast.Expr(value=ast.Call()) | ast.Delete() | ast.AugAssign() | ast.Continue():
            yield ast.Pass(), f"drop {source}"
        case ast.Assign(targets=targets) if any(_is_state(target) for target in targets):
            yield ast.Pass(), f"drop {source}"
        case _:
            pass


def _is_state(target: ast.expr) -> bool:
    """Whether an assignment changes more than a local variable."""
    if isinstance(target, ast.Tuple):
        return any(_is_state(element) for element in target.elts)
    return isinstance(target, ast.Attribute | ast.Subscript)
