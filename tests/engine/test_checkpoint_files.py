"""Checkpoints of other models, other code and other intentions."""

import contextlib
import os
from collections import OrderedDict

import pytest
import torch

from promptbias.engine.checkpoints import load_into, read_checkpoint
from promptbias.utils.errors import UserError


@pytest.mark.parametrize(
    "change, said",
    [
        (("TRAINER.BIASTUNING.DEPTH_TEXT", "2"), "TRAINER.BIASTUNING.DEPTH_TEXT 3, but this run has 2"),
        (("--trainer", "IVLP"), "holds no trained IVLP"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(run, train_py, tmp_path, change, said):
    done = train_py("--eval-only", "--model-dir", str(run[0]), "--output-dir", str(tmp_path / "eval"), *change)
    assert done.returncode == 1 and said in done.stderr


def test_a_damaged_checkpoint_is_refused(run, train_py, tmp_path):
    (tmp_path / "BlockBias").mkdir()
    whole = (run[0] / "BlockBias" / "model.pth.tar-2").read_bytes()
    (tmp_path / "BlockBias" / "model.pth.tar-2").write_bytes(whole[: len(whole) // 2])
    done = train_py(
        "--eval-only", "--model-dir", str(tmp_path), "--load-epoch", "2", "--output-dir", str(tmp_path / "eval")
    )
    assert done.returncode == 1 and "is damaged" in done.stderr and "Traceback" not in done.stderr


class Scheduler:
    """Stands for the live scheduler that the family's code pickles into its checkpoints."""


def test_promptsrc_checkpoints_load(small_clip, config, tmp_path):
    from promptbias.trainers import ivlp

    model = ivlp.CustomCLIP(config("IVLP.N_CTX_VISION", 2, "IVLP.N_CTX_TEXT", 2), ["a", "b"], small_clip)
    torch.manual_seed(5)
    text, vision = torch.randn(3, 2, 128), torch.randn(3, 2, 128)
    state = OrderedDict(
        {
            "prompt_learner.ctx": text[0],
            "prompt_learner.token_prefix": torch.zeros(2, 1, 128),
            "image_encoder.VPT": vision[0],
            "image_encoder.proj": torch.zeros(128, 32),
        }
    )
    for i in (1, 2):
        state[f"text_encoder.transformer.resblocks.{i}.VPT_shallow"] = text[i].half()
        state[f"image_encoder.transformer.resblocks.{i}.VPT_shallow"] = vision[i]
    path = str(tmp_path / "model.pth.tar-20")
    torch.save({"state_dict": state, "epoch": 20, "optimizer": {}, "scheduler": {"successor": Scheduler()}}, path)

    cfg = config("IVLP.N_CTX_VISION", 2, "IVLP.N_CTX_TEXT", 2)
    load_into(model, read_checkpoint(path), path, cfg, "IVLP")
    torch.testing.assert_close(model.adapters.vision.prompts, torch.nn.Parameter(vision))
    torch.testing.assert_close(
        model.adapters.text.prompts, torch.nn.Parameter(torch.cat([text[:1], text[1:].half().float()]))
    )


def test_loading_runs_nothing(tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"state_dict": {}, "evil": Malicious()}, tmp_path / "evil.pth")
    with contextlib.suppress(UserError):  # refused or read with a stub in its place: either is safe
        read_checkpoint(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "owned").exists()
