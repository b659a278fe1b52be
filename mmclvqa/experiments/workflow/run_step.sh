#!/usr/bin/env bash
# Run a shell command unless its output exists and is not empty: [GPU=0] run_step.sh OUTPUT TITLE COMMAND
# A lock ensures that only one process writes an output; another process waits for it, for example if a step outlives
# the Snakemake that started it. Unless GPU=0, the command gets a free GPU of $GPUS ("0 1"; with "0 0", two steps share
# a GPU); under SLURM, the scheduler assigns the GPU. The kernel releases the locks when the last process of the step
# ends. The log is OUTPUT.log; start, end and failure are appended to $JOURNAL as tab-separated lines.
set -uo pipefail
output=$1 title=$2 command=$3
log=$ROOT/$output.log
journal() {
  printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$(date +%s)" "${KIND:-step}" "$output" "$title" "${2-}" >>"$JOURNAL"
}
fail() {
  journal failed "$(tr '\t' ' ' <<<"$1")"
  exit 1
}
# The reason why a folder cannot be written is the error of the shell.
lock=$(dirname "$output")/.running
reason=$({ mkdir -p "$(dirname "$output")" && : >>"$lock" && : >>"$log"; } 2>&1) || fail "$(tail -n 1 <<<"$reason")"
exec 8>>"$lock"
flock 8
[[ ! -s $output ]] || exit 0
if [[ ${GPU:-1} != 0 && -n ${GPUS-} && -z ${SLURM_JOB_ID-} ]]; then
  read -r -a gpus <<<"$GPUS"
  while [[ -z ${chosen-} ]]; do
    declare -A times=() # how often a GPU was listed so far
    for gpu in "${gpus[@]}"; do
      times[$gpu]=$((${times[$gpu]-0} + 1))
      exec 9>>"${TMPDIR:-/tmp}/mmclvqa_gpu_${gpu//\//_}_${times[$gpu]}_$(id -u)"
      if flock -n 9; then
        chosen=$gpu
        break
      fi
    done
    [[ -n ${chosen-} ]] || sleep 1
  done
  export DEVICE=$chosen
elif [[ -n ${SLURM_JOB_ID-} ]]; then
  export DEVICE=${CUDA_VISIBLE_DEVICES-}
fi
cd "$PROJECT" || exit
earlier=$(stat --format=%s "$log")
journal start
if (
  echo "# $title, started $(date '+%F %T'), DEVICE=${DEVICE-}"
  printf '%s\n' "$command"
  eval "$command"
) >>"$log" 2>&1 </dev/null; then
  [[ -s $ROOT/$output ]] || fail "the command ended without writing its output"
  journal end
  exit 0
fi
lines=$(tail -c "+$((earlier + 1))" "$log" | tr '\r' '\n')
fail "$(grep -E 'error|Error' <<<"$lines" | tail -n 1 | grep . || tail -n 1 <<<"$lines")"
