# Sourced by the other scripts: makes .venv and installs requirement files into it, once.
#   source scripts/environment.sh requirements.txt [more.txt ...]
# PYTHON chooses the interpreter (default python3), VENV the folder (default .venv), both as seen from the repository.
# A folder that an interrupted installation left, or whose Python is gone, is made anew; packages that are missing are
# installed again.

{ true 9<&0; } 2>/dev/null || exec </dev/null  # a closed stream leads nowhere, instead of ending the script at an echo
{ true 9>&1; } 2>/dev/null || exec >/dev/null
true 9>&2 || exec 2>/dev/null
unset PYTHONHOME PYTHONPATH PYTHONSAFEPATH  # other environments' packages, and none of the current folder's
ASKED_PYTHON=${PYTHON:-}
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

fail() {
    echo "error: $*" >&2
    exit 1
}

installed() {  # whether all of these requirement files are installed, as they are now
    local file stamp
    for file in "$@"; do
        stamp=$VENV/installed-${file##*/}
        [ -f "$stamp" ] && [ "$(<"$file")" = "$(<"$stamp")" ] || return 1
    done
    "$VENV/bin/python" scripts/installed.py "$VENV" "$@" 2>/dev/null
}

works() {  # whether the folder is an environment that packages can be installed into
    "$VENV/bin/python" -c 'import os, sys
sys.exit(sys.version_info < (3, 10) or os.path.realpath(sys.prefix) != os.path.realpath(sys.argv[1]))' "$VENV" &&
        "$VENV/bin/python" -m pip --version
} >/dev/null 2>&1

ours() {  # whether the folder holds a virtual environment or a part of one, and nothing else: it may be made anew
    local entry
    for entry in "$VENV"/* "$VENV"/.[!.]*; do
        [ -e "$entry" ] || [ -L "$entry" ] || continue  # a pattern that nothing matches
        case ${entry##*/} in
            bin | include | lib | lib64 | share | etc | pyvenv.cfg | installed-* | .gitignore | CACHEDIR.TAG) ;;
            *) return 1 ;;
        esac
    done
    [ -z "$(find "$VENV/" -maxdepth 3 -name os.py)" ] || return 1  # Python itself is installed there
    [ -f "$VENV/pyvenv.cfg" ] || [ -f "$VENV/bin/activate" ] ||
        [ -n "$(find "$VENV/" -maxdepth 1 -name 'installed-*')" ] || [ -z "$(find "$VENV/" -type f)" ]
}

make_environment() {  # [--clear]
    local said
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
        fail "Python 3.10 or newer is needed; $PYTHON is $("$PYTHON" --version 2>&1 | tail -n 1). Set PYTHON to" \
            "another one."
    mkdir -p "$VENV" 2>/dev/null && [ -w "$VENV" ] ||
        fail "$VENV is no folder that can be written; set VENV to another one, or make it writable."
    echo "== making a virtual environment in $VENV ($("$PYTHON" --version))"
    said=$("$PYTHON" -m venv "$VENV" "$@" 2>&1) ||
        fail "$PYTHON -m venv failed ($(last_line "$said")); on Debian and Ubuntu, install the package python3-venv."
}

install() {  # one requirement file
    local said status=0 stamp=$VENV/installed-${1##*/}
    echo "== installing $1 (PyTorch is large: this takes minutes)"
    # Settings of the caller's that would install to another place, or nothing; its mirrors and proxies stay.
    said=$(
        unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_REQUIREMENT PIP_DRY_RUN PIP_NO_DEPS PIP_QUIET PIP_VERBOSE \
            PIP_LOG PIP_REPORT PYTHONWARNINGS PYTHONOPTIMIZE
        PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 \
            "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -r "$1" 2>&1
    ) || status=$?
    case $status$said in
        0*) ;;
        *NewConnectionError* | *"Failed to establish"* | *"name resolution"* | *"Network is unreachable"* | \
            *ProxyError* | *ConnectTimeout* | *"timed out"*)
            fail "$1 is not installed: the package index cannot be reached. Run this again with a network, or set" \
                "PIP_INDEX_URL to an index, or https_proxy to a proxy, that can be." ;;
        *) fail "$1 is not installed: $(last_line "$said" || echo "pip ended with status $status"). Run this again." ;;
    esac
    cp "$1" "$stamp.$$" && mv "$stamp.$$" "$stamp" || fail "$stamp cannot be written; make room, and run this again."
}

last_line() {  # of what a program said, the last error or else the last line
    local errors
    errors=$(grep -i error <<<"$1" || cat <<<"$1")
    tail -n 1 <<<"$errors" | grep .
}

prepare() {
    local file said
    installed "$@" && return
    mkdir -p "$(dirname "$VENV")" 2>/dev/null || true
    # Of scripts that start together, one installs.
    if command -v flock >/dev/null && { exec 9<"$(dirname "$VENV")"; } 2>/dev/null; then
        flock -n 9 2>/dev/null || { echo "== waiting for another script that installs"; flock 9 2>/dev/null || true; }
    fi
    if ! installed "$@"; then
        if [ ! -d "$VENV" ] || [ -z "$(find "$VENV/" -mindepth 1 -maxdepth 1)" ]; then
            make_environment
        elif ! works; then
            # It may want a library that is loaded elsewhere: hours of installation aren't thrown away for that.
            [ ! -x "$VENV/bin/python" ] || said=$("$VENV/bin/python" -c "" 2>&1) ||
                fail "$VENV/bin/python doesn't start ($(last_line "$said")). Load what it needs; or remove $VENV, and" \
                    "it is made anew."
            ours || fail "$VENV is no virtual environment, and holds other things; set VENV to another folder."
            echo "== $VENV is half made, or its Python or pip is gone: it is made anew"
            make_environment --clear
        fi
        "$VENV/bin/python" scripts/installed.py "$VENV" --forget 2>/dev/null || true
        for file in "$@"; do
            installed "$file" || install "$file"
        done
    fi
    exec 9<&-  # or the lock would last as long as what is started afterwards
}

notes() {
    local activate=$VENV/bin/activate version='import sys; print(*sys.version_info[:2], sep=".")'
    if [ -n "$1" ] && [ "$("$PYTHON" -c "$version" 2>&1)" != "$("$VENV/bin/python" -c "$version" 2>&1)" ]; then
        echo "== $VENV is not of $PYTHON: set VENV to another folder too, to use that one"
    fi
    if [ -f "$activate" ] && ! grep -qF -e "$(cd "$VENV" && pwd)" -e "$(cd "$VENV" && pwd -P)" "$activate"; then
        echo "== $VENV was moved: activate and torchrun look for its old place. Remove it, and it is made anew here"
    fi
}

prepare "$@"
notes "$ASKED_PYTHON"
