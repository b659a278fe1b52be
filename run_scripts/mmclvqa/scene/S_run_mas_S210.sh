#!/usr/bin/env bash
# UniVQA with MAS: scene setting, task order bedfca (210).
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
EXP=mas
RUN=$SAVE/scene/setting_210_bedfca/$EXP
STEPS=7

train "$RUN/unicl_b#Workplace" \
  config="$CONFIG/scene/cl_b#Workplace_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  training.CL.use_cl=True \
  training.trainer=CL \
  training.CL.reg_type=mas \
  training.CL.reg_lambda=1.0 \
  optimizer.type=weight_reg_adamw \
  training.batch_size=24 \
  training.CL.task_order=bedfca \
  run_type=train_val \
  env.save_dir="$RUN/unicl_b#Workplace" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

# learn TASK BEFORE: goes on from the model in folder BEFORE, with
# one task's real records; weights are held by their importance for the tasks before.
learn() {
  train "$RUN/unicl_$1" \
    config="$CONFIG/scene/cl_$1_unicl_standalone.yaml" \
    model=unicl \
    dataset=clvqa \
    training.CL.use_cl=True \
    training.trainer=CL \
    training.CL.reg_type=mas \
    training.CL.reg_lambda=1.0 \
    optimizer.type=weight_reg_adamw \
    training.batch_size=24 \
    training.CL.task_order=bedfca \
    run_type=train_val \
    training.CL.reg_params_pth="$2/models/reg_params.safetensors" \
    checkpoint.resume_file="$2/unicl_final.pth" \
    env.save_dir="$RUN/unicl_$1" \
    training.checkpoint_interval=4000 \
    "training.callbacks=[]"
}

learn "e#SportAndLeisure" "$RUN/unicl_b#Workplace"
learn "d#Transportation" "$RUN/unicl_e#SportAndLeisure"
learn "f#Outdoors" "$RUN/unicl_d#Transportation"
learn "c#HomeOrHotel" "$RUN/unicl_f#Outdoors"
learn "a#ShopAndDining" "$RUN/unicl_c#HomeOrHotel"

evaluate sweep \
  --cl_setting scene \
  --task_order bedfca \
  --exp "$EXP" \
  --test_reg \
  --save_dir "$SAVE" \
  --model_name unicl
