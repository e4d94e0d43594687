"""The run that fits these images, this machine and this much time, where no recipe is asked for. Torch-free.

    config = chosen(Situation(images=9469, sides=(128, 171), on_gpu=False), asked=RunConfig(batch=32))
    config = in_schedule(config, steps, asked=RunConfig(batch=32))

Every rule is a function that names its experiment (docs/log.md). What was asked for stays, and the rest follows from it.
"""

import math
from typing import Any, NamedTuple

from otherview.config import RunConfig, filled
from otherview.methods.settings import SiameseIMSettings
from otherview.nn.settings import SIZES_OF_WEIGHTS, EncoderSettings
from otherview.recipes import ladder
from otherview.recipes.scaling import NEGATIVE_TIMES_WIDTH, rule
from otherview.recipes.siamese_im import siamese_im_cpu

CHOSEN = "chosen"
"""What stands for a recipe's name in the config of such a run."""
CPU_BUDGET, GPU_BUDGET = "1h", "8h"
"""For a run without --time-budget, --steps and --epochs."""
LEAST_STEPS = 3000
"""With fewer, a smaller encoder learns more; see `smaller`."""
LONG_SCHEDULE = 9000
"""Steps from which on the target's momentum rises to 1, as published; see `in_schedule`."""


class Situation(NamedTuple):
    """What the rules go by."""

    images: int
    """That differ from each other, as far as a sample tells."""
    sides: tuple[int, int]
    """Medians of the shorter and the longer side, in pixels."""
    on_gpu: bool
    cores: int = 1
    ranks: int = 1
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    weights: EncoderSettings | None = None
    """The encoder of the weights that the run starts from, where it does."""
    below: int = 0
    """How many rungs of the ladder fewer than the images allow; see `smaller`."""


def chosen(situation: Situation, *, asked: RunConfig) -> RunConfig:
    """What was asked for, and the rest by the rules; the number of steps is left to `in_schedule`."""
    config = filled(_sized(situation, asked.encoder), asked)
    width, heads = config.encoder.width, config.encoder.heads
    half = width // 2
    head = width if situation.on_gpu or half % 4 or half % heads else half
    method: dict[str, Any] = {"head_width": head, "head_heads": heads}
    config = filled(_with(config, method=method), asked)
    assert isinstance(config.method, SiameseIMSettings)
    batch = asked.batch if "batch" in asked.model_fields_set else batch_for(situation)
    scaled = rule(batch=batch, steps=ladder.LONG, width=config.method.head_width)
    training: dict[str, Any] = {
        "optimiser": "muon", "lr_per_256": float(f"{scaled.lr_per_256:.4g}"),
        "precision": "bf16" if situation.on_gpu else "fp32", "workers": workers_for(situation),
    }  # fmt: skip
    changed = _with(
        config,
        method={"negative_weight": float(f"{NEGATIVE_TIMES_WIDTH / config.method.head_width:.4g}")},
        views={"mean": situation.mean, "std": situation.std},
        training=training,
    )
    return filled(changed.model_copy(update={"recipe": CHOSEN, "batch": batch}), asked)


def rungs_for(images: int) -> list[Any]:
    """The recipes of a GPU, the largest first that so many images are enough for: base, small, tiny.

    ViT-S learned 9,469 images for 108 epochs without a sign of too few (2026-11-27: kNN .717 and rising); which number of images
    a size needs has not been measured here, and the other two bounds are guesses.
    """
    rungs = [ladder.siamese_im_base, ladder.siamese_im_small, ladder.siamese_im_tiny]
    return rungs[0 if images >= 50_000 else 1 if images >= 5_000 else 2 :]


