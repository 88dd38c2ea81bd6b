"""Flags of `paxon bench`: the settings of a bench are its flags, each said once.

A field of a settings struct is typed by one of these, or by an `Annotated` of its own. A tuple of
names is given by flags and commas, a dict of the servers' options as NAME=VALUE. cli/app.py makes
commands of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import msgspec
import typer

from paxon.actors.settings import PolicyName
from paxon.kvstore.cli.store import real
from paxon.kvstore.cluster.local_cluster import LocalCluster, Transport
from paxon.kvstore.cluster.options import Durability, parse_assignments

__all__ = [
    "BenchSettings", "RepeatedSettings", "chosen_names", "server_options",
]  # fmt: skip


def chosen_names(given: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Names from flags and comma-separated lists, without repetition. Raises ValueError."""
    parts = [part.strip() for text in given for part in text.split(",") if part.strip()]
    for name in parts:
        if name not in known:
            raise ValueError(f"{name!r} is none of {', '.join(known)}")
    return tuple(dict.fromkeys(parts))


def server_options(given: Sequence[str], decided: Sequence[str]) -> dict[str, Any]:
    """Parse assignments. Raises ValueError for options that have a flag or are the bench's own."""
    options = parse_assignments(list(given))
    for name in ("durability", *decided):
        if name in options:
            raise ValueError(f"{name} is not set like this here")
    return options


Servers = Annotated[int, typer.Option("--servers", "-s", min=1, max=9, help="How many servers.")]
Several = Annotated[int, typer.Option("--servers", "-s", min=3, max=9, help="How many servers.")]
Seconds = Annotated[
    float,
    typer.Option(min=0.1, callback=real, help="Seconds of each measurement, after the warm-up."),
]
Warmup = Annotated[
    float, typer.Option(min=0.0, callback=real, help="Seconds of load before each measurement.")
]
Repeat = Annotated[int, typer.Option(min=1, help="How often everything is measured.")]
ValueSize = Annotated[
    int, typer.Option("--value-size", min=0, max=8 << 20, help="Bytes of each value.")
]
Seed = Annotated[int, typer.Option(help="Decides the order of keys and of variants.")]
Quick = Annotated[bool, typer.Option("--quick", help="A rough impression in about a minute.")]
Outstanding = Annotated[
    int, typer.Option(min=1, max=1024, help="Operations under way for each client.")
]
Options = Annotated[
    dict[str, Any],
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Set an option of the servers, such as window=32; may be given several times.",
    ),
]
Policies = Annotated[
    tuple[PolicyName, ...],
    typer.Option("--policy", help="What a preempted server does; may be given several times."),
]


class BenchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of most benches. Times are seconds."""

    QUICK: ClassVar[dict[str, float]] = {}
    """The most that numbers may be with --quick."""
    DECIDED: ClassVar[tuple[str, ...]] = ()
    """Options of the servers that are up to the bench."""

    servers: Servers = 3
    value_bytes: ValueSize = 64
    durability: Annotated[
        Durability, typer.Option(help="disk syncs before answering; memory forgets all.")
    ] = "disk"
    transport: Annotated[Transport, typer.Option(help="What servers talk to each other over.")] = (
        "tcp"
    )
    seed: Seed = 1
    quick: Quick = False
    """Fewer and shorter measurements."""
    options: Options = {}
    """Of the servers, besides their defaults and what the bench decides."""

    def conditions(self, *more: str) -> str:
        """A table's words on how a run was set up."""
        named = (f"{self.servers} servers", f"durability {self.durability}", *more)
        return ", ".join((*named, f"values of {self.value_bytes} bytes"))

    def cluster(self, **options: Any) -> LocalCluster:
        """A cluster of public servers as they say, with more options."""
        return LocalCluster(
            self.servers, durability=self.durability, transport=self.transport,
            log_level="WARNING", **{**self.options, **options},
        )  # fmt: skip


class RepeatedSettings(BenchSettings, frozen=True, kw_only=True):
    """Loads that are measured several times."""

    seconds: Seconds = 1.0
    """Of each measurement."""
    warmup: Warmup = 0.3
    repeat: Repeat = 3

    @property
    def times(self) -> str:
        """A table's words on how often, and for how long, each load was measured."""
        return f"median of {self.repeat} x {self.seconds:g} s"
