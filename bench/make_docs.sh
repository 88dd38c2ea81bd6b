#!/bin/sh
# Measures on this machine and fills docs/benchmarks.md: tables between its marks, pictures in
# docs/plots/, all figures in docs/plots/*.json. Leave the machine alone meanwhile (six minutes for
# `compare`, three for `scale`).
#
#   bench/make_docs.sh              both
#   bench/make_docs.sh compare      one of them
#
# PYTHON names the interpreter that has Paxon and matplotlib; by default that of .venv.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
[ $# -gt 0 ] || set -- compare scale
mkdir -p docs/plots
for bench in "$@"; do
    case $bench in
    compare) flags='--seconds 0.6 --warmup 0.2 --repeat 3' ;;
    scale) flags='' ;;
    *)
        echo "$0: there is no '$bench': write compare or scale" >&2
        exit 2
        ;;
    esac
    # $flags is several words on purpose.
    "$PYTHON" -m paxon.kvstore.cli bench "$bench" $flags \
        --json "docs/plots/$bench.json" --plots docs/plots --page docs/benchmarks.md
done
