#!/usr/bin/env bash
# UniVQA with SRM's replays, 0.3 for each real record: scene setting, task order ecdfab (545).
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
EXP=distilgpt2_replay_qag_seq_not_use_gt_task_token_0.3
RUN=$SAVE/scene/setting_545_ecdfab/$EXP
QAG=$ROOT/exp/clvqa/QAG_seq/not_use_gt/QAG_scene_task_token
REPLAYS=$QAG/distilgpt2_replay/distilgpt2_scene_ecdfab
STEPS=8

train "$STAND_ALONE/unicl_e#SportAndLeisure" \
  config="$CONFIG/scene/cl_e#SportAndLeisure_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  env.save_dir="$STAND_ALONE/unicl_e#SportAndLeisure" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

write_replays "$REPLAYS" ecdfab \
  --cl_setting scene \
  --task_seq ecdfab \
  --model_name distilgpt2 \
  --model_dir_root "$QAG" \
  --add_task_tokens \
  --n_train_epochs 15

# learn TASK BEFORE REPLAYS: goes on from the model in folder BEFORE, with
# one task's real records, and replays of every task before it.
learn() {
  train "$RUN/unicl_$1" \
    config="$CONFIG/scene/cl_$1_unicl_standalone.yaml" \
    model=unicl \
    dataset=clvqa \
    training.CL.use_cl=True \
    training.CL.use_callback=False \
    training.CL.use_replay=True \
    training.CL.replay_method=restore_with_prob \
    training.CL.task_order=ecdfab \
    training.CL.restore_rate=0.3 \
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

learn "c#HomeOrHotel" "$STAND_ALONE/unicl_e#SportAndLeisure" \
  'ecdfab_REPLAY[e]_AT[c].npy'
learn "d#Transportation" "$RUN/unicl_c#HomeOrHotel" \
  'ecdfab_REPLAY[e]_AT[d].npy,ecdfab_REPLAY[c]_AT[d].npy'
learn "f#Outdoors" "$RUN/unicl_d#Transportation" \
  'ecdfab_REPLAY[e]_AT[f].npy,ecdfab_REPLAY[c]_AT[f].npy,ecdfab_REPLAY[d]_AT[f].npy'
learn "a#ShopAndDining" "$RUN/unicl_f#Outdoors" \
  'ecdfab_REPLAY[e]_AT[a].npy,ecdfab_REPLAY[c]_AT[a].npy,ecdfab_REPLAY[d]_AT[a].npy,ecdfab_REPLAY[f]_AT[a].npy'
learn "b#Workplace" "$RUN/unicl_a#ShopAndDining" \
  'ecdfab_REPLAY[e]_AT[b].npy,ecdfab_REPLAY[c]_AT[b].npy,ecdfab_REPLAY[d]_AT[b].npy,ecdfab_REPLAY[f]_AT[b].npy,ecdfab_REPLAY[a]_AT[b].npy'

evaluate sweep \
  --cl_setting scene \
  --task_order ecdfab \
  --exp "$EXP" \
  --save_dir "$SAVE" \
  --model_name unicl
