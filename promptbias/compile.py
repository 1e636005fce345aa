"""`promptbias compile RUN`: the prompts of a finished run as biases, which fold into a stock CLIP.

The biases start from the mean of what the prompts add to each block's attention (`interp.mean_to_bias`), or from zero.
Then they are distilled: on the run's few-shot images, augmented as in training, their features or logits are drawn to
those of the prompted model. Labels are not used. What results is a run of BiasTuning, for all that takes one.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from promptbias.engine import train
from promptbias.engine.checks import check_seed, check_writable
from promptbias.engine.config import merge_options
from promptbias.engine.data import eval_batches
from promptbias.engine.discovery import register_all
from promptbias.engine.load import load_config, load_model
from promptbias.engine.run_folder import COMPILE
from promptbias.experiments.layout import refuse_set_keys
from promptbias.interp.branches import Branch, branches_of
from promptbias.interp.prompt_term import PromptTerm
from promptbias.model.biases import BLOCK, BRANCHES, SITES, SiteBiases, sites_of
from promptbias.model.consistency import TERMS, distance
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.trainers.bias_tuning import BiasTuning
from promptbias.utils.errors import UserError
from promptbias.utils.files import checksum

STARTS = ("means", "zero")
# Where the means can go: exactly into what attention puts out and into its values, whose weights sum to 1; and behind
# the block, where its own MLP does not see them.
OF_MEANS = ("attn.out", "v", BLOCK)
DEFAULT_SITES = tuple(site for site in SITES if site != "k")  # a bias on the keys can do nothing
OPTIM = {"NAME": "adam", "LR": 0.01, "WEIGHT_DECAY": 0.0}
SET_BY = {
    "COMPILE.RUN": "RUN",
    "COMPILE.SHA256": "RUN",
    "COMPILE.START": "--start",
    "COMPILE.MATCH": "--match",
    "DATASET.NAME": "RUN",
    "DATASET.ROOT": "--root",
    "DATASET.SUBSAMPLE_CLASSES": "RUN",
    "INPUT.SIZE": "RUN",
    "MODEL.BACKBONE.NAME": "RUN",
    "OUTPUT_DIR": "--output-dir",
    "RESUME": "--output-dir",
    "TRAINER.BIASTUNING.SITES": "--sites",
    "TRAINER.NAME": "the command, which makes a run of BiasTuning",
}


class Compilation(BiasTuning):
    """Trains biases to do what the prompts of `teacher` do.

    Args:
        teacher: the prompted model of the run in COMPILE.RUN, without gradients, on the device of `cfg`.
    """

    def __init__(self, cfg: Any, teacher: TunedCLIP) -> None:
        self.teacher = teacher
        super().__init__(cfg)

    def build_model(self) -> None:
        super().build_model()
        if self.teacher.classnames != self.model.classnames:
            raise UserError(
                f"{self.cfg[COMPILE].RUN} was tested on other classes than its dataset has now; restore the dataset, "
                "or name its folder with --root"
            )
        if self.cfg[COMPILE].START == "means":
            dataset, transform = self.dm.dataset, self.test_loader.dataset.transform
            batches = eval_batches(self.cfg, dataset.train_x, transform, self.cfg.DATALOADER.TEST.BATCH_SIZE)
            images = [(image.to(self.device), label) for image, label in batches]
            for branch, ours in zip(branches_of(self.teacher), (self.model.adapters.vision, self.model.adapters.text)):
                if branch.has_prompts:
                    start_from_means(ours, branch, images)

    def loss(self, image: Tensor, label: Tensor) -> Tensor:
        """How far the two models are apart; the labels play no part."""
        ours = self.model.image_features(image), self.model.text_features()
        with torch.no_grad():
            theirs = self.teacher.image_features(image), self.teacher.text_features()
        return distance(self.cfg[COMPILE].MATCH, self.model.logit_scale, ours, theirs)


@torch.no_grad()
def start_from_means(biases: SiteBiases, branch: Branch, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Put the mean of what the prompts of a branch add to each block into the first of OF_MEANS that `biases` has.

    Args:
        biases: of the same branch, all of them 0.
        batches: images (B, 3, S, S) and labels (B,), over which the mean is taken (in text, over the classes).
    """
    site = next((site for site in OF_MEANS if site in biases.sites), None)
    if site is None:
        return
    term = PromptTerm(branch).stream(branch.inputs(batches))
    means = term.mean_u() if site == "v" else term.bias()  # (L, D)
    if site == BLOCK:
        assert biases.bias is not None
        biases.bias.copy_(means[: len(biases.bias)])
    else:
        key = "v@{}" if site == "v" else "attn_out_proj_bias@{}"
        for i, mean in enumerate(means):
            if key.format(i) in biases.changes:
                biases.changes[key.format(i)].copy_(mean)


