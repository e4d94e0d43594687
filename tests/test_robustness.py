"""Corruptions that repeat and grow, mCE by hand, timm's subsets, and the verb on a classifier."""

import hashlib
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from otherview.data.image import Preprocessing
from otherview.data.picture import picture_of
from otherview.data.spec import open_source
from otherview.errors import WrongRequest
from otherview.evaluate import robustness
from otherview.evaluation.corruptions import (
    ALEXNET,
    CORRUPTIONS,
    Corrupted,
    corruption_error,
    places_of,
    scores_of,
    subset_classes,
)
from otherview.evaluation.features import extract_all
from otherview.evaluation.whole_images import prepared

LOOK = Preprocessing((32, 32), (0.0,) * 3, (1 / 255,) * 3)


def changed(name: str, *, workers: int, seed: int = 0) -> torch.Tensor:
    alter = Corrupted(name, 3, seed)
    return extract_all({"": None}, open_source("shapes:12"), LOOK, workers=workers, alter=alter)[""].tokens["pixels"]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_a_function_of_seed_and_image(name: str) -> None:
    source = open_source("shapes:3")
    images = [prepared(picture_of(source, index), LOOK) for index in range(3)]
    one, two = ([Corrupted(name, 4, 0)(image, index) for index, image in enumerate(images)] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert all(a.shape == (3, 32, 32) and a.dtype == np.uint8 for a in one)
    assert any(not np.array_equal(a, image) for a, image in zip(one, images, strict=True))


@pytest.mark.parametrize("name", ["gaussian_noise", "impulse_noise", "glass_blur", "frost"])
def test_workers_do_not_matter_and_seeds_do(name: str) -> None:
    assert torch.equal(changed(name, workers=0), changed(name, workers=2))
    assert not torch.equal(changed(name, workers=0), changed(name, workers=0, seed=1))


@pytest.mark.slow
def test_severity_lowers_psnr_on_real_images(real_data: Path) -> None:
    source, preprocessing = open_source(str(real_data / "photos")), Preprocessing((224, 224), (0.0,) * 3, (1.0,) * 3)
    images = [prepared(picture_of(source, index), preprocessing) for index in range(24)]

    def psnr(name: str, severity: int) -> float:
        corrupt = Corrupted(name, severity, 0)
        errors = [np.mean((corrupt(image, index).astype(float) - image) ** 2) for index, image in enumerate(images)]
        return float(np.mean([10 * np.log10(255**2 / max(error, 1e-9)) for error in errors]))

    for name in CORRUPTIONS:
        # glass_blur's radius and repetitions take turns in growing, the others have layers of their own
        some = (1, 5) if name in ("elastic_transform", "snow", "frost", "glass_blur") else (1, 2, 3, 4, 5)
        found = [psnr(name, severity) for severity in some]
        assert all(after < before for before, after in pairwise(found)), (name, found)


def test_mce_is_worked_by_hand() -> None:
    right = {"fog": torch.tensor([[1, 0], [1, 1]]).bool(), "snow": torch.tensor([[0, 0], [1, 0]]).bool()}
    assert corruption_error(right, {"fog": 0.5, "snow": 1.0}) == pytest.approx((0.25 / 0.5 + 0.75 / 1.0) / 2)
    wrong = {name: torch.zeros(4, 5).bool() for name in CORRUPTIONS}
    assert corruption_error(wrong, ALEXNET) == pytest.approx(np.mean([1 / error for error in ALEXNET.values()]))
    assert len(ALEXNET) == 15 and sum(ALEXNET.values()) == pytest.approx(11.834896)


def test_timms_subsets_are_the_published_ones() -> None:
    a, r = subset_classes("imagenet-a"), subset_classes("imagenet-r")
    assert len(set(a)) == len(set(r)) == 200 and len(set(a) & set(r)) == 86
    digests = [hashlib.sha256(" ".join(names).encode()).hexdigest()[:12] for names in (a, r)]
    assert digests == DIGESTS
    assert places_of(["n2", "n0"], ["n0", "n1", "n2"]) == [2, 0]
    with pytest.raises(WrongRequest, match=r"lacks 1 of the subset's 2 classes \(n9 first\)"):
        places_of(["n0", "n9"], ["n0", "n1"])


DIGESTS = ["ff8c384504d3", "354baa0a4656"]


def test_errors_are_of_images_not_of_answers() -> None:
    generator = torch.Generator().manual_seed(0)
    right = {name: torch.rand(1000, 5, generator=generator) < 0.5 for name in CORRUPTIONS}
    *single, mean = scores_of("encoder", right)
    assert single[0].spread == pytest.approx(0.5 / math.sqrt(5 * 1000), rel=0.1)
    assert mean.spread == pytest.approx(0.5 / math.sqrt(75 * 1000), rel=0.1)  # independent answers of every image
    alike = scores_of("encoder", dict.fromkeys(CORRUPTIONS, right["fog"]))
    assert alike[-1].spread == pytest.approx(alike[0].spread)
    assert scores_of("encoder", {"fog": right["fog"][:1]})[0].spread == 0


@pytest.mark.slow
def test_the_verb_judges_a_classifier_and_its_control(tmp_path: Path, result_of: Callable) -> None:
    result_of(
        "evaluate", "finetune", "--weights", "random:siamese_im_cpu_adamw", "--train", "shapes:200", "--test", "shapes:40:test",
        "--epochs", "1", "--augment", "none", "--crop-pct", "1", "--out", tmp_path,
    )  # fmt: skip
    own = tmp_path / "finetune/classifier.safetensors"
    result = result_of(
        "evaluate", "robustness", "--weights", tmp_path, "--test", "shapes:60:test", "--crop-pct", "1", "--corruptions", "fog",
        "contrast", "--severities", "1", "5", "--baseline", own,
    )  # fmt: skip
    found = [score["name"] for score in result["scores"]]
    assert all(name.endswith(" (crop pct 1)") for name in found)
    names = [name.removeprefix("robustness_encoder_").removesuffix(" (crop pct 1)") for name in found]
    assert names == ["clean", "fog", "contrast", "corrupted", "mce"]
    values = {name: score["value"] for name, score in zip(names, result["scores"], strict=True)}
    assert values["mce"] == pytest.approx(1.0) and not result["comparable_with_published"]  # relative to itself
    assert values["corrupted"] == pytest.approx((values["fog"] + values["contrast"]) / 2)
    assert {score["name"].split("_")[1] for score in result["control"]} == {"untrained", "baseline"}
    for options, said in (
        ({"corruptions": ("rain",)}, "there is no corruption 'rain'"),
        ({"severities": (6,)}, "--severities 6 is not one of"),
        ({"subset": "imagenet-a", "corruptions": ("none",)}, "the classifier lacks 200 of the subset's 200 classes"),
        ({"weights": tmp_path / "finetune"}, "holds no classifier: run `otherview evaluate finetune`"),
    ):
        request = {"weights": tmp_path, "test": "shapes:10:test", "test_images": 5, **options}
        with pytest.raises(WrongRequest, match=said):
            robustness(request.pop("weights"), **request)
