#!/bin/bash
# Train and test a method of promptbias on a dataset of this checkout, from the checkout's folder:
#   DATA=/path/to/datasets bash scripts/promptbias/main.sh METHOD DATASET CFG SHOTS [KEY VALUE ...]
# such as BiasTuning eurosat vit_b16 16. A finished seed is skipped, an interrupted one resumes.
[ $# -ge 4 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
method=$1 dataset=$2 cfg=$3 shots=$4
shift 4
for seed in ${SEEDS:-1 2 3}; do
    folder=${OUTPUT:-output}/$dataset/$method/${cfg}_${shots}shots/seed$seed
    [ -f "$folder/results.json" ] && { echo "$folder is finished"; continue; }
    "${PYTHON:-python}" -m promptbias run train.py --root "${DATA:-data}" --seed "$seed" --trainer "$method" \
        --dataset-config-file "configs/datasets/$dataset.yaml" \
        --config-file "configs/trainers/${method#PromptBias}/$cfg.yaml" \
        --output-dir "$folder" --resume "$folder" DATASET.NUM_SHOTS "$shots" "$@" || exit 1
done
