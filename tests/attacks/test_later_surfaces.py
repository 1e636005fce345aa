"""What later commands are given: settings that would break their terms, seeds, edited results, boxes, pipes."""

import os
import time

import numpy as np
import pytest

from promptbias.analysis import report
from promptbias.analysis.__main__ import main as analysis
from promptbias.analysis.sections import Section
from promptbias.compile import main as compile_run
from promptbias.datasets.embedded import remove_abandoned
from promptbias.datasets.masks import _box_mask, mask_reader
from promptbias.datasets.reader import FewShotDataset
from promptbias.datasets.split_files import read_lines
from promptbias.engine import run_folder
from promptbias.engine.predictions import Prediction, write_predictions
from promptbias.experiments.arena import check_outcome, outcomes
from promptbias.experiments.runs import DIVERGED, Run
from promptbias.utils.errors import UserError

RIGHT = np.array([1.0, 0.0, 1.0, 1.0])
RESULTS = {"accuracy": 75.0, "counts": {"test": 4}, "seconds": {"test": 1.0}}
RUN = Run("BiasTuning", "digits", "tiny", "a run", 1, "data")


@pytest.mark.parametrize(
    "key, said",
    [
        ("OPTIM.LR", "--grid"),
        ("TEST.SPLIT", "chosen on validation images"),
        ("DATASET.NUM_SHOTS", "--shots"),
        ("DATASET.SUBSAMPLE_CLASSES", "--few-shot-only"),
        ("SEED", "--seeds"),
        ("TRAINER.NAME", "--methods"),
        ("OUTPUT_DIR", "--output"),
        ("MODEL.INIT_WEIGHTS", "the runs that it tests"),
    ],
)
def test_terms_of_the_arena_are_not_changed_by_the_way(tmp_path, key, said):
    with pytest.raises(UserError, match=f"--extra cannot set {key}, .* {said}"):
        analysis(["arena", "--methods", "BiasTuning", "--output", str(tmp_path), "--extra", key, "1"])
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("command", [["arena", "--methods", "BiasTuning"], ["table", "1"]])
@pytest.mark.parametrize("seeds", [["1", "1"], ["-1"], [str(2**32)]])
def test_seeds_are_numbers_that_count_once(tmp_path, command, seeds):
    with pytest.raises(UserError, match="--seeds "):
        analysis([*command, "--output", str(tmp_path), "--seeds", *seeds])


@pytest.mark.parametrize(
    "key",
    ["TRAINER.NAME", "MODEL.BACKBONE.NAME", "DATASET.NAME", "COMPILE.START", "TRAINER.BIASTUNING.SITES", "RESUME"],
)
def test_what_a_compilation_takes_from_its_run_stays(runs, tmp_path, key):
    with pytest.raises(UserError, match=f"--extra cannot set {key}"):
        compile_run([runs["deep"], "--output-dir", str(tmp_path / "out"), "--extra", key, "x"])
    assert not (tmp_path / "out").exists()


def test_a_seed_too_large_and_no_folder_are_one_sentence(runs, tmp_path):
    with pytest.raises(UserError, match="below 2"):
        compile_run([runs["deep"], "--output-dir", str(tmp_path / "out"), "--extra", "SEED", str(2**33)])
    with pytest.raises(UserError, match="--output-dir is empty"):
        compile_run([runs["deep"], "--output-dir", ""])


def test_predictions_and_results_must_say_the_same():
    check_outcome(RUN, RESULTS, RIGHT)
    others = [{"accuracy": 50.0}, {"counts": {"test": 5}}, {"counts": None}, {"seconds": {"train": 1.0}}]
    for results, right in [
        *(({**RESULTS, **other}, RIGHT) for other in others),
        (RESULTS, RIGHT[:3]),
        (RESULTS, RIGHT[:0]),
    ]:
        with pytest.raises(UserError, match="a run do not go together"):
            check_outcome(RUN, results, right)


