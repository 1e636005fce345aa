"""Masks of the foreground, from small files in the published layouts."""

import numpy as np
import pytest
from miniatures import MINIATURES
from PIL import Image
from scipy.io import savemat

from promptbias.datasets.masks import mask_reader
from promptbias.utils.errors import UserError


@pytest.fixture
def folder_of(tmp_path):
    """folder_of(short name): the folder of a miniature, whose images have 8 x 8 pixels."""

    def build(short):
        MINIATURES[short][1](tmp_path)
        return tmp_path / short

    return build


def box(left, top, right, bottom):
    """Pixels from 1, both ends included."""
    mask = np.zeros((8, 8))
    for row in range(top - 1, bottom):
        for column in range(left - 1, right):
            mask[row, column] = 1
    return mask


def test_pets_have_trimaps(folder_of):
    folder = folder_of("oxford_pets")
    (folder / "annotations" / "trimaps").mkdir()
    trimap = np.full((8, 8), 2, np.uint8)
    trimap[2:6, 2:6], trimap[3:5, 3:5] = 3, 1
    palette = Image.new("P", (8, 8))
    palette.putpalette([255, 0, 0] * 256)
    palette.putdata(trimap.flatten().tolist())
    palette.save(folder / "annotations" / "trimaps" / "Abyssinian_3.png")
    Image.fromarray(trimap).save(folder / "annotations" / "trimaps" / "Abyssinian_4.png")
    read = mask_reader("OxfordPets", str(folder))
    expected = np.select([trimap == 1, trimap == 3], [1.0, 0.5], 0.0)
    for number in (3, 4):  # a palette image, or a grey one
        assert np.array_equal(read(str(folder / "images" / f"Abyssinian_{number}.jpg")), expected)


def test_flowers_are_what_is_not_blue(folder_of):
    folder = folder_of("oxford_flowers")
    (folder / "segmim").mkdir()
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:] = 0, 0, 254
    picture[:, :4] = 200, 180, 30
    Image.fromarray(picture).save(folder / "segmim" / "segmim_00002.jpg", quality=95, subsampling=0)
    mask = mask_reader("OxfordFlowers", str(folder))(str(folder / "jpg" / "image_00002.jpg"))
    assert mask[:, :3].all() and not mask[:, 5:].any()


def test_aircraft_have_boxes(folder_of):
    folder = folder_of("fgvc_aircraft")
    (folder / "images_box.txt").write_text("1000000 3 2 7 5\n1000001 1 1 8 8\n")
    read = mask_reader("FGVCAircraft", str(folder))
    assert np.array_equal(read(str(folder / "images" / "1000000.jpg")), box(3, 2, 7, 5))
    assert read(str(folder / "images" / "1000001.jpg")).all()
    with pytest.raises(UserError, match="have none for"):
        read(str(folder / "images" / "1000002.jpg"))


def test_cars_have_boxes_that_differ_between_training_and_test(folder_of):
    folder = folder_of("stanford_cars")
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    for path, left in (("devkit/cars_train_annos.mat", 2), ("cars_test_annos_withlabels.mat", 5)):
        rows = np.zeros((1, 1), [(field, object) for field in fields])
        rows[0, 0] = (left, 3, 6, 8, 1, "00001.jpg")
        savemat(folder / path, {"annotations": rows})
    read = mask_reader("StanfordCars", str(folder))
    assert np.array_equal(read(str(folder / "cars_train" / "00001.jpg")), box(2, 3, 6, 8))
    assert np.array_equal(read(str(folder / "cars_test" / "00001.jpg")), box(5, 3, 6, 8))


@pytest.mark.parametrize("box", ["7 2 3 5", "3 5 7 2", "9 1 12 8", "-5 1 0 8"])
def test_a_box_without_a_pixel_is_refused(folder_of, box):
    folder = folder_of("fgvc_aircraft")
    (folder / "images_box.txt").write_text(f"1000000 {box}\n")
    image = str(folder / "images" / "1000000.jpg")
    with pytest.raises(UserError, match="holds none of its 8 x 8 pixels; fetch the boxes again"):
        mask_reader("FGVCAircraft", str(folder))(image)


@pytest.mark.parametrize("value", [0, 4, 255])
def test_a_picture_is_no_trimap(folder_of, value):
    folder = folder_of("oxford_pets")
    (folder / "annotations" / "trimaps").mkdir()
    trimap = np.full((8, 8), 2, np.uint8)
    trimap[0, 0] = value
    Image.fromarray(trimap).save(folder / "annotations" / "trimaps" / "Abyssinian_3.png")
    with pytest.raises(UserError, match=f"has pixels of {value}, but trimaps have 1, 2 and 3"):
        mask_reader("OxfordPets", str(folder))(str(folder / "images" / "Abyssinian_3.jpg"))


def test_a_mask_of_a_digit_shows_one(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part / "zero").mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / part / "zero" / "0.png")
    with pytest.raises(UserError, match="shows no digit; remove the dataset's folder"):
        mask_reader("ClutteredDigits", str(tmp_path))(str(tmp_path / "images" / "zero" / "0.png"))


def test_a_mask_of_too_many_pixels_is_one_sentence(folder_of, monkeypatch):
    folder = folder_of("oxford_flowers")
    (folder / "segmim").mkdir()
    Image.new("RGB", (40, 40)).save(folder / "segmim" / "segmim_00001.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(UserError, match="cannot be read .* exceeds limit"):
        mask_reader("OxfordFlowers", str(folder))(str(folder / "jpg" / "image_00001.jpg"))


def test_what_is_missing_or_wrong_is_one_sentence(folder_of):
    with pytest.raises(UserError, match="EuroSAT has no masks of the foreground; these have: "):
        mask_reader("EuroSAT", "")
    aircraft = folder_of("fgvc_aircraft")
    with pytest.raises(UserError, match="images_box.txt does not exist; run .* fgvc_aircraft --masks --root "):
        mask_reader("FGVCAircraft", str(aircraft))
    (aircraft / "images_box.txt").write_text("1000000 3 2\n")
    with pytest.raises(UserError, match="not as published"):
        mask_reader("FGVCAircraft", str(aircraft))
    flowers = folder_of("oxford_flowers")
    read, image = mask_reader("OxfordFlowers", str(flowers)), str(flowers / "jpg" / "image_00001.jpg")
    with pytest.raises(UserError, match="segmim_00001.jpg does not exist; run .* --masks"):
        read(image)
    (flowers / "segmim").mkdir()
    (flowers / "segmim" / "segmim_00001.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="cannot be read"):
        read(image)
    Image.new("RGB", (9, 8)).save(flowers / "segmim" / "segmim_00001.jpg")
    with pytest.raises(UserError, match="has 9 x 8 pixels, not 8 x 8"):
        read(image)
