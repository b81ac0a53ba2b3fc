#!/usr/bin/env bash
# top7: the whole surface. Makes its own .venv on first use, from the versions pinned in constraints.txt;
# with PYTHON set, uses that interpreter and installs nothing.
set -euo pipefail
unset CDPATH
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { printf 'top7: %s\n' "$*" >&2; }
fail() { say "$1"; exit "${2:-1}"; }

find_python() {  # the first interpreter that is new enough
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$name"
            return
        fi
    done
    fail "no Python 3.11 or newer with venv found on PATH: install one (apt-get install python3 python3-venv)"
}

requirements() {  # every package of pyproject.toml, one a line
    "$1" - "$root/pyproject.toml" <<'PYTHON'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
print("\n".join(sorted({*project["dependencies"], *sum(project["optional-dependencies"].values(), [])})))
PYTHON
}

set_up() {  # with the arguments of the call: a mistake in them is said first; leaves $root/.venv complete; its stamp names what it was made from
    local stamp wanted base
    stamp="$root/.venv/.made-from"
    wanted=$({ cat "$root/constraints.txt"; sed '/^\[tool/,$d' "$root/pyproject.toml"; } | cksum)  # not the tools' settings
    if [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then return; fi
    if command -v flock >/dev/null 2>&1; then
        exec 9>"$root/.venv.lock"
        flock -n 9 || { say "another call is setting up $root/.venv: waiting for it"; flock 9; }
        if [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then return; fi
    fi
    base=$(find_python)
    "$base" -P -m submissions.arguments "$@" || exit $?
    say "setting up $root/.venv with $base and the versions in constraints.txt (a few GB, some minutes, once)"
    rm -f "$stamp"
    "$base" -m venv "$root/.venv" >&2 || fail "could not make $root/.venv with $base"
    requirements "$base" >"$root/.venv/requirements.txt"
    "$root/.venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
        --constraint "$root/constraints.txt" --requirement "$root/.venv/requirements.txt" >&2 ||
        fail "pip could not install the packages (its reason is above); run the same command again to retry"
    printf '%s\n' "$wanted" >"$stamp"
    say "set up."
}

if [ -n "${PYTHON:-}" ]; then
    python=$(command -v "$PYTHON") || fail "PYTHON=$PYTHON is no interpreter: unset it, and run.sh makes its own" 2
elif [ -x "$root/.venv/bin/python" ]; then
    python="$root/.venv/bin/python"
else
    python=$(find_python)
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
case " ${1:-help} $* " in  # help needs no packages, and nothing is set up for it
    " help "* | *" -h "* | *" --help "*) exec "$python" -P -m submissions.arguments "$@" ;;
esac

if [ -n "${PYTHON:-}" ]; then
    "$python" -c 'import importlib.util as u, sys; sys.exit(any(u.find_spec(n) is None for n in ("torch", "timm", "optuna", "faiss", "pandas", "safetensors", "tqdm", "rich")))' ||
        fail "PYTHON=$PYTHON lacks packages of pyproject.toml: install them, or unset PYTHON and run.sh makes its own .venv" 2
else
    set_up "$@"
    python="$root/.venv/bin/python"
fi
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"  # torch's waiting threads leave the cores to image decoding
case "$1" in extract | predict | demo)  # glibc keeps the memory of one batch for the next, in one arena for all threads
    export MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_ARENA_MAX=1 ;;
esac
if [ "$1" = test ]; then
    shift
    cd "$root"
    [ $# -gt 0 ] || set -- --numprocesses auto --dist loadfile  # all of them: a process a core, a file by one
    exec "$python" -m pytest "$@"
fi
exec "$python" -P -m submissions "$@"
