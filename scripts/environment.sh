# Sourced by the other scripts: makes .venv and installs requirement files into it, once.
#   source scripts/environment.sh requirements.txt [more.txt ...]
# PYTHON chooses the interpreter (default python3), VENV the folder (default .venv).

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "error: Python 3.10 or newer is needed; $PYTHON is $("$PYTHON" --version 2>&1). Set PYTHON to another one." >&2
    exit 1
}
if [ ! -x "$VENV/bin/python" ]; then
    echo "== making a virtual environment in $VENV ($("$PYTHON" --version))"
    "$PYTHON" -m venv "$VENV" || {
        echo "error: $PYTHON -m venv failed; on Debian and Ubuntu, install the package python3-venv." >&2
        exit 1
    }
fi
for file in "$@"; do
    stamp="$VENV/installed-$(basename "$file")"
    if ! cmp -s "$file" "$stamp"; then
        echo "== installing $file (PyTorch is large: this takes minutes)"
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -r "$file"
        cp "$file" "$stamp"
    fi
done
