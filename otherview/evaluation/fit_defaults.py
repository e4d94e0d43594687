"""How a classifier is fitted where nothing else is asked for: by the number of labelled images, or as the paper does it.

    recipe = finetune_recipe(settings, images=300, encoder=card.encoder)

The published recipe is for 1.28 million images: with a few hundred its rate is so small that the loss never moves. The rule here
was found on 90 to 10,000 images (docs/log.md, 2026-11-27). The head starts as a logistic regression on the frozen features, so
that a fit begins where `evaluate linear` ends.
"""

import math
from dataclasses import fields, replace
from typing import NamedTuple

from otherview.evaluation.settings import FinetuneRecipe, FinetuneSettings, LinearProbeSettings
from otherview.nn.settings import EncoderSettings
from otherview.training.fit import default_batch

MANY = 100_000
"""From so many training images on, the published recipe is the default."""
SMALL_BATCH, LARGEST_BATCH = 32, 1024
CENTRE, CENTRE_FROM = 0.875, 160
"""What the published centre crop keeps, and from which side in pixels on: smaller images show nothing but their object."""
PUBLISHED_RATE, PUBLISHED_WIDTH = 1e-3, 768
"""The paper's peak rate for 1024 images and a ViT-B; it goes with the root of the batch and against the width."""


def by_images(images: int, encoder: EncoderSettings, *, unit: int) -> FinetuneRecipe:
    """The recipe for so many training images; the batch is a multiple of `unit`."""
    batch = max(unit, min(SMALL_BATCH, images // 3) // unit * unit)
    peak = PUBLISHED_RATE * math.sqrt(batch / LARGEST_BATCH) * PUBLISHED_WIDTH / encoder.width
    return FinetuneRecipe(
        epochs=round(min(100.0, 100 * (90 / images) ** 0.4), 1),
        batch=batch,
        rate=float(f"{peak * 256 / batch:.2g}"),
        head="linear",
        augment="none",
        crop_share=(0.4, 1.0),
        layer_decay=0.75,
        drop_path=0.0,
        mixup=0.0,
        cutmix=0.0,
        erasing=0.0,
    )


def finetune_recipe(settings: FinetuneSettings, *, images: int, encoder: EncoderSettings, unit: int) -> FinetuneRecipe:
    """What was asked for, and the rest by the number of images or, with the protocol `paper`, as published."""
    paper = published(settings, images=images)
    batch = default_batch(images, most=LARGEST_BATCH, unit=unit)
    start = FinetuneRecipe(batch=batch) if paper else by_images(images, encoder, unit=unit)
    asked = {field.name: getattr(settings, field.name) for field in fields(FinetuneRecipe)}
    given = {name: value for name, value in asked.items() if value is not None}
    return replace(start, **{"crop_pct": _centre(encoder.image_size, paper=paper), **given})


def published(settings: FinetuneSettings, *, images: int) -> bool:
    """Whether what is not asked for is as the paper has it."""
    return settings.protocol == "paper" or images >= MANY


def _centre(size: tuple[int, int], *, paper: bool) -> float:
    return CENTRE if paper or min(size) >= CENTRE_FROM else 1.0


PROBE_RATE, PROBE_PEAK, PROBE_BATCH = 0.1, 6.4, 16384
"""The paper's rate for 256 images, and what it comes to for its batch: LARS takes steps in proportion to the weights, so that
small batches want the peak, not the rate."""


class ProbeRecipe(NamedTuple):
    """How a linear probe is fitted."""

    batch: int
    rates: tuple[float, ...]
    crop_pct: float


def probe_recipe(settings: LinearProbeSettings, *, images: int, size: tuple[int, int], unit: int) -> ProbeRecipe:
    """What was asked for, and the rest by the number of images or, with the protocol `paper`, as published."""
    paper = settings.protocol == "paper"
    batch = settings.batch or default_batch(images, most=PROBE_BATCH, unit=unit)
    rates = settings.rates or ((PROBE_RATE,) if paper else (float(f"{PROBE_PEAK * 256 / batch:.2g}"),))
    return ProbeRecipe(batch, rates, settings.crop_pct or _centre(size, paper=paper))


def in_words(recipe: FinetuneRecipe, *, images: int, paper: bool) -> str:
    """What was chosen, in a line."""
    views = "crops and mirroring alone" if recipe.augment == "none" else f"RandAugment {recipe.augment}"
    mixed = f", mixup {recipe.mixup:g}, cutmix {recipe.cutmix:g}" if recipe.mixup or recipe.cutmix else ""
    head = "starts as a logistic regression on frozen features" if recipe.head == "linear" else "starts at random"
    words = (
        f"{images:,} training images: {recipe.epochs:g} epochs, batch {recipe.batch}, rate {recipe.rate:g} per 256 images, "
        f"{views}{mixed}; the head {head}"
    )
    return words if paper else f"{words} (--protocol paper: the published settings)"
