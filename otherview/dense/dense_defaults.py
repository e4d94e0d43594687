"""How a detector or a segmenter is fitted where nothing else is asked for: by the training images and the encoder.

    config = settled_detection(DetectConfig(steps=400), Known(images=300, sides=(480, 640), encoder=card.encoder))

The published recipes are for a hundred thousand images and a ViT-B. Without --recipe or --config, what is not given follows the
rules here (docs/log.md, 2026-11-28); a config that was made by a recipe, or read from a whole file, stays as it is.
"""

import math
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from otherview.config import filled
from otherview.dense.settings import BoxSettings, DetectConfig, SegmentConfig, WindowSettings
from otherview.evaluation.fit_defaults import MANY
from otherview.nn.settings import EncoderSettings
from otherview.training.optim import peak_rate

Settings = TypeVar("Settings", bound=BaseModel)
BATCH, SAVED = 8, 200
EPOCHS, EPOCHS_OF, LEAST_SEEN = 60, 60, 6400
"""Passes over so many images; and the fewest images that a fit sees, each as often as it takes."""
RATE = 2e-3
"""The peak rate for a batch of 8 and an encoder 128 wide; it goes against the width."""
RATE_WIDTH = 128
PATCHES = {"detect": 64, "segment": 32}
"""Along a side of a published square: 1024 and 512 px with patches of 16. Larger images are scaled down, or cut."""
ALL_ATTEND = 32
"""Patches along a side up to which every block attends to everything; with more of them, most attend within windows."""


class Known(NamedTuple):
    """What the rules go by."""

    images: int
    """To learn from."""
    sides: tuple[int, int]
    """Medians of the shorter and the longer side, in pixels."""
    encoder: EncoderSettings
    unit: int = 1
    """A batch is a multiple of it."""
    on_gpu: bool = False


def settled_detection(asked: DetectConfig, known: Known) -> DetectConfig:
    """What was asked for, and the rest by the rules."""
    return asked if asked.recipe else filled(_detection(asked, known), asked)


def settled_segmentation(asked: SegmentConfig, known: Known) -> SegmentConfig:
    """What was asked for, and the rest by the rules."""
    return asked if asked.recipe else filled(_segmentation(asked, known), asked)


def in_words(config: DetectConfig | SegmentConfig, known: Known) -> str:
    """What was chosen, in a line."""
    recipe = "vitdet_b_coco" if isinstance(config, DetectConfig) else "upernet_b_ade20k"
    shorter, longer = known.sides
    passes = config.steps * config.batch / known.images
    return (
        f"{known.images:,} training images of about {longer}×{shorter} px: {config.size} px, {config.steps:,} steps of "
        f"{config.batch} ({passes:.3g} epochs), rate {peak_rate(config.training, config.batch):.2g}, scaled by "
        f"{config.jitter[0]:g} to {config.jitter[1]:g} (--recipe {recipe}: the published settings)"
    )


def square(side: int, *, unit: int, most: int) -> int:
    """The side nearest to what images have that is a multiple of `unit`, at most `most` pixels."""
    return max(unit, min(most // unit, round(side / unit)) * unit)


def channels_for(width: int) -> int:
    """Of a pyramid: 256 for the 768 of a ViT-B, in proportion, in steps of 32."""
    return max(32, min(256, 32 * round(width / 96)))


def global_blocks_for(depth: int) -> tuple[int, ...]:
    """The last block of each of four equal parts of the encoder, of fewer in shallow ones."""
    parts = max(1, min(4, depth // 3))
    return tuple((part + 1) * depth // parts - 1 for part in range(parts))


def taps_for(depth: int) -> tuple[int, int, int, int]:
    """Four blocks, counted from 1: the published 4, 6, 8 and 12 of twelve, at the same shares of other depths."""
    first, second, third = (max(1, round(share * depth)) for share in (1 / 3, 1 / 2, 2 / 3))
    return first, second, third, depth


def _detection(asked: DetectConfig, known: Known) -> DetectConfig:
    published, encoder = DetectConfig(), known.encoder
    size = square(known.sides[1], unit=4 * encoder.patch_size, most=PATCHES["detect"] * encoder.patch_size)
    size = _given(asked, "size", size)
    side = size // encoder.patch_size
    area, channels = (side / PATCHES["detect"]) ** 2, channels_for(encoder.width)
    small = channels < published.boxes.channels
    boxes = BoxSettings(
        channels=channels,
        hidden=4 * channels,
        box_convolutions=1 if small else 4,
        mask_convolutions=2 if small else 4,
        proposals_before=(max(200, round(2000 * area)), max(100, round(1000 * area))),
        proposals=max(100, round(1000 * area)),
        anchors_sampled=max(64, round(256 * area)),
        regions_sampled=max(48, round(512 * area)),
    )
    together = side <= ALL_ATTEND
    windows = WindowSettings(
        window=0 if together else 14,
        global_blocks=() if together else global_blocks_for(encoder.depth),
        drop_path=published.windows.drop_path if known.images >= MANY else 0.0,
    )
    sized = published.model_copy(update={"size": size, "boxes": boxes, "windows": windows})
    return sized if known.images >= MANY else _for_few(sized, asked, known, clip_norm=1.0)


def _given(asked: BaseModel, name: str, otherwise: int) -> int:
    return getattr(asked, name) if name in asked.model_fields_set else otherwise


def _segmentation(asked: SegmentConfig, known: Known) -> SegmentConfig:
    published, encoder = SegmentConfig(), known.encoder
    size = square(known.sides[0], unit=2 * encoder.patch_size, most=PATCHES["segment"] * encoder.patch_size)
    size = _given(asked, "size", size)
    channels, many = channels_for(encoder.width), known.images >= MANY
    sized = published.model_copy(
        update={
            "size": size, "longest": 4 * size, "stride": max(1, 2 * size // 3), "taps": taps_for(encoder.depth),
            "channels": (3 if many else 2) * channels, "auxiliary_channels": channels,
        }
    )  # fmt: skip
    if many:
        return sized
    pairs = known._replace(unit=2 * known.unit)  # batch norm wants two or more
    return _for_few(sized, asked, pairs, clip_norm=None, drop_path=0.0)


def _for_few(sized: Settings, asked: Settings, known: Known, *, clip_norm: float | None, **more: Any) -> Settings:
    """A small batch, a rate that moves the loss at once, and as many steps as so few images bear."""
    batch = _given(asked, "batch", max(known.unit, BATCH // known.unit * known.unit))
    steps = _given(asked, "steps", steps_for(known.images, batch=batch))
    rate = RATE * math.sqrt(batch / BATCH) * RATE_WIDTH / known.encoder.width
    training = sized.training.model_copy(  # pyright: ignore[reportAttributeAccessIssue]  # both kinds have it
        update={
            "lr_per_256": float(f"{rate * 256 / batch:.2g}"), "weight_decay": 0.05, "clip_norm": clip_norm,
            "precision": "bf16" if known.on_gpu else "fp32", "save_every": min(SAVED, steps),
        }
    )  # fmt: skip
    changes = {"batch": batch, "steps": steps, "warmup_steps": steps // 8, "jitter": (0.75, 1.5), "training": training}
    return sized.model_copy(update={**changes, **more})


def steps_for(images: int, *, batch: int) -> int:
    """30 epochs of 300 images, 15 of 2,000, 8 of 10,000; and never fewer steps than 800 batches of 8 take: that many move the
    heads from their start, however few the images are."""
    epochs = EPOCHS * (EPOCHS_OF / images) ** 0.4
    return max(1, round(max(LEAST_SEEN, epochs * images) / batch))
