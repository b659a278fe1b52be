#!/usr/bin/env bash
# Several methods along one task order, each by its own script; ends in one table and one report page.
# What is done is skipped and what was cut off goes on. A method that fails is named at the end; the others are in the
# table all the same. From the environment, besides what every run script takes (README.md):
#   SETTING, ORDER   functional, oarlks (abcdef in the scene setting)
#   METHODS          which, in this order: chance, multitask, srm_<rate>, or what stands between F_run_ and _S1.sh
#   SEED             of every training (default: the configuration's)
#   JOBS             how many methods at a time, all on DEVICE (default: 1)
#   MINI_ARGS        with CONFIG=EXP_CONFIG/mini: more arguments of python -m mmclvqa.clove mini
# With CONFIG=EXP_CONFIG/mini it makes clove-mini first and has defaults for everything else: JOBS is the number of
# cores there, up to 4.
set -euo pipefail
PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CONFIG=${CONFIG:-EXP_CONFIG}
SETTING=${SETTING:-functional}
SEED=${SEED:-}
DEVICE=${DEVICE:-0}
EXPECTED=${EXPECTED:-}
JOBS=${JOBS:-}
METHODS=${METHODS:-chance ft ewc mas gem agem rnd_replay_0.1 rnd_replay_0.02 maskimg_rnd_replay_0.02 kmeans_replay_0.02 srm_1.5 multitask}
if [[ $SETTING == scene ]]; then
  ORDER=${ORDER:-abcdef}
else
  ORDER=${ORDER:-oarlks}
fi
if [[ $CONFIG == EXP_CONFIG/mini ]]; then
  ROOT=${ROOT:-$PROJECT/runs/demo${SEED:+_seed_$SEED}}
  CLOVE_ROOT=${CLOVE_ROOT:-$PROJECT/runs/clove-mini}
  # A task of the scene setting has a quarter of the records there.
  [[ $SETTING != scene ]] || SRM_ARGS="--n_train_epochs 8 ${SRM_ARGS:-}"
  SRM_ARGS="@SRM/mini.args ${SRM_ARGS:-}"
  # SRM's scripts say 0.15 for mask_img_prob, so no configuration file could.
  MMF_ARGS="dataset_config.clvqa.mask_img_prob=0.5 training.CL.gem_memory_batch=8 ${MMF_ARGS:-}"
  # The scripts of EWC, MAS and k-means say 24, as published; here every method sees as many records.
  MMF_ARGS="training.checkpoint_interval=500 training.batch_size=32 $MMF_ARGS"
  EXPECTED=${EXPECTED:-train=46 srm=300 evaluate=30} # seconds of each of two jobs on two cores
  # Networks this small gain nothing from a second thread, but from a second method beside them.
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  if [[ -z $JOBS ]]; then
    JOBS=$(getconf _NPROCESSORS_ONLN)
    JOBS=$((JOBS < 4 ? JOBS : 4))
  fi
fi
JOBS=${JOBS:-1}
ROOT=${ROOT:-$PROJECT/runs/clvqa${SEED:+_seed_$SEED}}
CLOVE_ROOT=${CLOVE_ROOT:-$PROJECT/data/clove}
SRM_ARGS="${SRM_ARGS:-}${SEED:+ --seed $SEED}"
MMF_ARGS="${MMF_ARGS:-}${SEED:+ training.seed=$SEED}"
export DEVICE SRM_ARGS MMF_ARGS EXPECTED JOBS
# shellcheck source=run_scripts/lib.sh
source "$PROJECT/run_scripts/lib.sh"

SAVE=$ROOT/exp/clvqa/save
OUT=$ROOT/report/${SETTING}_$ORDER
LOGS=$OUT/logs
SCRIPTS=run_scripts/mmclvqa
LETTER=${SETTING:0:1}
LETTER=${LETTER^}

fail() {
  echo "error: $1" >&2
  exit 1
}

# script_of METHOD: its script; nothing for chance, which needs none.
script_of() {
  case $1 in
    chance) ;;
    multitask) echo "$SCRIPTS/multitask/${LETTER}_multitask.sh" ;;
    srm_*) echo "$SCRIPTS/$SETTING/${LETTER}_run_distilgpt2_wogt_wtt_${1#srm_}_S$INDEX.sh" ;;
    *) echo "$SCRIPTS/$SETTING/${LETTER}_run_$1_S$INDEX.sh" ;;
  esac
}

# result_of METHOD: where its evaluation is.
result_of() {
  local experiment=$1
  case $1 in
    chance) echo "$SAVE/chance/$SETTING.json" ;;
    multitask) echo "$SAVE/multitask/val_unicl_${SETTING}_incremental/sweep.json" ;;
    *)
      [[ $1 != srm_* ]] || experiment=distilgpt2_replay_qag_seq_not_use_gt_task_token_${1#srm_}
      echo "$SAVE/$SETTING/setting_${INDEX}_$ORDER/val_$experiment/sweep.json"
      ;;
  esac
}

