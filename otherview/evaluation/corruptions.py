"""How a classifier bears what it never saw: fifteen corruptions at five severities, and subsets of ImageNet's classes.

D. Hendrycks and T. Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019.
The corruptions are those of the imagecorruptions package, made in memory after the centre crop: results are not comparable
with those on the published files, which were compressed once more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from otherview.data.image import eight_bits
from otherview.errors import WrongRequest
from otherview.evaluation.pixel_scores import bootstrap_error
from otherview.scores import PerImage, Score
from otherview.seeding import sample_rng
from otherview.views.transforms import drawn_from

ALEXNET = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640, "defocus_blur": 0.819880,
    "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360, "snow": 0.866816, "frost": 0.826572,
    "fog": 0.819324, "brightness": 0.564592, "contrast": 0.853204, "elastic_transform": 0.646056,
    "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip
"""AlexNet's mean error over the severities of every corruption, as published with ImageNet-C."""
CORRUPTIONS = tuple(ALEXNET)
SEVERITIES = 1, 2, 3, 4, 5
OWN_SEED = "glass_blur", "impulse_noise"
"""They do not draw from NumPy's global generator."""
LEAST_SIDE = 32


@dataclass(frozen=True)
class Corrupted:
    """Changes the pixels of an image, [3, H, W], in eight bits by a corruption; what is drawn depends on (seed, image) alone."""

    name: str
    severity: int
    seed: int

    def __call__(self, pixels: np.ndarray, index: int) -> np.ndarray:
        from imagecorruptions import corrupt  # pyright: ignore[reportMissingImports]

        rng = sample_rng(seed=self.seed, epoch=self.severity, index=index)
        own = {"seed": rng.getrandbits(31)} if self.name in OWN_SEED else {}
        with drawn_from(rng):
            changed = corrupt(
                np.ascontiguousarray(eight_bits(pixels).transpose(1, 2, 0)),
                corruption_name=self.name,
                severity=self.severity,
                **own,
            )
        return np.ascontiguousarray(changed.transpose(2, 0, 1))


def check_corruptions(size: tuple[int, int], channels: int) -> None:
    """Raise WrongRequest where the corruptions cannot be made."""
    try:
        import imagecorruptions  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise WrongRequest("corruptions need a package of their own: pip install 'otherview[robustness]'") from error
    if channels != 3 or min(size) < LEAST_SIDE:
        raise WrongRequest(
            f"corruptions are for colour images of {LEAST_SIDE} px or more, not {size[0]}×{size[1]} with {channels} channels"
        )


def subset_classes(name: str) -> list[str]:
    """The 200 classes of ImageNet-A or -R, as timm carries them; raises WrongRequest for another name."""
    if name not in ("imagenet-a", "imagenet-r"):
        raise WrongRequest(f"--subset {name} is not known: give imagenet-a or imagenet-r")
    return files("timm.data").joinpath(f"_info/{name.replace('-', '_')}_synsets.txt").read_text("utf-8").split()


def places_of(subset: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Where a subset's classes stand among a classifier's; raises WrongRequest where one is missing."""
    place = {name: number for number, name in enumerate(classes)}
    if missing := [name for name in subset if name not in place]:
        raise WrongRequest(
            f"the classifier lacks {len(missing)} of the subset's {len(subset)} classes ({missing[0]} first): it must have "
            "learned ImageNet's classes under their WordNet names"
        )
    return [place[name] for name in subset]


def corruption_error(
    right: Mapping[str, Bool[Tensor, "N S"]], baseline: Mapping[str, float], *, images: Tensor | None = None
) -> float:
    """mCE: the mean over corruptions of the error over all severities S, divided by the baseline's."""
    shares = [1 - (answers if images is None else answers[images]).double().mean().item() for answers in right.values()]
    return sum(share / baseline[name] for share, name in zip(shares, right, strict=True)) / len(shares)


def spread_of_error(right: Mapping[str, Bool[Tensor, "N S"]], baseline: Mapping[str, float]) -> float:
    """The standard error of mCE over images, by drawing them anew."""
    count = len(next(iter(right.values())))
    return bootstrap_error(count, lambda images: corruption_error(right, baseline, images=torch.from_numpy(images)))


def scores_of(name: str, right: Mapping[str, Bool[Tensor, "N S"]]) -> list[Score]:
    """Accuracy over the severities of every corruption, and the mean of all; errors as of images, not of answers."""
    shares = {corruption: answers.double().mean(dim=1) for corruption, answers in right.items()}
    over_all = torch.stack([*shares.values()]).mean(dim=0)
    return [
        Score(
            f"robustness_{name}_{what}", float(share.mean()), unit, len(share),
            float(share.std(correction=min(1, len(share) - 1)) / math.sqrt(len(share))), None, PerImage(share.numpy()),
        )
        for what, share, unit in (
            *((corruption, share, "accuracy over severities") for corruption, share in shares.items()),
            ("corrupted", over_all, "mean of corruptions"),
        )
    ]  # fmt: skip


def errors_of(right: Mapping[str, Bool[Tensor, "N S"]]) -> dict[str, float]:
    """A baseline's error by corruption, at least a tenth of an image's, so that it can be divided by."""
    return {name: max(1 - float(answers.double().mean()), 0.1 / answers.numel()) for name, answers in right.items()}


def mce_score(name: str, right: Mapping[str, Bool[Tensor, "N S"]], baseline: Mapping[str, float]) -> Score:
    """mCE against the baseline's errors."""
    n = len(next(iter(right.values())))
    return Score(
        f"robustness_{name}_mce", corruption_error(right, baseline), "mCE", n, spread_of_error(right, baseline)
    )
