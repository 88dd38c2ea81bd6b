"""What is read off a replicated class when it is defined; whatever cannot work is refused then."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from paxon.kvstore.objects.carrying import Shape, can_change, shape_of, substitute
from paxon.kvstore.objects.fields import Field, _evaluate, _namespace, fields_of

__all__ = ["Body", "Definition", "Mark", "MARK", "define"]

Kind = Literal["command", "query"]

MARK = "__paxon__"
"""The attribute of a function by which `command` and `query` mark it."""


class Mark(msgspec.Struct, frozen=True):
    """A decorator's note on a method."""

    kind: Kind
    since: int
    name: str
    """What the method is called by callers; "": as it is defined."""
    raises: tuple[type[Exception], ...]
    compared: bool = False


class Body:
    """A method as it is from some version of the class on."""

    def __init__(self, mark: Mark, name: str, function: Callable[..., Any]) -> None:
        self.kind: Kind = mark.kind
        self.since = mark.since
        self.name = name
        self.function = function
        self.raises = mark.raises
        self.compared = mark.compared
        """Servers compare some of what it returns."""
        self.parameters: tuple[str, ...] = ()
        self.takes_any: dict[str, tuple[type, ...]] = {}
        """Those annotated as Any, or with Any in them, and what classes are named besides."""
        self.arguments: msgspec.msgpack.Decoder[Any]
        self.result: msgspec.msgpack.Decoder[Any]
        self.result_shape = Shape()
        self.encode: Callable[[Any], bytes]
        """The result's."""
        self.signature = inspect.signature(function)


class Definition:
    """All of a class that machine and proxies need."""

    def __init__(self, cls: type, name: str) -> None:
        self.cls = cls
        self.name = name
        self.fields: dict[str, Field] = {}
        self.bodies: dict[str, list[Body]] = {}
        """By name, the newest first."""
        self.attributes: dict[str, Body] = {}
        """The bodies, by the name under which the class has them."""
        self.own_snapshot = False
        self.newest = 1

    def bodies_of(self, version: int) -> dict[str, Body]:
        """The bodies that are in force in a version, by name."""
        found = {}
        for name, bodies in self.bodies.items():
            body = next((each for each in bodies if each.since <= version), None)
            if body is not None:
                found[name] = body
        return found

    def fields_in(self, version: int) -> list[Field]:
        """The fields of the state in a version."""
        return [field for field in self.fields.values() if field.since <= version]


def define(cls: type, base: type, name: str, names: Mapping[str, Any]) -> Definition:
    """Read a subclass of `base`, whose own names are taken. Raises `TypeError`."""
    definition = Definition(cls, name or cls.__name__)
    known = _type_arguments(cls)
    overridden = {"close", "snapshot", "restore"}
    taken = {each for each in vars(base) if not each.startswith("__")} - overridden
    calls = {*dir(base), "__getattr__", "__del__"}  # what a proxy needs for itself
    for attribute in _attributes(cls, base):
        function = inspect.getattr_static(cls, attribute)
        mark = getattr(function, MARK, None)
        if attribute in (taken if mark is None else calls):
            raise TypeError(
                f"{cls.__name__}.{attribute}: the name belongs to Replicated; choose another"
            )
        if mark is None:
            if _was_marked(cls, attribute):
                raise TypeError(
                    f"{cls.__name__}.{attribute} is, or replaces, a command or query, so it has to "
                    "be a method with @command or @query outermost"
                )
        else:
            if not isinstance(function, types.FunctionType):
                raise TypeError(f"{cls.__name__}.{attribute}: only methods can be replicated")
            body = Body(mark, mark.name or attribute, function)
            _read_signature(cls, body, names, known)
            if body.compared and body.parameters:
                raise TypeError(f"{cls.__name__}.{attribute} is compared, so it takes no arguments")
            definition.attributes[attribute] = body
            definition.bodies.setdefault(body.name, []).append(body)
    own = [getattr(cls, each) is not getattr(base, each) for each in ("snapshot", "restore")]
    if any(own) and not all(own):
        raise TypeError(f"{cls.__name__}: define both snapshot and restore, or neither")
    definition.own_snapshot = all(own)
    if not definition.own_snapshot:
        definition.fields = fields_of(cls, names, known)
        _check_attributes(cls, definition.fields)
    _order(cls, definition)
    return definition