# learn METHOD: all of it.
learn() {
  if [[ $1 == chance ]]; then
    [[ -f $(result_of chance) ]] || run python eval_os.py chance --cl_setting "$SETTING" --json "$(result_of chance)"
  else
    bash "$(script_of "$1")"
  fi
}

# make_mini: clove-mini, unless it is there.
make_mini() {
  local words
  read -r -a words <<<"${MINI_ARGS:-}"
  echo "== clove-mini"
  if ! python -m mmclvqa.clove mini "$CLOVE_ROOT" ${words[@]+"${words[@]}"}; then
    {
      echo "where it is of another version or size, remake it, and remove what was learned from it ($ROOT):"
      echo "  python -m mmclvqa.clove mini '$CLOVE_ROOT' --overwrite ${MINI_ARGS:-}"
    } >&2
    exit 1
  fi
}

# one_after_another: every method, with all it says.
one_after_another() {
  local number
  for number in "${!methods[@]}"; do
    headline "$number"
    export PLANNED="${scripts[*]:number}"
    learn "${methods[number]}" || failed+=("${methods[number]}")
  done
}

# side_by_side: JOBS methods at a time. Each writes a log of its own, of which the headlines are shown. Two that would
# take the same step now (the stand-alone first task, an SRM) do not run at once; the second finds it done later.
side_by_side() {
  local waiting=("${!methods[@]}") running=() pids=() number other still
  mkdir -p "$LOGS"
  echo "$JOBS at a time; everything they say is in $LOGS"
  while ((${#waiting[@]} + ${#running[@]})); do
    still=()
    for number in ${running[@]+"${running[@]}"}; do
      if kill -0 "${pids[number]}" 2>/dev/null; then
        still+=("$number")
      elif ! wait "${pids[number]}"; then
        failed+=("${methods[number]}")
      fi
    done
    running=(${still[@]+"${still[@]}"})
    still=()
    for number in ${waiting[@]+"${waiting[@]}"}; do
      if ((${#running[@]} >= JOBS)) || shares_a_step "$number"; then
        still+=("$number")
        continue
      fi
      headline "$number"
      export PLANNED=
      for other in "${!scripts[@]}"; do
        [[ " ${waiting[*]} ${running[*]-} " != *" $other "* ]] || PLANNED+="${scripts[other]} "
      done
      # Bash has jobs in the background ignore Ctrl-C.
      (
        trap - INT
        learn "${methods[number]}" 2>&1 | tee -a "$LOGS/${methods[number]}.log" | headlines "${methods[number]}"
      ) &
      pids[number]=$!
      running+=("$number")
    done
    waiting=(${still[@]+"${still[@]}"})
    sleep 1
  done
}

headline() {
  [[ $DRY_RUN == names ]] || echo "== $(($1 + 1)) of ${#methods[@]}: ${methods[$1]}"
}

# headlines METHOD: of its output what the scripts say, not what their programs say, unless it is an error.
headlines() {
  local line
  while IFS= read -r line; do
    case $line in
      '# '* | 'error: '*) printf '[%s] %s\n' "$1" "$line" ;;
    esac
  done
}

# shares_a_step NUMBER: whether that method would now take a step that a running one takes or will take.
shares_a_step() {
  local other
  for other in ${running[@]+"${running[@]}"}; do
    [[ -z $(comm -12 <(undone "$1") <(undone "$other")) ]] || return 0
  done
  return 1
}

# undone NUMBER: the steps that the method's script has not done yet.
undone() {
  [[ -z ${scripts[$1]} ]] || DRY_RUN=names bash "${scripts[$1]}" | sort -u
}

found=("$SCRIPTS/$SETTING/$LETTER"_run_ft_S*.sh)
script=$(grep -l "setting, task order $ORDER (" "${found[@]}" 2>/dev/null) ||
  fail "no scripts for task order $ORDER of the $SETTING setting; python generate_run_scripts.py --cl_setting SETTING --task_order ORDER writes those of any order"
INDEX=${script##*_S}
INDEX=${INDEX%.sh}
read -r -a methods <<<"$METHODS"
scripts=()
for method in "${methods[@]}"; do
  script=$(script_of "$method")
  [[ -z $script || -f $script ]] || fail "method $method: there is no $script"
  scripts+=("${script:-}")
done
[[ $JOBS =~ ^[1-9][0-9]*$ ]] || fail "JOBS=$JOBS: it is how many methods run at a time"
if [[ $DRY_RUN == 0 ]]; then
  [[ $CONFIG != EXP_CONFIG/mini ]] || make_mini
  check_data
fi

failed=()
if ((JOBS == 1)) || [[ $DRY_RUN != 0 ]]; then
  one_after_another
else
  side_by_side
fi
results=()
for method in "${methods[@]}"; do
  [[ " ${failed[*]-} " == *" $method "* ]] || results+=("$(result_of "$method")")
done

echo "== report"
if ((${#results[@]})); then
  run python -m mmclvqa.evaluation.report "${results[@]}" --out "$OUT"
fi
echo "== $((SECONDS / 60)) min $((SECONDS % 60)) s in all"
if ((${#failed[@]})); then
  fail "failed: ${failed[*]}; the same command goes on there"
fi
