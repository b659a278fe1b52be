# shellcheck shell=bash
# What the run scripts share: steps that are skipped when done and continued when cut off, dry runs, time left.
# Sourced, not run.
#
# A script first sets ROOT, CLOVE_ROOT, DEVICE, CONFIG, SRM_ARGS and MMF_ARGS, then sources this file (which goes to
# the project's folder: CONFIG and the commands are relative to it), then says STEPS and takes them one by one.
# With DRY_RUN=1 the commands that would run are printed instead, in a form that a shell takes; with DRY_RUN=names
# only a line for each of them: its kind, a tab, its place.
# compare.sh also sets PLANNED, this script and those that run beside it or come after it, EXPECTED, seconds by kind of
# step, and JOBS, how many scripts run at a time: then every step says how long is left of all of them.

absolute() {
  case $1 in
    /*) printf '%s' "$1" ;;
    *) printf '%s/%s' "$PWD" "$1" ;;
  esac
}

ROOT=$(absolute "$ROOT")
CLOVE_ROOT=$(absolute "$CLOVE_ROOT")
export ROOT CLOVE_ROOT CONFIG
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
if [[ -d .venv/bin ]]; then
  PATH=$PWD/.venv/bin:$PATH
fi
read -r -a SRM_WORDS <<<"$SRM_ARGS"
read -r -a MMF_WORDS <<<"$MMF_ARGS"
DRY_RUN=${DRY_RUN:-0}
PLANNED=${PLANNED:-}
EXPECTED=${EXPECTED:-}
JOBS=${JOBS:-1}
TIMES=$ROOT/exp/clvqa/step_seconds.tsv
MADE_WITH=$ROOT/exp/clvqa/data_manifest.json
NOW=0

# train SAVE_DIR KEY=VALUE...: mmf_run, unless its final weights are there; a run that was cut off goes on.
train() {
  local save_dir=$1
  shift
  begin "UniVQA: ${save_dir#"$ROOT"/}"
  if [[ -f $save_dir/unicl_final.pth ]]; then
    skip
    return
  fi
  step train "$save_dir" mmf_run "$@" checkpoint.resume=True ${MMF_WORDS[@]+"${MMF_WORDS[@]}"}
}

# write_replays FOLDER ORDER ARGUMENT...: SRM/train.py, unless every replay file of the order is in FOLDER.
write_replays() {
  local folder=$1 order=$2
  shift 2
  begin "SRM: ${folder#"$ROOT"/}"
  if has_replays "$folder" "$order"; then
    skip
    return
  fi
  step srm "$folder" python SRM/train.py "$@" ${SRM_WORDS[@]+"${SRM_WORDS[@]}"}
}

# has_replays FOLDER ORDER: whether each task's replays of all tasks before it are there.
has_replays() {
  local folder=$1 order=$2 past current
  for ((current = 1; current < ${#order}; current++)); do
    for ((past = 0; past < current; past++)); do
      [[ -f "$folder/${order}_REPLAY[${order:past:1}]_AT[${order:current:1}].npy" ]] || return 1
    done
  done
}

# evaluate KIND ARGUMENT...: eval_os.py, which keeps what it has evaluated.
evaluate() {
  begin "evaluation: ${EXP:-$1}"
  step evaluate "$1/${EXP:-}" python eval_os.py "$@" ${MMF_WORDS[@]+"${MMF_WORDS[@]}"}
}

# begin WHAT: the headline of the next step.
begin() {
  NOW=$((NOW + 1))
  [[ $DRY_RUN == names ]] || printf '# [%d/%d] %s\n' "$NOW" "$STEPS" "$1"
}

skip() {
  [[ $DRY_RUN == names ]] || echo "# done already"
}

# step KIND PLACE COMMAND ARGUMENT...: do it, and keep how long it took for the estimates of later steps.
step() {
  local kind=$1 place=$2 started=$SECONDS
  shift 2
  if [[ $DRY_RUN == names ]]; then
    printf '%s\t%s\n' "$kind" "$place"
    return
  fi
  [[ $DRY_RUN != 0 ]] || check_data
  # The evaluation tells itself how long it will take, for it knows what it has kept.
  [[ -z $PLANNED || $DRY_RUN != 0 || $kind == evaluate ]] || time_left
  run "CUDA_VISIBLE_DEVICES=$DEVICE" "$@"
  [[ $DRY_RUN != 0 ]] || printf '%s\t%s\t%d\n' "$kind" "$(group "$place")" $((SECONDS - started)) >>"$TIMES"
}

# run NAME=VALUE... COMMAND ARGUMENT...
run() {
  if [[ $DRY_RUN != 0 ]]; then
    show "$@"
    return
  fi
  local started=$SECONDS
  env "$@" || return
  echo "# done in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s"
}

# check_data: end where ROOT has runs on other generated data than CLOVE_ROOT's: they would be taken for done.
check_data() {
  local manifest=$CLOVE_ROOT/manifest.json
  mkdir -p "${MADE_WITH%/*}"
  if [[ -f $manifest && ! -f $MADE_WITH && ! -d $ROOT/exp/clvqa/save ]]; then
    cp "$manifest" "$MADE_WITH.tmp"
    mv "$MADE_WITH.tmp" "$MADE_WITH"
  fi
  if [[ -f $manifest || -f $MADE_WITH ]] && ! cmp -s "$manifest" "$MADE_WITH"; then
    echo "error: $ROOT: has runs on other data than those in $CLOVE_ROOT now; remove it, or choose another ROOT" >&2
    exit 1
  fi
}

# time_left: say how long the undone steps of all planned scripts will take: each as long as the longest of its kind
# so far, for one that was cut off before, or found its work done, took less. Of JOBS scripts at a time none ends before
# its own steps do.
time_left() {
  local seconds script measured=/dev/null scripts
  read -r -a scripts <<<"$PLANNED"
  [[ ! -f $TIMES ]] || measured=$TIMES
  seconds=$(
    for script in "${scripts[@]}"; do
      DRY_RUN=names bash "$script" | sed "s|^|$script\t|"
    done | awk -F '\t' -v expected="$EXPECTED" -v jobs="$JOBS" '
      BEGIN {
        split(expected, words, " ")
        for (i in words) { split(words[i], pair, "="); guess[pair[1]] = pair[2] }
      }
      function keep(key, seconds) { if (!(key in longest) || seconds > longest[key]) longest[key] = seconds }
      measured { keep($1, $3 + 0); keep($1 "\t" $2, $3 + 0); next }
      {
        group = $3
        sub(/\/[^\/]*$/, "", group)
        sub(/.*\//, "", group)
        if (($2 "\t" group) in longest) seconds = longest[$2 "\t" group]
        else if ($2 in longest) seconds = longest[$2]
        else if ($2 in guess) seconds = guess[$2]
        else unknown = 1
        alone[$1] += seconds
        if (!(($2, $3) in seen)) left += seconds
        seen[$2, $3] = 1
      }
      END {
        left /= jobs
        for (script in alone) if (alone[script] > left) left = alone[script]
        if (!unknown) printf "%d", left
      }' measured=1 "$measured" measured=0 -
  )
  if [[ -n $seconds ]]; then
    echo "# about $(((seconds + 59) / 60)) min left of everything"
  fi
}

# group PLACE: the folder it lies in; steps of one kind and folder take about the same time.
group() {
  local parent=${1%/*}
  printf '%s' "${parent##*/}"
}

# show WORD...: a command, one key or flag on a line.
show() {
  local word between=''
  for word in "$@"; do
    if [[ -n $between && ($word == --* || $word == *=*) ]]; then
      between=$' \\\n  '
    fi
    printf '%s' "$between"
    case $word in
      *[!A-Za-z0-9_./=:,@%+-]*) printf "'%s'" "${word//\'/\'\\\'\'}" ;;
      *) printf '%s' "$word" ;;
    esac
    between=' '
  done
  printf '\n'
}
