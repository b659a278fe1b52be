#!/usr/bin/env bash
# UniVQA with SRM's replays, 0.3 for each real record: scene setting, task order abcdef (1).
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
RUN=$SAVE/scene/setting_1_abcdef/$EXP
QAG=$ROOT/exp/clvqa/QAG_seq/not_use_gt/QAG_scene_task_token
REPLAYS=$QAG/distilgpt2_replay/distilgpt2_scene_abcdef
STEPS=8

train "$STAND_ALONE/unicl_a#ShopAndDining" \
  config="$CONFIG/scene/cl_a#ShopAndDining_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  env.save_dir="$STAND_ALONE/unicl_a#ShopAndDining" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

write_replays "$REPLAYS" abcdef \
  --cl_setting scene \
  --task_seq abcdef \
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
    training.CL.task_order=abcdef \
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

learn "b#Workplace" "$STAND_ALONE/unicl_a#ShopAndDining" \
  'abcdef_REPLAY[a]_AT[b].npy'
learn "c#HomeOrHotel" "$RUN/unicl_b#Workplace" \
  'abcdef_REPLAY[a]_AT[c].npy,abcdef_REPLAY[b]_AT[c].npy'
learn "d#Transportation" "$RUN/unicl_c#HomeOrHotel" \
  'abcdef_REPLAY[a]_AT[d].npy,abcdef_REPLAY[b]_AT[d].npy,abcdef_REPLAY[c]_AT[d].npy'
learn "e#SportAndLeisure" "$RUN/unicl_d#Transportation" \
  'abcdef_REPLAY[a]_AT[e].npy,abcdef_REPLAY[b]_AT[e].npy,abcdef_REPLAY[c]_AT[e].npy,abcdef_REPLAY[d]_AT[e].npy'
learn "f#Outdoors" "$RUN/unicl_e#SportAndLeisure" \
  'abcdef_REPLAY[a]_AT[f].npy,abcdef_REPLAY[b]_AT[f].npy,abcdef_REPLAY[c]_AT[f].npy,abcdef_REPLAY[d]_AT[f].npy,abcdef_REPLAY[e]_AT[f].npy'

evaluate sweep \
  --cl_setting scene \
  --task_order abcdef \
  --exp "$EXP" \
  --save_dir "$SAVE" \
  --model_name unicl