def _was_marked(cls: type, attribute: str) -> bool:
    """Whether a base's method of this name is replicated, or what a property or the like wraps."""
    found = [vars(owner)[attribute] for owner in cls.__mro__ if attribute in vars(owner)]
    found += [getattr(each, name, None) for each in found for name in ("fget", "__func__")]
    return any(hasattr(each, MARK) for each in found)


def _check_attributes(cls: type, fields: Mapping[str, Field]) -> None:
    """Refuse a field that hides a method or a property, and what keeps data and is no field."""
    for name in fields:
        found = inspect.getattr_static(cls, name, None)
        if hasattr(found, "__get__") and not isinstance(found, types.MemberDescriptorType):
            raise TypeError(
                f"{cls.__name__}.{name}: a field cannot have the name of a method or property"
            )
    for owner in cls.__mro__:
        for name, value in vars(owner).items():
            if name.startswith("__") or name in inspect.get_annotations(owner):
                continue
            if isinstance(value, functools.cached_property):
                raise TypeError(
                    f"{cls.__name__}.{name} is a cached_property, and what it keeps differs from "
                    "server to server: make it a property"
                )
            if can_change(value):
                raise TypeError(
                    f"{cls.__name__}.{name} is a {type(value).__name__} without annotation, so it "
                    f"would be lost: write {name}: TYPE = …, or ClassVar if nobody changes it"
                )


def _attributes(cls: type, base: type) -> list[str]:
    """Names of all that the class and its bases below `base` define, in a settled order."""
    found: dict[str, None] = {}
    for owner in reversed(cls.__mro__):
        if owner is not base and not issubclass(base, owner):
            found.update(dict.fromkeys(vars(owner)))
    return list(found)


def _order(cls: type, definition: Definition) -> None:
    versions = [field.since for field in definition.fields.values()]
    for name, bodies in definition.bodies.items():
        bodies.sort(key=lambda body: -body.since)
        versions += [body.since for body in bodies]
        for newer, older in pairwise(bodies):
            if newer.since == older.since:
                raise TypeError(
                    f"{cls.__name__}.{name} has two bodies since version {newer.since}: say of "
                    f"the newer one since when it holds, @{newer.kind}(since={newer.since + 1})"
                )
            if newer.kind != older.kind:
                raise TypeError(f"{cls.__name__}.{name} is both a command and a query")
    definition.newest = max(versions, default=1)


def _type_arguments(cls: type) -> dict[Any, Any]:
    """The types that subclasses have put in for type variables."""
    known: dict[Any, Any] = {}
    for owner in cls.__mro__:
        for base in getattr(owner, "__orig_bases__", ()):
            parameters = _parameters(get_origin(base))
            for parameter, argument in zip(parameters, get_args(base), strict=False):
                value = substitute(argument, known)
                if not (isinstance(argument, TypeVar) and argument not in known):
                    known.setdefault(parameter, value)
    return known


def _parameters(cls: Any) -> Iterable[Any]:
    """The type variables of a class; one made of `collections.abc` alone does not say them."""
    if hasattr(cls, "__parameters__"):
        return tuple(cls.__parameters__)
    bases = getattr(cls, "__orig_bases__", ())
    return dict.fromkeys(each for base in bases for each in getattr(base, "__parameters__", ()))


