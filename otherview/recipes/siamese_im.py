"""Siamese Image Modeling: the paper's runs, and small ones for a laptop (specification 1.3, 1.9)."""

from otherview.config import RunConfig
from otherview.errors import WrongRequest
from otherview.methods.settings import SiameseIMSettings
from otherview.nn.settings import EncoderSettings
from otherview.recipes.ladder import sized_views
from otherview.training.settings import TrainingSettings
from otherview.views.settings import PLAIN, MaskSettings, ViewSettings

ACROSS, LEAST_SIDE = 8, 32
"""Patches along a side of the small images, which two cores can train in an hour, and the least pixels along it."""
THREE_FIFTHS = MaskSettings(ratio=0.6, minimum_block=4)
"""Of the patches are masked, in blocks."""


def siamese_im_vit_b16() -> RunConfig:
    """The paper's ViT-B/16, 1600 epochs of ImageNet-1k.

    command   torchrun --nproc-per-node 8 -m otherview pretrain --recipe siamese_im_vit_b16
              --data IMAGENET/train --out DIR
    cost      published setting; not run here
    expected  published: linear 78.0, fine-tuned 84.1, 1 % labels 65.1 (top-1 in %)
    """
    return RunConfig(recipe="siamese_im_vit_b16")


def siamese_im_vit_b16_400ep() -> RunConfig:
    """The paper's ViT-B/16 with 400 epochs; the warm-up stays at 40 epochs.

    command   torchrun --nproc-per-node 8 -m otherview pretrain --recipe siamese_im_vit_b16_400ep
              --data IMAGENET/train --out DIR
    cost      a quarter of siamese_im_vit_b16; not run here
    expected  no score known to us
    """
    return RunConfig(recipe="siamese_im_vit_b16_400ep", epochs=400, training=TrainingSettings(warmup=0.1))


def siamese_im_article_vit_b16() -> RunConfig:
    """The article's form of the loss, global and dense (arXiv 2206.01204, versions 1 and 2), in the paper's ViT-B/16 run.

    The weights of the two terms are published nowhere; both are 1.

    command   torchrun --nproc-per-node 8 -m otherview pretrain --recipe siamese_im_article_vit_b16
              --data IMAGENET/train --out DIR
    cost      as siamese_im_vit_b16; not run here
    expected  no score known to us for this form and schedule
    """
    return RunConfig(recipe="siamese_im_article_vit_b16", method=SiameseIMSettings(loss="global_dense"))


def siamese_im_vit_l16() -> RunConfig:
    """ViT-L/16 after the B recipe; unpublished.

    command   torchrun --nproc-per-node 8 -m otherview pretrain --recipe siamese_im_vit_l16
              --data IMAGENET/train --out DIR
    cost      not run here
    expected  unpublished
    """
    return RunConfig(
        recipe="siamese_im_vit_l16",
        encoder=EncoderSettings(width=1024, depth=24, heads=16),
        method=SiameseIMSettings(head_width=1024),
    )


def siamese_im_vit_h14() -> RunConfig:
    """ViT-H/14 after the B recipe; unpublished.

    command   torchrun --nproc-per-node 8 -m otherview pretrain --recipe siamese_im_vit_h14
              --data IMAGENET/train --out DIR
    cost      not run here
    expected  unpublished
    """
    return RunConfig(
        recipe="siamese_im_vit_h14",
        encoder=EncoderSettings(patch_size=14, width=1280, depth=32, heads=16),
        method=SiameseIMSettings(head_width=1280),
    )


def siamese_im_cpu(size: int = 32) -> RunConfig:
    """What a CPU can train in minutes: a small ViT with Muon, which shortens the plateau at the start.

    With it, masking three fifths and predicting half of the patches teaches nearly as much per image at two thirds of the
    cost, and crops that overlap more learn sooner (docs/log.md). There are 8 × 8 patches, whatever the images' size.

    command   otherview pretrain --recipe siamese_im_cpu --data cifar10/train.parquet --out DIR
    cost      20 minutes on one CPU thread with the other core busy (130 to 186 images/s)
    expected  CIFAR-10 kNN .512 (bank 50,000, test 10,000; untrained .332, raw pixels .454; two seeds)
    """
    short = short_with_adamw(size)
    views = short.views.model_copy(update={"mask": THREE_FIFTHS, "predict_ratio": 0.5, "crop_share": (0.4, 1.0)})
    training = short.training.model_copy(update={"optimiser": "muon", "warmup": 0.05})
    return short.model_copy(update={"recipe": "siamese_im_cpu", "views": views, "training": training})


