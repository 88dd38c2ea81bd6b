"""What proxies send, and what becomes of the answers. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import msgspec

from paxon.kvstore.client.core import RawCore
from paxon.kvstore.errors import CallFailed, InvalidRequest, OperationFailed, PipelineError
from paxon.kvstore.objects.calls import (
    REFUSED,
    RETURNED,
    CallRecord,
    Outcome,
    decode_answer,
    decode_value,
    encode,
)
from paxon.kvstore.objects.carrying import check_plain, where_in
from paxon.kvstore.objects.definition import Body, Definition
from paxon.kvstore.objects.machine import language_of, wrong_arguments
from paxon.kvstore.objects.replicated import Replicated
from paxon.kvstore.store.operations import MAX_OPERATIONS

__all__ = [
    "CALLS",
    "Gathered",
    "Later",
    "ObjectCore",
    "Prepared",
    "body_of",
    "definition_of",
    "outcomes_of",
    "prepare",
    "value_of",
]

CALLS = "__paxon_calls__"
"""The attribute of a proxy that has the rest, besides the names of its class."""

T = TypeVar("T")
Prepared = tuple[Body, CallRecord]
"""A call that has been checked."""


class ObjectCore(RawCore):
    """Says in its session whose calls these are: a cluster of another class executes none."""

    def speak(self, definition: Definition) -> None:
        """Before anything is sent."""
        self._language = language_of(definition)


def definition_of(cls: object) -> Definition:
    """Of a class to make a proxy of. Raises `InvalidRequest`."""
    if not (isinstance(cls, type) and issubclass(cls, Replicated)) or cls is Replicated:
        raise InvalidRequest(f"give a subclass of paxon.Replicated, not {cls!r}")
    return cls.__paxon_definition__


def body_of(definition: Definition, attribute: str) -> Body:
    """A method that may be called from outside. Raises `InvalidRequest`."""
    body = definition.attributes.get(attribute)
    if body is None:
        raise InvalidRequest(f"{definition.name}.{attribute} is neither a command nor a query")
    newest = definition.bodies[body.name][0]
    if newest is not body:
        raise InvalidRequest(
            f"{definition.name}.{attribute} is an old body of {body.name}: call that"
        )
    return body


def prepare(
    definition: Definition, body: Body, args: Sequence[Any], kwargs: dict[str, Any]
) -> Prepared:
    """A call as it is sent. Raises `InvalidRequest` for what would not be taken as it is meant."""
    where = f"{definition.name}.{body.name}"
    if len(args) > len(body.parameters):
        raise InvalidRequest(
            f"{where} takes {len(body.parameters)} arguments, not {len(args) + len(kwargs)}"
        )
    given = dict(zip(body.parameters, args, strict=False))
    for name, value in kwargs.items():
        if name in given or name not in body.parameters:
            what = "is given twice" if name in given else "is not one of its arguments"
            raise InvalidRequest(f"{where}: {name} {what}")
        given[name] = value
    try:
        arguments = encode(given)  # first: it notices what contains itself
        for name, kinds in body.takes_any.items():
            if name in given:
                check_plain(given[name], kinds)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidRequest(f"{where}: {error}") from None
    try:
        body.arguments.decode(arguments)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"{where}: {wrong_arguments(error)}") from None
    return body, CallRecord(body.name, msgspec.Raw(arguments))


def outcomes_of(payload: bytes, count: int) -> list[Outcome]:
    """How so many calls ended. Raises `OperationFailed` for what is no answer to them."""
    try:
        outcomes = decode_answer(payload).outcomes
    except msgspec.DecodeError as error:
        raise OperationFailed(f"the reply is not one of a replicated class: {error}") from None
    if len(outcomes) != count:
        raise OperationFailed("the reply is to another number of calls than were made")
    return outcomes


def value_of(definition: Definition, body: Body, outcome: Outcome) -> Any:
    """The result of a call. Raises what it raised."""
    where = f"{definition.name}.{body.name}"
    if outcome.kind == RETURNED:
        try:
            return body.result.decode(outcome.value)
        except msgspec.DecodeError as error:
            raise OperationFailed(
                f"{where} returned something else than it declares: {where_in(error)[1]}"
            ) from None
    if outcome.kind == REFUSED:
        raise InvalidRequest(outcome.text)
    kind = next((each for each in body.raises if each.__name__ == outcome.name), None)
    if outcome.declared and kind is not None:
        try:
            arguments = decode_value(outcome.value)
            raised = _rebuilt(kind, [outcome.text] if arguments is None else arguments)
        except Exception:  # its class will not be made of them
            raise CallFailed(f"{where} raised {outcome.text}", name=outcome.name) from None
        raise raised
    raise CallFailed(f"{where} raised {outcome.text}", name=outcome.name)


def _rebuilt(kind: type[Exception], arguments: list[Any]) -> Exception:
    """A declared exception as it was raised.

    Where its own `__init__` takes others than the arguments that it keeps, it is left out: what it
    sets besides them is not there then.
    """
    with suppress(Exception):
        raised = kind(*arguments)
        if list(raised.args) == arguments:
            return raised
    return kind.__new__(kind, *arguments)


class Later(Generic[T]):
    """The result of a call in a batch: there once the batch is done."""

    def __init__(self) -> None:
        self.value: Callable[[], Any] | None = None

    def done(self) -> bool:
        """Whether it is known."""
        return self.value is not None

    def result(self) -> T:
        """The result of the call. Raises what it raised, and RuntimeError before that is known."""
        if self.value is None:
            raise RuntimeError("the batch is not done yet: ask after its with statement")
        result: T = self.value()
        return result


class Gathered:
    """Calls that go together, and their results."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition
        self._calls: list[tuple[Prepared, Later[Any]]] = []

    def take(self, body: Body, args: Sequence[Any], kwargs: dict[str, Any]) -> Later[Any]:
        """Another call. Raises `InvalidRequest`."""
        if len(self._calls) >= MAX_OPERATIONS:
            raise InvalidRequest(f"a batch has at most {MAX_OPERATIONS} calls: begin another")
        later: Later[Any] = Later()
        self._calls.append((prepare(self._definition, body, args, kwargs), later))
        return later

    def payload(self) -> bytes:
        """All as one command."""
        return encode([record for (_, record), _ in self._calls])

    def __len__(self) -> int:
        return len(self._calls)

    def deliver(self, payload: bytes) -> None:
        """Raises `PipelineError` if any failed."""
        definition = self._definition
        errors: dict[int, Exception] = {}
        outcomes = outcomes_of(payload, len(self._calls))
        for index, (((body, _), later), outcome) in enumerate(
            zip(self._calls, outcomes, strict=True)
        ):
            later.value = lambda body=body, outcome=outcome: value_of(definition, body, outcome)
            if outcome.kind != RETURNED:
                try:
                    later.value()
                except Exception as error:
                    errors[index] = error
        if errors:
            raise PipelineError(errors)
