"""The state machine around a user's object."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import Any, ClassVar, cast

import msgspec

from paxon.actors import Limit, StateMachine
from paxon.actors.execution.machine_errors import (
    MachineFailure,
    depends_on_process,
    error_reply,
    in_short,
)
from paxon.actors.limits.allowances import LARGEST_REPLY
from paxon.kvstore.objects.calls import (
    RAISED,
    REFUSED,
    RETURNED,
    CallRecord,
    Outcome,
    comparable,
    cost_of,
    counted,
    decode_calls,
    encode,
    encode_answer,
    no_value,
    text_bytes,
)
from paxon.kvstore.objects.carrying import (
    altered,
    check_ordered,
    check_plain,
    shared_part,
    where_in,
)
from paxon.kvstore.objects.definition import Body, Definition
from paxon.kvstore.objects.moment import Timer
from paxon.kvstore.objects.replicated import Replicated, moment_of
from paxon.kvstore.objects.sampling import PARTS, sample
from paxon.transport.log import logger

__all__ = ["ObjectMachine", "COMPARED_PARTS", "VERSION", "language_of", "machine_of"]

VERSION = "version"
"""The agreed setting: which version of the class is in force (docs/running/settings.md)."""
COMPARED_PARTS = "compared_parts"
"""The agreed setting: how many parts of the state servers compare after a slot; 0: none."""

_TIMERS_A_SLOT = 1000
_ROOM = 1 << 16
_OUTCOME = 80
"""Bytes that a reply takes besides what its calls return, and for each of them, generously: there
is room to say of any that its result is too large."""


class TooOld(MachineFailure):
    """The version of the class in force is one that this server does not have."""


class _Image(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A snapshot of the machine."""

    seed: int
    next_timer: int
    timers: list[Timer]
    state: bytes
    """As the class's own `snapshot` gives it, or its fields by name."""


_image = msgspec.msgpack.Decoder(_Image)


def language_of(definition: Definition) -> str:
    """The language that the servers tell clients of."""
    return f"paxon.objects/{definition.name}"


def machine_of(replicated: Replicated) -> ObjectMachine:
    """The state machine around an object, called as its class is. Raises `TypeError`."""
    if type(replicated) is Replicated or hasattr(type(replicated), "__paxon_proxy__"):
        raise TypeError(f"{replicated!r} is no object of a subclass of Replicated")
    definition = replicated.__paxon_definition__
    newest = definition.newest
    limits = {
        VERSION: Limit(default=newest, least=1, most=newest, before=1, rises=True),
        COMPARED_PARTS: Limit(default=PARTS, least=0, most=1 << 20, before=0),
    }
    body = {
        "language": language_of(definition),
        "snapshots_are_sound": not definition.own_snapshot,  # `_encode_field` has read them again
        "limits": limits,
    }
    machine = type(definition.cls.__name__, (ObjectMachine,), body)
    return cast("ObjectMachine", machine(replicated))


