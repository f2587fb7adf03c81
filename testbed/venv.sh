#!/bin/bash
# Makes the Python environment of requirements/dev.lock and points .venv at it; instant when it is there.
# It lies outside the checkout, named by the lock and the Python, so that all checkouts share it.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Python 3.11 or newer is needed; $python is $("$python" --version 2>&1). Set PYTHON to one." >&2
    exit 1
fi
identity=$("$python" -c 'import sys; print(sys.version, sys.base_prefix)')
digest=$({ echo "$identity"; cat requirements/dev.lock; } | sha256sum | cut -c1-12)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/diskmigration
venv=$cache/venv-$digest

mkdir -p "$cache"
exec 9>"$cache/.venv.lock"
flock 9
if [[ ! -e $venv/complete ]]; then
    echo "Installing the Python packages of requirements/dev.lock"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/pip" --quiet --disable-pip-version-check install --require-hashes -r requirements/dev.lock </dev/null
    touch "$venv/complete"
fi
if [[ "$(readlink .venv || true)" != "$venv" ]]; then
    rm -rf .venv
    ln -s "$venv" .venv
fi
