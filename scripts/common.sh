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
SEEDS=${SEEDS:-1 2 3}
PYTHON=${PYTHON:-$(command -v python || command -v python3 || true)}

fail() {
    echo "error: $*" >&2
    exit 1
}

# absolute PATH, with ~ for the home folder
absolute() {
    "$PYTHON" -c 'import os, sys; print(os.path.abspath(os.path.expanduser(sys.argv[1])))' "$1"
}

[ "${BASH_VERSINFO[0]}${BASH_VERSINFO[1]}" -ge 44 ] || fail "this needs bash 4.4 or newer, and is $BASH_VERSION"
[ -n "$PYTHON" ] || fail "no python was found; activate its environment, or say in PYTHON where it is"
read -rd '' -a seeds <<<"$SEEDS" || true # it stops at the end of the text, which counts as a failure
for seed in "${seeds[@]:-none}"; do
    [[ $seed =~ ^(0|[1-9][0-9]*)$ ]] ||
        fail "SEEDS is \"$SEEDS\", but has to be whole numbers with spaces between, such as \"1 2 3\""
done
DATA=$(absolute "${DATA:-$HOME_DIR/data}")
OUTPUT=$(absolute "${OUTPUT:-$HOME_DIR/output}")
cd "$HOME_DIR"

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
    for seed in "${seeds[@]}"; do
        run "$TRAINER" "$dataset" "$cfg" "$runs/seed$seed" "$seed" "$@"
    done
}

# test_seeds MODELS DATASET CFG RUNS [KEY VALUE ...]: what $TRAINER learned in MODELS/seed*, tested on something else.
test_seeds() {
    local models=$1 dataset=$2 cfg=$3 runs=$4 seed
    shift 4
    for seed in "${seeds[@]}"; do
        run "$TRAINER" "$dataset" "$cfg" "$runs/seed$seed" "$seed" --eval-only --model-dir "$models/seed$seed" "$@"
    done
}

# zero_shot DATASET CFG FOLDER [KEY VALUE ...]: zero-shot CLIP, without those pairs that change nothing where nothing is learned.
zero_shot() {
    local dataset=$1 cfg=$2 folder=$3 pairs=()
    shift 3
    while [ $# -gt 1 ]; do
        case $1 in
        OPTIM.* | TRAIN.* | DATALOADER.TRAIN_X.* | DATALOADER.NUM_WORKERS | TRAINER.IVLP.* | TRAINER.BIASTUNING.*) ;;
        *) pairs+=("$1" "$2") ;;
        esac
        shift 2
    done
    run ZeroshotCLIP "$dataset" "$cfg" "$folder" 1 "${pairs[@]}"
}

# backbone_of DATASET [CFG]: the CLIP that a configuration's name begins with, by default the one that fits the dataset.
backbone_of() {
    case ${2:-} in
    tiny*) echo tiny ;;
    vit_b16*) echo vit_b16 ;;
    *) if [ "$1" = digits ]; then echo tiny; else echo vit_b16; fi ;;
    esac
}

# default_cfg DATASET: the configuration of $TRAINER where none is named.
default_cfg() {
    case $TRAINER in IVLP) echo "$(backbone_of "$1")_prompt" ;; *) backbone_of "$1" ;; esac
}

