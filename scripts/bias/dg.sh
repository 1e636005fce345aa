#!/bin/bash
# Bias tuning, domain generalisation from ImageNet (or $SOURCE) to its four variants (or $TARGETS):
#   bash scripts/bias/dg.sh SHOTS [CFG] [KEY VALUE ...]
TRAINER=BiasTuning
source "$(dirname "$0")/../common.sh"
transfer "imagenetv2 imagenet_sketch imagenet_a imagenet_r" "$@"
