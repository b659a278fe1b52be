#!/usr/bin/env bash
# UniVQA, multitask: scene setting.
# Written by generate_run_scripts.py. Finished steps are skipped, and an interrupted training resumes from its last
# checkpoint. From the environment: ROOT (experiments), CLOVE_ROOT (data), DEVICE (GPU, or cpu), CONFIG (EXP_CONFIG/mini
# for clove-mini), MMF_ARGS (more overrides of mmf_run), SRM_ARGS (more arguments of SRM/train.py).
# shellcheck disable=SC2086
set -euo pipefail
ROOT=$(realpath -m "${ROOT:-runs/clvqa}")
CLOVE_ROOT=$(realpath -m "${CLOVE_ROOT:-data/clove}")
DEVICE=${DEVICE:-0}
CONFIG=${CONFIG:-EXP_CONFIG}
MMF_ARGS=${MMF_ARGS:-}
SRM_ARGS=${SRM_ARGS:-}
export ROOT CLOVE_ROOT CONFIG MMF_ARGS SRM_ARGS
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
PATH=$PWD/.venv/bin:$PATH
# Stops if ROOT has experiments on other data. Arguments in $CONFIG/workflow.yaml come before MMF_ARGS and SRM_ARGS.
VARIABLES=$(python -m mmclvqa.experiments.root "$ROOT" "$CLOVE_ROOT" "$CONFIG")
eval "$VARIABLES"

# train on all tasks at once
if [ ! -f "$ROOT/exp/clvqa/save/multitask/unicl_scene_incremental/unicl_final.pth" ]; then
CUDA_VISIBLE_DEVICES=$DEVICE mmf_run "config=$CONFIG/cl_scene_multitask_unicl.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  "env.save_dir=$ROOT/exp/clvqa/save/multitask/unicl_scene_incremental" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]" \
  checkpoint.resume=True \
  $MMF_ARGS
fi

# evaluate the multitask model
CUDA_VISIBLE_DEVICES=$DEVICE python -c "from eval_os import *; test_multi_task(device='$DEVICE', cl_setting='scene', model_name='unicl', save_dir='$ROOT/exp/clvqa')"
