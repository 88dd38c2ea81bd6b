"""The gateway's parsers, fuzzed by atheris for a bounded time, or else by hypothesis."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paxon.kvstore.etcd.messages import encode, message
from tests.etcd.fuzz import one
from tests.etcd.test_bad_input import ENDED
from tests.etcd.tools import Unavailable, fetched_or_raise
from tests.soak import sized

SECONDS = sized(4, 1800)
_BY_ITSELF = '"$0" "$@"; exit $?'
"""Linux counts the most memory that a process ever had from before its exec on: as the child of a
test run that has grown large, the fuzzer would take the run's for its own."""


def word(number: int) -> bytes:
    return number.to_bytes(2, "big")


def seeds() -> list[bytes]:
    """Inputs of each kind that lead somewhere: see `one`."""
    operation = message("RequestOp")(request_range=message("RangeRequest")(key=b"k", limit=3))
    txn = message("TxnRequest")(
        compare=[message("Compare")(key=b"k", version=1)], success=[operation], failure=[operation]
    )
    body = json.dumps({"success": [{"request_range": {"key": "aw=="}}]}).encode()
    framed = word(10) + word(1) + word(1) + word(len(encode(txn))) + encode(txn)
    made = [word(0) + word(3) + word(0) + encode(txn), word(0) + word(3) + word(1) + body]
    made += [word(1) + word(30) + data[:2000] for data in ENDED.values()]
    made.append(word(2) + word(100) + (word(1) + word(4) + word(1) + word(0)) + framed)
    made += [word(3) + word(100) + word(path) + body for path in range(30)]
    return made


@pytest.mark.slow
def test_no_input_breaks_it(tmp_path: Path) -> None:
    try:
        library = fetched_or_raise("fuzzer", "fuzzer")
    except Unavailable as error:
        print(f"without atheris, by hypothesis: {error}")
        by_hypothesis()
        return
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, data in enumerate(seeds()):
        (corpus / str(number)).write_bytes(data)
    done = subprocess.run(
        ["/bin/sh", "-c", _BY_ITSELF, sys.executable, "-m", "tests.etcd.fuzz",
         f"-max_total_time={SECONDS}", "-max_len=4096", "-timeout=20", "-rss_limit_mb=600",
         f"-artifact_prefix={tmp_path}/", "-print_final_stats=1", str(corpus)],
        env={**os.environ, "PYTHONPATH": str(library)}, cwd=Path(__file__).parents[2],
        capture_output=True, text=True, errors="replace", timeout=SECONDS + 300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    tried = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert tried is not None and int(tried[1]) > len(seeds())


@settings(max_examples=sized(300, 100_000))
@given(st.one_of(st.binary(max_size=600), st.sampled_from(seeds())))
def by_hypothesis(data: bytes) -> None:
    one(data)


@pytest.mark.parametrize("data", seeds(), ids=range(len(seeds())))
def test_the_seeds_break_nothing(data: bytes) -> None:
    one(data)
