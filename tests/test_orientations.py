"""Every command with photos that are stored lying or mirrored, with gray ones and with 16-bit ones."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from otherview.data.image import RGB
from otherview.data.picture import picture_of
from otherview.data.ranges import with_ranges
from otherview.data.spec import open_source

T = Image.Transpose
STORED = {
    1: None, 2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_90, 7: T.TRANSVERSE,
    8: T.ROTATE_270,
}  # fmt: skip
"""How an upright photo is stored for an EXIF orientation."""
KINDS = "lying", "gray", "deep"
HEIGHT, WIDTH = 48, 64


def save(kind: str, pixels: np.ndarray, path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "deep":
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 16).save(path)
        return
    if kind == "gray":
        Image.fromarray(pixels[..., 0]).save(path)
        return
    exif = Image.Exif()
    exif[0x0112] = number
    upright = Image.fromarray(pixels)
    stored = upright if STORED[number] is None else upright.transpose(STORED[number])
    stored.save(path, quality=95, exif=exif.tobytes())


@pytest.fixture(params=KINDS)
def photos(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """Two classes in folders, a square in each photo with its mask, its box and its outline."""
    kind, ending = request.param, "jpg" if request.param == "lying" else "png"
    images, notes = [], []
    for number in range(16):
        rng = np.random.default_rng(number)
        pixels = cv2.resize(rng.integers(60, 120, (6, 8, 3), np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        pixels[10:30, 5:30] = 240 if number % 2 else 5
        save(kind, pixels, tmp_path / f"classes/{'ab'[number % 2]}/{number:02}.{ending}", number % 8 + 1)
        save(kind, pixels, tmp_path / f"images/{number:02}.{ending}", number % 8 + 1)
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[10:30, 5:30] = 1
        (tmp_path / "labels").mkdir(exist_ok=True)
        Image.fromarray(labels).save(tmp_path / f"labels/{number:02}.png")
        images.append({"id": number + 1, "file_name": f"{number:02}.{ending}", "width": WIDTH, "height": HEIGHT})
        notes.append({
            "id": number + 1, "image_id": number + 1, "category_id": 1, "bbox": [5, 10, 25, 20], "area": 500, "iscrowd": 0,
            "segmentation": [[5, 10, 30, 10, 30, 30, 5, 30]],
        })  # fmt: skip
    about = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "square"}]}
    (tmp_path / "coco.json").write_text(json.dumps(about))
    return kind, tmp_path


def test_pixels_are_upright_and_in_memory_of_their_own(photos: tuple[str, Path]) -> None:
    _, folder = photos
    source = open_source(str(folder / "images"))
    for index in range(16):
        pixels = picture_of(source, index, with_ranges(source, RGB)).decode()
        assert pixels.shape == (HEIGHT, WIDTH, 3) and pixels.flags.c_contiguous
        white = np.iinfo(pixels.dtype).max
        bright = pixels[12:28, 7:28].mean() / white
        assert bright > 0.85 if index % 2 else bright < 0.08


@pytest.mark.slow
def test_every_command_works_with_them(
    photos: tuple[str, Path], otherview: Callable, result_of: Callable[..., dict]
) -> None:
    _, folder = photos
    classes, pixels = folder / "classes", f"pixels:{folder}/images@{folder}/labels"
    coco = f"coco:{folder}/coco.json@{folder}/images"
    demo = ("--weights", "reference:demo", "--threads", 1)
    both = ("--allow-shared", "--workers", 0)
    out = folder.parent / f"{folder.name}-out"
    for words in (
        ("doctor", "--data", classes, "--out", out / "doctor", "--workers", 0, "--threads", 1),
        ("pretrain", "--recipe", "siamese_im_cpu_adamw", "--data", classes, "--steps", 2, "--batch", 8, "--out", out / "run",
         "--threads", 1),
        ("embed", *demo, "--data", classes, "--out", out / "a.npy", "--fit", "pad"),
        ("evaluate", "knn", *demo, "--train", classes, "--test", classes, "--k", 3, *both),
        ("evaluate", "few-shot", *demo, "--train", classes, "--test", classes, "--shots", 2, *both),
        ("evaluate", "linear-segment", *demo, "--train", pixels, "--test", pixels, *both),
        ("evaluate", "retrieval", *demo, "--test", classes, "--workers", 0),
        ("evaluate", "segment", "--recipe", "segment_cpu", *demo, "--train", pixels, "--test", pixels, *both, "--steps", 2,
         "--no-control", "--out", out / "segment"),
        ("evaluate", "detect", "--recipe", "detect_cpu", *demo, "--train", coco, "--test", coco, *both, "--steps", 2,
         "--no-control", "--out", out / "detect"),
        ("show", "attention", "--weights", "reference:demo", "--data", classes, "--out", out / "attention.png"),
        ("show", "views", "--recipe", "siamese_im_cpu_adamw", "--data", classes, "--out", out / "views.png"),
    ):  # fmt: skip
        done = otherview(*words)
        assert done.returncode == 0, (words, done.stderr[-600:])
        assert "negative strides" not in done.stderr and "not writable" not in done.stderr
    learned = ("--train", classes, "--test", classes, *both, "--epochs", 1, "--no-control", "--out", out / "f")
    assert result_of("evaluate", "finetune", *demo, *learned, "--fit", "squash")["fit"] == "squash"
