#!/usr/bin/env bash
# UniVQA, SRM (distilgpt2, 0.7 replays per real record): scene setting, task order beadcf (195).
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

# train b#Workplace
if [ ! -f "$ROOT/exp/clvqa/save/stand_alone/scene/unicl_b#Workplace/unicl_final.pth" ]; then
CUDA_VISIBLE_DEVICES=$DEVICE mmf_run "config=$CONFIG/scene/cl_b#Workplace_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  "env.save_dir=$ROOT/exp/clvqa/save/stand_alone/scene/unicl_b#Workplace" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]" \
  checkpoint.resume=True \
  $MMF_ARGS
fi

# train SRM and write its replays
if [ ! -f "$ROOT/exp/clvqa/QAG_seq/not_use_gt/QAG_scene_task_token/distilgpt2_replay/distilgpt2_scene_beadcf/beadcf_REPLAY[c]_AT[f].npy" ]; then
CUDA_VISIBLE_DEVICES=$DEVICE python SRM/train.py --cl_setting scene \
  --task_seq beadcf \
  --model_name distilgpt2 \
  --model_dir_root "$ROOT/exp/clvqa/QAG_seq/not_use_gt/QAG_scene_task_token" \
  --add_task_tokens \
  --n_train_epochs 15 \
  $SRM_ARGS
fi

# train e#SportAndLeisure
if [ ! -f "$ROOT/exp/clvqa/save/scene/setting_195_beadcf/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_e#SportAndLeisure/unicl_final.pth" ]; then
CUDA_VISIBLE_DEVICES=$DEVICE mmf_run "config=$CONFIG/scene/cl_e#SportAndLeisure_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  training.CL.use_cl=True \
  training.CL.use_callback=False \
  training.CL.use_replay=True \
  training.CL.replay_method=restore_with_prob \
  training.CL.task_order=beadcf \
  training.CL.restore_rate=0.7 \
  "training.CL.restore_dir=$ROOT/exp/clvqa/QAG_seq/not_use_gt/QAG_scene_task_token/distilgpt2_replay/distilgpt2_scene_beadcf" \
  "training.CL.restore_paths=beadcf_REPLAY[b]_AT[e].npy" \
  dataset_config.clvqa.use_mask_img=True \
  dataset_config.clvqa.mask_img_prob=0.15 \
  run_type=train_val \
  "checkpoint.resume_file=$ROOT/exp/clvqa/save/stand_alone/scene/unicl_b#Workplace/unicl_final.pth" \
  "env.save_dir=$ROOT/exp/clvqa/save/scene/setting_195_beadcf/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_e#SportAndLeisure" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]" \
  checkpoint.resume=True \
  $MMF_ARGS
fi

# train a#ShopAndDining
if [ ! -f "$ROOT/exp/clvqa/save/scene/setting_195_beadcf/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_a#ShopAndDining/unicl_final.pth" ]; then
CUDA_VISIBLE_DEVICES=$DEVICE mmf_run "config=$CONFIG/scene/cl_a#ShopAndDining_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  training.CL.use_cl=True \
  training.CL.use_callback=False \
  training.CL.use_replay=True \
  training.CL.replay_method=restore_with_prob \
  training.CL.task_order=beadcf \
  training.CL.restore_rate=0.7 \
  "training.CL.restore_dir=$ROOT/exp/clvqa/QAG_seq/not_use_gt/QAG_scene_task_token/distilgpt2_replay/distilgpt2_scene_beadcf" \
  "training.CL.restore_paths=beadcf_REPLAY[b]_AT[a].npy,beadcf_REPLAY[e]_AT[a].npy" \
  dataset_config.clvqa.use_mask_img=True \
  dataset_config.clvqa.mask_img_prob=0.15 \
  run_type=train_val \
  "checkpoint.resume_file=$ROOT/exp/clvqa/save/scene/setting_195_beadcf/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_e#SportAndLeisure/unicl_final.pth" \
  "env.save_dir=$ROOT/exp/clvqa/save/scene/setting_195_beadcf/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_a#ShopAndDining" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]" \
  checkpoint.resume=True \
  $MMF_ARGS
fi

