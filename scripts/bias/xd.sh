#!/bin/bash
# Bias tuning, cross-dataset transfer from ImageNet (or $SOURCE) to ten datasets (or $TARGETS):
#   bash scripts/bias/xd.sh SHOTS [CFG] [KEY VALUE ...]
TRAINER=BiasTuning
source "$(dirname "$0")/../common.sh"
transfer "caltech101 oxford_pets stanford_cars oxford_flowers food101 fgvc_aircraft sun397 dtd eurosat ucf101" "$@"
