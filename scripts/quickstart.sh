#!/usr/bin/env bash
# From nothing to a table: environment, embedded data set, training, evaluation.
#   bash scripts/quickstart.sh [KEY VALUE ...]      e.g. bash scripts/quickstart.sh SEED 1 OUTPUT runs/quickstart-1
# Running it again reuses what is there; a training that was cut off goes on.
set -euo pipefail
unset CDPATH  # with which cd goes elsewhere, and prints
cd "$(dirname "$(readlink -f "$0" || echo "$0")")/.."
source scripts/environment.sh requirements.txt

echo "== writing the embedded data set"
"$VENV/bin/python" -m data.synthetic --root datasets/synthetic
echo "== training"
"$VENV/bin/python" train.py --config configs/quickstart.yaml --resume "$@"
run=runs/quickstart  # as configs/quickstart.yaml has it
key=
for word in "$@"; do
    [ "$key" != OUTPUT ] || run=$word
    key=$word
done
echo "== evaluating, all-search and indoor-search"
"$VENV/bin/python" test.py --checkpoint "$run" --complete --reuse
echo "checkpoint: $run/last.pth"
echo "log:        $run/train.log"
