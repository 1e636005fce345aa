#!/bin/bash
# Deep prompts, cross-dataset transfer from ImageNet (or $SOURCE) to ten datasets (or $TARGETS):
#   bash scripts/ivlp/xd.sh SHOTS [CFG] [KEY VALUE ...]
TRAINER=IVLP
source "$(dirname "$0")/../common.sh"
transfer "caltech101 oxford_pets stanford_cars oxford_flowers food101 fgvc_aircraft sun397 dtd eurosat ucf101" "$@"
