#!/usr/bin/env bash
# UniVQA with MAS: functional setting, task order rklsao (330).
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
RUN=$SAVE/functional/setting_330_rklsao/$EXP
STEPS=7

train "$RUN/unicl_relation" \
  config="$CONFIG/functional/cl_relation_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  training.CL.use_cl=True \
  training.trainer=CL \
  training.CL.reg_type=mas \
  training.CL.reg_lambda=1.0 \
  optimizer.type=weight_reg_adamw \
  training.batch_size=24 \
  training.CL.task_order=rklsao \
  run_type=train_val \
  env.save_dir="$RUN/unicl_relation" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

# learn TASK BEFORE: goes on from the model in folder BEFORE, with
# one task's real records; weights are held by their importance for the tasks before.
learn() {
  train "$RUN/unicl_$1" \
    config="$CONFIG/functional/cl_$1_unicl_standalone.yaml" \
    model=unicl \
    dataset=clvqa \
    training.CL.use_cl=True \
    training.trainer=CL \
    training.CL.reg_type=mas \
    training.CL.reg_lambda=1.0 \
    optimizer.type=weight_reg_adamw \
    training.batch_size=24 \
    training.CL.task_order=rklsao \
    run_type=train_val \
    training.CL.reg_params_pth="$2/models/reg_params.safetensors" \
    checkpoint.resume_file="$2/unicl_final.pth" \
    env.save_dir="$RUN/unicl_$1" \
    training.checkpoint_interval=4000 \
    "training.callbacks=[]"
}

learn knowledge "$RUN/unicl_relation"
learn logical "$RUN/unicl_knowledge"
learn scenetext "$RUN/unicl_logical"
learn attribute "$RUN/unicl_scenetext"
learn object "$RUN/unicl_attribute"

evaluate sweep \
  --cl_setting functional \
  --task_order rklsao \
  --exp "$EXP" \
  --test_reg \
  --save_dir "$SAVE" \
  --model_name unicl
