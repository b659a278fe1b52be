#!/usr/bin/env bash
# UniVQA, SRM (distilgpt2, 0.7 replays per real record): functional setting, task order rsolak (339).
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

# train relation
if [ ! -f "$ROOT/exp/clvqa/save/stand_alone/functional/unicl_relation/unicl_final.pth" ]; then
CUDA_VISIBLE_DEVICES=$DEVICE mmf_run "config=$CONFIG/functional/cl_relation_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  run_type=train_val \
  "env.save_dir=$ROOT/exp/clvqa/save/stand_alone/functional/unicl_relation" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]" \
  checkpoint.resume=True \
  $MMF_ARGS
fi

# train SRM and write its replays
if [ ! -f "$ROOT/exp/clvqa/QAG_seq/not_use_gt/QAG_functional_task_token/distilgpt2_replay/distilgpt2_functional_rsolak/rsolak_REPLAY[a]_AT[k].npy" ]; then
CUDA_VISIBLE_DEVICES=$DEVICE python SRM/train.py --cl_setting functional \
  --task_seq rsolak \
  --model_name distilgpt2 \
  --model_dir_root "$ROOT/exp/clvqa/QAG_seq/not_use_gt/QAG_functional_task_token" \
  --add_task_tokens \
  --n_train_epochs 15 \
  $SRM_ARGS
fi

# train scenetext
if [ ! -f "$ROOT/exp/clvqa/save/functional/setting_339_rsolak/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_scenetext/unicl_final.pth" ]; then
CUDA_VISIBLE_DEVICES=$DEVICE mmf_run "config=$CONFIG/functional/cl_scenetext_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  training.CL.use_cl=True \
  training.CL.use_callback=False \
  training.CL.use_replay=True \
  training.CL.replay_method=restore_with_prob \
  training.CL.task_order=rsolak \
  training.CL.restore_rate=0.7 \
  "training.CL.restore_dir=$ROOT/exp/clvqa/QAG_seq/not_use_gt/QAG_functional_task_token/distilgpt2_replay/distilgpt2_functional_rsolak" \
  "training.CL.restore_paths=rsolak_REPLAY[r]_AT[s].npy" \
  dataset_config.clvqa.use_mask_img=True \
  dataset_config.clvqa.mask_img_prob=0.15 \
  run_type=train_val \
  "checkpoint.resume_file=$ROOT/exp/clvqa/save/stand_alone/functional/unicl_relation/unicl_final.pth" \
  "env.save_dir=$ROOT/exp/clvqa/save/functional/setting_339_rsolak/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_scenetext" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]" \
  checkpoint.resume=True \
  $MMF_ARGS
fi

# train object
if [ ! -f "$ROOT/exp/clvqa/save/functional/setting_339_rsolak/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_object/unicl_final.pth" ]; then
CUDA_VISIBLE_DEVICES=$DEVICE mmf_run "config=$CONFIG/functional/cl_object_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  training.CL.use_cl=True \
  training.CL.use_callback=False \
  training.CL.use_replay=True \
  training.CL.replay_method=restore_with_prob \
  training.CL.task_order=rsolak \
  training.CL.restore_rate=0.7 \
  "training.CL.restore_dir=$ROOT/exp/clvqa/QAG_seq/not_use_gt/QAG_functional_task_token/distilgpt2_replay/distilgpt2_functional_rsolak" \
  "training.CL.restore_paths=rsolak_REPLAY[r]_AT[o].npy,rsolak_REPLAY[s]_AT[o].npy" \
  dataset_config.clvqa.use_mask_img=True \
  dataset_config.clvqa.mask_img_prob=0.15 \
  run_type=train_val \
  "checkpoint.resume_file=$ROOT/exp/clvqa/save/functional/setting_339_rsolak/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_scenetext/unicl_final.pth" \
  "env.save_dir=$ROOT/exp/clvqa/save/functional/setting_339_rsolak/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_object" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]" \
  checkpoint.resume=True \
  $MMF_ARGS
fi

