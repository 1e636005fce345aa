"""The flags of commands that perform many runs, and the executor that they name."""

import argparse

from promptbias.experiments.executors.executor import Executor
from promptbias.experiments.executors.local import Local
from promptbias.experiments.executors.on_ray import OnRay
from promptbias.utils.errors import UserError


def add_executor_flags(parser: argparse.ArgumentParser) -> None:
    """--jobs, --on and --ray-address."""
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="runs at a time on a machine, which share the CPU's cores; faster on a CPU where the model is small "
        "(default: 1)",
    )
    parser.add_argument(
        "--on",
        choices=["here", "ray", "slurm"],
        default="here",
        help="where: on this machine (default), on a Ray cluster, or by a Slurm array script, which is only written",
    )
    parser.add_argument(
        "--ray-address",
        default="",
        metavar="HOST:PORT",
        help="cluster of --on ray (default: $RAY_ADDRESS, else one on this machine for as long as this command runs)",
    )


def check_jobs(jobs: int) -> None:
    """Refuse a number of runs that is none.

    Raises:
        UserError: it is not positive.
    """
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}, but must be at least 1")


def executor_of(args: argparse.Namespace) -> Executor:
    """What performs runs here or on Ray."""
    return OnRay(args.jobs, args.ray_address) if args.on == "ray" else Local(args.jobs)
