#!/usr/bin/env bash
# The demo: on clove-mini, UniVQA learns six tasks one after another, once by fine-tuning alone and once with SRM's
# replays; ends in a table of both and a page to look at. A second call finds all of it done.
# From the environment: DEMO_SETTING and DEMO_ORDER (functional, oarlks), and what compare.sh takes.
set -euo pipefail
export CONFIG=EXP_CONFIG/mini SETTING=${DEMO_SETTING:-functional} ORDER=${DEMO_ORDER:-} METHODS="ft srm_1.5"
exec bash "$(dirname "${BASH_SOURCE[0]}")/compare.sh"
