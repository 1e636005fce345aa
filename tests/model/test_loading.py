"""Where a CLIP comes from, and what is said when it cannot be had."""

import sys

import pytest
import torch
from safetensors.torch import save_file

from promptbias.model import loading
from promptbias.utils.errors import UserError


def test_weights_files_give_the_clip_they_hold(random_clip, tmp_path):
    state = {key: value.half() for key, value in random_clip.state_dict().items()}
    torch.save(state, tmp_path / "clip.pt")
    save_file(state, str(tmp_path / "clip.safetensors"))
    for name in ("clip.pt", "clip.safetensors"):
        built = loading.load_clip(str(tmp_path / name))
        assert not built.training
        for key, value in built.state_dict().items():
            assert value.dtype == torch.float32 and torch.equal(value, state[key].float())


def test_an_archive_with_code_that_is_not_openais_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "evil.pt"))
    with pytest.raises(UserError, match="read safely"):
        loading.load_clip(str(tmp_path / "evil.pt"))


def test_a_damaged_weights_file_is_refused(tmp_path):
    (tmp_path / "clip.pt").write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(UserError, match="clip.pt is not a CLIP weights file"):
        loading.load_clip(str(tmp_path / "clip.pt"))


@pytest.mark.parametrize(
    "holds, said", [([1, 2], "tensors by their names"), ({"a": torch.zeros(1)}, "does not hold a CLIP")]
)
def test_a_file_of_something_else_is_refused(tmp_path, holds, said):
    torch.save(holds, tmp_path / "clip.pt")
    with pytest.raises(UserError, match=said):
        loading.load_clip(str(tmp_path / "clip.pt"))


def test_a_clip_that_wants_design_details_gets_them(random_clip, monkeypatch):
    """MaPLe's and PromptSRC's `build_model` has a second argument."""
    from clip import model

    given = []
    build = model.build_model
    monkeypatch.setattr(
        model, "build_model", lambda state, design_details: given.append(design_details) or build(state)
    )
    loading.build(random_clip.state_dict())
    assert given[0]["trainer"] == "CoOp" and given[0]["vision_depth"] == given[0]["language_depth"] == 0


def test_a_clip_that_cannot_build_is_one_sentence(random_clip, monkeypatch):
    from clip import model

    monkeypatch.setattr(model, "build_model", lambda state: state["no such key"])
    with pytest.raises(UserError, match="cannot build this model"):
        loading.build(random_clip.state_dict())


def test_a_clip_folder_whose_loader_fails_is_one_sentence(monkeypatch):
    for name in ("clip", "clip.clip", "clip.model"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises ImportError
    with pytest.raises(UserError, match="CLIP cannot be imported"):
        loading.import_clip()
