"""`promptbias predict`, and what `model.predict` returns."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from dassl.data.datasets import Datum
from PIL import Image

import promptbias
from promptbias.engine.data import eval_batches
from promptbias.engine.load import load_trainer
from promptbias.predict import main
from promptbias.utils.errors import UserError


@pytest.fixture(scope="module")
def finished(train_run):
    """The folder of a finished run."""
    return train_run("predict", "BiasTuning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with seven images of several sizes, in it and below."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(1)
    (folder / "below" / "deep").mkdir(parents=True)
    for i, name in enumerate(("b.png", "a.png", "c.jpg", "below/d.png", "below/e.bmp", "below/deep/f.png", "é ü.png")):
        pixels = random.integers(0, 255, (30 + 5 * i, 60 - 5 * i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def predict(finished, capsys):
    """predict(*argv): exit status, lines of stdout, and those of stderr but for notes on the run."""

    def run(*argv):
        status = main([finished, *map(str, argv)])
        printed = capsys.readouterr()
        err = [line for line in printed.err.splitlines() if not line.startswith("Note: ")]
        return status, printed.out.splitlines(), err

    return run


def test_predictions_are_those_of_the_run_s_own_test(finished, folder, predict):
    trainer = load_trainer(finished)
    items = [Datum(str(path), 0, classname="cat") for path in sorted(folder.rglob("*.*")) if path.suffix != ".txt"]
    items += trainer.dm.dataset.test
    batches = eval_batches(trainer.cfg, items, trainer.test_loader.dataset.transform, 4)
    expected = torch.cat([trainer.model_inference(image).softmax(-1) for image, _ in batches])
    status, lines, err = predict(*(item.impath for item in items), "--json", "--top", 99, "--batch-size", 3)
    assert status == 0 and err == [] and len(lines) == len(items)
    for item, line, row in zip(items, lines, expected):
        said = json.loads(line)
        found = {one["name"]: one["probability"] for one in said["classes"]}
        assert said["image"] == item.impath and list(found.values()) == sorted(found.values(), reverse=True)
        assert [found[name] for name in trainer.dm.dataset.classnames] == pytest.approx(row.tolist(), abs=2e-6)


def test_formats_say_the_same(folder, predict):
    _, as_json, _ = predict(folder, "--json", "--top", 2)
    _, as_csv, _ = predict(folder, "--csv", "--top", 2)
    _, as_text, _ = predict(folder)
    rows = list(csv.DictReader(as_csv))
    assert [row["image"] for row in rows[::2]] == [json.loads(line)["image"] for line in as_json]
    for i, (line, text) in enumerate(zip(as_json, as_text, strict=True)):
        said = json.loads(line)
        best, second = said["classes"]
        assert text == f"{said['image']}: {best['name']} {100 * best['probability']:.1f} %"
        for row, rank, one in zip(rows[2 * i : 2 * i + 2], ("1", "2"), (best, second)):
            assert (row["rank"], row["class"], float(row["probability"])) == (rank, one["name"], one["probability"])


def test_a_folder_means_its_images_and_those_below(folder, predict):
    _, lines, _ = predict(folder, "--json")
    found = [os.path.relpath(json.loads(line)["image"], folder) for line in lines]
    below = ["below/d.png", "below/deep/f.png", "below/e.bmp"]
    assert found == sorted(["a.png", "b.png", "c.jpg", "é ü.png", *below])


def test_what_cannot_be_read_is_skipped_and_said(folder, predict, tmp_path):
    (tmp_path / "cut.png").write_bytes((folder / "a.png").read_bytes()[:200])
    argv = ["nothing.png", folder / "b.png", folder / "notes.txt", tmp_path / "cut.png", folder / "a.png"]
    status, lines, err = predict(*argv, "--batch-size", 1)
    assert status == 1 and [line.split(":")[0] for line in lines] == [str(folder / "b.png"), str(folder / "a.png")]
    assert len(err) == 3 and all(line.startswith("skipped: ") for line in err)
    for name, line in zip(("nothing.png", "notes.txt", "cut.png"), err):
        assert f"{name} cannot be read as an image" in line


def test_each_batch_is_printed_before_the_next_path_is_read(folder, finished, capsys, monkeypatch):
    paths = [str(folder / name) for name in ("a.png", "b.png", "c.jpg")]

    def as_they_come():
        for path in paths:
            yield path + "\n"
            printed.append(capsys.readouterr().out)

    printed = []
    monkeypatch.setattr("sys.stdin", as_they_come())
    assert main([finished, "-", "--batch-size", "1"]) == 0
    # what stdin's reader sees when it is asked for the next path, and at its end
    assert [line.split(":")[0] for line in printed] == paths and all(line.count("\n") == 1 for line in printed)


def test_paths_from_stdin_may_be_folders_and_lines_empty(folder, predict, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{folder / 'b.png'}\n\n{folder / 'below'}\n"))
    _, lines, _ = predict("-", folder / "a.png", "--json")
    names = [os.path.basename(json.loads(line)["image"]) for line in lines]
    assert names == ["b.png", "d.png", "f.png", "e.bmp", "a.png"]


@pytest.mark.parametrize(
    "argv, said",
    [(["--top", "0"], "--top is 0"), (["--batch-size", "0"], "must be at least 1"), (["--csv", "--json"], "")],
)
def test_flags_that_make_no_sense_end_with_status_2(argv, said, capsys):
    with pytest.raises(SystemExit) as left:
        main(["run", "a.png", *argv])
    assert left.value.code == 2 and said in capsys.readouterr().err


def test_a_folder_without_images_and_a_run_that_is_none(predict, finished, tmp_path):
    with pytest.raises(UserError, match="has no images in it or below"):
        predict(tmp_path)
    with pytest.raises(UserError, match="holds no run"):
        main([str(tmp_path), "a.png"])
    shutil.copy(os.path.join(finished, "config.yaml"), tmp_path)
    with pytest.raises(UserError, match="not finished"):
        main([str(tmp_path), "a.png"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(finished):
    with pytest.raises(UserError, match="finds no GPU here"):
        promptbias.load(finished, device="cuda")


def test_a_reader_that_has_seen_enough_is_no_error():
    code = (
        "from promptbias.utils.errors import cli; cli(lambda: [print('line', flush=True) for _ in range(10000)] and 0)"
    )
    writing = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writing.stdout.readline() == b"line\n"
    writing.stdout.close()
    assert writing.stderr.read() == b"" and writing.wait() == 141
    writing.stderr.close()


@pytest.fixture
def prediction(finished, folder):
    paths = [folder / "a.png", folder / "b.png"]
    return promptbias.load(finished).predict(paths), paths


def test_a_prediction_comes_apart_and_ranks_classes(prediction):
    found, _ = prediction
    names, probabilities = found
    assert found.names is names and found.probabilities is probabilities and len(found) == 2
    top = found.top(2)
    for name, row, of_image in zip(names, probabilities, top):
        assert of_image[0][0] == name and [p for _, p in of_image] == sorted(row.tolist())[::-1][:2]
    assert len(found.top(50)[0]) == probabilities.shape[1]


def test_a_notebook_shows_pictures_and_classes(prediction):
    found, paths = prediction
    page = found._repr_html_()
    assert page.count("<img ") == 2 and page.count('src="data:image/png;base64,') == 2 and str(paths[0]) in page
    assert all(f"{name} {100 * p:.1f} %" in page for top in found.top(3) for name, p in top)


def test_a_notebook_shows_what_has_no_pictures_and_is_long(finished):
    model = promptbias.load(finished)
    page = model.predict(torch.zeros(25, 3, 32, 32))._repr_html_()
    assert "<img" not in page and page.count("<tr>") == 20 and "and 5 more" in page


def test_images_are_opened_a_batch_at_a_time(finished, folder):
    model = promptbias.load(finished)
    opened, sizes = [], []
    preprocess = model.preprocess
    model.preprocess = lambda image: opened.append(image) or preprocess(image)
    with model.vision.hooked({"embeddings": lambda value, point: sizes.append((len(value), len(opened)))}):
        model.predict([folder / "a.png"] * 5, batch_size=2)
    assert sizes == [(2, 2), (2, 4), (1, 5)]