class ObjectMachine(StateMachine):
    """Executes calls on one object; `machine_of` makes it."""

    limits: ClassVar[Mapping[str, Limit]]

    def __init__(self, replicated: Replicated) -> None:
        self.object = replicated
        self._definition = definition = replicated.__paxon_definition__
        self._moment = moment_of(replicated)
        self._moment.timers.bind(self._encode_timer)
        self.failed_timers = 0
        """Timers that raised."""
        self._initial: dict[str, bytes] = {}
        self._fields = list(definition.fields.values())
        for name in definition.fields:
            if name not in replicated.__dict__ and not hasattr(type(replicated), name):
                raise TypeError(
                    f"{definition.name}.__init__ does not set self.{name}, which it annotates"
                )
            self._initial[name] = initial = self._encode_field(name)
            if name not in replicated.__dict__:  # (else it would change the class's own)
                object.__setattr__(replicated, name, self._decode_field(name, initial))
        _check_beginning(type(replicated), definition)
        self._compared_parts = 0
        self._compared_slot = 0
        """The last of which parts of the state were compared."""
        self._be_in(definition.newest)

    def figures(self) -> Mapping[str, int]:
        return {"timers": len(self._moment.timers.waiting), "failed_timers": self.failed_timers}

    # --- what the core tells ---------------------------------------------------------------------

    def made(self, number: int) -> None:
        self._moment.seed = number

    def enter(self, slot: int) -> None:
        self._moment.slot = slot
        self._moment.position = 0

    def agree(self, limits: Mapping[str, int]) -> None:
        version, definition = limits[VERSION], self._definition
        if version > definition.newest:
            raise TooOld(
                f"version {version} of {definition.name} is in force and this server has version "
                f"{definition.newest}: start it with the code that the other servers run"
            )
        self._be_in(version)
        self._compared_parts = limits[COMPARED_PARTS]

    def _be_in(self, version: int) -> None:
        self.version = version
        """Of the class, in force now."""
        definition = self._definition
        self._bodies = definition.bodies_of(version)
        self._shown = sorted(name for name, body in self._bodies.items() if body.compared)
        fields = definition.fields_in(version)
        for field in fields:  # what is new begins anew: an old body may have touched it already
            if field not in self._fields:
                initial = self._decode_field(field.name, self._initial[field.name])
                object.__setattr__(self.object, field.name, initial)
        self._fields = fields
        members: list[Any] = [(field.name, field.annotation) for field in self._fields]
        state = msgspec.defstruct("State", members, forbid_unknown_fields=True)
        self._state = msgspec.msgpack.Decoder(state)

    # --- calls -----------------------------------------------------------------------------------

    def check(self, command: bytes) -> None:
        decode_calls(command)

    def cost(self, command: bytes) -> int:
        return cost_of(command)

    def apply(self, command: bytes) -> bytes:
        return self._run_all(decode_calls(command), is_query=False)

    def query(self, query: bytes) -> bytes:
        try:
            calls = decode_calls(query)
        except msgspec.DecodeError:  # a client of the store, for one
            name = self._definition.name
            text = f"the servers replicate the class {name}, and this is no call of it: use a proxy"
            raise TypeError(text) from None
        return self._run_all(calls, is_query=True)

    def comparable(self, reply: bytes) -> bytes:
        """The reply, and in each slot some of the state: what has got into that has no other sign.

        Of a class with a `snapshot` of its own no fields are known, but what it shows itself.
        """
        slot = self._moment.slot
        if slot == self._compared_slot or not self._compared_parts:
            return comparable(reply)
        self._compared_slot = slot
        timers = self._moment.timers
        names = sorted(field.name for field in self._fields)  # (in code in whatever order)
        state = [getattr(self.object, name) for name in names]
        state += [self._shown_by(self._bodies[name]) for name in self._shown]
        state += [timers.waiting, timers.next_id]
        return comparable(reply) + sample(state, slot, self._compared_parts)

    def _shown_by(self, body: Body) -> object:
        """What is to be compared, itself and not encoded: few parts of it are looked at."""
        moment = self._moment
        moment.now, moment.querying = self.now, True  # (`now` may be that of a query before)
        try:
            return body.function(self.object)
        except BaseException as error:  # the user's code may raise anything
            if depends_on_process(error):
                raise
            return in_short(error).partition(":")[0]
        finally:
            moment.querying = False

    def reply_bytes(self, reply: bytes) -> int:
        return counted(reply)

    def _run_all(self, calls: list[CallRecord], *, is_query: bool) -> bytes:
        self._moment.now = self.now
        outcomes: list[Outcome] = []
        texts = text_bytes(len(calls))
        room = LARGEST_REPLY - _ROOM - _OUTCOME * len(calls)
        # A loop, for each call to have the same room for recursion (`with_allowance`).
        for call in calls:
            outcome = self._run(call, is_query)
            size = len(outcome.value) + len(outcome.name)
            if outcome.kind != RETURNED:
                outcome.text = outcome.text.encode()[:texts].decode(errors="ignore")
                size += texts
            if size <= room:
                room -= size
            else:
                outcome = _raised("ValueError", "ValueError: its result is too large to be sent")
            outcomes.append(outcome)
        return encode_answer(outcomes)

    def _run(self, call: CallRecord, is_query: bool) -> Outcome:
        body = self._bodies.get(call.method)
        if body is None or (is_query and body.kind == "command"):
            return self._refused(call.method, self._why_not(call.method))
        try:
            arguments = body.arguments.decode(call.arguments)
        except msgspec.DecodeError as error:
            return self._refused(call.method, wrong_arguments(error))
        except BaseException as error:  # of an argument's own class
            if depends_on_process(error):
                raise
            return _outcome_of(body, error)
        given: dict[str, Any] = {}
        for name in body.parameters:
            value = getattr(arguments, name)
            if value is not msgspec.UNSET:
                given[name] = value
        moment = self._moment
        moment.next_call()
        moment.querying = body.kind == "query"
        try:
            result = body.function(self.object, **given)
            encoded = body.encode(result)  # first: it notices what contains itself
            if body.result_shape.has_any:
                check_plain(result, body.result_shape.kinds)
            elif body.kind == "command" and not body.result_shape.has_set:
                check_ordered(result)
            return Outcome(RETURNED, msgspec.Raw(encoded))
        except BaseException as error:  # the user's code may raise anything
            if depends_on_process(error):
                raise
            return _outcome_of(body, error)
        finally:
            moment.querying = False

    def _why_not(self, method: str) -> str:
        known = self._definition.bodies.get(method)
        if known is None:
            return "there is no such method; the proxy's class is not the servers'"
        if method in self._bodies:
            return "it is a command, and was sent as a query"
        return (
            f"it is there from version {known[-1].since} on, and version {self.version} is in force"
        )

    def _refused(self, method: str, why: str) -> Outcome:
        text = f"{self._definition.name}.{method:.100}: {why}"
        return Outcome(REFUSED, no_value(), text=text)

    # --- timers ----------------------------------------------------------------------------------

    def next_wakeup(self) -> int | None:
        waiting = self._moment.timers.waiting
        return waiting[0].due if waiting else None

    def wake(self, time: int) -> bool:
        """Run what is due, each taken off first, as much of it as a slot should hold."""
        timers = self._moment.timers
        self._moment.now = time
        for _ in range(_TIMERS_A_SLOT):
            if not timers.waiting or timers.waiting[0].due > time:
                return False
            timer = timers.waiting.pop(0)
            outcome = self._run(CallRecord(timer.method, msgspec.Raw(timer.arguments)), False)
            if outcome.kind != RETURNED:
                self.failed_timers += 1
                logger.error(
                    "{}: the timer {} for {} at {} failed: {}",
                    self._definition.name, timer.id, timer.method, timer.due, outcome.text,
                )  # fmt: skip
        return bool(timers.waiting) and timers.waiting[0].due <= time

    def _encode_timer(
        self, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str, bytes]:
        name = getattr(method, "__name__", "")
        body = self._definition.attributes.get(name)
        if body is None or body.kind != "command":
            raise TypeError(f"timers call commands of {self._definition.name}, not {method!r}")
        given = body.signature.bind(self.object, *args, **kwargs).arguments
        arguments = encode({key: given[key] for key in body.parameters if key in given})
        for key, kinds in body.takes_any.items():
            check_plain(given.get(key), kinds)
        check_ordered([given[key] for key in body.parameters if key in given])
        body.arguments.decode(arguments)
        return body.name, arguments

    # --- state -----------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        timers = self._moment.timers
        return encode(
            _Image(self._moment.seed, timers.next_id, timers.waiting, self._state_bytes())
        )

    def _state_bytes(self) -> bytes:
        if self._definition.own_snapshot:
            return self.object.snapshot()
        fields = {field.name: getattr(self.object, field.name) for field in self._fields}
        deep = {field.name for field in self._fields if field.shape.deep}
        kept = {name: msgspec.Raw(self._encode_field(name)) for name in fields}
        if shared := shared_part(fields, deep):
            raise TypeError(
                f"{self._definition.name}: {shared}, which would be two after a restart: keep it "
                "in one place, or make its class frozen"
            )
        return encode(kept)

    def restore(self, snapshot: bytes) -> None:
        image = _image.decode(snapshot)
        if self._definition.own_snapshot:
            self.object.restore(image.state)
        else:
            self._restore_fields(image.state)
        self._moment.seed = image.seed
        timers = self._moment.timers
        timers.waiting = image.timers
        timers.next_id = image.next_timer

    def _restore_fields(self, state: bytes) -> None:
        try:
            found = self._state.decode(state)
        except msgspec.DecodeError as error:
            name, wrong = where_in(error)
            raise ValueError(
                f"{self._definition.name}{'.' if name else ''}{name}: {wrong} (a field that is new "
                "needs a version: Annotated[…, since(N)])"
            ) from None
        for field in self._definition.fields.values():
            if field in self._fields:
                value = getattr(found, field.name)
            else:
                value = self._decode_field(field.name, self._initial[field.name])
            object.__setattr__(self.object, field.name, value)

    def _encode_field(self, name: str) -> bytes:
        value = getattr(self.object, name)
        try:
            kept = encode(value)
            again = self._decode_field(name, kept)
        except msgspec.DecodeError as error:
            raise TypeError(f"{self._definition.name}.{name}: {where_in(error)[1]}") from None
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise TypeError(f"{self._definition.name}.{name} cannot be kept: {error}") from None
        if other := altered(value, again):
            raise TypeError(f"{self._definition.name}.{name} holds {other} after a restart")
        return kept

    def _decode_field(self, name: str, kept: bytes) -> Any:
        return msgspec.msgpack.decode(kept, type=self._definition.fields[name].annotation)

    def digest(self) -> str:
        head = encode([self._moment.seed, self.version])
        return blake2b(head + self.snapshot(), digest_size=16).hexdigest()


