"""The cluster that most of the course's tests share, and the figures that they report."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults.networks.network import RelayedCluster
from tests.faults.probes import LogProbe

_figures: list[str] = []


@pytest.fixture(scope="module")
def cluster() -> Iterator[RelayedCluster]:
    """Five servers, shared by the tests of a file; they use keys of their own."""
    with RelayedCluster(5) as five:
        five.leader()
        yield five


@pytest.fixture
def five(cluster: RelayedCluster) -> Iterator[RelayedCluster]:
    """The shared cluster, whole at the beginning and whole again at the end."""
    cluster.network.heal()
    cluster.leader()
    yield cluster
    cluster.network.heal()


@pytest.fixture
def probe(five: RelayedCluster) -> Iterator[LogProbe]:
    """Looks into the logs, around any partition."""
    with LogProbe(five.addresses) as looking:
        yield looking


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Reports a figure, shown at the end of the run."""
    name = request.node.name

    def report(text: str) -> None:
        _figures.append(f"{name}: {text}")

    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _figures:
        terminalreporter.section("the course's list, figures")
        for line in _figures:
            terminalreporter.line(line)
