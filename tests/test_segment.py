"""The linear head on patch tokens: labels of patches, mIoU against a plain loop, and the verb."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from otherview.data.image import Preprocessing
from otherview.data.objects import pixels_named
from otherview.data.picture import Picture
from otherview.data.settings import Fit
from otherview.data.spec import open_source
from otherview.evaluation.linear_segment import (
    IGNORED,
    Segmented,
    fit_head,
    patch_labels,
    segment,
)
from otherview.evaluation.whole_images import prepared, prepared_labels
from otherview.geometry import PatchGrid


def test_the_majority_names_a_patch() -> None:
    labels = torch.randint(0, 3, (4, 12, 8), generator=torch.Generator().manual_seed(0))
    found = patch_labels(labels, PatchGrid(3, 2))
    for image in range(4):
        for row in range(3):
            for column in range(2):
                pixels = labels[image, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4].flatten().tolist()
                assert found[image, row * 2 + column] == max((0, 1, 2), key=lambda c: (pixels.count(c), -c))


def test_miou_is_a_loop_s_written_plainly() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (5, 30)), rng.integers(0, 5, (5, 30))  # class 4 is never true
    confusion = torch.zeros(5, 5, 5)
    for image in range(5):
        for t, p in zip(truth[image], predicted[image], strict=True):
            confusion[image, t, p] += 1
    overlaps = []
    for c in range(4):
        both = ((truth == c) & (predicted == c)).sum()
        overlaps.append(both / ((truth == c) | (predicted == c)).sum())
    result = Segmented(confusion.double())
    assert result.miou == pytest.approx(float(np.mean(overlaps)))
    assert result.accuracy == pytest.approx(float((truth == predicted).mean()))
    assert 0 < result.scores("it")[0].spread < 0.1


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (70, 50), (66, 190)])
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_labels_are_cut_where_the_pixels_are(shape: tuple[int, int], fit: Fit) -> None:
    """A picture of its own labels: resized, it agrees with the resized labels better than when either is shifted."""
    block = max(shape) // 8
    coarse = np.random.default_rng(0).integers(0, 12, [side // block + 1 for side in shape])
    labels = coarse.repeat(block, 0).repeat(block, 1)[: shape[0], : shape[1]].astype(np.uint8)
    picture = Picture("labels", (labels * 20)[..., None].repeat(3, axis=2))
    preprocessing = Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3, fit=fit)
    pixels = torch.from_numpy(prepared(picture, preprocessing))[0].float() / 20
    cut = prepared_labels(labels, preprocessing).float()
    if fit == "pad" and shape[0] != shape[1]:
        assert (pixels[cut == IGNORED] == 128 / 20).all() and (cut == IGNORED).any()
        cut[cut == IGNORED] = 128 / 20
    apart = {
        shift: float((pixels - cut.roll(shift, (0, 1)))[2:-2, 2:-2].abs().mean())
        for shift in [(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)]
    }
    # a stretched picture's edges are blurred more
    assert apart.pop((0, 0)) < (0.75 if fit == "squash" else 0.6) * min(apart.values())


def test_tokens_that_know_the_labels_segment_and_noise_does_not() -> None:
    rng = torch.Generator().manual_seed(0)
    grid = PatchGrid(4, 4)
    coarse = torch.randint(0, 3, (80, 4, 4), generator=rng)
    labels = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels[:, 0] = IGNORED
    noise = torch.randn(80, 16, 6, generator=rng)
    knowing = torch.cat([F.one_hot(coarse.flatten(1), 3).float(), noise], dim=2)
    results = []
    for tokens in (knowing, noise):
        head = fit_head(tokens[:60], labels[:60], grid, strength=1e-3)
        results.append(segment(head, tokens[60:], labels[60:], grid=grid))
    assert results[0].miou > 0.6 > 0.4 > results[1].miou
    assert results[0].confusion.sum() == 20 * 15 * 16


def test_the_verb_beside_its_controls(tmp_path: Path, result_of: Callable, otherview: Callable) -> None:
    words = ("--weights", "random:siamese_im_cpu_adamw", "--test", "shapes:60:test")
    found = result_of("evaluate", "linear-segment", *words, "--train", "shapes:120")
    scores = {score["name"]: score for score in [*found["scores"], *found["control"]]}
    assert scores["linear_segment_encoder_miou"]["value"] == pytest.approx(
        scores["linear_segment_untrained_miou"]["value"]
    )
    assert scores["linear_segment_encoder_accuracy"]["value"] > scores["linear_segment_encoder_miou"]["value"]
    assert scores["linear_segment_pixels_miou"]["n"] == 60 and scores["linear_segment_pixels_miou"]["spread"] > 0
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    done = otherview("evaluate", "linear-segment", *words, "--train", tmp_path)
    assert done.returncode == 2 and "has no pixel labels" in done.stderr


def test_joined_sources_keep_their_pixel_labels() -> None:
    both = open_source("shapes:3,shapes:2:test")
    assert (pixels_named(both, 4) == open_source("shapes:2:test").pixel_labels(1)).all()
