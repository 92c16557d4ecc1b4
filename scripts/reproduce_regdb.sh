#!/usr/bin/env bash
# RegDB from the data folder to the table of figures: ten splits, ten models, both directions, and their mean.
#   bash scripts/reproduce_regdb.sh datasets/RegDB [runs/regdb_cmfn [KEY VALUE ...]]
# METHOD=agw (or caj, deen, mpanet, pmt, mscmnet, dns, mcja, mclnet, sefel, ...) takes configs/regdb_agw.yaml; the default is cmfn.
# Run it again after a stop: what has a valid result is kept, a training that was cut off goes on.
# SPLITS="1 2 3" takes some of the splits, e.g. one part on each GPU; the mean follows when all have results.
set -euo pipefail
unset CDPATH  # with which cd goes elsewhere, and prints
cd "$(dirname "$(readlink -f "$0" || echo "$0")")/.."
METHOD=${METHOD:-cmfn}
data=${1:?the folder of RegDB is missing: bash scripts/reproduce_regdb.sh datasets/RegDB}
runs=${2:-runs/regdb_$METHOD}
[ -d "$data" ] || { echo "error: there is no folder $data in $PWD; name it by its whole path" >&2; exit 1; }
shift $(($# < 2 ? $# : 2))
source scripts/environment.sh requirements.txt

for split in ${SPLITS:-1 2 3 4 5 6 7 8 9 10}; do
    echo "== split $split: training"
    "$VENV/bin/python" train.py --config "configs/regdb_$METHOD.yaml" --resume "$@" \
        DATA.ROOT "$data" DATA.SPLIT "$split" OUTPUT "$runs/$split"
    echo "== split $split: evaluating"
    "$VENV/bin/python" test.py --checkpoint "$runs/$split" --protocol all --per-query --complete --reuse
done
for split in 1 2 3 4 5 6 7 8 9 10; do
    if [ ! -f "$runs/$split/results.json" ]; then
        echo "no mean yet: split $split has no results"
        exit 0
    fi
done
echo "== the mean over the ten models"
"$VENV/bin/python" scripts/average_splits.py "$runs"/{1,2,3,4,5,6,7,8,9,10}/results.json --output "$runs/results.json"
