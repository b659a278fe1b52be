#!/usr/bin/env bash
# The demo: make clove-mini, train UniVQA on the object task of the functional setting, show its accuracy.
# Overridable from the environment: ROOT (experiments), CLOVE_ROOT (data), CONFIG, BIN (folder of the scripts).
set -euo pipefail
cd "$(dirname "$0")/.."
export ROOT=${ROOT:-$PWD/runs/demo}
export CLOVE_ROOT=${CLOVE_ROOT:-$PWD/runs/clove-mini}
CONFIG=${CONFIG:-EXP_CONFIG/mini}
BIN=${BIN:-.venv/bin}
SAVE=$ROOT/exp/clvqa/save/stand_alone/functional/unicl_object

echo "[1/2] clove-mini in $CLOVE_ROOT"
"$BIN/python" -m mmclvqa.clove mini "$CLOVE_ROOT"

echo "[2/2] UniVQA on task object in $SAVE (about two minutes)"
"$BIN/mmf_run" "config=$CONFIG/functional/cl_object_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  checkpoint.resume=True \
  "env.save_dir=$SAVE"

"$BIN/python" - "$SAVE/results.json" <<'PY'
import json
import sys

last = json.load(open(sys.argv[1]))[-1]
print(json.dumps(last))
PY
