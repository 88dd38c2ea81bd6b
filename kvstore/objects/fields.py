"""The fields of a replicated class: what its body and its `__init__` annotate.

Python keeps no annotations of `self.on: dict[str, bool] = {}`, so they are read off the source.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, get_args, get_origin

import msgspec

from paxon.kvstore.objects.carrying import Shape, keeping_ints, shape_of, substitute

__all__ = ["Field", "Since", "check_version", "fields_of", "since"]


_MOST_VERSION = 1_000_000


class Since(msgspec.Struct, frozen=True):
    """In an annotation: the field is part of the state from this version of the class on."""

    version: int


def since(version: int) -> Since:
    """`self.owners: Annotated[dict[str, str], since(2)] = {}` adds a field in version 2."""
    check_version(f"since({version!r})", version)
    return Since(version)


def check_version(what: str, version: int) -> None:
    """Raise `TypeError` for what is no version."""
    if type(version) is not int or not 1 <= version <= _MOST_VERSION:
        raise TypeError(f"{what}: a version is an int from 1 to {_MOST_VERSION}")


class Field(msgspec.Struct, frozen=True):
    """One field of the state."""

    name: str
    annotation: Any
    """As it is carried."""
    since: int
    shape: Shape


def fields_of(cls: type, names: Mapping[str, Any], known: Mapping[Any, Any]) -> dict[str, Field]:
    """The fields of a class, those of its bases among them, by name.

    `names` are the local names where it is defined, `known` its type variables. Raises `TypeError`.
    """
    found: dict[str, Field] = {}
    for owner in reversed(cls.__mro__):
        for name, annotation in _annotated(cls, owner, names):
            found[name] = _field(cls, name, substitute(annotation, dict(known)))
    for owner in cls.__mro__:
        for name in _assigned_in_init(owner):
            if name not in found:
                raise TypeError(
                    f"{cls.__name__}.__init__ sets self.{name} without an annotation: write "
                    f"self.{name}: TYPE = …, so that it can be kept"
                )
    return found


def _field(cls: type, name: str, annotation: Any) -> Field:
    version = 1
    if get_origin(annotation) is Annotated:
        kept = [each for each in get_args(annotation)[1:] if not isinstance(each, Since)]
        for each in get_args(annotation)[1:]:
            if isinstance(each, Since):
                version = each.version
        annotation = get_args(annotation)[0]
        for each in kept:
            annotation = Annotated[annotation, each]
    annotation = keeping_ints(annotation)
    shape = shape_of(annotation)
    if shape.wrong:
        raise TypeError(f"{cls.__name__}.{name} cannot be kept: {shape.wrong}")
    if shape.has_set:
        raise TypeError(
            f"{cls.__name__}.{name} holds a set, whose order differs from server to server: "
            "use a dict[…, None], whose keys keep theirs"
        )
    return Field(name, annotation, version, shape)


def _annotated(cls: type, owner: type, names: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and annotations of what one class declares itself, in order."""
    space = _namespace(cls, owner, names)
    for name, annotation in inspect.get_annotations(owner).items():
        value = _evaluate(owner, name, annotation, space)
        if get_origin(value) is not ClassVar and value is not ClassVar:
            yield name, value
    for own, node in _statements(owner):
        if isinstance(node, ast.AnnAssign) and (name := _attribute(owner, own, node.target)):
            yield name, _evaluate(owner, name, ast.unparse(node.annotation), space)


def _assigned_in_init(owner: type) -> Iterator[str]:
    for own, node in _statements(owner):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                parts = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
                for part in parts:
                    if name := _attribute(owner, own, part):
                        yield name


def _statements(owner: type) -> Iterator[tuple[str, ast.AST]]:
    """All that stands in the `__init__` that a class brings itself, and its name for `self`."""
    function = owner.__dict__.get("__init__")
    if not isinstance(function, types.FunctionType):
        return
    try:
        source = textwrap.dedent(inspect.getsource(function))
        tree = ast.parse(source)
        given = next(each.args for each in ast.walk(tree) if isinstance(each, ast.FunctionDef))
    except (OSError, SyntaxError, StopIteration):  # (a lambda, for one)
        raise TypeError(
            f"the source of {owner.__name__}.__init__ is not at hand, where the annotations of "
            "its fields stand: annotate them in the class's body instead"
        ) from None
    own = next((each.arg for each in given.posonlyargs + given.args), "self")
    for node in ast.walk(tree):
        yield own, node


def _attribute(owner: type, own: str, target: ast.expr) -> str:
    """The attribute's name in `self.name`, "" for any other target."""
    match target:
        case ast.Attribute(value=ast.Name(id=of), attr=name) if of == own:
            private = name.startswith("__") and not name.endswith("__")
            return f"_{owner.__name__.lstrip('_')}{name}" if private else name
        case _:
            return ""


def _namespace(cls: type, owner: type, names: Mapping[str, Any]) -> dict[str, Any]:
    """What annotations may name in `cls`, around which are `names`, or in a base of it."""
    module = sys.modules.get(owner.__module__)
    if owner is not cls and "<locals>" not in owner.__qualname__:
        names = {}  # (A base at the top of a module was written where nothing local was in sight.)
    # (Of the class's own body, types alone: a method `list` or `set` would hide the type.)
    inside = {name: value for name, value in vars(owner).items() if isinstance(value, type)}
    return {**vars(module or types), **names, **inside, owner.__name__: owner}


def _evaluate(owner: type, name: str, annotation: Any, space: dict[str, Any]) -> Any:
    value = annotation
    try:
        while isinstance(value, str):  # (in quotes, and a string once more)
            value = eval(value, space)
        return value
    except Exception as error:
        raise TypeError(
            f"{owner.__name__}.{name}: its annotation {annotation!r} means nothing here "
            f"({error}): what it names has to be defined or imported, at run time too, above the "
            "class"
        ) from None