def test_an_image_counts_once(tmp_path):
    write_predictions([Prediction("a.png", "cat", "cat", 0.5)] * 2, str(tmp_path))
    with pytest.raises(UserError, match="twice for the same image"):
        outcomes([str(tmp_path)])


@pytest.mark.parametrize("box", [(6, 2, 3, 5), (90, 90, 95, 95), (-9, -9, -1, -1)])
def test_a_box_without_a_pixel_of_its_image_is_refused(tmp_path, box):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="holds no pixel"):
        _box_mask({"a.png": box}, str(tmp_path / "a.png"), "FGVCAircraft")


def test_pipes_do_not_stop_a_run_for_ever(tmp_path):
    os.mkfifo(tmp_path / run_folder.LOCK)
    with pytest.raises(UserError, match="not a regular file but a named pipe"), run_folder.locked(str(tmp_path)):
        pass
    os.mkfifo(tmp_path / DIVERGED)
    with pytest.raises(UserError, match="not a regular file but a named pipe"):
        Run("BiasTuning", "digits", "tiny", str(tmp_path), 1, "data").divergence()


def test_what_killed_processes_left_of_a_dataset_goes_and_what_is_being_written_stays(tmp_path):
    for name, age in ((".images.old", 3 * 24 * 3600), (".images.new", 60)):
        (tmp_path / name / "images").mkdir(parents=True)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    remove_abandoned(str(tmp_path))
    assert os.listdir(tmp_path) == [".images.new"]


def test_a_figure_that_was_left_out_is_tried_again(runs, tmp_path, monkeypatch):
    tried = []
    left_out = lambda name, *_: tried.append(name) or Section(name, "no masks yet", left_out="no masks")  # noqa: E731
    monkeypatch.setattr(report, "make_section", left_out)
    for _ in range(2):
        flags = ["--output", str(tmp_path), "--samples", "3", "--explore", "0", "--only", "foreground"]
        analysis(["report", "--model-dir", runs["bias"], *flags])
    assert tried == ["foreground"] * 2


@pytest.mark.parametrize("path", ["/data/dtd/../../secret.png", "/data/dtd/images/../../../x.png", "/data/dtd/.."])
def test_a_row_of_a_public_few_shot_set_stays_in_the_folder_of_its_dataset(path):
    dataset = FewShotDataset.__new__(FewShotDataset)
    dataset.dataset_dir = "/here/dtd"
    assert dataset.relocated([("/data/dtd/images/x.png", 0, "a")], "set")[0].impath == "/here/dtd/images/x.png"
    with pytest.raises(UserError, match="leads out of the folder"):
        dataset.relocated([(path, 0, "a")], "set")


@pytest.mark.parametrize("size, value", [((20000, 20000), 1), ((8, 8), 0)])
def test_masks_that_are_empty_or_bombs_are_refused(tmp_path, size, value):
    from PIL import Image

    for folder, picture in (("images", Image.new("RGB", (8, 8))), ("masks", Image.new("1", size, value))):
        (tmp_path / folder / "one").mkdir(parents=True)
        picture.save(tmp_path / folder / "one" / "0.png")
    with pytest.raises(UserError, match="cannot be read|is empty"):
        mask_reader("ClutteredDigits", str(tmp_path))(str(tmp_path / "images" / "one" / "0.png"))


def test_one_configuration_under_two_names_is_refused(tmp_path):
    with pytest.raises(UserError, match="names one configuration twice"):
        analysis(["arena", "--methods", "BiasTuning", "BiasTuning:tiny", "--output", str(tmp_path)])


def test_no_path_of_a_few_shot_set_holds_a_nul(tmp_path):
    (tmp_path / "a.jsonl").write_text(r'{"_impath": "/a/dtd/\u0000", "_label": 0, "_classname": "x"}')
    with pytest.raises(UserError, match="not a few-shot set of 2SFS"):
        read_lines(str(tmp_path / "a.jsonl"))
