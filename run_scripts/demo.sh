#!/usr/bin/env bash
# The demo: UniVQA learns the six tasks of clove-mini one after another, once by fine-tuning and once with SRM's replays.
# It prints a table of both and writes an HTML report. Finished steps are skipped; an interrupted demo resumes when it is
# run again.
# From the environment: ROOT, CLOVE_ROOT, DEMO_SETTING and DEMO_ORDER (functional, oarlks), SEED.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PWD/.venv/bin:$PATH
setting=${DEMO_SETTING:-functional}
order=${DEMO_ORDER:-$([[ $setting == scene ]] && echo abcdef || echo oarlks)}
export ROOT=${ROOT:-$PWD/runs/demo${SEED:+_seed_$SEED}} CLOVE_ROOT=${CLOVE_ROOT:-$PWD/runs/clove-mini}
export MMF_ARGS="${SEED:+training.seed=$SEED} ${MMF_ARGS:-}"
case $setting-$order in # what SRM/mini.args recommends
scene-*) SRM_ARGS="--n_train_epochs 3 ${SRM_ARGS:-}" ;;
functional-l*) SRM_ARGS="--n_train_epochs 4 --tokens_weight 2 ${SRM_ARGS:-}" ;;
esac
export SRM_ARGS="${SEED:+--seed $SEED} ${SRM_ARGS:-}"

# The steps of both methods run in parallel on machines with several cores.
python -m mmclvqa.experiments run --config EXP_CONFIG/mini --method ft srm --setting "$setting" --order "$order"
