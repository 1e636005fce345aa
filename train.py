"""Train or test one run, with CoOp's flags. `python train.py --help` lists them; the README shows whole commands."""

import argparse
import glob
import os
import re
from collections.abc import Iterable, Sequence

from promptbias.utils.errors import UserError, cli, nearest

YACS_ERRORS = (KeyError, ValueError, TypeError, AssertionError)


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags in `words`, by default those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="", help="folder of the datasets (or, for image_folder, of your images)")
    parser.add_argument("--output-dir", default="", help="where the run leaves its files")
    parser.add_argument("--resume", default="", help="folder of a run to go on with; a finished one is left as it is")
    parser.add_argument("--seed", type=int, help="fixed seed; a negative one leaves everything to chance")
    parser.add_argument("--source-domains", nargs="+", help="source domains (domain adaptation and generalisation)")
    parser.add_argument("--target-domains", nargs="+", help="target domains (domain adaptation and generalisation)")
    parser.add_argument("--transforms", nargs="+", help="data augmentation, by Dassl's names")
    parser.add_argument("--config-file", default="", help="YAML of the method, from configs/trainers/")
    parser.add_argument("--dataset-config-file", default="", help="YAML of the dataset, from configs/datasets/")
    parser.add_argument("--trainer", default="", help="IVLP, BiasTuning or ZeroshotCLIP")
    parser.add_argument("--backbone", default="", help='CLIP: "tiny", one of OpenAI\'s names, or a weights file')
    parser.add_argument("--head", default="", help="name of the head (not used by these trainers)")
    parser.add_argument("--eval-only", action="store_true", help="only test")
    parser.add_argument("--model-dir", default="", help="with --eval-only: output folder of the run to load")
    parser.add_argument("--load-epoch", type=int, help="with --eval-only: the epoch to load (default: best, or last)")
    parser.add_argument("--no-train", action="store_true", help="build everything, but do not train")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config options, last word")
    return parser.parse_args(words)


def merge_file(cfg, path: str) -> None:
    """Raises:
    UserError: no such file, not YAML, or a key that no config has.
    """
    from yacs.config import CfgNode

    from promptbias.engine.run_folder import read_yaml

    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        names = [os.path.basename(p) for p in glob.glob(os.path.join(folder, "*.yaml"))]
        hint = nearest(os.path.basename(path), names) if names else f"{folder} holds no YAML file"
        raise UserError(f"there is no config file {path}: {hint}")
    try:
        cfg.merge_from_other_cfg(CfgNode(read_yaml(path)))
    except YACS_ERRORS as error:
        raise UserError(f"{path}: {explain(cfg, error)}") from error


def merge_options(cfg, options) -> None:
    """Raises:
    UserError: a key that no config has, a value of another type, or a key without value.
    """
    from promptbias.engine.run_folder import flatten

    if len(options) % 2:
        raise UserError(f"options come as KEY VALUE pairs, but there are {len(options)} words: {' '.join(options)}")
    known = flatten(cfg)
    for key in options[::2]:
        if key not in known:
            raise UserError(unknown_key(key, known))
    try:
        cfg.merge_from_list(options)
    except YACS_ERRORS as error:
        raise UserError(explain(cfg, error)) from error


def explain(cfg, error: Exception) -> str:
    """yacs' complaint as a sentence, with the nearest key where one is not known."""
    from promptbias.engine.run_folder import flatten

    message = str(error.args[0] if error.args else error)
    types = re.match(r"Type mismatch \(<class '([\w.]+)'> vs. <class '([\w.]+)'>\)", message)
    if types:  # the values, of which a whole node may be one, come after it
        return "{} has to be of type {}, not {}".format(message.split(": ")[-1], *types.groups())
    if not message.startswith("Non-existent"):
        return message.splitlines()[0]
    return unknown_key(message.split(": ")[-1], flatten(cfg))


def unknown_key(key: str, known: Iterable[str]) -> str:
    """What to say of a key that no config has: the nearest one, or those of the same node, or the nodes."""
    node = key.rpartition(".")[0]
    beside = [name for name in known if name.rpartition(".")[0] == node] if node else []
    return (
        f"there is no config key {key}: {nearest(key, known, beside or sorted({name.split('.')[0] for name in known}))}"
    )


