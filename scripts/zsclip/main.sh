#!/bin/bash
# Zero-shot CLIP: bash scripts/zsclip/main.sh DATASET [CFG] [KEY VALUE ...]
source "$(dirname "$0")/../common.sh"
[ $# -gt 0 ] || fail "usage: bash $0 DATASET [CFG] [KEY VALUE ...]"
dataset=$1 cfg=$(backbone_of "$1")
shift
if [ $(($# % 2)) -eq 1 ]; then
    cfg=$1
    shift
fi
folder="$OUTPUT/$dataset/ZeroshotCLIP/$cfg"
run ZeroshotCLIP "$dataset" "$cfg" "$folder" 1 "$@"
"$PYTHON" -m analysis results --zero-shot "$folder"
