"""The drawn images: deterministic, disjoint, truthful, and the class cannot be read from what is not the outline."""

import numpy as np
import pytest
import torch

from otherview.data.picture import picture_of
from otherview.data.shapes import CLASSES, Shapes
from otherview.data.spec import open_source
from otherview.errors import WrongRequest
from otherview.evaluation.linear import fit_logistic

CHANCE = 1 / len(CLASSES)


def test_the_same_image_every_time_and_another_in_every_split() -> None:
    train, again = Shapes(50), Shapes(5000)
    for index in range(20):
        assert train.read(index) == again.read(index)
    splits = {Shapes(5, split).read(3) for split in ("train", "val", "test")}
    assert len(splits) == 3


def test_no_image_stands_in_two_splits() -> None:
    seen = [Shapes(400, split).read(index) for split in ("train", "val", "test") for index in range(400)]
    assert len(set(seen)) == len(seen)


def test_the_file_holds_the_drawing() -> None:
    source = Shapes(9, "val", 40)
    assert (picture_of(source, 5).decode() == source.drawing(5).pixels).all()


def test_boxes_masks_and_pixel_labels_agree() -> None:
    for index in range(100):
        drawing = Shapes(100, size=48).drawing(index)
        assert drawing.label == Shapes(100, size=48).label(index)
        assert 3 <= len(drawing.boxes) == len(drawing.masks) <= 7
        assert drawing.masks.sum(axis=0).max() <= 1  # visible parts do not overlap
        for box, mask in zip(drawing.boxes, drawing.masks, strict=True):
            left, top, right, bottom = box.astype(int)
            assert mask[top:bottom, left:right].sum() == mask.sum() > 0
            assert mask[top, left:right].any() and mask[bottom - 1, left:right].any()
            assert mask[top:bottom, left].any() and mask[top:bottom, right - 1].any()
        assert ((drawing.pixel_labels == drawing.label + 1) == drawing.masks.any(axis=0)).all()
        changed = (drawing.pixels.astype(int) != drawing.background).any(axis=2)
        assert changed[drawing.masks.any(axis=0)].mean() > 0.95  # objects differ from the ground under them


def test_outlines_have_the_same_area() -> None:
    """Mean visible area per class, over many turns and sizes, agrees within sampling error."""
    areas = {name: [] for name in range(len(CLASSES))}
    shapes = Shapes(1500)
    for index in range(1500):
        drawing = shapes.drawing(index)
        areas[drawing.label] += drawing.masks.sum(axis=(1, 2)).tolist()
    means = np.array([np.mean(values) for values in areas.values()])
    assert means.std() / means.mean() < 0.06, dict(zip(CLASSES, means.round(1), strict=True))


def probe(features: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy on the second half of a logistic probe fitted to the first."""
    x, y = torch.from_numpy(features).float(), torch.from_numpy(labels)
    half = len(x) // 2
    predicted = fit_logistic(x[:half], y[:half], strength=1e-2).predict(x[half:])
    return float((predicted == y[half:]).double().mean())


@pytest.mark.slow
def test_class_is_not_readable_from_colour_position_or_background() -> None:
    count = 6000
    shapes = Shapes(count)
    drawings = [shapes.drawing(index) for index in range(count)]
    labels = np.array([drawing.label for drawing in drawings])

    def histogram(image: np.ndarray) -> np.ndarray:
        return np.concatenate([np.histogram(image[..., c], bins=16, range=(0, 256))[0] for c in range(3)])

    def places(boxes: np.ndarray) -> np.ndarray:
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        return np.concatenate([centres[0], centres.mean(axis=0), centres.std(axis=0), [len(boxes)]])

    readings = {
        "colour histogram": np.stack([histogram(drawing.pixels) for drawing in drawings]),
        "position": np.stack([places(drawing.boxes) for drawing in drawings]),
        "background": np.stack([drawing.background[::4, ::4].reshape(-1) for drawing in drawings]),
        "background histogram": np.stack([histogram(drawing.background) for drawing in drawings]),
    }
    for name, features in readings.items():
        assert abs(probe(features, labels) - CHANCE) < 0.05, name


def test_the_probe_would_find_a_leak() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(len(CLASSES), size=2000)
    leak = rng.normal(size=(2000, 5))
    leak[:, 0] += labels == 3
    leak[:, 1] += 2 * (labels == 1)
    assert probe(leak, labels) > CHANCE + 0.05


@pytest.mark.parametrize("spec", ["shapes:", "shapes:0", "shapes:5:nope", "shapes:5@8", "shapes:x"])
def test_wrong_specs(spec: str) -> None:
    with pytest.raises(WrongRequest, match="shapes:N"):
        open_source(spec)


def test_spec() -> None:
    source = open_source("shapes:7:val@64")
    assert (len(source), picture_of(source, 6).decode().shape) == (7, (64, 64, 3))
