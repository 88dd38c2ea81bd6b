"""The simulator itself: it is deterministic, it finds what is planted, and short runs are clean."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from paxon.actors import PaxosServer
from paxon.kvstore.store.store import KVStore
from tests.invariants import PREDICATES, InvariantBroken
from tests.search.planted import by_name
from tests.simulation import Outcome, Plan, draw_plan, run
from tests.simulation.campaign import ReportError, run_campaign
from tests.simulation.minimise import minimise, write_regression
from tests.simulation.plan import FAULT_KINDS
from tests.simulation.regressions import replay
from tests.soak import SEEDS

ROOT = Path(__file__).parents[2]
STEPS = 400


def first_failure(seeds: int = 60, steps: int = STEPS) -> tuple[Plan, str]:
    """The first seed that breaks something, and what."""
    for seed in range(seeds):
        plan = draw_plan(seed, steps, about_coordination=False)
        outcome = run(plan)
        if outcome.broken:
            return plan, outcome.broken
    pytest.fail(f"nothing was found in {seeds} seeds")


def trace_in_a_process_of_its_own(seed: int, hash_seed: str) -> bytes:
    command = [
        sys.executable, "-m", "tests.simulation", "--seed", str(seed), "--steps", "300", "--trace",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return done.stdout


@pytest.mark.parametrize("seed", [3, 4])
@pytest.mark.slow
def test_the_same_seed_gives_the_same_trace_byte_for_byte(seed: int) -> None:
    first = trace_in_a_process_of_its_own(seed, "1")
    assert first.count(b"\n") > 300
    assert trace_in_a_process_of_its_own(seed, "2") == first


def test_a_run_leaves_its_plan_as_it_was() -> None:
    plan = draw_plan(2, STEPS)
    before = msgspec.json.encode(plan)
    assert run(plan).steps == run(plan).steps
    assert msgspec.json.encode(plan) == before


@pytest.mark.slow
def test_short_runs_are_clean_and_meet_every_kind_of_fault() -> None:
    met: set[str] = set()
    answered = 0
    for seed in [*range(60), 96]:  # (the last strands a leader, which few do)
        outcome = run(draw_plan(seed, STEPS))
        assert not outcome.broken, f"seed {seed}: {outcome.text}"
        met.update(kind for kind, count in outcome.faults.items() if count)
        answered += outcome.answered
    assert met >= set(FAULT_KINDS)
    assert answered > 500


def test_plans_differ_in_kind() -> None:
    plans = [draw_plan(seed, 1000) for seed in range(300)]
    assert {plan.servers for plan in plans} == {1, 3, 5, 7}  # (one alone grows)
    assert {plan.policy for plan in plans} == {"stable", "immediate", "random", "backoff"}
    assert any(not plan.faults for plan in plans)
    assert any(len(plan.faults) > 20 for plan in plans)


# --- it finds what is wrong ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bug", "predicates"),
    [
        # ("no failure": a server's own invariant has noticed it first.)
        ("half is enough", {"chosen stays", "executes only chosen", "no failure"}),
        ("send before the sync", {"durable before sent"}),
        ("forget the promise on restart", {"restart loses nothing"}),
        ("promise without reporting all", {"promise reports all"}),
        ("choose by the index alone", {"one value per slot", "executes only chosen"}),
        ("execute twice after a retry", {"at most once"}),
        ("discard at the majority's executed slot", {"nothing needed discarded"}),
        ("drop the sessions from the snapshot", {"snapshots agree", "equal prefixes"}),
    ],
)
def test_a_planted_bug_is_found(bug: str, predicates: set[str]) -> None:
    """Those that show soon; docs/planted-bugs.md has all of them, and who finds which."""
    with by_name(bug).apply():
        assert first_failure()[1] in predicates


@pytest.mark.slow
def test_a_store_that_is_not_deterministic_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(1 << 30))
    original = KVStore.apply

    def apply(self: KVStore, command: bytes) -> bytes:
        return original(self, command) + (b"" if next(calls) % 50 else b"\x00")

    monkeypatch.setattr(KVStore, "apply", apply)
    assert first_failure()[1] == "equal prefixes"


@pytest.mark.slow
def test_a_store_that_answers_from_the_past_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the clients' history can show this: all servers agree on it."""
    original = KVStore.query
    last: dict[bytes, bytes] = {}

    def query(self: KVStore, text: bytes) -> bytes:
        answer = original(self, text)
        return last.setdefault(text, answer)

    def cleared(plan: Plan) -> Outcome:
        last.clear()
        return run(plan)

    monkeypatch.setattr(KVStore, "query", query)
    broken = [
        cleared(draw_plan(seed, STEPS, about_coordination=False)).broken for seed in range(20)
    ]
    assert set(broken) == {"", "linearizable"}


@pytest.mark.slow
def test_a_failure_is_cut_down_and_written_as_a_test(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original = PaxosServer._executed_durably
    monkeypatch.setattr(PaxosServer, "_executed_durably", lambda self: self.application.executed)
    plan, broken = first_failure()
    failure = run(plan)
    small = minimise(plan, failure)
    assert run(small).broken == broken
    assert len(small.faults) <= len(plan.faults)
    assert len(msgspec.json.encode(small)) < len(msgspec.json.encode(plan))
    monkeypatch.setattr("tests.simulation.minimise.REGRESSIONS", tmp_path)
    path = write_regression(small, failure, "Planted by a test.")
    namespace: dict[str, object] = {}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
    kept = namespace["PLAN"]
    assert isinstance(kept, str)
    with pytest.raises(AssertionError, match=broken):
        replay.replay(kept)
    monkeypatch.setattr(PaxosServer, "_executed_durably", original)
    replay.replay(kept)


# --- many seeds ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_campaign_resumes_from_its_report(tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    whole = run_campaign(0, 30, 100, report=report, workers=2)
    assert (whole.seeds, whole.failures) == (30, [])
    lines = report.read_text(encoding="utf-8").splitlines(keepends=True)
    report.write_text("".join(lines[:2]) + lines[2][:20], encoding="utf-8")  # as after a kill
    again = run_campaign(0, 30, 100, report=report, workers=2)
    assert (again.seeds, again.steps, again.faults) == (30, whole.steps, whole.faults)
    with pytest.raises(ReportError, match="another campaign"):
        run_campaign(0, 31, 100, report=report)


@pytest.mark.slow
@pytest.mark.timeout(300 + SEEDS)
def test_many_seeds_are_clean() -> None:
    totals = run_campaign(1_000_000, SEEDS, 1000)
    assert not totals.failures, totals.failures[:5]
    assert len(totals.undecided) <= SEEDS / 100
    # For each seed about 23 answers and 4,000 frames here: far fewer, and it would prove little.
    assert totals.answered > 20 * SEEDS
    assert totals.faults["frames"] > 1000 * SEEDS


def test_every_broken_predicate_has_a_sentence() -> None:
    for name, sentence in PREDICATES.items():
        assert sentence in str(InvariantBroken(name, "seen"))
