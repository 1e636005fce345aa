#!/bin/bash
# Train a method of promptbias on the first half of a dataset's classes, and test it on both halves, from the checkout's folder:
#   DATA=/path/to/datasets bash scripts/promptbias/base2new.sh METHOD DATASET CFG SHOTS [KEY VALUE ...]
# A finished seed is skipped, an interrupted one resumes.
[ $# -ge 4 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
method=$1 dataset=$2 cfg=$3 shots=$4
shift 4
run() {
    "${PYTHON:-python}" -m promptbias run train.py --root "${DATA:-data}" --seed "$seed" --trainer "$method" \
        --dataset-config-file "configs/datasets/$dataset.yaml" \
        --config-file "configs/trainers/${method#PromptBias}/$cfg.yaml" "$@" || exit 1
}
for seed in ${SEEDS:-1 2 3}; do
    place=$dataset/shots_$shots/$method/$cfg/seed$seed
    base=${OUTPUT:-output}/base2new/train_base/$place new=${OUTPUT:-output}/base2new/test_new/$place
    [ -f "$base/results.json" ] || run --output-dir "$base" --resume "$base" \
        DATASET.NUM_SHOTS "$shots" DATASET.SUBSAMPLE_CLASSES base "$@"
    [ -f "$new/results.json" ] || run --output-dir "$new" --model-dir "$base" --eval-only \
        DATASET.NUM_SHOTS "$shots" DATASET.SUBSAMPLE_CLASSES new "$@"
done
