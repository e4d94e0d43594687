"""Few labels: scikit-learn's optimum, the draws, the published resize, and the verb."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from otherview.data.image import Preprocessing
from otherview.data.picture import Picture
from otherview.errors import WrongRequest
from otherview.evaluation.few_shot import STRENGTH, draw_listed, draw_shares, draw_shots, fit, objective, to_unit
from otherview.evaluation.whole_images import prepared

LABELS = np.repeat(np.arange(5), (40, 40, 7, 100, 1))


def clouds(n: int, width: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    middles = torch.randn(classes, width, generator=rng)
    return to_unit(middles[labels] + 2 * torch.randn(n, width, generator=rng)), labels


def test_the_fit_reaches_scikit_learns_objective() -> None:
    from sklearn.linear_model import LogisticRegression

    features, labels = clouds(2000, 768, 100)
    theirs = LogisticRegression(C=10, fit_intercept=False, tol=1e-8, max_iter=2000).fit(
        features.numpy(), labels.numpy()
    )
    their_weight = torch.from_numpy(theirs.coef_.T).float()
    ours, best = (
        float(objective(weight.double(), features.double(), labels, strength=STRENGTH / 2000))
        for weight in (fit(features, labels), their_weight)
    )
    assert ours == pytest.approx(best, rel=1e-4)
    assert best < 0.9 * np.log(100)  # something was learned


def test_unit_features_have_no_mean_and_length_one() -> None:
    unit = to_unit(torch.randn(9, 30) * 5 + 3)
    torch.testing.assert_close(unit.mean(dim=1), torch.zeros(9), atol=1e-6, rtol=0)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(9))


def test_draws_take_of_every_class_and_are_repeatable() -> None:
    share = draw_shares(LABELS, 0.1, number=0, seed=3)
    assert np.bincount(LABELS[share.chosen]).tolist() == [4, 4, 1, 10, 1]
    assert len(np.unique(share.chosen)) == len(share.chosen) == 20
    again, other = (draw_shares(LABELS, 0.1, number=number, seed=3).chosen for number in (0, 1))
    assert np.array_equal(share.chosen, again) and not np.array_equal(share.chosen, other)
    shots = draw_shots(LABELS[:80], 5, number=0, seed=0)
    assert np.bincount(LABELS[shots.chosen]).tolist() == [5, 5]


def test_wrong_draws_say_what_to_do() -> None:
    with pytest.raises(WrongRequest, match="class 4 has \\(1\\): use --shots 1 or fewer"):
        draw_shots(LABELS, 5, number=0, seed=0)
    with pytest.raises(WrongRequest, match="--shares 2 is no share"):
        draw_shares(LABELS, 2.0, number=0, seed=0)
    with pytest.raises(WrongRequest, match=r"1 of 2 names are not in --train \('c.png' first\)"):
        draw_listed(["x/a.png", "x/b.png"], ["a.png", "c.png"], name="list.txt")
    assert draw_listed(["x/a.png", "x/b.png"], ["y/b.png"], name="list.txt").chosen.tolist() == [1]


@pytest.mark.parametrize("shape", [(300, 500), (256, 256), (500, 257)])
@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
def test_the_published_resize_is_torchvisions_on_pil_images(shape: tuple[int, int], resize: str) -> None:
    from torchvision.transforms import v2

    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (shape[0] // 9, shape[1] // 9, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    kind = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}[resize]
    theirs = np.asarray(v2.Compose([v2.Resize(256, interpolation=kind), v2.CenterCrop(224)])(image)).transpose(2, 0, 1)
    preprocessing = Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3, crop_pct=224 / 256, interpolation=resize)  # pyright: ignore[reportArgumentType]
    ours = prepared(Picture("it", np.asarray(image)), preprocessing)
    assert ours.shape == theirs.shape
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.max() <= {"bilinear": 1, "bicubic": 2}[resize]  # levels, on noise: rounding between the passes
    assert difference.mean() < 0.1


@pytest.mark.slow
def test_the_verb_learns_from_few_and_says_so(tmp_path: Path, result_of: Callable, otherview: Callable) -> None:
    words = [
        "evaluate",
        "few-shot",
        "--weights",
        "random:siamese_im_cpu_adamw",
        "--train",
        "shapes:160",
        "--test",
        "shapes:80:test",
    ]
    result = result_of(*words, "--shares", "0.1", "--shots", "1", "--crop-pct", "1", "--draws", "2", "--out", tmp_path)
    names = [score["name"] for score in result["scores"]]
    told = "(draws 2, crop pct 1)"  # what is otherwise than by default stands in the name
    given = [(kind, draw) for kind in ("mean", "cls") for draw in ("10 %", "1 shots")]
    assert names == [f"few_shot_encoder_{kind} ({draw}) {told}" for kind, draw in given]
    control = {score["name"]: score["value"] for score in result["control"]}
    assert len(control) == 6 and all(score["spread"] > 0 for score in result["scores"])
    for score in result["scores"]:  # the encoder is its own untrained control
        assert score["value"] == control[score["name"].replace("encoder", "untrained")]
    assert json.loads((tmp_path / "results.jsonl").read_text())["draws"] == 2
    refused = otherview(*words, "--shots", "50")
    assert refused.returncode == 2 and "use --shots" in refused.stderr


@pytest.mark.slow
def test_a_fit_of_imagenets_one_per_cent_takes_minutes() -> None:
    features, labels = clouds(12_811, 768, 1000)
    began = time.monotonic()
    fit(features, labels)
    assert time.monotonic() - began < 180
