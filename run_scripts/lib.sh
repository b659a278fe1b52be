# shellcheck shell=bash
# What the run scripts share: steps that are skipped when done and continued when cut off, dry runs. Sourced, not run.
#
# A script first sets ROOT, CLOVE_ROOT, DEVICE, CONFIG, SRM_ARGS and MMF_ARGS, then sources this file (which goes to
# the project's folder: CONFIG and the commands are relative to it), then says STEPS and takes them one by one.
# With DRY_RUN=1 the commands that would run are printed instead, in a form that a shell takes.

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
NOW=0

# begin WHAT: the headline of the next step.
begin() {
  NOW=$((NOW + 1))
  printf '# [%d/%d] %s\n' "$NOW" "$STEPS" "$1"
}

# train SAVE_DIR KEY=VALUE...: mmf_run, unless its final weights are there; a run that was cut off goes on.
train() {
  local save_dir=$1
  shift
  begin "UniVQA: ${save_dir#"$ROOT"/}"
  if [[ -f $save_dir/unicl_final.pth ]]; then
    echo "# done already"
    return
  fi
  run "CUDA_VISIBLE_DEVICES=$DEVICE" mmf_run "$@" checkpoint.resume=True ${MMF_WORDS[@]+"${MMF_WORDS[@]}"}
}

# write_replays FOLDER ORDER ARGUMENT...: SRM/train.py, unless every replay file of the order is in FOLDER.
write_replays() {
  local folder=$1 order=$2
  shift 2
  begin "SRM: ${folder#"$ROOT"/}"
  if has_replays "$folder" "$order"; then
    echo "# done already"
    return
  fi
  run "CUDA_VISIBLE_DEVICES=$DEVICE" python SRM/train.py "$@" ${SRM_WORDS[@]+"${SRM_WORDS[@]}"}
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

# evaluate ARGUMENT...: eval_os.py, which keeps what it has evaluated.
evaluate() {
  begin "evaluation: $1"
  run "CUDA_VISIBLE_DEVICES=$DEVICE" python eval_os.py "$@" ${MMF_WORDS[@]+"${MMF_WORDS[@]}"}
}

# run NAME=VALUE... COMMAND ARGUMENT...
run() {
  if [[ -n ${DRY_RUN:-} && $DRY_RUN != 0 ]]; then
    show "$@"
    return
  fi
  local started=$SECONDS
  env "$@"
  echo "# done in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s"
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
