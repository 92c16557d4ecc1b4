#!/usr/bin/env bash
# Run the tests; makes the virtual environment and installs what they need if that is not there yet.
#   bash scripts/run_tests.sh [arguments of pytest]
#   bash scripts/run_tests.sh --all    # whole what runs small otherwise: kills, properties, the README as printed
set -euo pipefail
unset CDPATH  # with which cd goes elsewhere, and prints
cd "$(dirname "$(readlink -f "$0" || echo "$0")")/.."
source scripts/environment.sh requirements.txt requirements-optional.txt requirements-docs.txt requirements-test.txt
processes=$("$VENV/bin/python" -c 'import os; print(min(4, os.cpu_count() or 1))')
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # each process computes with one thread
echo "== running the tests in $processes processes"
# Each process takes whole files in their order, and what another one has left when it has no more.
exec "$VENV/bin/python" -m pytest --numprocesses "$processes" --dist worksteal "$@"
