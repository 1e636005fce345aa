"""Train or test one run, with CoOp's flags. The README shows whole commands."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from promptbias.utils.errors import UserError, nearest
from promptbias.utils.startup import Terminated


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags in `argv`, by default those of the command line."""
    prog = None if argv is None else "promptbias train"
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--root", default="", help="folder of the datasets (for image_folder: of your images)")
    parser.add_argument("--output-dir", default="", help="output folder of the run")
    parser.add_argument(
        "--resume", default="", help="output folder of a run to resume; a finished run is left as it is"
    )
    parser.add_argument("--seed", type=int, help="random seed (negative: unseeded)")
    parser.add_argument("--config-file", default="", help="YAML of the method, from configs/trainers/")
    parser.add_argument("--dataset-config-file", default="", help="YAML of the dataset, from configs/datasets/")
    parser.add_argument("--trainer", default="", help="name of the method, such as BiasTuning")
    clip_help = "CLIP: tiny, ViT-B/16, a file, hf:<hub name>, open_clip:<model>/<tag>, ... (docs/backbones.md)"
    parser.add_argument("--backbone", default="", help=clip_help)
    parser.add_argument("--eval-only", action="store_true", help="test without training")
    parser.add_argument("--model-dir", default="", help="with --eval-only: output folder of the run to load")
    parser.add_argument("--load-epoch", type=int, help="with --eval-only: epoch to load (default: best, or last)")
    parser.add_argument("--no-train", action="store_true", help="build everything, but do not train")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config options, which override all of the above"
    )
    coop = parser.add_argument_group("flags of CoOp's train.py", "kept so that its command lines work")
    coop.add_argument("--transforms", nargs="+", help="data augmentation, by Dassl's names (INPUT.TRANSFORMS)")
    coop.add_argument("--source-domains", nargs="+", help="DATASET.SOURCE_DOMAINS; these datasets have none")
    coop.add_argument("--target-domains", nargs="+", help="DATASET.TARGET_DOMAINS; these datasets have none")
    coop.add_argument("--head", default="", help="MODEL.HEAD.NAME; these methods have none")
    return parse_mixed(parser, argv)


