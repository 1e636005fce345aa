"""Weights files: what is read, bit by bit, and what is said of everything else."""

import copy
import os
import re
import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from versions import needs_half

from promptbias import tiny_clip
from promptbias.model import loading
from promptbias.model.backbones import find, path_of
from promptbias.model.backbones.build import build
from promptbias.model.backbones.weights import read_weights, refuse_other_layouts
from promptbias.utils.errors import UserError
from promptbias.utils.files import checksum

SCALARS = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
SOME = {"weight": torch.arange(500.0), "bias": torch.ones(3)}


@pytest.fixture(scope="module")
def state(random_clip):
    """Weights in float32 that float16 cannot hold."""
    return dict(copy.deepcopy(random_clip).state_dict())


def assert_holds(built, state):
    assert not built.training
    for key, value in built.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, state[key].float()), key


def test_a_weights_file_is_computed_with_as_it_is(state, tmp_path):
    torch.save(state, tmp_path / "clip.pt")
    save_file({key: value.half() for key, value in state.items()}, str(tmp_path / "clip.safetensors"))
    assert_holds(loading.load_clip(f"openai:{tmp_path}/clip.pt"), state)
    halves = {key: value.half() for key, value in state.items()}
    assert_holds(loading.load_clip(f"openai:{tmp_path}/clip.safetensors"), halves)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3},
        lambda state: {"model_state_dict": state, "optimizer": {}},
        lambda state: {"model": {f"_orig_mod.module.{key}": value for key, value in state.items()}},
        lambda state: {**state, "attn_mask": torch.zeros(77, 77)},
    ],
)
def test_checkpoints_of_training_scripts_are_unwrapped(state, tmp_path, wrap):
    torch.save(wrap({**state, **{key: torch.tensor(value) for key, value in SCALARS.items()}}), tmp_path / "clip.pt")
    assert_holds(loading.load_clip(str(tmp_path / "clip.pt")), state)


def test_a_file_that_does_not_say_what_it_is_is_asked_for(state, tmp_path):
    path = str(tmp_path / "clip.pt")
    torch.save(state, path)
    with pytest.raises(UserError) as refused:
        loading.load_clip(path)
    assert f"openai:{path}" in str(refused.value) and f"open_clip:<model name>@{path}" in str(refused.value)


@needs_half
def test_openais_own_archive_is_opened_by_its_checksum(small_clip, tmp_path, monkeypatch):
    """Half of its weights are float16, as in OpenAI's."""
    from clip import clip, model

    model.convert_weights(small_clip)
    state = small_clip.state_dict()
    del small_clip.context_length, small_clip.vocab_size  # which are buffers in OpenAI's archives
    for key, value in SCALARS.items():
        small_clip.register_buffer(key, torch.tensor(value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what tracing has to say
        traced = torch.jit.trace_module(small_clip, {"encode_image": torch.zeros(1, 3, 32, 32)})
        traced.save(str(tmp_path / "ViT-B-16.pt"))
    url = f"https://nowhere.invalid/{checksum(tmp_path / 'ViT-B-16.pt')}/ViT-B-16.pt"
    monkeypatch.setattr(clip, "_MODELS", {"ViT-B/16": url})
    monkeypatch.setenv("CLIP_CACHE", str(tmp_path))
    for name in ("ViT-B/16", str(tmp_path / "ViT-B-16.pt")):
        built = loading.load_clip(name)
        assert_holds(built, model.build_model(dict(state)).state_dict())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
def test_an_archive_with_code_that_is_not_openais_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "evil.pt"))
    with pytest.raises(UserError, match="checksum is not that of one of OpenAI's files"):
        loading.load_clip(str(tmp_path / "evil.pt"))


@pytest.mark.parametrize(
    "content, said",
    [
        (b"PK\x03\x04 and nothing more", "clip.pt is damaged or not a CLIP weights file"),
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
    ],
)
def test_a_damaged_weights_file_is_refused(tmp_path, content, said):
    (tmp_path / "clip.pt").write_bytes(content)
    with pytest.raises(UserError, match=said):
        loading.load_clip(str(tmp_path / "clip.pt"))


@settings(max_examples=40, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_changed_byte_of_a_torch_file_becomes_another_number(tmp_path_factory, at, bit):
    path = str(tmp_path_factory.mktemp("flip") / "clip.pt")
    torch.save(SOME, path)
    with open(path, "rb") as file:
        content = bytearray(file.read())
    content[int(at * len(content))] ^= 1 << bit
    with open(path, "wb") as file:
        file.write(content)
    try:
        found = read_weights(path)
    except UserError as error:
        assert path in str(error) and "\n" not in str(error)
    else:
        assert found.keys() == SOME.keys() and all(torch.equal(found[key], SOME[key]) for key in SOME)


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda content: content[:-7], "holds .* bytes, but its header says"),
        (lambda content: content.replace(b"\n", b"\r\n"), "line ends were converted"),
        (lambda content: b"\xff" + content[1:], "header"),
    ],
)
def test_a_damaged_safetensors_file_says_how(tmp_path, damage, said):
    path = tmp_path / "clip.safetensors"
    save_file({"line ends": torch.full((8,), 10, dtype=torch.uint8)}, str(path))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=said):
        read_weights(str(path))


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("pipe", "not a regular file"), ("", "has no config.json")):
        with pytest.raises(UserError, match=said):
            loading.load_clip(str(tmp_path / name))
    with pytest.raises(UserError, match="there is no file"):
        loading.load_clip("openai:nowhere.pt")


