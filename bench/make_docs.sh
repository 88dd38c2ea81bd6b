#!/bin/sh
# Measures on this machine and fills README.md, docs/benchmarks.md and docs/coordination.md: tables
# between their marks, pictures in docs/plots/. All figures go to build/bench/*.json, which git does
# not keep. Leave the machine alone meanwhile: ten minutes for `figures` and nine for `coordination`,
# which want etcd (paxon bench peers --install), two for `contention`, six for `compare`, three for
# `scale`.
#
#   bench/make_docs.sh              all of them
#   bench/make_docs.sh compare      one of them
#
# PYTHON names the interpreter that has Paxon and matplotlib; by default that of .venv.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
[ $# -gt 0 ] || set -- figures contention compare scale coordination
mkdir -p build/bench
for bench in "$@"; do
    page=docs/benchmarks.md
    flags='--plots docs/plots'
    case $bench in
    figures) page=README.md flags= ;;
    contention) page=README.md flags= ;;  # (`compare` makes its picture)
    coordination) page=docs/coordination.md flags= ;;
    compare) flags="$flags --seconds 0.6 --warmup 0.2 --repeat 3" ;;
    scale) ;;
    *)
        echo "$0: there is no '$bench': write figures, contention, compare, scale or coordination" >&2
        exit 2
        ;;
    esac
    # $flags is several words on purpose.
    "$PYTHON" -m paxon.kvstore.cli bench "$bench" $flags \
        --json "build/bench/$bench.json" --page "$page"
done