def parse_mixed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags and KEY VALUE pairs in any order; argparse alone takes whatever follows the first KEY for pairs.

    Raises:
        UserError: an unknown flag after a pair, or a flag where a value is due.
    """
    args = parser.parse_args(argv)
    flags = {"-h", "--help", *("--" + name.replace("_", "-") for name in vars(args) if name != "opts")}
    pairs: list[str] = []
    while args.opts:
        key, value = args.opts[0].split("=")[0], args.opts[1:2]
        if key in flags:
            args = parser.parse_args(args.opts, args)
            continue
        if key.startswith("-"):
            raise UserError(f"there is no flag {key}: {nearest(key, flags)}")
        if value and value[0] in flags:
            raise UserError(f"options come as KEY VALUE pairs, but {key} is followed by the flag {value[0]}")
        pairs += args.opts[:2]
        args.opts = args.opts[2:]
    args.opts = pairs
    return args


def check_args(args: argparse.Namespace, cfg) -> None:
    """Refuse flags that do not name something, or do not go together.

    Raises:
        UserError: no such trainer or dataset, a seed that is too large, flags that do not go together, a test in the
            folder of a training run, or as `check_writable`.
    """
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    from promptbias.engine import run_folder
    from promptbias.engine.checks import check_seed, check_writable

    check_writable(cfg)
    for what, flag, name, registry in (
        ("trainer", "--trainer", cfg.TRAINER.NAME, TRAINER_REGISTRY),
        ("dataset", "--dataset-config-file", cfg.DATASET.NAME, DATASET_REGISTRY),
    ):
        if not name:
            raise UserError(f"no {what} is named; give {flag}")
        if name not in registry.registered_names():
            raise UserError(f'there is no {what} "{name}": {nearest(name, registry.registered_names())}')
    if not cfg.MODEL.BACKBONE.NAME:
        raise UserError("no CLIP is named; give --config-file, or --backbone")
    if not cfg.OUTPUT_DIR:
        raise UserError("OUTPUT_DIR is empty; give --output-dir, which is . for the working folder")
    if args.eval_only:
        run_folder.refuse_training_run(cfg.OUTPUT_DIR)
    check_seed(cfg)
    if not args.eval_only and (args.model_dir or args.load_epoch is not None):
        raise UserError(
            "--model-dir and --load-epoch say what to test; add --eval-only, or set MODEL.INIT_WEIGHTS to "
            "start training from a checkpoint"
        )


def eval_checkpoint_sha256(args: argparse.Namespace, cfg) -> str | None:
    """Checksum of the checkpoint that --eval-only loads; None where nothing is loaded."""
    from dassl.engine import TRAINER_REGISTRY

    from promptbias.utils.files import checksum

    find = getattr(TRAINER_REGISTRY.get(cfg.TRAINER.NAME), "checkpoint_in", None)
    path = find(args.model_dir, args.load_epoch) if args.eval_only and find else ""
    return checksum(path) if path else None


@contextlib.contextmanager
def logged(cfg, resuming: bool) -> Iterator[None]:
    """Send what is printed to log.txt too; the log of an interrupted run is renamed first.

    Raises:
        UserError: the output folder cannot be written to.
    """
    from dassl.utils import setup_logger

    from promptbias.engine import run_folder

    console = sys.stdout
    try:
        if resuming or not os.path.exists(os.path.join(cfg.OUTPUT_DIR, run_folder.RESULTS)):
            run_folder.rotate_log(cfg.OUTPUT_DIR)
        setup_logger(cfg.OUTPUT_DIR)
    except OSError as error:
        raise UserError(
            f"cannot write to {cfg.OUTPUT_DIR} ({error.strerror}); choose another --output-dir (OUTPUT of the scripts)"
        ) from error
    try:
        yield
    finally:
        log = getattr(sys.stdout, "file", None) if sys.stdout is not console else None
        sys.stdout = console
        if log is not None:
            log.close()


def main(argv: Sequence[str] | None = None) -> None:
    """Train, resume or test the run that the flags describe.

    Args:
        argv: flags; None: those of the command line.

    Raises:
        UserError: anything wrong with flags, config, data or checkpoints.
    """
    args = parse_args(argv)
    # Everything heavy comes after the flags are read, so that --help is there at once.
    from promptbias.engine import distributed

    with distributed.processes():
        from promptbias.engine.config import setup_cfg
        from promptbias.engine.discovery import register_all

        register_all()
        cfg = setup_cfg(args)
        check_args(args, cfg)
        perform(args, cfg, lambda: run(args, cfg), lambda: eval_checkpoint_sha256(args, cfg))


def perform(
    args: argparse.Namespace,
    cfg,
    work: Callable[[], None],
    tested_sha256: Callable[[], str | None] = lambda: None,
) -> None:
    """Do the work of a run, seeded and logged, unless the run resumes its own folder and is finished there.

    Args:
        args: flags, for the log.
        tested_sha256: checksum of the checkpoint that the run only tests; None: it trains.

    Raises:
        UserError: the folder holds another run, cannot be written to, or another process trains or tests in it; or as
            `work`.
    """
    from dassl.utils import collect_env_info, set_random_seed

    from promptbias.engine import distributed, run_folder

    resuming = bool(cfg.RESUME) and os.path.realpath(cfg.RESUME) == os.path.realpath(cfg.OUTPUT_DIR)
    results = run_folder.finished(cfg, cfg.OUTPUT_DIR, tested_sha256()) if resuming else None
    if results:
        print(f"{cfg.OUTPUT_DIR} is finished: accuracy {results['accuracy']:.1f} %")
        return
    if cfg.SEED >= 0:
        set_random_seed(cfg.SEED)
    distributed.agree_on_random_states()
    if not distributed.is_writer():
        cfg.defrost()
        cfg.TEST.COMPUTE_CMAT = False  # Dassl's evaluator would write it
        cfg.freeze()
        work()
        return
    with run_folder.locked(cfg.OUTPUT_DIR), logged(cfg, resuming):
        print("** Arguments **", *(f"{key}: {value}" for key, value in sorted(vars(args).items())), sep="\n")
        print("** Config **", cfg, "** System info **", collect_env_info(), sep="\n")
        work()


def run(args: argparse.Namespace, cfg) -> None:
    """Build the trainer and let it train or test."""
    from dassl.engine import build_trainer

    trainer = build_trainer(cfg)
    if args.eval_only:
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
        trainer.test()
    elif not args.no_train:
        train(trainer)


def train(trainer) -> None:
    """Let a trainer train and test; an interrupt says how to go on."""
    try:
        trainer.train()
    except KeyboardInterrupt as stop:
        what = "terminated" if isinstance(stop, Terminated) else "interrupted"
        raise type(stop)(f"{what}; the same command resumes from the last finished epoch") from None
    finally:
        trainer.close_writer()
