#!/usr/bin/env bash
# LLCM from the data folder to the table of figures: training, both directions.
#   bash scripts/reproduce_llcm.sh datasets/LLCM [runs/llcm_cmfn [KEY VALUE ...]]
# METHOD=agw (or caj, deen, mpanet, pmt, mscmnet, dns, mcja, mclnet, sefel, ...) takes configs/llcm_agw.yaml; the default is cmfn.
# Run it again after a stop: what has a valid result is kept, a training that was cut off goes on.
set -euo pipefail
unset CDPATH  # with which cd goes elsewhere, and prints
cd "$(dirname "$(readlink -f "$0" || echo "$0")")/.."
METHOD=${METHOD:-cmfn}
data=${1:?the folder of LLCM is missing: bash scripts/reproduce_llcm.sh datasets/LLCM}
run=${2:-runs/llcm_$METHOD}
[ -d "$data" ] || { echo "error: there is no folder $data in $PWD; name it by its whole path" >&2; exit 1; }
shift $(($# < 2 ? $# : 2))
source scripts/environment.sh requirements.txt

echo "== training"
"$VENV/bin/python" train.py --config "configs/llcm_$METHOD.yaml" --resume "$@" DATA.ROOT "$data" OUTPUT "$run"
echo "== evaluating by every protocol"
"$VENV/bin/python" test.py --checkpoint "$run" --protocol all --per-query --complete --reuse
