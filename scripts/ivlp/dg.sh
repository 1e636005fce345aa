#!/bin/bash
# Deep prompts, domain generalisation from ImageNet (or $SOURCE) to its four variants (or $TARGETS):
#   bash scripts/ivlp/dg.sh SHOTS [CFG] [KEY VALUE ...]
TRAINER=IVLP
source "$(dirname "$0")/../common.sh"
transfer "imagenetv2 imagenet_sketch imagenet_a imagenet_r" "$@"