# train d#Transportation
if [ ! -f "$ROOT/exp/clvqa/save/scene/setting_195_beadcf/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_d#Transportation/unicl_final.pth" ]; then
CUDA_VISIBLE_DEVICES=$DEVICE mmf_run "config=$CONFIG/scene/cl_d#Transportation_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  training.CL.use_cl=True \
  training.CL.use_callback=False \
  training.CL.use_replay=True \
  training.CL.replay_method=restore_with_prob \
  training.CL.task_order=beadcf \
  training.CL.restore_rate=0.7 \
  "training.CL.restore_dir=$ROOT/exp/clvqa/QAG_seq/not_use_gt/QAG_scene_task_token/distilgpt2_replay/distilgpt2_scene_beadcf" \
  "training.CL.restore_paths=beadcf_REPLAY[b]_AT[d].npy,beadcf_REPLAY[e]_AT[d].npy,beadcf_REPLAY[a]_AT[d].npy" \
  dataset_config.clvqa.use_mask_img=True \
  dataset_config.clvqa.mask_img_prob=0.15 \
  run_type=train_val \
  "checkpoint.resume_file=$ROOT/exp/clvqa/save/scene/setting_195_beadcf/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_a#ShopAndDining/unicl_final.pth" \
  "env.save_dir=$ROOT/exp/clvqa/save/scene/setting_195_beadcf/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_d#Transportation" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]" \
  checkpoint.resume=True \
  $MMF_ARGS
fi

# train c#HomeOrHotel
if [ ! -f "$ROOT/exp/clvqa/save/scene/setting_195_beadcf/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_c#HomeOrHotel/unicl_final.pth" ]; then
CUDA_VISIBLE_DEVICES=$DEVICE mmf_run "config=$CONFIG/scene/cl_c#HomeOrHotel_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  training.CL.use_cl=True \
  training.CL.use_callback=False \
  training.CL.use_replay=True \
  training.CL.replay_method=restore_with_prob \
  training.CL.task_order=beadcf \
  training.CL.restore_rate=0.7 \
  "training.CL.restore_dir=$ROOT/exp/clvqa/QAG_seq/not_use_gt/QAG_scene_task_token/distilgpt2_replay/distilgpt2_scene_beadcf" \
  "training.CL.restore_paths=beadcf_REPLAY[b]_AT[c].npy,beadcf_REPLAY[e]_AT[c].npy,beadcf_REPLAY[a]_AT[c].npy,beadcf_REPLAY[d]_AT[c].npy" \
  dataset_config.clvqa.use_mask_img=True \
  dataset_config.clvqa.mask_img_prob=0.15 \
  run_type=train_val \
  "checkpoint.resume_file=$ROOT/exp/clvqa/save/scene/setting_195_beadcf/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_d#Transportation/unicl_final.pth" \
  "env.save_dir=$ROOT/exp/clvqa/save/scene/setting_195_beadcf/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_c#HomeOrHotel" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]" \
  checkpoint.resume=True \
  $MMF_ARGS
fi

# train f#Outdoors
if [ ! -f "$ROOT/exp/clvqa/save/scene/setting_195_beadcf/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_f#Outdoors/unicl_final.pth" ]; then
CUDA_VISIBLE_DEVICES=$DEVICE mmf_run "config=$CONFIG/scene/cl_f#Outdoors_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  training.CL.use_cl=True \
  training.CL.use_callback=False \
  training.CL.use_replay=True \
  training.CL.replay_method=restore_with_prob \
  training.CL.task_order=beadcf \
  training.CL.restore_rate=0.7 \
  "training.CL.restore_dir=$ROOT/exp/clvqa/QAG_seq/not_use_gt/QAG_scene_task_token/distilgpt2_replay/distilgpt2_scene_beadcf" \
  "training.CL.restore_paths=beadcf_REPLAY[b]_AT[f].npy,beadcf_REPLAY[e]_AT[f].npy,beadcf_REPLAY[a]_AT[f].npy,beadcf_REPLAY[d]_AT[f].npy,beadcf_REPLAY[c]_AT[f].npy" \
  dataset_config.clvqa.use_mask_img=True \
  dataset_config.clvqa.mask_img_prob=0.15 \
  run_type=train_val \
  "checkpoint.resume_file=$ROOT/exp/clvqa/save/scene/setting_195_beadcf/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_c#HomeOrHotel/unicl_final.pth" \
  "env.save_dir=$ROOT/exp/clvqa/save/scene/setting_195_beadcf/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_f#Outdoors" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]" \
  checkpoint.resume=True \
  $MMF_ARGS
fi

# evaluate every model on every task
CUDA_VISIBLE_DEVICES=$DEVICE python -c "from eval_os import *; stage_sweep(cl_setting='scene', setting_idx=195, abbr_seq='beadcf', device='$DEVICE', model_name='unicl', save_dir='$ROOT/exp/clvqa', val_exp='distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7', test_stand_alone=False, test_reg=False)"
