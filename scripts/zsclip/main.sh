#!/bin/bash
# Zero-shot CLIP: bash scripts/zsclip/main.sh DATASET [CFG] [KEY VALUE ...]
TRAINER=ZeroshotCLIP
source "$(dirname "$0")/../common.sh"
[ $# -gt 0 ] || fail "usage: bash $0 DATASET [CFG] [KEY VALUE ...]"
read_options "$@"
folder="$OUTPUT/$1/$TRAINER/$cfg"
run "$TRAINER" "$1" "$cfg" "$folder" 1 "${pairs[@]}"
"$PYTHON" -m analysis results --zero-shot "$folder"
