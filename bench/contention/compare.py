"""What `paxon bench compare` measures: points, and the sweeps that they belong to.

A point is one kind of run with every setting fixed. A sweep varies one setting along its x axis and
one or two others between its lines. Points that several sweeps share are measured once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args

import msgspec
import typer

from paxon.actors import Settings
from paxon.actors.settings import PolicyName
from paxon.bench.harness.flags import (
    Names,
    Outstanding,
    Policies,
    RepeatedSettings,
    Seconds,
    Warmup,
)
from paxon.bench.harness.workloads import Workload

__all__ = [
    "SWEEPS", "CompareSettings", "ContentionSettings", "Line", "Point", "Sweep", "points_of",
    "sweeps_of",
]  # fmt: skip

SweepName: TypeAlias = Literal[
    "contention", "proposers", "load", "backoff", "servers", "value", "rtt", "batch", "window"
]
SWEEPS: tuple[SweepName, ...] = get_args(SweepName)
_QUICK_SWEEPS: tuple[SweepName, ...] = ("contention", "load")

_DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in msgspec.structs.fields(Settings)
}
_UNDER_WAY = 64
"""Operations for each client where batching or the window is the question."""


class CompareSettings(RepeatedSettings, frozen=True, kw_only=True):
    """What is measured, where it is not swept over."""

    QUICK: ClassVar[dict[str, float]] = {"seconds": 0.5, "warmup": 0.2, "repeat": 2}
    DECIDED: ClassVar[tuple[str, ...]] = ("policy", "contend")

    sweep: Annotated[
        tuple[SweepName, ...],
        Names(SWEEPS),
        typer.Option(
            help="What to sweep over; separated by commas or given several times. All by default, "
            "with --quick " + " and ".join(_QUICK_SWEEPS) + "."
        ),
    ] = ()
    policies: Policies = ("stable", "backoff", "random", "immediate")
    proposers: Annotated[int, typer.Option(min=1, help="How many servers try to lead.")] = 3
    """In the sweep `contention` from 2 up to so many."""
    outstanding: Outstanding = 8
    """Operations that each proposer's client has under way."""
    duels: bool = True
    """Record what servers send in a duel too, in extra runs that are not measured."""

    def __post_init__(self) -> None:
        if self.proposers > self.servers:
            raise ValueError(f"{self.proposers} of {self.servers} servers cannot try to lead")

    @property
    def sweeps(self) -> tuple[SweepName, ...]:
        """Those asked for, or all."""
        return self.sweep or (_QUICK_SWEEPS if self.quick else SWEEPS)


class ContentionSettings(CompareSettings, frozen=True, kw_only=True):
    """The preset: one setting of one's choice, measured for longer."""

    sweep: tuple[SweepName, ...] = ("contention",)
    seconds: Seconds = 3.0
    warmup: Warmup = 0.5
    duels: bool = False


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of run."""

    policy: PolicyName
    servers: int
    proposers: int
    """Servers that get clients' commands; with `stable`, clients, which all go to the leader."""
    outstanding: int
    """Operations under way for each proposer."""
    value_bytes: int
    packing: int = 0
    """Operations in a client's request; 0: as the client likes."""
    window: int
    batch_bytes: int
    """1: each request gets a slot of its own."""
    round_trip: float = 0.0
    """Seconds between servers, on top of what the machine takes."""
    backoff_base: float
    backoff_cap: float

    @property
    def name(self) -> str:
        """For people, short."""
        plural = "s" if self.proposers > 1 else ""
        who = "client" if self.policy == "stable" else "proposer"
        return f"{self.policy}, {self.proposers} {who}{plural}"

    @property
    def workload(self) -> Workload:
        """What the clients do."""
        return Workload(
            name=self.name,
            clients=self.proposers,
            outstanding=self.outstanding,
            packing=self.packing,
            value_bytes=self.value_bytes,
        )

    @property
    def options(self) -> dict[str, Any]:
        """The servers' settings."""
        return {
            "policy": self.policy,
            "contend": self.policy != "stable",
            "window": self.window,
            "batch_bytes": self.batch_bytes,
            "backoff_base": self.backoff_base,
            "backoff_cap": self.backoff_cap,
        }

    def with_stable_leader(self) -> Point:
        """The same load on a cluster whose leader nobody disturbs."""
        return msgspec.structs.replace(
            self,
            policy="stable",
            backoff_base=_DEFAULTS["backoff_base"],
            backoff_cap=_DEFAULTS["backoff_cap"],
        )


class Line(NamedTuple):
    """Points over one x axis."""

    label: str
    policy: PolicyName
    points: list[tuple[float, Point]]


class Sweep(NamedTuple):
    """One question, and the lines that answer it."""

    name: SweepName
    plan: _Plan
    lines: list[Line]


class _Lines(NamedTuple):
    """Lines of a sweep that have something in common, one for each of these policies."""

    policies: tuple[PolicyName, ...]
    label: str = "{policy}"
    fixed: Mapping[str, Any] = {}
    """Fields of all their points."""


class _Plan(NamedTuple):
    """A sweep before it is known what is asked for."""

    title: str
    x_label: str
    field: str
    """Of `Point`, which takes these values along each line."""
    values: tuple[float, ...]
    quick: tuple[float, ...]
    lines: tuple[_Lines, ...]
    scale: float = 1.0
    """The values are shown times this."""
    logarithmic: bool = False


