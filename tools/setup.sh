#!/bin/sh
# Makes the virtual environment $1 from $PYTHON and installs ioas into it, editable, with what developing needs.
# Debian splits venv off python3: as root its package is installed, otherwise the message names it.
set -eu

venv=$1
python=${PYTHON:-python3}

say() { printf '%s\n' "setup: $*" >&2; }
give_up() {
    say "$*"
    exit 1
}

command -v "$python" >/dev/null || give_up "no $python; install Python 3.11 or later, or set PYTHON="
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || give_up "$python does not run"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    give_up "$python is Python $version; ioas needs 3.11 or later: set PYTHON=, as in make setup PYTHON=python3.12"

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=python$version-venv
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
        give_up "$python has no venv module; install $package (apt-get install $package) and run this again"
    say "installing $package, which Debian splits off $python"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update >/dev/null && apt-get -qq -o Dpkg::Use-Pty=0 install --no-install-recommends -y "$package" >/dev/null ||
        give_up "apt-get could not install $package"
fi

# A half-made or moved environment is made anew: its scripts carry absolute paths.
"$venv/bin/python" -c 'import sys, os; sys.exit(not os.path.samefile(sys.prefix, sys.argv[1]))' "$venv" 2>/dev/null &&
    "$venv/bin/python" -m pip --version 2>/dev/null | grep -q "$(pwd -P)/" ||
    "$python" -m venv --clear "$venv"
say "installing ioas and its development tools into $venv ..."
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-warn-script-location -e '.[dev]'
say "done: Python $version, $("$venv/bin/python" -c 'import ioas; print("ioas", ioas.__version__)')"
