#!/usr/bin/env bash
# Run the tests; makes the virtual environment and installs what they need if that is not there yet.
#   bash scripts/run_tests.sh [arguments of pytest]
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh requirements.txt requirements-test.txt
echo "== running the tests"
exec "$VENV/bin/python" -m pytest "$@"
