"""Annotations as they come: every fault is named or handled by its rule, none ends an epoch."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from otherview.data.objects import fault, objects_of, placed
from otherview.data.picture import picture_of
from otherview.data.spec import open_source
from otherview.dense.samples import PADDING, JitteredObjects, boxes_around, fitted

KNOWN = {1: 0, 5: 1}
SQUARE = [[2, 2, 8, 2, 8, 6, 2, 6]]


def annotation(**changes: object) -> dict:
    return {"id": 9, "category_id": 5, "bbox": [2, 2, 6, 4], "segmentation": SQUARE, **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"bbox": [-3, 2, 6, 40]}, None),  # reaches out: cut
        ({"category_id": 3}, "category 3 is unknown"),
        ({"category_id": None}, "category None is unknown"),
        ({"bbox": [2, 2, 0, 4]}, "no part within"),
        ({"bbox": [2, 2, 5, -1]}, "no part within"),
        ({"bbox": [50, 2, 6, 4]}, "no part within the 12×10 pixels"),
        ({"bbox": [2, 2, 6]}, "no list of four numbers"),
        ({"bbox": [2, 2, float("nan"), 4]}, "no list of four numbers"),
        ({"bbox": None}, "no list of four numbers"),
        ({"segmentation": {"size": [99, 12], "counts": [0, 4]}}, "its mask is of [99, 12] pixels"),
        ({"segmentation": {"size": [10, 12], "counts": [100, 4]}}, "its mask has runs over 104 pixels, not 120"),
        ({"segmentation": {"size": [10, 12]}}, "no counts"),
        ({"segmentation": [[1, 2, 3, 4]]}, "no polygon"),
        ({"segmentation": "x"}, "no polygon"),
        ({"segmentation": []}, None),  # the box is the mask
    ],
)
def test_every_fault_is_named(changes: dict, said: str | None) -> None:
    found = fault(annotation(**changes), size=(10, 12), known=KNOWN)
    assert (found is None) if said is None else (said in str(found))


def test_boxes_are_cut_crowds_left_out_masks_drawn() -> None:
    runs = {"size": [10, 12], "counts": [30, 5, 85]}  # column by column: five pixels of the fourth
    rows = [
        annotation(bbox=[-3, 2, 6, 40]), annotation(iscrowd=1), annotation(category_id=1, segmentation=runs),
        annotation(segmentation=None),
    ]  # fmt: skip
    found = objects_of(rows, size=(10, 12), known=KNOWN)
    assert found.boxes.tolist() == [[0, 2, 3, 10], [2, 2, 8, 6], [2, 2, 8, 6]]
    assert found.classes.tolist() == [1, 0, 1]
    expected = np.zeros((3, 10, 12), np.uint8)
    expected[0, 2:6, 2:8], expected[1, :5, 3], expected[2, 2:6, 2:8] = 1, 1, 1
    assert (found.masks == expected).all()


def test_an_image_without_objects_has_empty_ones() -> None:
    found = objects_of([], size=(10, 12), known=KNOWN)
    assert found.boxes.shape == (0, 4) and found.masks.shape == (0, 10, 12)
    assert boxes_around(found.masks).shape == (0, 4)


@pytest.mark.parametrize("seed", range(12))
def test_jitter_moves_boxes_and_masks_with_the_pixels(seed: int) -> None:
    """An image whose bright pixels are its object: after any jitter the mask is where the bright pixels are."""
    source = open_source("shapes:40@64")
    view = JitteredObjects(64, (0.4, 2.5), 0.5)(picture_of(source, seed), Random(seed))
    shown = view.pixels[:, : view.size[0], : view.size[1]].float().mean(dim=0) > 150
    masks = view.masks.values.numpy().any(axis=0)[: view.size[0], : view.size[1]]
    assert (shown.numpy() == masks).mean() > 0.97
    for box, mask in zip(view.boxes.values.numpy(), view.masks.values.numpy(), strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert (view.pixels[:, view.size[0] :] == PADDING).all() and (view.pixels[:, :, view.size[1] :] == PADDING).all()


def test_jitter_is_a_function_of_its_generator() -> None:
    picture = picture_of(open_source("shapes:4@64"), 3)
    one, two, other = (JitteredObjects(64, (0.5, 2.0), 0.5)(picture, Random(seed)) for seed in (1, 1, 2))
    assert (one.pixels == two.pixels).all() and not (one.pixels == other.pixels).all()


def test_a_fitted_image_keeps_its_shape() -> None:
    square = fitted(picture_of(open_source("shapes:1@48"), 0), 96)
    assert square.size == (96, 96) and square.scale == (2.0, 2.0)


def images(folder: Path) -> Path:
    folder.mkdir()
    for name, size in (("good.png", (64, 48)), ("blank.png", (64, 48)), ("small.png", (9, 9))):
        Image.new("RGB", size, (200, 30, 30)).save(folder / name)
    return folder


@pytest.mark.slow
def test_no_fault_of_a_file_ends_a_run(otherview: Callable, tmp_path: Path) -> None:
    """A missing image, one of another size than stated, an empty one, and each fault of an annotation: named, run goes on."""
    folder = images(tmp_path / "pics")
    names = ["good.png", "blank.png", "small.png", "missing.png"]
    content = {
        "images": [
            {"id": number, "file_name": name, "width": 64, "height": 48} for number, name in enumerate(names, start=1)
        ],
        "categories": [{"id": 5, "name": "thing"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 5, "bbox": [4, 4, 20, 20], "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 5, "bbox": [4, 4, 0, 20], "iscrowd": 0},
            {"id": 3, "image_id": 1, "category_id": 77, "bbox": [4, 4, 9, 9], "iscrowd": 0},
            {"id": 4, "image_id": 1, "category_id": 5, "bbox": [400, 4, 9, 9], "iscrowd": 0},
            {"id": 5, "image_id": 3, "category_id": 5, "bbox": [4, 4, 20, 20], "iscrowd": 0},
            {"id": 6, "image_id": 4, "category_id": 5, "bbox": [4, 4, 20, 20], "iscrowd": 0},
            {"id": 7, "image_id": 1, "category_id": 5, "bbox": [4, 4, 20, 20],
             "segmentation": {"size": [5, 5], "counts": [0, 25]}},
        ],
    }  # fmt: skip
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content))
    spec = f"coco:{file}@{folder}"
    assert placed(open_source(spec), 0).boxes.tolist() == [[4, 4, 24, 24]]
    words = (
        "evaluate", "detect", "--recipe", "detect_cpu", "--weights", "random:siamese_im_cpu_adamw", "--train", spec,
        "--test", spec, "--out", "o", "--no-control", "--pictures", "1", "--batch", "2", "--training.max-broken", "1",
        "--json",
    )  # fmt: skip
    refused = otherview(*words, OTHERVIEW_SHORTEN="1")
    assert refused.returncode == 2 and "good.png is in both the training and the test images" in refused.stderr
    done = otherview(*words, "--allow-shared", OTHERVIEW_SHORTEN="1")
    assert done.returncode == 0, done.stderr
    for number in (2, 3, 4, 7):
        assert done.stderr.count(f"annotation {number} of good.png is left out") == 2  # of --train and of --test
    assert "missing.png" in done.stderr and "small.png" in done.stderr
    result = json.loads(done.stdout)
    assert result["scores"][0]["n"] == 2  # the two images that can be judged
    assert (tmp_path / "o/detect/predictions.json").exists() and (tmp_path / "o/detect/predictions.png").exists()