def compiled_config(args: argparse.Namespace) -> CfgNode:
    """The config of the run that compiles: of RUN its data, schedule and seed; of BiasTuning the rest.

    Raises:
        UserError: RUN is no finished run, or has no checkpoint; sites or pairs that are not known.
    """
    if not args.output_dir:
        raise UserError("--output-dir is empty; give . for the working folder")
    cfg, trainer = load_config(args.run)
    checkpoint = trainer.checkpoint_in(args.run)
    if not checkpoint:
        raise UserError(
            f"{args.run} is a run of {cfg.TRAINER.NAME}, without prompts; give a run with prompts (IVLP, VPT)"
        )
    theirs, sha256 = cfg.TRAINER[trainer.custom_clip.config.node], checksum(checkpoint)
    cfg.TRAINER.NAME, cfg.VERBOSE = BiasTuning.__name__, True
    cfg.OUTPUT_DIR = cfg.RESUME = args.output_dir
    cfg.TEST.FINAL_MODEL = "last_step"  # the best on validation images would take their labels
    cfg.TRAINER.BIASTUNING.PREC, cfg.TRAINER.BIASTUNING.SITES = theirs.PREC, tuple(args.sites)
    cfg.OPTIM.update(OPTIM)
    if args.root:
        cfg.DATASET.ROOT = args.root
    match = list(dict.fromkeys(args.match))
    cfg[COMPILE] = CfgNode({"RUN": args.run, "SHA256": sha256, "START": args.start, "MATCH": match})
    merge_options(cfg, args.extra)
    check_writable(cfg)
    check_seed(cfg)
    return cfg


def check_sites(sites: Sequence[str], start: str) -> None:
    """Refuse sites that there are not, and a start that they have no place for.

    Raises:
        UserError: one of these.
    """
    named = [site for branch in BRANCHES for site in sites_of(branch, sites, "--sites")]
    if start == "means" and not set(named) & set(OF_MEANS):
        raise UserError(
            f"none of the sites {', '.join(sites)} can hold the means; add one of {', '.join(OF_MEANS)}, or give "
            "--start zero"
        )


def load_teacher(args: argparse.Namespace, cfg: CfgNode) -> TunedCLIP:
    """The prompted model, in float32.

    Raises:
        UserError: it has no prompts, or cannot be loaded.
    """
    from promptbias.engine.custom_clip import device_of

    teacher = load_model(args.run, device=device_of(cfg))
    if not any(branch.has_prompts for branch in branches_of(teacher)):
        raise UserError(
            f'{args.run} is a run of "{teacher.label}", without prompts; give a run with prompts (IVLP, VPT)'
        )
    return teacher


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="promptbias compile", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run with prompts")
    parser.add_argument(
        "--output-dir", required=True, metavar="DIR", help="folder of the run of BiasTuning that results"
    )
    parser.add_argument(
        "--sites",
        nargs="+",
        default=DEFAULT_SITES,
        metavar="SITE",
        help=f"where biases go: {', '.join(SITES)}; in one branch vision.v, text.v (default: all but k)",
    )
    parser.add_argument(
        "--start", choices=STARTS, default=STARTS[0], help="what the biases start from (default: means)"
    )
    parser.add_argument(
        "--match", nargs="+", choices=TERMS, default=["logits"], help="what is drawn together (default: logits)"
    )
    parser.add_argument(
        "--root", default="", metavar="DIR", help="folder of the datasets, if it has moved since the run"
    )
    parser.add_argument(
        "--extra", nargs="+", default=[], metavar="KEY VALUE", help="config options, such as OPTIM.LR 0.01"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Compile a run, resume what was interrupted, or leave a finished compilation as it is.

    Raises:
        UserError: anything wrong with the flags, RUN, its data, or the output folder.
    """
    args = make_parser().parse_args(argv)
    check_sites(args.sites, args.start)
    refuse_set_keys(args.extra, SET_BY)
    register_all()
    cfg = compiled_config(args)
    teacher = load_teacher(args, cfg)
    cfg.TRAINER.BIASTUNING.TEMPLATE = teacher.method.base_template(teacher.template)
    cfg.freeze()
    train.perform(args, cfg, lambda: train.train(Compilation(cfg, teacher)))
