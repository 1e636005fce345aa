# What the scripts of every method share. Sourced, not run; the caller sets TRAINER.
#
#   DATA    folder of the datasets        (default: data)
#   SEEDS   seeds to run                  (default: 1 2 3)
#   SHOTS   of few_shots.sh               (default: 1 2 4 8 16)
#   OUTPUT  where the runs go             (default: output)
#
# Everywhere, CFG names a file of configs/trainers/$TRAINER/ and may be left out, and KEY VALUE pairs change what it says.
set -euo pipefail

HOME_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DATA=$(realpath -m "${DATA:-$HOME_DIR/data}")
OUTPUT=$(realpath -m "${OUTPUT:-$HOME_DIR/output}")
SEEDS=${SEEDS:-1 2 3}
PYTHON=${PYTHON:-$(command -v python || command -v python3)}
cd "$HOME_DIR"

fail() {
    echo "error: $*" >&2
    exit 1
}

# run TRAINER DATASET CFG FOLDER SEED [FLAGS] [KEY VALUE ...]: one run; a finished one is skipped, a broken one goes on.
# What it prints stands in FOLDER/log.txt too, so only its progress bar and its errors are shown here.
run() {
    local trainer=$1 dataset=$2 cfg=$3 folder=$4 seed=$5
    shift 5
    "$PYTHON" train.py \
        --root "$DATA" \
        --seed "$seed" \
        --trainer "$trainer" \
        --dataset-config-file "configs/datasets/$dataset.yaml" \
        --config-file "configs/trainers/$trainer/$cfg.yaml" \
        --output-dir "$folder" \
        --resume "$folder" \
        "$@" >/dev/null
}

# train_seeds DATASET CFG RUNS [KEY VALUE ...]: $TRAINER with every seed.
train_seeds() {
    local dataset=$1 cfg=$2 runs=$3 seed
    shift 3
    for seed in $SEEDS; do
        run "$TRAINER" "$dataset" "$cfg" "$runs/seed$seed" "$seed" "$@"
    done
}

# test_seeds MODELS DATASET CFG RUNS [KEY VALUE ...]: what $TRAINER learned in MODELS/seed*, tested on something else.
test_seeds() {
    local models=$1 dataset=$2 cfg=$3 runs=$4 seed
    shift 4
    for seed in $SEEDS; do
        run "$TRAINER" "$dataset" "$cfg" "$runs/seed$seed" "$seed" --eval-only --model-dir "$models/seed$seed" "$@"
    done
}

# zero_shot DATASET CFG FOLDER [KEY VALUE ...]: zero-shot CLIP, with those pairs that mean something where nothing is learned.
zero_shot() {
    local dataset=$1 cfg=$2 folder=$3 pairs=()
    shift 3
    while [ $# -gt 1 ]; do
        case $1 in MODEL.* | INPUT.* | DATASET.* | TEST.* | TRAINER.ZEROSHOTCLIP.*) pairs+=("$1" "$2") ;; esac
        shift 2
    done
    run ZeroshotCLIP "$dataset" "$cfg" "$folder" 1 "${pairs[@]}"
}

# backbone_of DATASET: what the names of the configurations for this dataset begin with.
backbone_of() {
    if [ "$1" = digits ]; then echo tiny; else echo vit_b16; fi
}

# default_cfg DATASET: the configuration of $TRAINER where none is named.
default_cfg() {
    case $TRAINER in IVLP) echo "$(backbone_of "$1")_prompt" ;; *) backbone_of "$1" ;; esac
}

