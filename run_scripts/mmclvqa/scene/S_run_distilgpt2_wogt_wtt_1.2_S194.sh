#!/usr/bin/env bash
# UniVQA with SRM's replays, 1.2 for each real record: scene setting, task order beacfd (194).
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
EXP=distilgpt2_replay_qag_seq_not_use_gt_task_token_1.2
RUN=$SAVE/scene/setting_194_beacfd/$EXP
QAG=$ROOT/exp/clvqa/QAG_seq/not_use_gt/QAG_scene_task_token
REPLAYS=$QAG/distilgpt2_replay/distilgpt2_scene_beacfd
STEPS=8

train "$STAND_ALONE/unicl_b#Workplace" \
  config="$CONFIG/scene/cl_b#Workplace_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  env.save_dir="$STAND_ALONE/unicl_b#Workplace" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]"

write_replays "$REPLAYS" beacfd \
  --cl_setting scene \
  --task_seq beacfd \
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
    training.CL.task_order=beacfd \
    training.CL.restore_rate=1.2 \
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

learn "e#SportAndLeisure" "$STAND_ALONE/unicl_b#Workplace" \
  'beacfd_REPLAY[b]_AT[e].npy'
learn "a#ShopAndDining" "$RUN/unicl_e#SportAndLeisure" \
  'beacfd_REPLAY[b]_AT[a].npy,beacfd_REPLAY[e]_AT[a].npy'
learn "c#HomeOrHotel" "$RUN/unicl_a#ShopAndDining" \
  'beacfd_REPLAY[b]_AT[c].npy,beacfd_REPLAY[e]_AT[c].npy,beacfd_REPLAY[a]_AT[c].npy'
learn "f#Outdoors" "$RUN/unicl_c#HomeOrHotel" \
  'beacfd_REPLAY[b]_AT[f].npy,beacfd_REPLAY[e]_AT[f].npy,beacfd_REPLAY[a]_AT[f].npy,beacfd_REPLAY[c]_AT[f].npy'
learn "d#Transportation" "$RUN/unicl_f#Outdoors" \
  'beacfd_REPLAY[b]_AT[d].npy,beacfd_REPLAY[e]_AT[d].npy,beacfd_REPLAY[a]_AT[d].npy,beacfd_REPLAY[c]_AT[d].npy,beacfd_REPLAY[f]_AT[d].npy'

evaluate sweep \
  --cl_setting scene \
  --task_order beacfd \
  --exp "$EXP" \
  --save_dir "$SAVE" \
  --model_name unicl