def smaller(situation: Situation, *, steps: int) -> Situation | None:
    """The situation with a smaller encoder where so few steps fit into the time; None where these do, or there is no smaller one.

    Learning starts late: 1,500 steps of batch 64 gave .404 of the kNN that 3,300 brought to .456, and 400 gave hardly anything
    (2026-11-26). On a CPU the smallest encoder is chosen anyway.
    """
    if steps >= LEAST_STEPS or not situation.on_gpu or situation.weights:
        return None
    return (
        situation._replace(below=situation.below + 1)
        if situation.below + 1 < len(rungs_for(situation.images))
        else None
    )


def size_for(situation: Situation) -> int:
    """Pixels along a side of a view: on a GPU the largest usual one that the images have; on a CPU 32, or 64 for larger images.

    On two cores 64 tokens are what an hour can train (2026-11-25), of 4 px for CIFAR-10 and of 8 px for Imagenette. A GPU takes
    196 of them at 112 and 224 px alike, so that pixels are what decides (2026-11-27). With the patches of given weights, as many
    of them; on a CPU eight along a side.
    """
    side, weights = situation.sides[0], situation.weights
    if weights:
        patches = weights.grid[0] if situation.on_gpu else 8
        return weights.patch_size * max(4, min(patches, side // weights.patch_size))
    if not situation.on_gpu:
        return 32 if side <= 48 else 64
    return max((size for size in (48, 64, 96, 112, 160, 192, 224) if size <= side), default=32)


def dividing(size: tuple[int, int], *, near: int) -> int:
    """The patch nearest to `near` that divides an image of this size into 4 to 32 patches along its shorter side; else `near`."""
    fitting = [
        patch for patch in range(1, min(size) // 4 + 1) if min(size) <= 32 * patch and not math.gcd(*size) % patch
    ]
    return min(fitting, key=lambda patch: abs(patch - near), default=near)


def heads_for(width: int, *, each: int) -> int:
    """Heads of about `each` channels, as in the field's sizes, whose number divides the width."""
    return next(heads for heads in range(max(1, width // each), 0, -1) if width % heads == 0)


def batch_for(situation: Situation) -> int:
    """256 images on a GPU and 64 on a CPU; of few images at most a quarter, in powers of two.

    Twice the steps of half the batch taught as much at the same number of images (2026-11-24); a batch that is the whole data
    has one matrix C for ever. The rate follows (recipes/scaling.py).
    """
    usual = ladder.BATCH if situation.on_gpu else 64
    quarter = max(2, situation.images // 4)
    batch = min(usual, 1 << (quarter.bit_length() - 1))
    return max(1, batch // situation.ranks) * situation.ranks


def workers_for(situation: Situation) -> int:
    """One process that reads images where the CPU computes: it is ahead of a step of .4 s (2026-11-23). On a GPU one per core, up
    to 16: one core makes some 230 pairs of 224 px a second, and an H200 takes 1,900 and more (2026-11-27).
    """
    return min(16, situation.cores) if situation.on_gpu else 1


def steps_at_most(images: int, *, batch: int) -> int:
    """As many as the paper's 1,600 epochs, and 10,000 for few images: more were never tried."""
    return max(10_000, 1600 * images // batch)


def in_schedule(config: RunConfig, steps: int, *, asked: RunConfig) -> RunConfig:
    """The config with so many steps, and warm-up and momentum for them.

    The warm-up takes 165 steps and 5 % of the run at least, and half of it at most; the momentum is 1 − 90/steps within bounds
    and rises to 1 only in runs of 9,000 steps and more. A shorter warm-up, or a momentum that rises in a short run, leaves the
    target with rank 2 (2026-11-25 and 26, CIFAR-10).
    """
    assert isinstance(config.method, SiameseIMSettings)
    momentum = rule(batch=config.batch, steps=steps, width=config.method.head_width).momentum
    schedule = "cosine" if steps >= LONG_SCHEDULE else "constant"
    changed = _with(
        config,
        method={"momentum": float(f"{momentum:.5g}"), "momentum_schedule": schedule},
        training={"warmup": float(f"{min(0.5, max(0.05, 165 / steps)):.4g}")},
    )
    return filled(changed.model_copy(update={"steps": steps}), asked)


def budget_for(*, on_gpu: bool) -> str:
    """What a run takes where nobody says: an evening of a GPU, an hour of a CPU, which brings CIFAR-10 well past raw pixels."""
    return GPU_BUDGET if on_gpu else CPU_BUDGET


def in_words(config: RunConfig, situation: Situation, *, asked: RunConfig, total: int, budget: str | None) -> list[str]:
    """What was chosen and why, in five lines."""
    encoder, training = config.encoder, config.training
    shorter, longer = situation.sides
    rows, columns = encoder.grid
    different = "" if total == situation.images else f", about {situation.images:,} of them different"
    parts = f" in {training.accumulation} parts, for the memory" if training.accumulation > 1 else ""
    most = steps_at_most(situation.images, batch=config.batch)
    height, width = encoder.image_size
    steps = f"{most:,} at most" if budget else "as asked for"
    return [
        f"images   {total:,} of about {longer}×{shorter} px{different}; channels: {situation.channels}",
        f"encoder  {encoder.width} wide, {encoder.depth} blocks: {_why_encoder(situation, asked)}",
        f"views    {height}×{width} px, {rows}×{columns} patches of {encoder.patch_size} px: {_why_size(situation, asked)}",
        f"batch    {config.batch} images{parts}; {training.precision}, {training.optimiser}, peak rate "
        f"{training.lr_per_256 * config.batch / 256:.2g}; workers: {training.workers}",
        "steps    " + (f"as many as fit into {budget} (--time-budget), {steps}" if budget else f"{config.steps or 0:,}, {steps}"),
    ]  # fmt: skip


def _why_encoder(situation: Situation, asked: RunConfig) -> str:
    if situation.weights:
        return "the sizes of the weights that it starts from"
    if asked.encoder.model_fields_set & {"width", "depth", "heads"}:
        return "as asked for"
    if not situation.on_gpu:
        return "what a CPU can train in hours"
    name = rungs_for(situation.images)[situation.below].__name__
    if situation.below:
        return f"{name}, since fewer than {LEAST_STEPS:,} steps of a larger one fit"
    return f"{name}, for so many images"


def _why_size(situation: Situation, asked: RunConfig) -> str:
    if asked.encoder.model_fields_set & {"image_size", "patch_size"}:
        return "as asked for"
    if situation.weights:
        return "the patches of these weights"
    return "what the images have, up to 224 px" if situation.on_gpu else "few enough patches for a CPU"


def _sized(situation: Situation, asked: EncoderSettings) -> RunConfig:
    """The recipe that the choice is made from, with encoder and views for images of the size that is asked for or chosen."""
    given, side = asked.model_fields_set, size_for(situation)
    if "patch_size" in given:
        side = max(4, side // asked.patch_size) * asked.patch_size
    size = asked.image_size if "image_size" in given else (side, side)
    least = min(size)
    config = rungs_for(situation.images)[situation.below]() if situation.on_gpu else siamese_im_cpu()
    patch = dividing(size, near=ladder.patch_for(least) if situation.on_gpu else max(1, least // 8))
    sizes: dict[str, Any] = {"image_size": size, "patch_size": patch, "channels": situation.channels}
    if "width" in given:
        sizes["heads"] = heads_for(asked.width, each=64 if situation.on_gpu else 32)
    if situation.weights:
        sizes |= {name: getattr(situation.weights, name) for name in SIZES_OF_WEIGHTS}
    seen = ladder.sized_views(least)
    views = {name: getattr(seen, name) for name in ("online_colour", "target_colour")}
    return _with(config, encoder=sizes, views=views).model_copy(update={"steps": None})


def _with(config: RunConfig, **changes: dict[str, Any]) -> RunConfig:
    """The config with settings of its parts exchanged."""
    parts = {name: getattr(config, name).model_copy(update=values) for name, values in changes.items()}
    return config.model_copy(update=parts)
