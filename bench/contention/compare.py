"""What `paxon bench compare` measures: points, and the sweeps that they belong to.

A point is one kind of run with every setting fixed. A sweep varies one setting along its x axis and
one or two others between its lines. Points that several sweeps share are measured once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from paxon.actors import Settings
from paxon.actors.settings import PolicyName
from paxon.bench.harness.workloads import Workload
from paxon.kvstore.local_cluster import Transport
from paxon.kvstore.options import Durability

__all__ = [
    "SweepName",
    "SWEEPS",
    "CompareSettings",
    "Point",
    "Line",
    "Sweep",
    "sweeps_of",
    "points_of",
]

SweepName: TypeAlias = Literal[
    "proposers", "load", "backoff", "servers", "value", "rtt", "batch", "window"
]
SWEEPS: tuple[SweepName, ...] = get_args(SweepName)

_DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in msgspec.structs.fields(Settings)
}
_UNDER_WAY = 64
"""Operations for each client where batching or the window is the question."""


class CompareSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured. Times are seconds."""

    sweeps: tuple[SweepName, ...] = SWEEPS
    policies: tuple[PolicyName, ...] = ("stable", "backoff", "random", "immediate")
    servers: int = 3
    """Of all sweeps but those over servers, and over more proposers than that."""
    proposers: int = 3
    """Of all sweeps but that over proposers."""
    outstanding: int = 8
    """Operations that each proposer's client has under way, where they are not swept over."""
    value_bytes: int = 64
    durability: Durability = "disk"
    transport: Transport = "tcp"
    seconds: float = 1.0
    warmup: float = 0.3
    repeat: int = 3
    seed: int = 1
    duels: bool = True
    """Record what servers send in a duel too, in extra runs that are not measured."""
    quick: bool = False
    """Few points in each sweep."""
    options: dict[str, Any] = {}
    """Of all servers, beside their defaults and what a sweep sets."""


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


class Line(msgspec.Struct, frozen=True):
    """Points over one x axis."""

    label: str
    policy: PolicyName
    points: list[tuple[float, Point]]


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """One question, and the lines that answer it."""

    name: SweepName
    title: str
    x_label: str
    scale: float = 1.0
    """The x values are shown times this."""
    logarithmic: bool = False
    lines: list[Line]


class _Maker:
    """Makes points that differ from the settings' own in what is swept."""

    def __init__(self, settings: CompareSettings) -> None:
        self.settings = settings
        self.quick = settings.quick

    def point(self, policy: PolicyName, **changes: Any) -> Point:
        settings = self.settings
        chosen = {**_DEFAULTS, **settings.options}
        waits = chosen if policy == "backoff" else _DEFAULTS
        base = Point(
            policy=policy,
            servers=settings.servers,
            proposers=min(settings.proposers, settings.servers),
            outstanding=settings.outstanding,
            value_bytes=settings.value_bytes,
            window=chosen["window"],
            batch_bytes=chosen["batch_bytes"],
            backoff_base=waits["backoff_base"],
            backoff_cap=waits["backoff_cap"],
        )
        return msgspec.structs.replace(base, **changes)

    def line(
        self,
        policy: PolicyName,
        name: str,
        values: Iterable[float],
        label: str = "",
        **fixed: Any,
    ) -> Line:
        """A line along which the point's field `name` takes these values."""
        return Line(
            label or policy,
            policy,
            [(value, self.point(policy, **fixed, **{name: value})) for value in values],
        )

    def policies(self, *wanted: PolicyName) -> list[PolicyName]:
        """Of the policies asked for, those that a sweep is about, in the order asked for."""
        return [policy for policy in self.settings.policies if not wanted or policy in wanted]


def _proposers(make: _Maker) -> Sweep:
    values = (1, 3) if make.quick else (1, 2, 3, 4, 5)
    servers = max(make.settings.servers, *values)
    return Sweep(
        name="proposers",
        title=f"Servers that try to lead, of {servers}",
        x_label="servers that try to lead (stable: clients)",
        lines=[make.line(p, "proposers", values, servers=servers) for p in make.policies()],
    )