def _read_signature(
    cls: type, body: Body, names: Mapping[str, Any], known: Mapping[Any, Any]
) -> None:
    """Find out how the arguments and the result of a method are carried."""
    where = f"{cls.__name__}.{body.function.__name__}"
    owner = next(each for each in cls.__mro__ if body.function in vars(each).values())
    space = _namespace(cls, owner, names)
    parameters = list(body.signature.parameters.values())
    if inspect.iscoroutinefunction(body.function) or inspect.isasyncgenfunction(body.function):
        raise TypeError(f"{where} is executed at once, so it cannot be async")
    if inspect.isgeneratorfunction(body.function):
        raise TypeError(f"{where} is executed at once, so it cannot be a generator: return a list")
    own, parameters = parameters[:1], parameters[1:]
    if not own or own[0].kind not in (own[0].POSITIONAL_ONLY, own[0].POSITIONAL_OR_KEYWORD):
        raise TypeError(f"{where} takes no self")
    members: list[tuple[str, Any, Any] | tuple[str, Any]] = []
    takes_any: dict[str, tuple[type, ...]] = {}
    for parameter in parameters:
        name = parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            stars = "*" if parameter.kind == parameter.VAR_POSITIONAL else "**"
            raise TypeError(f"{where}: {stars}{name} cannot be carried: take a list or a dict")
        if parameter.kind == parameter.POSITIONAL_ONLY:
            raise TypeError(f"{where}: arguments are carried by name, {name} among them: no '/'")
        if parameter.annotation is parameter.empty:
            raise TypeError(f"{where}: argument {name!r} has no annotation")
        annotation = _evaluate(
            owner, f"{body.function.__name__}({name})", parameter.annotation, space
        )
        annotation = substitute(annotation, dict(known))
        shape = shape_of(annotation)
        if shape.wrong:
            raise TypeError(f"{where}: argument {name!r} cannot be carried: {shape.wrong}")
        if shape.has_set and body.kind == "command":
            raise TypeError(
                f"{where}: argument {name!r} is a set, whose order differs from server to server: "
                "take a list"
            )
        if shape.has_any:
            takes_any[name] = shape.kinds
        if can_change(parameter.default):
            raise TypeError(
                f"{where}: the default of argument {name!r} is a "
                f"{type(parameter.default).__name__}, which one call could change for the next: "
                "take None, or what cannot change"
            )
        if parameter.default is parameter.empty:
            members.append((name, annotation))
        else:
            members.append((name, annotation | msgspec.UnsetType, msgspec.UNSET))
    body.parameters = tuple(parameter.name for parameter in parameters)
    body.takes_any = takes_any
    members.sort(key=len)  # (what has a default comes last; they are found by name)
    carried = msgspec.defstruct(body.name, members, forbid_unknown_fields=True)
    body.arguments = msgspec.msgpack.Decoder(carried)
    _read_result(where, owner, body, space, known)


def _read_result(
    where: str, owner: type, body: Body, space: dict[str, Any], known: Mapping[Any, Any]
) -> None:
    if body.signature.return_annotation is inspect.Signature.empty:
        raise TypeError(f"{where}: its result has no annotation (write -> None if it has none)")
    annotation = _evaluate(
        owner, f"{body.function.__name__}()", body.signature.return_annotation, space
    )
    annotation = substitute(annotation, dict(known))
    if annotation is None:
        annotation = type(None)
    shape = shape_of(annotation)
    if shape.wrong:
        raise TypeError(f"{where}: its result cannot be carried: {shape.wrong}")
    compared = shape.has_set and body.kind == "command"
    if compared and shape.unordered:
        raise TypeError(
            f"{where}: its result holds a set that cannot always be sorted, so it would be another "
            "on each server: return a list"
        )
    body.result_shape = shape
    body.result = msgspec.msgpack.Decoder(annotation)
    # In the order of a sorted set, which is the same everywhere.
    order: Literal["deterministic"] | None = "deterministic" if compared else None
    body.encode = msgspec.msgpack.Encoder(order=order).encode
