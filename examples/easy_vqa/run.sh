#!/usr/bin/env bash
# From nothing to the report: the data set of easy-VQA as three tasks, five methods, three seeds. Needs `make install`.
# Finished steps are skipped; an interrupted run resumes when it is run again.
# From the environment: ROOT (experiments), CLOVE_ROOT (data), SEEDS (0 1 2), CORES (2).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=1
export ROOT=${ROOT:-$PWD/runs/easy_vqa} CLOVE_ROOT=${CLOVE_ROOT:-$PWD/runs/easy_vqa_data}
read -r -a seeds <<<"${SEEDS:-0 1 2}"

python -c "import easy_vqa, PIL" 2>/dev/null || python -m pip install --quiet -r examples/easy_vqa/requirements.txt
python -c "import snakemake" 2>/dev/null || python -m pip install --quiet -r workflow_requirements.txt
[[ -f $CLOVE_ROOT/manifest.json ]] || python -m examples.easy_vqa.make_data "$CLOVE_ROOT"
python -m mmclvqa.experiments run --setting easy_vqa --config examples/easy_vqa/config --cores "${CORES:-2}" \
  --method ft ewc:reg_lambda=1e10 random:replay_rate=0.1 srm multitask --seed "${seeds[@]}"
python -m examples.easy_vqa.replays "$ROOT"
