#!/usr/bin/env bash
# Make a site of docs/, which a browser opens without a network or a server.
#   bash scripts/docs_site.sh        then open site/index.html
set -euo pipefail
unset CDPATH  # with which cd goes elsewhere, and prints
cd "$(dirname "$(readlink -f "$0" || echo "$0")")/.."
VENV=${VENV:-.venv-docs} source scripts/environment.sh requirements-docs.txt
"$VENV/bin/python" -m mkdocs build --quiet --clean
echo "site/index.html"
