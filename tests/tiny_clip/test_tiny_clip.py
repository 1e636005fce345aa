"""The embedded tiny CLIP: its file, how it loads, what it knows, and that its pre-training runs and resumes."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from clip import tokenize
from clip.model import CLIP, build_model
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from promptbias import tiny_clip
from promptbias.tiny_clip.captions import DIGITS, LETTERS, captions, vocabulary
from promptbias.tiny_clip.evaluate import handwritten, image_features, text_features
from promptbias.tiny_clip.glyphs import CHARACTERS, Scribble, coarsen, render
from promptbias.tiny_clip.pretrain import ARCHITECTURE, Towers


@pytest.fixture(scope="module")
def weights():
    return tiny_clip.state_dict()


@pytest.fixture(scope="module")
def clip(weights):
    return build_model(dict(weights)).float()


def test_the_file_is_small_and_describes_itself():
    assert os.path.getsize(tiny_clip.WEIGHTS) < 8e6
    metadata = tiny_clip.metadata()
    assert metadata["architecture"] == ARCHITECTURE
    assert metadata["pixel_mean"] == list(tiny_clip.MEAN) and metadata["pixel_std"] == list(tiny_clip.STD)
    assert {"steps", "seed", "batch", "rate"} <= set(metadata)


def test_names_and_shapes_are_those_of_openais_class(weights):
    expected = CLIP(**ARCHITECTURE).state_dict()
    assert {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in expected.items()}
    assert all(v.dtype == torch.float32 and v.isfinite().all() for v in weights.values())


def test_build_model_keeps_every_value(weights, clip):
    """`build_model` goes through float16; nothing is lost, because the weights are representable in float16."""
    built = clip.state_dict()
    for name, value in weights.items():
        assert torch.equal(built[name], value), name
    assert clip.visual.transformer.resblocks[0].attn.num_heads == clip.transformer.resblocks[0].attn.num_heads == 2
    assert clip.visual.conv1.kernel_size == (8, 8) and clip.visual.input_resolution == 64


def test_trained_words_are_the_stored_ones_and_others_differ(weights):
    stored = load_file(tiny_clip.WEIGHTS)
    ids, rows = stored["token_ids"].long(), weights["token_embedding.weight"]
    assert torch.equal(rows[ids], stored["token_embedding.weight"].float())
    assert set(tokenize(vocabulary()).flatten().tolist()) == set(ids.tolist())
    assert torch.equal(rows, tiny_clip.state_dict()["token_embedding.weight"])
    assert len(rows.unique(dim=0)) == len(rows)


def test_zero_shot_on_handwritten_digits(clip):
    pixels, labels = (values[::4] for values in handwritten())
    text = text_features(clip, "a photo of the digit {}.")
    accuracy = ((image_features(clip, pixels) @ text.T).argmax(-1) == labels).float().mean()
    assert accuracy >= 0.40


def test_handwritten_digits_are_light_on_dark():
    pixels, labels = handwritten()
    assert pixels.shape == (1797, 3, 64, 64) and sorted(labels.unique().tolist()) == list(range(10))
    grey = pixels[:, 0]
    assert grey.min() >= 0 and grey.max() <= 1
    assert grey[:, 24:40, 24:40].mean() > grey[:, :, :8].mean()  # the ink is in the middle, and it is bright


def test_training_computes_what_openais_class_computes(clip):
    towers, choose = Towers(clip), torch.Generator().manual_seed(0)
    images = torch.rand(4, 64, 64, generator=choose)
    mean, std = (torch.tensor(t).view(3, 1, 1) for t in (tiny_clip.MEAN, tiny_clip.STD))
    tokens = tokenize(["a photo of the digit three.", "X X X X x.", "seven"])
    cut = tokens[:, : int(tokens.argmax(-1).max()) + 1]
    with torch.no_grad():
        pairs = [
            (towers.image(images), clip.encode_image((images[:, None].expand(-1, 3, -1, -1) - mean) / std)),
            (towers.text(cut), clip.encode_text(tokens)),
        ]
    for ours, stock in pairs:
        assert torch.cosine_similarity(ours.float(), stock).min() > 0.999  # bfloat16 against float32


@given(st.integers(0, 10**9), st.booleans())
@settings(max_examples=30, deadline=None)
def test_captions_fit_name_their_class_and_stay_in_the_vocabulary(seed, long):
    texts = captions(random.Random(seed), float(long))
    assert len(texts) == len(CHARACTERS) == 36
    known = set(tokenize(vocabulary()).flatten().tolist())
    tokens = tokenize(texts)  # raises if a caption is too long
    assert set(tokens.flatten().tolist()) <= known
    names = DIGITS + LETTERS
    for text, name in zip(texts, names):
        assert name in text.replace(",", "").replace(".", "").split()


@pytest.mark.parametrize("pixels", [8, 11, 64])
def test_coarsening_is_what_pillow_does(pixels):
    grey = np.random.RandomState(0).rand(64, 64).astype(np.float32)
    small = Image.fromarray(grey).resize((pixels, pixels), Image.BOX)
    expected = np.asarray(small.resize((64, 64), Image.BICUBIC))
    matrix = coarsen(pixels).numpy()
    assert np.allclose(matrix @ grey @ matrix.T, expected, atol=1e-5)


def test_glyphs_and_their_scribbles():
    glyphs = render()
    assert glyphs.shape[1:] == (36, 64, 64) and len(glyphs) >= 10
    assert (glyphs.amax((-1, -2)) > 0.9).all() and (glyphs[:, :, 0].amax() < 0.1)
    flat = glyphs[0]
    drawn = [Scribble()(flat, 1.0, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert drawn[0].shape == flat.shape and drawn[0].min() >= 0 and drawn[0].max() <= 1
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def command(output, *more):
    code = [sys.executable, "-m", "tiny_clip.pretrain", "--batch", "8", "--output", str(output), *more]
    return dict(args=code, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_few_steps_from_scratch(tmp_path):
    output = tmp_path / "few.safetensors"
    done = subprocess.run(**command(output, "--steps", "3", "--seed", "5"), timeout=120)
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["few.safetensors"]
    with safe_open(str(output), "pt") as file:
        metadata = {k: json.loads(v) for k, v in file.metadata().items()}
    assert metadata["steps"] == 3 and metadata["seed"] == 5
    assert build_model(tiny_clip.state_dict(str(output))).float().logit_scale.isfinite()


def test_a_folder_that_cannot_be_written_to_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = subprocess.run(**command(tmp_path / "file" / "tiny.safetensors", "--steps", "1"), timeout=120)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: cannot write") and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    steps = ("--steps", "6", "--save-every", "2")
    assert subprocess.run(**command(whole, *steps), timeout=120).returncode == 0
    process = subprocess.Popen(**command(broken, *steps))
    while not os.path.exists(f"{broken}.state") and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert subprocess.run(**command(broken, *steps), timeout=120).returncode == 0
    expected, found = load_file(whole), load_file(broken)
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
