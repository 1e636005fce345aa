#!/bin/bash
# Bias tuning, few-shot: bash scripts/bias/main.sh DATASET SHOTS [CFG] [KEY VALUE ...]
TRAINER=BiasTuning
source "$(dirname "$0")/../common.sh"
few_shot "$@"
