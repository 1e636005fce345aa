"""The whole model recorded by torch, and run with other batches than it was recorded with."""

import pytest
import torch
from prompted_clips import deep_prompts
from versions import needs_export

from promptbias.trainers.bias_tuning import BiasTuningConfig

BATCHES = (1, 3, 7)


def same(recorded, model):
    for batch in BATCHES:
        image = torch.randn(batch, 3, 32, 32)
        torch.testing.assert_close(recorded(image), model(image), rtol=1e-4, atol=1e-3)


@needs_export
@pytest.mark.parametrize("method, grad", [(BiasTuningConfig, True), (deep_prompts, False)], ids=["biases", "prompts"])
def test_torch_export_takes_any_batch(tuned, images, method, grad):
    """With gradients on, when texts are encoded in every pass, and off, when they are kept."""
    model = tuned(method())
    with torch.set_grad_enabled(grad):
        program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    same(program.module(), model)


@pytest.mark.filterwarnings("ignore")
def test_torchs_older_tracer_takes_any_batch(tuned, images):
    model = tuned()
    with torch.no_grad():
        same(torch.jit.trace(model, (images,)), model)
