#!/bin/bash
# Bias tuning, base-to-new generalisation: bash scripts/bias/base2new.sh DATASET SHOTS [CFG] [KEY VALUE ...]
TRAINER=BiasTuning
source "$(dirname "$0")/../common.sh"
base_to_new "$@"
