#!/bin/bash
# Deep prompts, few-shot: bash scripts/ivlp/main.sh DATASET SHOTS [CFG] [KEY VALUE ...]
TRAINER=IVLP
source "$(dirname "$0")/../common.sh"
few_shot "$@"