# train logical
if [ ! -f "$ROOT/exp/clvqa/save/functional/setting_339_rsolak/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_logical/unicl_final.pth" ]; then
CUDA_VISIBLE_DEVICES=$DEVICE mmf_run "config=$CONFIG/functional/cl_logical_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  training.CL.use_cl=True \
  training.CL.use_callback=False \
  training.CL.use_replay=True \
  training.CL.replay_method=restore_with_prob \
  training.CL.task_order=rsolak \
  training.CL.restore_rate=0.7 \
  "training.CL.restore_dir=$ROOT/exp/clvqa/QAG_seq/not_use_gt/QAG_functional_task_token/distilgpt2_replay/distilgpt2_functional_rsolak" \
  "training.CL.restore_paths=rsolak_REPLAY[r]_AT[l].npy,rsolak_REPLAY[s]_AT[l].npy,rsolak_REPLAY[o]_AT[l].npy" \
  dataset_config.clvqa.use_mask_img=True \
  dataset_config.clvqa.mask_img_prob=0.15 \
  run_type=train_val \
  "checkpoint.resume_file=$ROOT/exp/clvqa/save/functional/setting_339_rsolak/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_object/unicl_final.pth" \
  "env.save_dir=$ROOT/exp/clvqa/save/functional/setting_339_rsolak/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_logical" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]" \
  checkpoint.resume=True \
  $MMF_ARGS
fi

# train attribute
if [ ! -f "$ROOT/exp/clvqa/save/functional/setting_339_rsolak/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_attribute/unicl_final.pth" ]; then
CUDA_VISIBLE_DEVICES=$DEVICE mmf_run "config=$CONFIG/functional/cl_attribute_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  training.CL.use_cl=True \
  training.CL.use_callback=False \
  training.CL.use_replay=True \
  training.CL.replay_method=restore_with_prob \
  training.CL.task_order=rsolak \
  training.CL.restore_rate=0.7 \
  "training.CL.restore_dir=$ROOT/exp/clvqa/QAG_seq/not_use_gt/QAG_functional_task_token/distilgpt2_replay/distilgpt2_functional_rsolak" \
  "training.CL.restore_paths=rsolak_REPLAY[r]_AT[a].npy,rsolak_REPLAY[s]_AT[a].npy,rsolak_REPLAY[o]_AT[a].npy,rsolak_REPLAY[l]_AT[a].npy" \
  dataset_config.clvqa.use_mask_img=True \
  dataset_config.clvqa.mask_img_prob=0.15 \
  run_type=train_val \
  "checkpoint.resume_file=$ROOT/exp/clvqa/save/functional/setting_339_rsolak/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_logical/unicl_final.pth" \
  "env.save_dir=$ROOT/exp/clvqa/save/functional/setting_339_rsolak/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_attribute" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]" \
  checkpoint.resume=True \
  $MMF_ARGS
fi

# train knowledge
if [ ! -f "$ROOT/exp/clvqa/save/functional/setting_339_rsolak/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_knowledge/unicl_final.pth" ]; then
CUDA_VISIBLE_DEVICES=$DEVICE mmf_run "config=$CONFIG/functional/cl_knowledge_unicl_standalone.yaml" \
  model=unicl \
  dataset=clvqa \
  training.CL.use_cl=True \
  training.CL.use_callback=False \
  training.CL.use_replay=True \
  training.CL.replay_method=restore_with_prob \
  training.CL.task_order=rsolak \
  training.CL.restore_rate=0.7 \
  "training.CL.restore_dir=$ROOT/exp/clvqa/QAG_seq/not_use_gt/QAG_functional_task_token/distilgpt2_replay/distilgpt2_functional_rsolak" \
  "training.CL.restore_paths=rsolak_REPLAY[r]_AT[k].npy,rsolak_REPLAY[s]_AT[k].npy,rsolak_REPLAY[o]_AT[k].npy,rsolak_REPLAY[l]_AT[k].npy,rsolak_REPLAY[a]_AT[k].npy" \
  dataset_config.clvqa.use_mask_img=True \
  dataset_config.clvqa.mask_img_prob=0.15 \
  run_type=train_val \
  "checkpoint.resume_file=$ROOT/exp/clvqa/save/functional/setting_339_rsolak/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_attribute/unicl_final.pth" \
  "env.save_dir=$ROOT/exp/clvqa/save/functional/setting_339_rsolak/distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7/unicl_knowledge" \
  training.checkpoint_interval=4000 \
  "training.callbacks=[]" \
  checkpoint.resume=True \
  $MMF_ARGS
fi

# evaluate every model on every task
CUDA_VISIBLE_DEVICES=$DEVICE python -c "from eval_os import *; stage_sweep(cl_setting='functional', setting_idx=339, abbr_seq='rsolak', device='$DEVICE', model_name='unicl', save_dir='$ROOT/exp/clvqa', val_exp='distilgpt2_replay_qag_seq_not_use_gt_task_token_0.7', test_stand_alone=False, test_reg=False)"
