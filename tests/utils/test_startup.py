"""Start-up: imports that are deferred."""

import subprocess
import sys

from conftest import ROOT


def test_unused_parts_of_torchvision_are_executed_only_when_used():
    code = (
        "import sys\n"
        "from promptbias.utils.startup import LazyImports, defer_unused_imports\n"
        "defer_unused_imports(); defer_unused_imports()\n"
        "assert sum(isinstance(finder, LazyImports) for finder in sys.meta_path) == 1\n"
        "import torchvision\n"
        "print('torchvision.models.resnet' in sys.modules)\n"
        "torchvision.models.resnet18\n"
        "print('torchvision.models.resnet' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr
