#!/bin/bash
# Bias tuning, few-shot with 1, 2, 4, 8 and 16 shots: bash scripts/bias/few_shots.sh DATASET [CFG] [KEY VALUE ...]
TRAINER=BiasTuning
source "$(dirname "$0")/../common.sh"
few_shots "$@"
