"""Runs by Slurm: an array script with one task for each run, to be read, adapted and submitted by hand."""

import os
import shlex
import sys
from collections.abc import Sequence

from promptbias.experiments.resources import estimate_gib
from promptbias.experiments.runs import PROGRAM, Run, environment
from promptbias.utils.files import atomic_write

SCRIPT = """\
#!/bin/bash
# {count} runs, one task each. Adapt the lines that begin with #SBATCH to your cluster, then: sbatch {path}
# A task that was stopped resumes, and a finished one does nothing, so the script can be submitted again at any time.
#SBATCH --job-name=promptbias
#SBATCH --array=0-{last}%{jobs}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --mem={memory}G
#SBATCH --gres=gpu:1
#SBATCH --requeue
#SBATCH --output={logs}/%A_%a.txt

cd {folder} || exit 1
{environment}case $SLURM_ARRAY_TASK_ID in
{cases}
*) echo "there is no task $SLURM_ARRAY_TASK_ID" >&2; exit 1 ;;
esac
"""


def script(runs: Sequence[Run], path: str, jobs: int) -> str:
    """The text of the script.

    Args:
        path: where it will be.
        jobs: tasks at a time.
    """
    commands = [shlex.join([sys.executable, *PROGRAM, "train", *run.argv]) for run in runs]
    search = environment().get("PYTHONPATH")
    return SCRIPT.format(
        count=len(runs),
        path=shlex.quote(path),
        last=len(runs) - 1,
        jobs=jobs,
        memory=max(1, round(max(map(estimate_gib, runs)) + 0.5)),
        logs=os.path.dirname(path),
        folder=shlex.quote(os.getcwd()),
        environment=f"export PYTHONPATH={shlex.quote(search)}\n" if search else "",
        cases="\n".join(f"{i}) exec {command} ;;" for i, command in enumerate(commands)),
    )


def write_script(runs: Sequence[Run], path: str, jobs: int) -> None:
    """Write the script; its tasks' outputs go to the same folder."""
    path = os.path.abspath(path)
    with atomic_write(path) as file:
        file.write(script(runs, path, jobs))