def setup_cfg(args: argparse.Namespace):
    """Defaults, then the dataset's YAML, then the method's, then the flags, then KEY VALUE pairs."""
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    for path in (args.dataset_config_file, args.config_file):
        if path:
            merge_file(cfg, path)
    for node, key, value in (
        (cfg.DATASET, "ROOT", args.root),
        (cfg, "OUTPUT_DIR", args.output_dir),
        (cfg, "RESUME", args.resume),
        (cfg, "SEED", args.seed),
        (cfg.DATASET, "SOURCE_DOMAINS", args.source_domains),
        (cfg.DATASET, "TARGET_DOMAINS", args.target_domains),
        (cfg.INPUT, "TRANSFORMS", args.transforms),
        (cfg.TRAINER, "NAME", args.trainer),
        (cfg.MODEL.BACKBONE, "NAME", args.backbone),
        (cfg.MODEL.HEAD, "NAME", args.head),
    ):
        if value not in (None, ""):
            node[key] = value
    merge_options(cfg, args.opts)
    cfg.freeze()
    return cfg


def check(args: argparse.Namespace, cfg) -> None:
    """Raises:
    UserError: no such trainer or dataset, a seed that is too large, flags that do not go together, or a test in the
        folder of a training run.
    """
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    from promptbias.engine import run_folder as run_files

    for what, flag, name, registry in (
        ("trainer", "--trainer", cfg.TRAINER.NAME, TRAINER_REGISTRY),
        ("dataset", "--dataset-config-file", cfg.DATASET.NAME, DATASET_REGISTRY),
    ):
        if not name:
            raise UserError(f"no {what} is named; give {flag}")
        if name not in registry.registered_names():
            raise UserError(f'there is no {what} "{name}": {nearest(name, registry.registered_names())}')
    if args.eval_only:
        run_files.refuse_training_run(cfg.OUTPUT_DIR)
    if cfg.SEED >= 2**32:
        raise UserError(f"the seed is {cfg.SEED}, but has to be below 2**32")
    if not args.eval_only and (args.model_dir or args.load_epoch is not None):
        raise UserError(
            "--model-dir and --load-epoch say what to test; add --eval-only, or set MODEL.INIT_WEIGHTS to "
            "start training from a checkpoint"
        )


def tested(args: argparse.Namespace, cfg) -> str | None:
    """Checksum of the checkpoint that --eval-only loads; None where nothing is loaded."""
    from dassl.engine import TRAINER_REGISTRY

    from promptbias.utils.files import checksum

    find = getattr(TRAINER_REGISTRY.get(cfg.TRAINER.NAME), "checkpoint_in", None)
    path = find(args.model_dir, args.load_epoch) if args.eval_only and find else ""
    return checksum(path) if path else None


def main() -> None:
    args = parse_args()

    # Everything heavy comes after the flags are read, so that --help is there at once.
    from promptbias import datasets
    import dassl.utils
    from dassl.engine import build_trainer
    from dassl.utils import collect_env_info, set_random_seed, setup_logger

    from promptbias.engine import run_folder as run_files

    datasets.register_all()
    cfg = setup_cfg(args)
    check(args, cfg)
    resuming = cfg.RESUME and os.path.realpath(cfg.RESUME) == os.path.realpath(cfg.OUTPUT_DIR)
    results = run_files.finished(cfg, cfg.OUTPUT_DIR, tested(args, cfg)) if resuming else None
    if results:
        print(f"{cfg.OUTPUT_DIR} is finished: accuracy {results['accuracy']:.1f} %")
        return
    if cfg.SEED >= 0:
        set_random_seed(cfg.SEED)
    try:
        if resuming or not os.path.exists(os.path.join(cfg.OUTPUT_DIR, run_files.RESULTS)):
            run_files.rotate_log(cfg.OUTPUT_DIR)
        setup_logger(cfg.OUTPUT_DIR)
    except OSError as error:
        raise UserError(
            f"cannot write to {cfg.OUTPUT_DIR} ({error.strerror}); choose another --output-dir (OUTPUT of the scripts)"
        ) from error
    print("** Arguments **", *(f"{key}: {value}" for key, value in sorted(vars(args).items())), sep="\n")
    print("** Config **", cfg, "** System info **", collect_env_info(), sep="\n")

    try:
        trainer = build_trainer(cfg)
    except getattr(dassl.utils, "ConfigError", ()) as error:  # the original Dassl has none
        raise UserError(str(error)) from error
    if args.eval_only:
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
        trainer.test()
    elif not args.no_train:
        try:
            trainer.train()
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; the same command goes on from the last finished epoch") from None


if __name__ == "__main__":
    cli(main)