_ALL: tuple[PolicyName, ...] = get_args(PolicyName)
_PROPOSERS = "servers that try to lead (stable: clients)"
_CAPS = (0.01, 0.1, 1.0)
_BUSY = {"outstanding": _UNDER_WAY}
_LONE = {**_BUSY, "proposers": 1, "packing": 1}
_PLANS: dict[SweepName, _Plan] = {
    "contention": _Plan(
        "A stable leader's phase 2 alone, against several servers that try to lead", _PROPOSERS,
        "proposers", (), (), (_Lines(_ALL),),  # as many as are asked for
    ),
    "proposers": _Plan(
        "Servers that try to lead, of 5", _PROPOSERS, "proposers", (1, 2, 3, 4, 5), (1, 3),
        (_Lines(_ALL, fixed={"servers": 5}),),
    ),
    "load": _Plan(
        "Latency against throughput", "operations under way for each client", "outstanding",
        (1, 8, 64, 256), (1, 64),
        (_Lines(("stable", "backoff", "random")),),  # a livelock has no latency
        logarithmic=True,
    ),
    "backoff": _Plan(
        "How long backoff waits", "backoff_base, ms", "backoff_base", (0.001, 0.01, 0.1),
        (0.001, 0.1),
        tuple(_Lines(("backoff",), f"cap {cap * 1e3:g} ms", {"backoff_cap": cap}) for cap in _CAPS),
        scale=1e3, logarithmic=True,
    ),
    "servers": _Plan(
        "Servers", "servers", "servers", (3, 5, 7), (3, 5),
        (_Lines(("stable", "backoff", "immediate"), fixed={"proposers": 3}),),
    ),
    "value": _Plan(
        "Size of values", "bytes of each value", "value_bytes", (16, 256, 4096, 65536),
        (16, 65536), (_Lines(("stable", "backoff")),), logarithmic=True,
    ),
    "rtt": _Plan(
        "Round-trip time between servers", "ms between servers and back, added", "round_trip",
        (0.0, 0.002, 0.01, 0.05), (0.0, 0.01), (_Lines(("stable", "backoff", "random")),),
        scale=1e3,
    ),
    "batch": _Plan(
        f"Batching, {_UNDER_WAY} operations under way for each client",
        "operations in a client's request", "packing", (1, 4, 16), (1, 16),
        (
            _Lines(("stable", "backoff"), "{policy}, a slot takes all that waits", _BUSY),
            _Lines(("stable",), "{policy}, a slot for each request", {**_BUSY, "batch_bytes": 1}),
        ),
        logarithmic=True,
    ),
    "window": _Plan(
        f"Slots in flight, {_UNDER_WAY} operations under way", "window: slots in flight at most",
        "window", (1, 4, 16, 64), (1, 16),
        (
            _Lines(("stable",), "a slot takes all that waits", _LONE),
            _Lines(("stable",), "a slot for each operation", {**_LONE, "batch_bytes": 1}),
            _Lines(
                ("stable",), "a slot for each, 10 ms round trip",
                {**_LONE, "batch_bytes": 1, "round_trip": 0.01},
            ),
        ),
        logarithmic=True,
    ),
}  # fmt: skip


def _point(settings: CompareSettings, policy: PolicyName, **changes: Any) -> Point:
    """A point that differs from the settings' own in what is swept."""
    chosen = {**_DEFAULTS, **settings.options}
    waits = chosen if policy == "backoff" else _DEFAULTS
    base = Point(
        policy=policy,
        servers=settings.servers,
        proposers=settings.proposers,
        outstanding=settings.outstanding,
        value_bytes=settings.value_bytes,
        window=chosen["window"],
        batch_bytes=chosen["batch_bytes"],
        backoff_base=waits["backoff_base"],
        backoff_cap=waits["backoff_cap"],
    )
    return msgspec.structs.replace(base, **changes)


def sweeps_of(settings: CompareSettings) -> list[Sweep]:
    """What is asked for. A sweep without any line (no policy that it is about) is left out."""
    sweeps = [Sweep(name, _PLANS[name], _lines(settings, name)) for name in settings.sweeps]
    return [sweep for sweep in sweeps if sweep.lines]


def _lines(settings: CompareSettings, name: SweepName) -> list[Line]:
    plan, most = _PLANS[name], settings.proposers
    values = plan.quick if settings.quick else plan.values
    if name == "contention":
        values = (most,) if settings.quick else tuple(range(min(2, most), most + 1))
    return [
        Line(
            like.label.format(policy=policy),
            policy,
            [
                (value, _point(settings, policy, **{**like.fixed, plan.field: value}))
                for value in values
                if plan.field != "backoff_base" or value <= like.fixed["backoff_cap"]
            ],
        )
        for policy in settings.policies
        for like in plan.lines
        if policy in like.policies
    ]


def points_of(sweeps: Sequence[Sweep]) -> list[Point]:
    """All points, each once, in the order of the sweeps."""
    return list(
        dict.fromkeys(point for sweep in sweeps for line in sweep.lines for _, point in line.points)
    )
