"""Scripts in processes of their own, forked from one that has imported torch and the rest: seconds less for each."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import threading

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "torchvision.transforms", "clip", "sklearn.metrics", "tensorboard.summary"])


def forked(argv, cwd, folder):
    """Run the script argv[0] with the arguments after it, as `python argv[0] ...` in the folder `cwd` does.

    Args:
        folder: where its output is kept meanwhile.

    Returns:
        The finished process, as `subprocess.run` has it.
    """
    unique = f"{os.getpid()}-{threading.get_ident()}"
    outputs = [os.path.join(folder, f"{name}-{unique}") for name in ("stdout", "stderr")]
    process = CONTEXT.Process(target=execute, args=(argv, cwd, dict(os.environ), outputs))
    process.start()
    process.join()
    texts = []
    for path in outputs:
        with open(path, errors="replace") as file:
            texts.append(file.read())
    return subprocess.CompletedProcess(argv, process.exitcode, *texts)


def execute(argv, cwd, environment, outputs):
    """What the forked process does."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for descriptor, path in zip((1, 2), outputs):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = list(argv)
    sys.path.insert(0, cwd)
    runpy.run_path(argv[0], run_name="__main__")
