#!/usr/bin/env bash
# UniVQA with SRM's replays, 0.9 for each real record: functional setting, task order rklsao (330).
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
EXP=distilgpt2_replay_qag_seq_not_use_gt_task_token_0.9
RUN=$SAVE/functional/setting_330_rklsao/$EXP
QAG=$ROOT/exp/clvqa/QAG_seq/not_use_gt/QAG_functional_task_token
REPLAYS=$QAG/distilgpt2_replay/distilgpt2_functional_rklsao
STEPS=8

train "$STAND_ALONE/unicl_relation" \
  config="$CONFIG/functional/cl_relation_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  env.save_dir="$STAND_ALONE/unicl_relation" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

write_replays "$REPLAYS" rklsao \
  --cl_setting functional \
  --task_seq rklsao \
  --model_name distilgpt2 \
  --model_dir_root "$QAG" \
  --add_task_tokens \
  --n_train_epochs 15

# learn TASK BEFORE REPLAYS: goes on from the model in folder BEFORE, with
# one task's real records, and replays of every task before it.
learn() {
  train "$RUN/unicl_$1" \
    config="$CONFIG/functional/cl_$1_unicl_standalone.yaml" \
    model=unicl \
    dataset=clvqa \
    training.CL.use_cl=True \
    training.CL.use_callback=False \
    training.CL.use_replay=True \
    training.CL.replay_method=restore_with_prob \
    training.CL.task_order=rklsao \
    training.CL.restore_rate=0.9 \
    training.CL.restore_dir="$REPLAYS" \
    training.CL.restore_paths="$3" \
    dataset_config.clvqa.use_mask_img=True \
    dataset_config.clvqa.mask_img_prob=0.15 \
    run_type=train_val \
    checkpoint.resume_file="$2/unicl_final.pth" \
    env.save_dir="$RUN/unicl_$1" \
    training.checkpoint_interval=4000 \
    "training.callbacks=[]"
}

learn knowledge "$STAND_ALONE/unicl_relation" \
  'rklsao_REPLAY[r]_AT[k].npy'
learn logical "$RUN/unicl_knowledge" \
  'rklsao_REPLAY[r]_AT[l].npy,rklsao_REPLAY[k]_AT[l].npy'
learn scenetext "$RUN/unicl_logical" \
  'rklsao_REPLAY[r]_AT[s].npy,rklsao_REPLAY[k]_AT[s].npy,rklsao_REPLAY[l]_AT[s].npy'
learn attribute "$RUN/unicl_scenetext" \
  'rklsao_REPLAY[r]_AT[a].npy,rklsao_REPLAY[k]_AT[a].npy,rklsao_REPLAY[l]_AT[a].npy,rklsao_REPLAY[s]_AT[a].npy'
learn object "$RUN/unicl_attribute" \
  'rklsao_REPLAY[r]_AT[o].npy,rklsao_REPLAY[k]_AT[o].npy,rklsao_REPLAY[l]_AT[o].npy,rklsao_REPLAY[s]_AT[o].npy,rklsao_REPLAY[a]_AT[o].npy'

evaluate sweep \
  --cl_setting functional \
  --task_order rklsao \
  --exp "$EXP" \
  --save_dir "$SAVE" \
  --model_name unicl
