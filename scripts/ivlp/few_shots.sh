#!/bin/bash
# Deep prompts, few-shot with 1, 2, 4, 8 and 16 shots: bash scripts/ivlp/few_shots.sh DATASET [CFG] [KEY VALUE ...]
TRAINER=IVLP
source "$(dirname "$0")/../common.sh"
few_shots "$@"
