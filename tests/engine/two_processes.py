"""What tests/engine/test_distributed.py lets torchrun start twice: steps of every method, written by the first process.

Arguments: a weights file of the small CLIP, and where to write {method: its parameters after training}.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch

from promptbias.dassl_host import provide_dassl

provide_dassl()

from promptbias.engine import distributed

CLASSES = ["red fox", "maple", "river"]
BATCHES = (5, 4, 1)  # the last one is too small for two
TERMS = {"consistency": 0.5, "consistency_of": ("image", "text", "logits")}


def methods():
    """{name: class of its config} of all methods that train."""
    from promptbias.engine.discovery import register_all

    register_all()
    from dassl.engine import TRAINER_REGISTRY

    trainers = {name: TRAINER_REGISTRY.get(name) for name in TRAINER_REGISTRY.registered_names()}
    ours = {
        name: trainer for name, trainer in trainers.items() if trainer.__module__.startswith("promptbias.trainers.")
    }
    found = {name: trainer.custom_clip.config for name, trainer in ours.items()}
    return {name: config for name, config in sorted(found.items()) if config.trains}


def small_options(config):
    """All depths as deep as the small CLIP is."""
    return {field.name: -1 for field in config.option_fields() if "depth" in field.name}


def train(config, weights_file, **options):
    """The parameters after a step on each of BATCHES."""
    from promptbias.model.loading import load_clip
    from promptbias.model.tuned_clip import TunedCLIP

    torch.manual_seed(3)
    method = config(**small_options(config), **options)
    model = TunedCLIP(load_clip(weights_file), CLASSES, method, precision="fp32", device="cpu").train()
    optimizer = torch.optim.SGD(model.adapters.parameters(), lr=0.05)
    distributed.agree_on_random_states()
    step = distributed.SharedStep(model)
    for size in BATCHES:
        whole = {"img": torch.randn(size, 3, 32, 32), "label": torch.randint(3, (size,)), "impath": ["a"] * size}
        batch, weight = step.take(whole)
        loss = weight * step.model(batch["img"], batch["label"])
        optimizer.zero_grad()
        step.backward(loss)
        optimizer.step()
    return {name: value.clone() for name, value in model.adapters.state_dict().items()}


def train_all(weights_file):
    """Of every method, and of one with all consistency terms."""
    known = methods()
    learned = {name: train(config, weights_file) for name, config in known.items()}
    return {**learned, "consistency": train(known["IVLP"], weights_file, **TERMS)}


def read_shards():
    """What one process after the other reads of test sets of 1 to 9 images in batches of 2."""
    found = {}
    for count in range(1, 10):
        rounds = [distributed.gather(batch.tolist()) for batch in map(first, distributed.sharded(loader(count)))]
        found[count] = [image for each in rounds for part in each for image in part]
    return found


def loader(count):
    from torch.utils.data import DataLoader

    return DataLoader([{"index": i} for i in range(count)], batch_size=2)


def first(batch):
    return batch["index"]


if __name__ == "__main__":
    with distributed.processes():
        learned, shards = train_all(sys.argv[1]), read_shards()
        if distributed.is_writer():
            torch.save({"learned": learned, "shards": shards}, sys.argv[2])
