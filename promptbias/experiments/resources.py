"""How much memory a run needs, roughly: for executors that put several on one machine or one GPU."""

from promptbias.experiments.layout import backbone_of
from promptbias.experiments.paper import DATASETS
from promptbias.experiments.runs import Run

# GiB of a BiasTuning step: at least, per image of a batch, per class up to AT_ONCE, per class beyond. ViT-B/16 as in
# docs/performance.md ("Growth"), with bfloat16 on a CPU; the tiny CLIP: 1.16 GiB for
# a run on Digits with 16 shots.
GIB = {"vit_b16": (1.5, 0.065, 0.0011, 0.0001), "tiny": (1.0, 0.004, 0.0001, 0.00001)}
AT_ONCE = 1000  # texts beyond that are encoded again for backward
MARGIN = 1.5  # for other methods and float32
KEPT = 2.0  # GiB of decoded images at most
IMAGE = 500 * 400 * 4 / 2**30  # GiB of a decoded image, as Pillow keeps it


def estimate_gib(run: Run) -> float:
    """Memory of a run on a dataset of the tables, in GiB, to be on the safe side."""
    cfg, classes = run.config(), DATASETS[run.dataset][1]
    least, image, text, beyond = GIB[backbone_of(run.dataset, run.cfg)]
    batch = cfg.DATALOADER.TRAIN_X.BATCH_SIZE if run.is_trained else cfg.DATALOADER.TEST.BATCH_SIZE / 4
    step = least + batch * image + min(classes, AT_ONCE) * text + max(0, classes - AT_ONCE) * beyond
    images = cfg.DATASET.NUM_SHOTS * classes if run.is_trained else 0
    return MARGIN * step + min(KEPT, max(0, images) * IMAGE)
