#!/usr/bin/env bash
# From nothing to a table and a report: environment, embedded data set, training, evaluation, pictures.
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
echo "== drawing whom it finds, and where it looks"
"$VENV/bin/python" scripts/visualize.py "$run" --parts ranking attention --format jpg
"$VENV/bin/python" scripts/report.py "$run"
cat <<END
== done
checkpoint  $run/last.pth
report      $run/report.html, for a browser
Chance would put 2.5 % first in all-search: one of 40 people, whom no training image shows.
== to try next, after "source $VENV/bin/activate"
python scripts/search.py --checkpoint $run --gallery datasets/synthetic/cam1 --query datasets/synthetic/cam3/0510 --output $run/found
python train.py --config configs/quickstart_cmfn.yaml
python scripts/failures.py $run
END
