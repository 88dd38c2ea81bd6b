"""Options by name: their types and where they come from (flag, environment, cluster file, default).

An option is a field of `Settings` that is not derived from the list of servers, or `durability`.
Besides them, a state machine's own limits are checked here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal, get_args

import msgspec

from paxon.actors import Limit, Settings, StateMachine
from paxon.actors.execution.agreed import NAMES

__all__ = [
    "Durability",
    "OptionError",
    "ENVIRONMENT_PREFIX",
    "option_names",
    "check_limits",
    "check_option",
    "parse_option",
    "parse_assignments",
    "from_environment",
    "misspelt",
    "closest",
    "check_etcd",
]

Durability = Literal["disk", "memory"]
"""Where a server keeps what it has promised and accepted."""

ENVIRONMENT_PREFIX = "PAXON_"
"""The option `heartbeat_interval` is read from PAXON_HEARTBEAT_INTERVAL."""

_FLAGS = ("server_id", "cluster_file", "join", "metrics", "log_level", "stderr_level", "log_format")
"""Flags of `paxon server` that variables set, too."""
_NEAR = 0.88
"""How alike two names are of which one is taken for a slip of the pen: 1.0 is the same."""

_DERIVED = frozenset({"cluster", "server", "servers", "client_addresses", "peer_addresses", "join"})


def _when_given(kind: Any) -> Any:
    """The type of a value that is given, where None says that it is not."""
    given = [part for part in get_args(kind) if part is not type(None)]
    return given[0] if type(None) in get_args(kind) else kind


_TYPES: dict[str, Any] = {
    field.name: _when_given(field.type)
    for field in msgspec.structs.fields(Settings)
    if field.name not in _DERIVED
} | {"durability": Durability}


class OptionError(ValueError):
    """An option is unknown or has a value that it cannot have; the text says which and why."""


def option_names() -> tuple[str, ...]:
    """All options, in the order of `Settings`, `durability` last."""
    return tuple(_TYPES)


def closest(name: str, known: tuple[str, ...]) -> str:
    """` (did you mean 'x'?)` for a misspelt name, "" if nothing known comes near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def check_option(name: str, value: object) -> object:
    """The value, converted to the option's type where nothing is lost (1 → 1.0).

    Raises `OptionError` for an unknown name or another type.
    """
    return _convert(name, value, strict=True)


def parse_option(name: str, text: str) -> object:
    """The option's value from text, as it stands in a flag or the environment."""
    return _convert(name, text, strict=False)


def _convert(name: str, value: object, *, strict: bool) -> object:
    if name not in _TYPES:
        raise OptionError(f"unknown option '{name}'{closest(name, option_names())}")
    try:
        converted: object = msgspec.convert(value, _TYPES[name], strict=strict)
    except msgspec.ValidationError:
        raise OptionError(f"{name} = {value!r}: must be {_in_words(_TYPES[name])}") from None
    return converted


def _in_words(kind: Any) -> str:
    choices = get_args(kind)
    if choices:
        return "one of " + ", ".join(str(choice) for choice in choices)
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    return words.get(kind, str(kind))


def parse_assignments(assignments: list[str]) -> dict[str, object]:
    """Options from NAME=VALUE flags; the last of a name wins. Raises `OptionError`."""
    found: dict[str, object] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise OptionError(f"{assignment!r}: write NAME=VALUE")
        name = name.strip().replace("-", "_")
        found[name] = parse_option(name, text.strip())
    return found


def from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    """The options that PAXON_… variables set. Raises `OptionError` naming the variable."""
    found: dict[str, object] = {}
    for name in _TYPES:
        variable = ENVIRONMENT_PREFIX + name.upper()
        text = environment.get(variable)
        if text is None or not text.strip():
            continue
        try:
            found[name] = parse_option(name, text.strip())
        except OptionError as error:
            raise OptionError(f"environment variable {variable}: {error}") from None
    return found


def misspelt(environment: Mapping[str, str]) -> list[str]:
    """A sentence on each variable that nobody reads, and that comes near one of a server's."""
    known = [ENVIRONMENT_PREFIX + name.upper() for name in (*_TYPES, *_FLAGS)]
    return [
        f"the environment variable {variable} is read by nobody{closest(variable, (near[0],))}"
        for variable in environment
        if variable.startswith(ENVIRONMENT_PREFIX)
        and variable not in known
        # (Others may be anybody's: Kubernetes has PAXON_SERVICE_HOST for a service of that name.)
        and (near := difflib.get_close_matches(variable, known, 1, _NEAR))
    ]


def parse_listen(text: str) -> tuple[str, int]:
    """`PORT`, `HOST:PORT` or `[IPV6]:PORT`; the host is 127.0.0.1 if left out, `*` for all.

    Raises `OptionError`.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535 or "]" in host:
        raise OptionError(f"metrics = {text!r}: write PORT or HOST:PORT, such as 9100")
    return ("" if host == "*" else host or "127.0.0.1"), int(port)


def check_etcd(port: bool | int, of_the_store: bool) -> bool | int:
    """Where the etcd API is to be served, True for any port. Raises `OptionError`."""
    if type(port) is not bool and not (type(port) is int and 0 < port < 65_536):
        raise OptionError(f"etcd = {port!r}: must be a port, True or False")
    if port and not of_the_store:
        raise OptionError("the etcd API is that of the key-value store: leave out machine")
    return port


def check_limits(machine: StateMachine | type[StateMachine]) -> str:
    """A sentence on what is wrong with a state machine's limits; "" if nothing is."""
    limits: object = machine.limits
    name = machine.__name__ if isinstance(machine, type) else type(machine).__name__
    if not isinstance(limits, Mapping):
        return f"{name}.limits has to be a dict of Limit(…) by name, not {limits!r:.80}"
    for key, limit in limits.items():
        where = f"{name}.limits[{key!r}]"
        if not isinstance(key, str) or not key.isidentifier() or key in NAMES or len(key) > 100:
            return f"{where}: its name has to be a word of its own, and no setting of Paxon's"
        if not isinstance(limit, Limit):
            return f"{where} = {limit!r:.80}: write Limit(default=…, least=…, most=…, before=…)"
        numbers = (limit.default, limit.least, limit.most, limit.before)
        if any(type(number) is not int or abs(number) >= 1 << 63 for number in numbers):
            return f"{where}: its values have to be whole numbers within 63 bits"
        if not limit.least <= limit.default <= limit.most:
            return f"{where}: default has to be from least ({limit.least}) to most ({limit.most})"
    return ""