def test_a_file_of_the_hubs_cache_must_have_the_checksum_in_its_name(tmp_path):
    (tmp_path / ("0" * 64)).write_bytes(b"another")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / ("0" * 64))
    with pytest.raises(UserError, match="wrong checksum"):
        read_weights(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("holds", [[1, 2], {}, {"a": 1}])
def test_a_file_without_tensors_by_their_names_is_refused(tmp_path, holds):
    torch.save(holds, tmp_path / "clip.pt")
    with pytest.raises(UserError, match="tensors by their names"):
        loading.load_clip(str(tmp_path / "clip.pt"))


@pytest.mark.parametrize(
    "key, said",
    [
        ("a", "does not hold a CLIP: it has no visual.conv1.weight"),
        ("visual.layer1.0.conv1.weight", "ResNet"),
        ("vision_model.encoder.layers.0.mlp.fc1.weight", "Hugging Face model.*config.json"),
        ("vision_model.head.probe", "SigLIP"),
        ("visual.trunk.blocks.0.norm1.weight", "towers that are not OpenAI's"),
        ("text.transformer.embeddings.word_embeddings.weight", "towers that are not OpenAI's"),
        ("vision.bias", "a checkpoint of a tuned model"),
    ],
)
def test_other_weights_say_what_they_look_like(key, said):
    with pytest.raises(UserError, match=said):
        refuse_other_layouts({key: torch.zeros(1)}, "clip.pt")


@pytest.mark.parametrize(
    "key, change, said",
    [
        ("visual.proj", lambda weight: weight / 0, "NaN or infinity in visual.proj"),
        ("token_embedding.weight", lambda weight: weight[:1000], "vocabulary of 1,000 tokens"),
        ("ln_final.bias", lambda weight: None, r"ln_final.bias.*width 128, 3 blocks and patches of 8 pixels"),
        ("visual.class_embedding", lambda weight: weight[:5], r"size mismatch for visual.class_embedding"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(state, tmp_path, key, change, said):
    changed = {**state, key: change(state[key])}
    save_file(
        {key: value.contiguous() for key, value in changed.items() if value is not None}, tmp_path / "c.safetensors"
    )
    with pytest.raises(UserError, match=said):
        loading.load_clip(f"openai:{tmp_path}/c.safetensors")


def test_a_vit_that_openai_never_made_is_asked_for(tmp_path):
    from clip.model import CLIP

    torch.save(CLIP(8, 28, 1, 1280, 14, 4, 10, 64, 1, 1).state_dict(), tmp_path / "huge.pt")
    with pytest.raises(UserError, match="width 1280, 1 blocks and patches of 14 pixels.*how many heads"):
        loading.load_clip(f"openai:{tmp_path}/huge.pt")


def test_the_tiny_clip_is_what_clips_own_builder_makes_of_it():
    from clip.model import build_model

    assert_holds(loading.load_clip("tiny"), build_model(tiny_clip.state_dict()).state_dict())


@settings(max_examples=20, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_changed_byte_of_the_tiny_clip_is_refused(tmp_path_factory, at, bit):
    with open(tiny_clip.WEIGHTS, "rb") as file:
        content = bytearray(file.read())
    content[int(at * len(content))] ^= 1 << bit
    path = str(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")
    with open(path, "wb") as file:
        file.write(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_clip.SHA256, path, tiny_clip.SHA256[tiny_clip.WEIGHTS])
        with pytest.raises(UserError, match="damaged"):
            tiny_clip.state_dict(path)


def test_openais_weights_go_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIP_CACHE", str(tmp_path))
    (tmp_path / "ViT-B-16.pt").write_bytes(b"another")
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path))}/ViT-B-16.pt has a wrong checksum"):
        loading.load_clip("ViT-B/16")
    assert [find(name).input_size() for name in ("ViT-B/16", "ViT-L/14@336px", "tiny")] == [224, 336, 64]


def test_the_place_of_a_backbone_is_no_part_of_its_name(tmp_path):
    path = str(tmp_path / "x@y.pt")
    (tmp_path / "x@y.pt").touch()
    named = {path: path, f"openai:{path}": path, f"open_clip:ViT-B-16@{path}": path, str(tmp_path): str(tmp_path)}
    for name in ("tiny", "ViT-B/16", "ViT-L/14@336px", "hf:openai/clip-vit-base-patch16", "open_clip:ViT-B-16/openai"):
        named[name] = None
    assert {name: path_of(name) for name in named} == named


def test_a_clip_that_wants_design_details_gets_them(state, tmp_path, monkeypatch):
    """MaPLe's and PromptSRC's CLIP has one more argument."""
    from clip import model

    class TheirCLIP(model.CLIP):
        def __init__(self, *args, design_details, **kwargs):
            super().__init__(*args, **kwargs)
            self.given = design_details

    monkeypatch.setattr(model, "CLIP", TheirCLIP)
    torch.save(state, tmp_path / "clip.pt")
    given = build(find(f"openai:{tmp_path}/clip.pt")).given
    assert given["trainer"] == "CoOp" and given["vision_depth"] == given["language_depth"] == 0


def test_a_clip_that_cannot_build_is_one_sentence(weights_file, monkeypatch):
    from clip import model

    monkeypatch.setattr(model, "CLIP", lambda **sizes: {}["no such key"])
    with pytest.raises(UserError, match="cannot build a ViT of width 128"):
        loading.load_clip(weights_file)


def test_a_clip_folder_whose_loader_fails_is_one_sentence(monkeypatch):
    for name in ("clip", "clip.clip", "clip.model"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises ImportError
    with pytest.raises(UserError, match="CLIP cannot be imported"):
        loading.import_clip()
