#!/bin/bash
# Deep prompts, base-to-new generalisation: bash scripts/ivlp/base2new.sh DATASET SHOTS [CFG] [KEY VALUE ...]
TRAINER=IVLP
source "$(dirname "$0")/../common.sh"
base_to_new "$@"
