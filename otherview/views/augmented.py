"""A labelled view under RandAugment, as fine-tuning sees it (specification 2); the operations are timm's."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageOps
from timm.data.auto_augment import rand_augment_transform

from otherview.data.image import Image
from otherview.errors import WrongRequest
from otherview.views.transforms import LabelledView, SingleView


@dataclass(frozen=True)
class AugmentedViews:
    """Makes a LabelledView: crop and mirroring of `make`, then what `policy` says, in timm's words."""

    make: SingleView
    policy: str = "rand-m9-mstd0.5-inc1"

    def __call__(self, image: Image, rng: Random) -> LabelledView:
        label = image.label()
        assert label is not None, "labels are looked for before a run begins"
        view = self.make(image, rng)
        picture = Pillow.fromarray(view.pixels.permute(1, 2, 0).numpy())
        transform = _transform(self.policy, min(self.make.size), self.make.settings.mean)
        with drawn_from(rng):
            changed = transform(picture)
        return LabelledView(
            view._replace(pixels=torch.from_numpy(np.array(changed)).permute(2, 0, 1).contiguous()), label
        )


def check_policy(policy: str) -> None:
    """Raise WrongRequest for words that are no RandAugment of timm's."""
    try:
        _transform(policy, 224, (0.5, 0.5, 0.5))
    except (AssertionError, KeyError, ValueError, TypeError) as error:
        raise WrongRequest(f"--augment {policy} is no RandAugment: give rand-m9-mstd0.5-inc1, say, or none") from error


@cache
def _transform(policy: str, side: int, mean: tuple[float, ...]) -> Any:
    fill = tuple(min(255, round(255 * channel)) for channel in mean)
    options = {"translate_const": int(side * 0.45), "img_mean": fill, "interpolation": Pillow.Resampling.BICUBIC}
    transform = rand_augment_transform(policy, options)
    for operation in transform.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterise
    return transform


def _posterise(image: Pillow.Image, bits: int, **_: Any) -> Pillow.Image:
    """timm asks for 0 bits where noise makes it strongest, which Pillow refuses: one is the fewest that shows anything."""
    return ImageOps.posterize(image, max(1, bits)) if bits < 8 else image


@contextmanager
def drawn_from(rng: Random) -> Iterator[None]:
    """Within, what draws from Python's and NumPy's global generators draws from `rng`; afterwards they are as before."""
    before = random.getstate(), np.random.get_state()
    random.seed(rng.getrandbits(64))
    np.random.seed(rng.getrandbits(32))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
