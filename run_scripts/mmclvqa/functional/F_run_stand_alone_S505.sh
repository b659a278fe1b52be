#!/usr/bin/env bash
# UniVQA on each task alone: functional setting, task order kaorls (505).
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
STAND_ALONE=$SAVE/stand_alone/functional
EXP=stand_alone
STEPS=7

train "$STAND_ALONE/unicl_knowledge" \
  config="$CONFIG/functional/cl_knowledge_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  env.save_dir="$STAND_ALONE/unicl_knowledge" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

train "$STAND_ALONE/unicl_attribute" \
  config="$CONFIG/functional/cl_attribute_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  env.save_dir="$STAND_ALONE/unicl_attribute" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

train "$STAND_ALONE/unicl_object" \
  config="$CONFIG/functional/cl_object_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  env.save_dir="$STAND_ALONE/unicl_object" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

train "$STAND_ALONE/unicl_relation" \
  config="$CONFIG/functional/cl_relation_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  env.save_dir="$STAND_ALONE/unicl_relation" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

train "$STAND_ALONE/unicl_logical" \
  config="$CONFIG/functional/cl_logical_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  env.save_dir="$STAND_ALONE/unicl_logical" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

train "$STAND_ALONE/unicl_scenetext" \
  config="$CONFIG/functional/cl_scenetext_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  env.save_dir="$STAND_ALONE/unicl_scenetext" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

evaluate sweep \
  --cl_setting functional \
  --task_order kaorls \
  --exp "$EXP" \
  --test_stand_alone \
  --save_dir "$SAVE" \
  --model_name unicl
