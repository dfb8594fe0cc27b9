#!/bin/sh
# What `make run` does: the C example where there is a compiler, otherwise the Python one; both know nothing of ioas.
set -eu
cd "$(dirname "$0")/.."

device=$1
mkdir -p build
if command -v cc >/dev/null && cc -O2 -o build/edu examples/edu.c 2>build/cc.log; then
    set -- build/edu "$device"
else
    set -- python3 examples/edu.py "$device"
fi
printf '$ ioas run --explain -- %s\n' "$*"
exec ioas run --explain -- "$@"