def siamese_im_cpu_adamw(size: int = 32) -> RunConfig:
    """The same encoder with the paper's optimiser and schedule, which ask for more steps.

    command   otherview pretrain --recipe siamese_im_cpu_adamw --data cifar10/train.parquet --out DIR
    cost      50 to 60 minutes on two idle CPU cores (195 to 160 images/s)
    expected  CIFAR-10 kNN .539 (bank 50,000, test 10,000; untrained .335, raw pixels .454; one seed)
    """
    if size < LEAST_SIDE or size % ACROSS:
        raise WrongRequest(f"--size {size} is below {LEAST_SIDE} or no multiple of {ACROSS}: give one that is")
    sizes = EncoderSettings(image_size=(size, size), patch_size=size // ACROSS, width=128, depth=4, heads=4)
    return RunConfig(
        recipe="siamese_im_cpu_adamw",
        batch=64,
        steps=9000,
        encoder=sizes,
        method=SiameseIMSettings(
            head_width=128, head_heads=4, projector_depth=1, predictor_depth=2, negative_weight=0.12, momentum=0.99
        ),
        views=_small_views(size),
        training=TrainingSettings(lr_per_256=4e-3, warmup=1 / 30, precision="fp32", workers=1),
    )


def short_with_adamw(size: int = 32) -> RunConfig:
    """siamese_im_cpu_adamw in a third of its steps: narrower heads, fewer masked patches and a target that never freezes. The
    studies start from it.

    A short schedule that lets the momentum rise to 1 freezes the target while it still has rank 2, and so does a warm-up
    of less than some 300 steps; heads of half the encoder's width make a step 1.5 × cheaper and learn as much in it
    (docs/log.md). CIFAR-10 kNN .487 in 33 minutes on one thread (two seeds).
    """
    whole = siamese_im_cpu_adamw(size)
    views = whole.views.model_copy(update={"mask": MaskSettings(ratio=1 / 3, minimum_block=4)})
    heads = {"head_width": 64, "negative_weight": 0.24, "momentum_schedule": "constant"}
    method = whole.method.model_copy(update=heads)
    training = whole.training.model_copy(update={"warmup": 0.1})
    changed = {"recipe": "short_with_adamw", "steps": 3300, "views": views, "method": method, "training": training}
    return whole.model_copy(update=changed)


def siamese_im_demo() -> RunConfig:
    """What `otherview demo` trains on drawn images: a short siamese_im_cpu_adamw, its views without colour changes.

    The drawn images differ by little but their outlines, so there is no colour to become blind to, and a jittered
    brightness would be what varies most and is learned first (docs/log.md).

    command   otherview demo
    cost      312 seconds on two idle CPU cores, evaluation and report included
    expected  kNN .672 and .687 with the seeds 0 and 1 (untrained .323 and .239, raw pixels .254)
    """
    views = _small_views().model_copy(update={"crop_share": (0.5, 1.0), "online_colour": PLAIN, "target_colour": PLAIN})
    whole = siamese_im_cpu_adamw()
    method = whole.method.model_copy(update={"predictor_start": "zero"})
    return whole.model_copy(update={"recipe": "siamese_im_demo", "steps": 600, "method": method, "views": views})


def _small_views(size: int = 32) -> ViewSettings:
    """Crops from a fifth on, and no blur of small images, which at sigma 2 wipes 32 pixels out."""
    changed = {"crop_share": (0.2, 1.0), "mask": THREE_FIFTHS}
    return sized_views(size).model_copy(update=changed)


RECIPES = (
    siamese_im_vit_b16,
    siamese_im_vit_b16_400ep,
    siamese_im_article_vit_b16,
    siamese_im_vit_l16,
    siamese_im_vit_h14,
    siamese_im_cpu,
    siamese_im_cpu_adamw,
    siamese_im_demo,
)
