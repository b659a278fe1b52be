#!/usr/bin/env bash
# UniVQA on all tasks of the functional setting at once, the upper bound.
# Done steps are skipped and a run that was cut off goes on. DRY_RUN=1 prints the commands. Written by
# generate_run_scripts.py; these can be set in the environment:
set -euo pipefail
ROOT=${ROOT:-runs/clvqa}             # experiments
CLOVE_ROOT=${CLOVE_ROOT:-data/clove} # data
DEVICE=${DEVICE:-0}                  # GPU(s) to be seen; cpu: none
CONFIG=${CONFIG:-EXP_CONFIG}         # EXP_CONFIG/mini for clove-mini
SRM_ARGS=${SRM_ARGS:-}               # more arguments of SRM/train.py
MMF_ARGS=${MMF_ARGS:-}               # more key=value words of mmf_run
# shellcheck source=run_scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib.sh"

SAVE=$ROOT/exp/clvqa/save
RUN=$SAVE/multitask/unicl_functional_incremental
STEPS=2

train "$RUN" \
  config="$CONFIG/cl_functional_multitask_unicl.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  env.save_dir="$RUN" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

evaluate multitask \
  --cl_setting functional \
  --save_dir "$SAVE" \
  --model_name unicl