# read_options DATASET [CFG] [KEY VALUE ...]: sets cfg and pairs.
read_options() {
    cfg=$(default_cfg "$1")
    shift
    if [ $(($# % 2)) -eq 1 ]; then
        cfg=$1
        shift
    fi
    pairs=("$@")
}

# few_shot DATASET SHOTS [CFG] [KEY VALUE ...]: zero-shot, then $TRAINER with every seed, then one table.
few_shot() {
    [ $# -ge 2 ] || fail "usage: bash $0 DATASET SHOTS [CFG] [KEY VALUE ...]"
    local dataset=$1 shots=$2 backbone cfg pairs
    read_options "$dataset" "${@:3}"
    backbone=$(backbone_of "$dataset")
    local zeroshot="$OUTPUT/$dataset/ZeroshotCLIP/$backbone" runs="$OUTPUT/$dataset/$TRAINER/${cfg}_${shots}shots"
    zero_shot "$dataset" "$backbone" "$zeroshot" "${pairs[@]}"
    train_seeds "$dataset" "$cfg" "$runs" DATASET.NUM_SHOTS "$shots" "${pairs[@]}"
    "$PYTHON" -m analysis results "$runs" --zero-shot "$zeroshot" --seeds $SEEDS
}

# few_shots DATASET [CFG] [KEY VALUE ...]: few_shot with each number of $SHOTS, then the accuracy over shots.
few_shots() {
    [ $# -ge 1 ] || fail "usage: bash $0 DATASET [CFG] [KEY VALUE ...]"
    local dataset=$1 shots
    for shots in ${SHOTS:-1 2 4 8 16}; do
        echo "$shots shots"
        few_shot "$dataset" "$shots" "${@:2}"
    done
    "$PYTHON" -m analysis curves shots --datasets "$dataset" --seeds $SEEDS --output "$OUTPUT"
}

# base_to_new DATASET SHOTS [CFG] [KEY VALUE ...]: train on the first half of the classes, test on it and on the other.
base_to_new() {
    [ $# -ge 2 ] || fail "usage: bash $0 DATASET SHOTS [CFG] [KEY VALUE ...]"
    local dataset=$1 shots=$2 backbone cfg pairs part
    read_options "$dataset" "${@:3}"
    backbone=$(backbone_of "$dataset")
    local zeroshot="$OUTPUT/$dataset/ZeroshotCLIP/$backbone" runs="$OUTPUT/$dataset/$TRAINER/${cfg}_${shots}shots"
    for part in base new; do
        zero_shot "$dataset" "$backbone" "${zeroshot}_$part" DATASET.SUBSAMPLE_CLASSES $part "${pairs[@]}"
    done
    train_seeds "$dataset" "$cfg" "${runs}_base" DATASET.NUM_SHOTS "$shots" DATASET.SUBSAMPLE_CLASSES base "${pairs[@]}"
    test_seeds "${runs}_base" "$dataset" "$cfg" "${runs}_new" \
        DATASET.NUM_SHOTS "$shots" DATASET.SUBSAMPLE_CLASSES new "${pairs[@]}"
    "$PYTHON" -m analysis results "${runs}_base" "${runs}_new" --base-new --zero-shot "${zeroshot}_base" "${zeroshot}_new" \
        --seeds $SEEDS
}

# transfer "TARGETS" SHOTS [CFG] [KEY VALUE ...]: few_shot on $SOURCE (default: imagenet); then, without training, the
# datasets in $TARGETS (default: the first argument). The second table is of these.
transfer() {
    [ $# -ge 2 ] || fail "usage: bash $0 SHOTS [CFG] [KEY VALUE ...]"
    local source=${SOURCE:-imagenet} targets=${TARGETS:-$1} shots=$2 backbone cfg pairs target
    local zeroshot=() runs=()
    read_options "$source" "${@:3}"
    backbone=$(backbone_of "$source")
    few_shot "$source" "$shots" "$cfg" "${pairs[@]}"
    for target in $targets; do
        zeroshot+=("$OUTPUT/$target/ZeroshotCLIP/$backbone")
        zero_shot "$target" "$backbone" "${zeroshot[-1]}" "${pairs[@]}"
        runs+=("$OUTPUT/$target/$TRAINER/${cfg}_${shots}shots_from_$source")
        test_seeds "$OUTPUT/$source/$TRAINER/${cfg}_${shots}shots" "$target" "$cfg" "${runs[-1]}" "${pairs[@]}"
    done
    "$PYTHON" -m analysis results "${runs[@]}" --zero-shot "${zeroshot[@]}" --seeds $SEEDS
}
