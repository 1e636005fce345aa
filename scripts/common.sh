# What the main.sh of every method shares. Sourced, not run; the caller sets TRAINER.
#
#   DATA    folder of the datasets        (default: data)
#   SEEDS   seeds to run                  (default: 1 2 3)
#   OUTPUT  where the runs go             (default: output)
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

# run TRAINER DATASET CFG FOLDER SEED [KEY VALUE ...]: one run; a finished one is skipped, a broken one goes on.
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

# backbone_of DATASET: what the names of the configurations for this dataset begin with.
backbone_of() {
    if [ "$1" = digits ]; then echo tiny; else echo vit_b16; fi
}

# zeroshot_options [KEY VALUE ...]: the pairs that mean something where nothing is learned.
zeroshot_options() {
    while [ $# -gt 1 ]; do
        case $1 in MODEL.* | INPUT.* | DATASET.* | TEST.*) echo "$1 ${2// /}" ;; esac
        shift 2
    done
}

# few_shot DEFAULT_CFG DATASET SHOTS [CFG] [KEY VALUE ...]: zero-shot, then $TRAINER with every seed, then one table.
few_shot() {
    local cfg=$1 dataset=${2:-} shots=${3:-}
    [ -n "$dataset" ] && [ -n "$shots" ] || fail "usage: bash $0 DATASET SHOTS [CFG] [KEY VALUE ...]"
    shift 3
    if [ $# -gt 0 ] && [ $(($# % 2)) -eq 1 ]; then
        cfg=$1
        shift
    fi
    local zeroshot_cfg zeroshot runs seed
    zeroshot_cfg=$(backbone_of "$dataset")
    zeroshot="$OUTPUT/$dataset/ZeroshotCLIP/$zeroshot_cfg"
    runs="$OUTPUT/$dataset/$TRAINER/${cfg}_${shots}shots"
    run ZeroshotCLIP "$dataset" "$zeroshot_cfg" "$zeroshot" 1 $(zeroshot_options "$@")
    for seed in $SEEDS; do
        run "$TRAINER" "$dataset" "$cfg" "$runs/seed$seed" "$seed" DATASET.NUM_SHOTS "$shots" "$@"
    done
    "$PYTHON" -m analysis results "$runs" --zero-shot "$zeroshot" --seeds $SEEDS
}