# read_options DATASET [CFG] [KEY VALUE ...]: sets cfg and pairs. Of CFG what names the backbone may be left out.
read_options() {
    local configs="configs/trainers/$TRAINER"
    [ -e "configs/datasets/$1.yaml" ] || fail "there is no dataset \"$1\" in configs/datasets/; there are:" \
        $(cd configs/datasets && ls | sed 's/\.yaml$//')
    cfg=$(default_cfg "$1")
    if [ $(($# % 2)) -eq 0 ]; then
        cfg=$2
        [ -e "$configs/$cfg.yaml" ] || cfg=$(backbone_of "$1")_$2
        [ -e "$configs/$cfg.yaml" ] || fail "there is no configuration \"$2\" in $configs/; there are:" \
            $(cd "$configs" && ls | sed 's/\.yaml$//')
        shift
    elif [[ $# -gt 1 && $2 != *[A-Z]* ]]; then # no key is written in small letters
        fail "options come as KEY VALUE pairs, but these do not: ${*:3}"
    fi
    shift
    pairs=("$@")
}

# check_shots SHOTS
check_shots() {
    [[ $1 =~ ^[1-9][0-9]*$ ]] || fail "SHOTS is \"$1\", but has to be a whole number of images per class"
}

# few_shot DATASET SHOTS [CFG] [KEY VALUE ...]: zero-shot, then $TRAINER with every seed, then one table.
few_shot() {
    [ $# -ge 2 ] || fail "usage: bash $0 DATASET SHOTS [CFG] [KEY VALUE ...]"
    local dataset=$1 shots=$2 backbone cfg pairs
    check_shots "$shots"
    read_options "$dataset" "${@:3}"
    backbone=$(backbone_of "$dataset" "$cfg")
    local zeroshot="$OUTPUT/$dataset/ZeroshotCLIP/$backbone" runs="$OUTPUT/$dataset/$TRAINER/${cfg}_${shots}shots"
    zero_shot "$dataset" "$backbone" "$zeroshot" "${pairs[@]}"
    train_seeds "$dataset" "$cfg" "$runs" DATASET.NUM_SHOTS "$shots" "${pairs[@]}"
    "$PYTHON" -m analysis results "$runs" --zero-shot "$zeroshot" --seeds "${seeds[@]}"
}

# few_shots DATASET [CFG] [KEY VALUE ...]: few_shot with each number of $SHOTS, then the accuracy over shots.
few_shots() {
    [ $# -ge 1 ] || fail "usage: bash $0 DATASET [CFG] [KEY VALUE ...]"
    local dataset=$1 shots cfg pairs
    read_options "$@"
    for shots in ${SHOTS:-1 2 4 8 16}; do check_shots "$shots"; done
    for shots in ${SHOTS:-1 2 4 8 16}; do
        echo "$shots shots"
        few_shot "$dataset" "$shots" "${@:2}"
    done
    "$PYTHON" -m analysis curves shots --datasets "$dataset" --trainer "$TRAINER" --cfg "$cfg" \
        --numbers ${SHOTS:-1 2 4 8 16} --seeds "${seeds[@]}" --output "$OUTPUT"
}

# base_to_new DATASET SHOTS [CFG] [KEY VALUE ...]: train on the first half of the classes, test on it and on the other.
base_to_new() {
    [ $# -ge 2 ] || fail "usage: bash $0 DATASET SHOTS [CFG] [KEY VALUE ...]"
    local dataset=$1 shots=$2 backbone cfg pairs part
    check_shots "$shots"
    read_options "$dataset" "${@:3}"
    backbone=$(backbone_of "$dataset" "$cfg")
    local zeroshot="$OUTPUT/$dataset/ZeroshotCLIP/$backbone" runs="$OUTPUT/$dataset/$TRAINER/${cfg}_${shots}shots"
    for part in base new; do
        zero_shot "$dataset" "$backbone" "${zeroshot}_$part" DATASET.SUBSAMPLE_CLASSES $part "${pairs[@]}"
    done
    train_seeds "$dataset" "$cfg" "${runs}_base" DATASET.NUM_SHOTS "$shots" DATASET.SUBSAMPLE_CLASSES base "${pairs[@]}"
    test_seeds "${runs}_base" "$dataset" "$cfg" "${runs}_new" \
        DATASET.NUM_SHOTS "$shots" DATASET.SUBSAMPLE_CLASSES new "${pairs[@]}"
    "$PYTHON" -m analysis results "${runs}_base" "${runs}_new" --base-new --zero-shot "${zeroshot}_base" "${zeroshot}_new" \
        --seeds "${seeds[@]}"
}

# transfer "TARGETS" SHOTS [CFG] [KEY VALUE ...]: few_shot on $SOURCE (default: imagenet); then, without training, the
# datasets in $TARGETS (default: the first argument). The second table is of these.
transfer() {
    [ $# -ge 2 ] || fail "usage: bash $0 SHOTS [CFG] [KEY VALUE ...]"
    local source=${SOURCE:-imagenet} targets=${TARGETS:-$1} shots=$2 backbone cfg pairs target
    local zeroshot=() runs=()
    check_shots "$shots"
    read_options "$source" "${@:3}"
    backbone=$(backbone_of "$source" "$cfg")
    for target in $targets; do # first, so that a target that is not there is known before hours of training
        zeroshot+=("$OUTPUT/$target/ZeroshotCLIP/$backbone")
        zero_shot "$target" "$backbone" "${zeroshot[-1]}" "${pairs[@]}"
    done
    few_shot "$source" "$shots" "$cfg" "${pairs[@]}"
    for target in $targets; do
        runs+=("$OUTPUT/$target/$TRAINER/${cfg}_${shots}shots_from_$source")
        test_seeds "$OUTPUT/$source/$TRAINER/${cfg}_${shots}shots" "$target" "$cfg" "${runs[-1]}" "${pairs[@]}"
    done
    "$PYTHON" -m analysis results "${runs[@]}" --zero-shot "${zeroshot[@]}" --seeds "${seeds[@]}"
}
