#!/usr/bin/env bash
# UniVQA with replay of real records chosen by k-means, 0.02 for each new one: functional setting, task order rsolak (339).
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
EXP=kmeans_replay_0.02
RUN=$SAVE/functional/setting_339_rsolak/$EXP
STEPS=7

train "$RUN/unicl_relation" \
  config="$CONFIG/functional/cl_relation_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  training.CL.use_cl=True \
  training.CL.use_replay=True \
  training.CL.replay_method=kmeans \
  training.CL.replay_rate=0.02 \
  training.batch_size=24 \
  training.CL.task_order=rsolak \
  model_config.unicl.use_cls=True \
  run_type=train_val \
  env.save_dir="$RUN/unicl_relation" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

# learn TASK BEFORE: goes on from the model in folder BEFORE, with
# one task's real records, and those that the task before left in its folder.
learn() {
  train "$RUN/unicl_$1" \
    config="$CONFIG/functional/cl_$1_unicl_standalone.yaml" \
    model=unicl \
    dataset=clvqa \
    training.CL.use_cl=True \
    training.CL.use_replay=True \
    training.CL.replay_method=kmeans \
    training.CL.replay_rate=0.02 \
    training.batch_size=24 \
    training.CL.task_order=rsolak \
    model_config.unicl.use_cls=True \
    run_type=train_val \
    training.CL.replay_dir="$2" \
    checkpoint.resume_file="$2/unicl_final.pth" \
    env.save_dir="$RUN/unicl_$1" \
    training.checkpoint_interval=4000 \
    "training.callbacks=[]"
}

learn scenetext "$RUN/unicl_relation"
learn object "$RUN/unicl_scenetext"
learn logical "$RUN/unicl_object"
learn attribute "$RUN/unicl_logical"
learn knowledge "$RUN/unicl_attribute"

evaluate sweep \
  --cl_setting functional \
  --task_order rsolak \
  --exp "$EXP" \
  --test_reg \
  model_config.unicl.use_cls=True \
  --save_dir "$SAVE" \
  --model_name unicl