def _check_beginning(cls: type, definition: Definition) -> None:
    """Refuse a class whose objects do not begin alike, as far as two of them tell."""
    try:
        inspect.signature(cls).bind()
    except TypeError:  # it takes arguments
        return
    one, other = cls(), cls()
    for name in definition.fields:
        if encode(getattr(one, name)) != encode(getattr(other, name)):
            raise TypeError(
                f"{definition.name}.__init__ sets self.{name} to something else each time, and "
                "every server has its own object: have a command set it"
            )


def wrong_arguments(error: Exception) -> str:
    """A sentence for people on what is wrong with the arguments of a call."""
    name, wrong = where_in(error)
    if name:
        return f"argument {name!r}: {wrong}"
    return wrong.replace("object contains unknown field", "it has no argument").replace(
        "object missing required field", "it lacks the argument"
    )


_args_of = vars(BaseException)["args"].__get__
"""Python's own: what a class of the user's has in its place may raise."""


def _outcome_of(body: Body, error: BaseException) -> Outcome:
    if issubclass(type(error), RecursionError):
        return _raised("RecursionError", "RecursionError: it nested too deep")
    declared = next(
        (kind for kind in body.raises if type(error) is kind),
        next((kind for kind in body.raises if issubclass(type(error), kind)), None),
    )
    text = error_reply(error).decode()
    if declared is None:
        return _raised(text.partition(":")[0], text)
    arguments = no_value()
    with suppress(TypeError, ValueError, OverflowError, RecursionError):  # what cannot be carried
        args = _args_of(error)
        encoded = encode(args)
        check_plain(list(args))
        arguments = msgspec.Raw(encoded)
    return Outcome(RAISED, arguments, declared.__name__, text, True)


def _raised(name: str, text: str) -> Outcome:
    return Outcome(RAISED, no_value(), name, text)