def _load(make: _Maker) -> Sweep:
    values = (1, 64) if make.quick else (1, 8, 64, 256)
    return Sweep(
        name="load",
        title="Latency against throughput",
        x_label="operations under way for each client",
        logarithmic=True,
        lines=[
            make.line(p, "outstanding", values)
            for p in make.policies("stable", "backoff", "random")  # a livelock has no latency
        ],
    )


def _backoff(make: _Maker) -> Sweep:
    bases = (0.001, 0.1) if make.quick else (0.001, 0.01, 0.1)
    caps = (0.1, 1.0) if make.quick else (0.01, 0.1, 1.0)
    return Sweep(
        name="backoff",
        title="How long backoff waits",
        x_label="backoff_base, ms",
        scale=1e3,
        logarithmic=True,
        lines=[
            make.line(
                p, "backoff_base", [base for base in bases if base <= cap],
                f"cap {cap * 1e3:g} ms", backoff_cap=cap,
            )
            for p in make.policies("backoff")
            for cap in caps
        ],
    )  # fmt: skip


def _servers(make: _Maker) -> Sweep:
    values = (3, 5) if make.quick else (3, 5, 7)
    return Sweep(
        name="servers",
        title="Servers",
        x_label="servers",
        lines=[
            make.line(p, "servers", values, proposers=3)
            for p in make.policies("stable", "backoff", "immediate")
        ],
    )


def _value(make: _Maker) -> Sweep:
    values = (16, 65536) if make.quick else (16, 256, 4096, 65536)
    return Sweep(
        name="value",
        title="Size of values",
        x_label="bytes of each value",
        logarithmic=True,
        lines=[make.line(p, "value_bytes", values) for p in make.policies("stable", "backoff")],
    )


def _round_trip(make: _Maker) -> Sweep:
    values = (0.0, 0.01) if make.quick else (0.0, 0.002, 0.01, 0.05)
    return Sweep(
        name="rtt",
        title="Round-trip time between servers",
        x_label="ms between servers and back, added",
        scale=1e3,
        lines=[
            make.line(p, "round_trip", values) for p in make.policies("stable", "backoff", "random")
        ],
    )


def _batch(make: _Maker) -> Sweep:
    values = (1, 16) if make.quick else (1, 4, 16)
    fixed = {"outstanding": _UNDER_WAY}
    lines = []
    for policy in make.policies("stable", "backoff"):
        lines.append(
            make.line(policy, "packing", values, f"{policy}, a slot takes all that waits", **fixed)
        )
        if policy == "stable":
            label = f"{policy}, a slot for each request"
            lines.append(make.line(policy, "packing", values, label, batch_bytes=1, **fixed))
    return Sweep(
        name="batch",
        title=f"Batching, {_UNDER_WAY} operations under way for each client",
        x_label="operations in a client's request",
        logarithmic=True,
        lines=lines,
    )


def _window(make: _Maker) -> Sweep:
    values = (1, 16) if make.quick else (1, 4, 16, 64)
    fixed = {"proposers": 1, "outstanding": _UNDER_WAY, "packing": 1}
    lines = []
    for policy in make.policies("stable"):
        alone = {**fixed, "batch_bytes": 1}
        far = {**alone, "round_trip": 0.01}
        lines += [
            make.line(policy, "window", values, "a slot takes all that waits", **fixed),
            make.line(policy, "window", values, "a slot for each operation", **alone),
            make.line(policy, "window", values, "a slot for each, 10 ms round trip", **far),
        ]
    return Sweep(
        name="window",
        title=f"Slots in flight, {_UNDER_WAY} operations under way",
        x_label="window: slots in flight at most",
        logarithmic=True,
        lines=lines,
    )


_MAKERS = {
    "proposers": _proposers, "load": _load, "backoff": _backoff, "servers": _servers,
    "value": _value, "rtt": _round_trip, "batch": _batch, "window": _window,
}  # fmt: skip


def sweeps_of(settings: CompareSettings) -> list[Sweep]:
    """What is asked for. A sweep without any line (no policy that it is about) is left out."""
    make = _Maker(settings)
    sweeps = [_MAKERS[name](make) for name in settings.sweeps]
    return [sweep for sweep in sweeps if sweep.lines]


def points_of(sweeps: Sequence[Sweep]) -> list[Point]:
    """All points, each once, in the order of the sweeps."""
    return list(
        dict.fromkeys(point for sweep in sweeps for line in sweep.lines for _, point in line.points)
    )
