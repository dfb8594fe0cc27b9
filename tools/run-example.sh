#!/bin/sh
# What `make run` does: the C example where there is a compiler, otherwise the Python one; both know nothing of ioas.
set -eu

device=$1
examples=$(dirname "$0")/../examples
if command -v cc >/dev/null && printf '#include <stdio.h>\nint main(void){return 0;}\n' | cc -x c - -o /dev/null 2>/dev/null; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cc -O2 -o "$work/edu" "$examples/edu.c"
    set -- "$work/edu"
else
    set -- python3 "$examples/edu.py"
fi
printf '$ ioas run --explain -- %s %s\n' "$*" "$device"
ioas run --explain -- "$@" "$device"
