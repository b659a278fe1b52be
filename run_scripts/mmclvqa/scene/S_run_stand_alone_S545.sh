#!/usr/bin/env bash
# UniVQA on each task alone: scene setting, task order ecdfab (545).
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
STAND_ALONE=$SAVE/stand_alone/scene
EXP=stand_alone
STEPS=7

train "$STAND_ALONE/unicl_e#SportAndLeisure" \
  config="$CONFIG/scene/cl_e#SportAndLeisure_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  env.save_dir="$STAND_ALONE/unicl_e#SportAndLeisure" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

train "$STAND_ALONE/unicl_c#HomeOrHotel" \
  config="$CONFIG/scene/cl_c#HomeOrHotel_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  env.save_dir="$STAND_ALONE/unicl_c#HomeOrHotel" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

train "$STAND_ALONE/unicl_d#Transportation" \
  config="$CONFIG/scene/cl_d#Transportation_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  env.save_dir="$STAND_ALONE/unicl_d#Transportation" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

train "$STAND_ALONE/unicl_f#Outdoors" \
  config="$CONFIG/scene/cl_f#Outdoors_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  env.save_dir="$STAND_ALONE/unicl_f#Outdoors" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

train "$STAND_ALONE/unicl_a#ShopAndDining" \
  config="$CONFIG/scene/cl_a#ShopAndDining_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  env.save_dir="$STAND_ALONE/unicl_a#ShopAndDining" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

train "$STAND_ALONE/unicl_b#Workplace" \
  config="$CONFIG/scene/cl_b#Workplace_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  env.save_dir="$STAND_ALONE/unicl_b#Workplace" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

evaluate sweep \
  --cl_setting scene \
  --task_order ecdfab \
  --exp "$EXP" \
  --test_stand_alone \
  --save_dir "$SAVE" \
  --model_name unicl
