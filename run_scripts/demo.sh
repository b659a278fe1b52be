#!/usr/bin/env bash
# The demo: makes clove-mini, trains UniVQA on the object task of the functional setting and shows its
# accuracy. A second call finds all of it done.
# From the environment: ROOT (experiments), CLOVE_ROOT (data), CONFIG (folder of configurations), BIN.
set -euo pipefail
cd "$(dirname "$0")/.."
export ROOT=${ROOT:-$PWD/runs/demo}
export CLOVE_ROOT=${CLOVE_ROOT:-$PWD/runs/clove-mini}
CONFIG=${CONFIG:-EXP_CONFIG/mini}
BIN=${BIN:-$PWD/.venv/bin}
SAVE=$ROOT/exp/clvqa/save/stand_alone/functional/unicl_object

echo "[1/2] clove-mini in $CLOVE_ROOT"
"$BIN/python" -m mmclvqa.clove mini "$CLOVE_ROOT"

echo "[2/2] UniVQA learns task object in $SAVE; about two minutes on two cores"
"$BIN/mmf_run" "config=$CONFIG/functional/cl_object_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  checkpoint.resume=True \
  "env.save_dir=$SAVE"

"$BIN/python" - "$SAVE" <<'PYTHON'
import json
import sys
from pathlib import Path

save = Path(sys.argv[1])
run = json.loads((save / "results.json").read_text())
final = run["evaluations"][-1]
print()
print(f"task object, {final['records']} val records: accuracy {final['metrics']['textvqa_accuracy']:.3f}")
print(f"trained for {run['run']['training']['seconds']:.0f} s; model, log and results: {save}")
PYTHON
