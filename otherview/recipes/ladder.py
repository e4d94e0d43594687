"""One recipe for every size of encoder, for images of any size, on one GPU and up: `--recipe siamese_im_small --size 96`.

The encoders are the field's. Patches are small enough to have some hundred of them; batch 256, Muon and crops from two fifths of
the image on are what short runs asked for (docs/log.md), and rate and negative weight follow recipes/scaling.py. The paper's
own settings have the paper's names: siamese_im_vit_b16.
"""

from otherview.config import RunConfig
from otherview.errors import WrongRequest
from otherview.methods.settings import SiameseIMSettings
from otherview.nn.settings import EncoderSettings
from otherview.recipes.scaling import NEGATIVE_TIMES_WIDTH, rule
from otherview.training.settings import TrainingSettings
from otherview.views.settings import ColourSettings, ViewSettings

BATCH, EPOCHS = 256, 200
OVERLAPPING = (0.4, 1.0)
"""Range of a crop's share of the image."""
SHARP = 96
"""Smaller images are not blurred: sigma 2 would leave little of them."""
LONG = 20_000
"""Steps from which on the target's momentum is the paper's."""


def siamese_im_tiny(size: int = 224) -> RunConfig:
    """ViT-Ti: 192 wide, 12 blocks, 5.5 M parameters.

    command   otherview pretrain --recipe siamese_im_tiny --data photos/ --out DIR
    cost      computed: 4.6 GB of GPU memory; not run here
    expected  no score known to us
    """
    return _rung("siamese_im_tiny", size, width=192, depth=12, heads=3)


def siamese_im_small(size: int = 224) -> RunConfig:
    """ViT-S: 384 wide, 12 blocks, 22 M parameters.

    command   otherview pretrain --recipe siamese_im_small --data photos/ --out DIR
    cost      computed: 9.1 GB of GPU memory; with AdamW 3,789 images/s on an H200
    expected  no score known to us; siamese_im_imagenette_200ep is this at 112 px
    """
    return _rung("siamese_im_small", size, width=384, depth=12, heads=6)


def siamese_im_base(size: int = 224) -> RunConfig:
    """ViT-B: 768 wide, 12 blocks, 86 M parameters.

    command   otherview pretrain --recipe siamese_im_base --data photos/ --out DIR
    cost      computed: 18.9 GB of GPU memory; with AdamW 1,946 images/s on an H200
    expected  no score known to us; the paper's run is siamese_im_vit_b16
    """
    return _rung("siamese_im_base", size, width=768, depth=12, heads=12)


def siamese_im_large(size: int = 224) -> RunConfig:
    """ViT-L: 1024 wide, 24 blocks, 303 M parameters.

    command   otherview pretrain --recipe siamese_im_large --data photos/ --out DIR
    cost      computed: 37 GB of GPU memory; not run here
    expected  unpublished
    """
    return _rung("siamese_im_large", size, width=1024, depth=24, heads=16)


def siamese_im_huge(size: int = 224) -> RunConfig:
    """ViT-H: 1280 wide, 32 blocks, 631 M parameters.

    command   otherview pretrain --recipe siamese_im_huge --data photos/ --out DIR
    cost      computed: 57 GB of GPU memory; not run here
    expected  unpublished
    """
    return _rung("siamese_im_huge", size, width=1280, depth=32, heads=16)


def patch_for(size: int) -> int:
    """Pixels along a side of a patch: 4 up to 48 px, 8 up to 128, 16 above."""
    return 4 if size <= 48 else 8 if size <= 128 else 16


def sized_views(size: int) -> ViewSettings:
    """Views of images of this size: large crops, and no blur of small images."""
    blur = 1.0 if size >= SHARP else 0.0
    return ViewSettings(
        crop_share=OVERLAPPING,
        online_colour=ColourSettings(blur_probability=blur),
        target_colour=ColourSettings(blur_probability=0.1 * blur, solarise_probability=0.2),
    )


def _rung(name: str, size: int, *, width: int, depth: int, heads: int) -> RunConfig:
    patch = patch_for(size)
    if size < 4 * patch or size % patch:
        near = max(4, round(size / patch)) * patch
        raise WrongRequest(f"--size {size} must be a multiple of {patch}, the side of its patches: use --size {near}")
    scaled = rule(batch=BATCH, steps=LONG, width=width)
    return RunConfig(
        recipe=name,
        batch=BATCH,
        epochs=EPOCHS,
        encoder=EncoderSettings(image_size=(size, size), patch_size=patch, width=width, depth=depth, heads=heads),
        method=SiameseIMSettings(
            head_width=width, head_heads=heads, negative_weight=NEGATIVE_TIMES_WIDTH / width, momentum=scaled.momentum
        ),
        views=sized_views(size),
        training=TrainingSettings(optimiser="muon", lr_per_256=scaled.lr_per_256, warmup=0.05),
    )


RECIPES = (siamese_im_tiny, siamese_im_small, siamese_im_base, siamese_im_large, siamese_im_huge)
