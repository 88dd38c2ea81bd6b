"""`Replicated`, `command` and `query`: what users write."""

from __future__ import annotations

import inspect
import sys
import types
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeVar, overload

from paxon.kvstore.objects.definition import MARK, Definition, Kind, Mark, define
from paxon.kvstore.objects.fields import check_version
from paxon.kvstore.objects.moment import Chance, Moment, Timers

__all__ = ["Replicated", "command", "query"]

F = TypeVar("F", bound=Callable[..., Any])

_MOMENT = "__paxon_moment__"


@overload
def command(method: F, /) -> F: ...


@overload
def command(
    *, raises: tuple[type[Exception], ...] = (), since: int = 1, name: str = ""
) -> Callable[[F], F]: ...


def command(
    method: F | None = None,
    /,
    *,
    raises: tuple[type[Exception], ...] = (),
    since: int = 1,
    name: str = "",
) -> F | Callable[[F], F]:
    """Make a method go through the log: it is executed once, in the same order, on every server.

    Args:
        method: the method, if the decorator is used without arguments.
        raises: exceptions that come back to the caller as themselves, with their arguments.
        since: the version of the class from which on this body holds. An older one stays, under
            another name in the class and with `name`.
        name: what callers call it; by default its own name.
    """
    return _decorate(method, "command", raises, since, name)


@overload
def query(method: F, /) -> F: ...


@overload
def query(
    *,
    raises: tuple[type[Exception], ...] = (),
    since: int = 1,
    name: str = "",
    compared: bool = False,
) -> Callable[[F], F]: ...


def query(
    method: F | None = None,
    /,
    *,
    raises: tuple[type[Exception], ...] = (),
    since: int = 1,
    name: str = "",
    compared: bool = False,
) -> F | Callable[[F], F]:
    """Make a method answer from the state, and change nothing: a linearizable read by default.

    Arguments as for `command`, and:
        compared: after each slot with a command servers call it, without arguments, and compare
            some parts of what it returns. For classes with `snapshot` and `restore` of their own.
    """
    return _decorate(method, "query", raises, since, name, compared=compared)


def _check_name(what: str, name: str) -> None:
    if type(name) is not str or not name.isprintable():
        raise TypeError(f"{what} with name={name!r}: a name is a str that can be printed")


def _decorate(
    method: F | None,
    kind: Kind,
    raises: tuple[type[Exception], ...],
    since: int,
    name: str,
    *,
    compared: bool = False,
) -> F | Callable[[F], F]:
    good = isinstance(raises, tuple) and all(
        isinstance(each, type) and issubclass(each, Exception) for each in raises
    )
    if not good:
        raise TypeError(f"{kind}(raises={raises!r}): give a tuple of classes of exceptions")
    if len({each.__name__ for each in raises}) < len(raises):
        raise TypeError(f"{kind}(raises={raises!r}): two of them have one name")
    check_version(f"{kind}(since={since!r})", since)
    _check_name(f"@{kind}", name)
    mark = Mark(kind, since, name, raises, compared)

    def marked(function: F) -> F:
        if not callable(function) or hasattr(function, MARK):
            raise TypeError(f"@{kind} is for methods, once for each, not for {function!r}")
        setattr(function, MARK, mark)
        return function

    return marked if method is None else marked(method)


class Replicated:
    """Subclass this to have your own class replicated (docs/objects.md).

        class Flags(Replicated):
            def __init__(self) -> None:
                self.on: dict[str, bool] = {}

            @command
            def set(self, name: str, value: bool) -> None:
                self.on[name] = value

            @query
            def get(self, name: str) -> bool:
                return self.on.get(name, False)

    Every server executes the same commands in the same order, so what they do depends on the state
    and their arguments alone: `self.now` and `self.random` are there in place of clocks and chance.
    The fields are kept by their annotations. What a command has changed before it raises stays
    changed: look first, then change.

    `class Flags(Replicated, name="flags")` says what the class is called towards clients; by
    default, as it is.
    """

    __paxon_definition__: ClassVar[Definition]

    def __init_subclass__(cls, *, name: str = "", **others: Any) -> None:
        super().__init_subclass__(**others)
        _check_name(f"class {cls.__name__}", name)
        if "__paxon_proxy__" not in vars(cls):
            cls.__paxon_definition__ = define(cls, Replicated, name, _local_names())

    @property
    def now(self) -> int:
        """The log's time, nanoseconds: the same on every server, and it never falls.

        It runs with the leader's clock and stands still while nobody leads. It is no date, for it
        does not count from 1970: give a command that needs one a date as an argument.
        """
        return moment_of(self).now

    @property
    def random(self) -> Chance:
        """Random numbers that are the same on every server; for commands."""
        return moment_of(self).chance

    @property
    def timers(self) -> Timers:
        """Commands that run by themselves at a time of the log."""
        return moment_of(self).timers

    def snapshot(self) -> bytes:
        """The whole state as bytes; override it with `restore` if annotations will not do."""
        raise NotImplementedError

    def restore(self, snapshot: bytes) -> None:
        """Replace the whole state by that of `snapshot`, as `snapshot()` once returned it."""
        raise NotImplementedError

    def close(self) -> None:
        """Close a proxy's connections; an object by itself has none."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close a proxy's connections."""

    def __setattr__(self, name: str, value: object) -> None:
        definition = self.__paxon_definition__
        known = name in definition.fields or definition.own_snapshot
        if not known and not _sets(type(self), name):
            raise AttributeError(
                f"{type(self).__name__}.{name} is no field of the state, so it would be lost: "
                f"annotate it in __init__, self.{name}: TYPE = …"
            )
        moment = self.__dict__.get(_MOMENT)
        if moment is not None and moment.querying:
            raise RuntimeError(f"a query changes nothing, and here it sets self.{name}")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        definition = self.__paxon_definition__
        if name in definition.fields and not definition.own_snapshot:
            raise AttributeError(
                f"{type(self).__name__}.{name} is a field of the state, which has to be there: "
                "set it to something instead of deleting it"
            )
        object.__delattr__(self, name)


def _sets(cls: type, name: str) -> bool:
    """Whether the class itself has a way to set this: a property, which leads to fields."""
    found = inspect.getattr_static(cls, name, None)
    return hasattr(found, "__set__") and not isinstance(found, types.MemberDescriptorType)


def moment_of(replicated: Replicated) -> Moment:
    """An object's view of the slot at hand."""
    moment: Moment | None = replicated.__dict__.get(_MOMENT)
    if moment is None:
        moment = replicated.__dict__[_MOMENT] = Moment()
    return moment


def _local_names() -> Mapping[str, Any]:
    """The local names where a class is being defined, if that is in a function: its own first."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__") in {"abc", "typing"}:
        frame = frame.f_back
    module, names = frame.f_globals, [dict(frame.f_locals)]
    # Of functions around it, only names that it uses elsewhere too are to be had from itself.
    above = frame.f_back
    while above is not None and frame.f_locals is not module:
        if above.f_globals is module:
            names.append(dict(above.f_locals))
        above = above.f_back
    return {} if frame.f_locals is module else dict(ChainMap(*names))
