"""The methods that Siamese Image Modeling is compared with, as published and for a CPU (specification 4)."""

from otherview.config import RunConfig
from otherview.methods.settings import MAESettings, MoCoV3Settings, SupervisedSettings
from otherview.nn.settings import EncoderSettings
from otherview.recipes.siamese_im import siamese_im_cpu_adamw
from otherview.training.settings import TrainingSettings
from otherview.views.settings import PLAIN, MaskSettings, ViewSettings

NO_MASK = MaskSettings(kind="none")
CALM = {"lr_per_256": 2e-3}
"""Half of siamese_im_cpu_adamw's rate: what the trials of MAE and supervised training asked for (docs/log.md)."""


def mae_vit_b16() -> RunConfig:
    """MAE's ViT-B/16, 1600 epochs of ImageNet-1k.

    command   torchrun --nproc-per-node 8 -m otherview pretrain --recipe mae_vit_b16 --data IMAGENET/train --out DIR
    cost      published setting; not run here
    expected  published: linear 68.0, fine-tuned 83.6, 1 % labels 51.1 (top-1 in %)
    """
    return RunConfig(
        recipe="mae_vit_b16",
        encoder=EncoderSettings(final_norm=True, train_patch_embedding=True, column_first=True),
        method=MAESettings(),
        views=ViewSettings(crop_share=(0.2, 1.0), online_colour=PLAIN, mask=MaskSettings(kind="random", ratio=0.75)),
        training=TrainingSettings(lr_per_256=1.5e-4, clip_norm=None),
    )


def moco_v3_vit_b16() -> RunConfig:
    """MoCo-v3's ViT-B/16, 300 epochs of ImageNet-1k.

    command   torchrun --nproc-per-node 8 -m otherview pretrain --recipe moco_v3_vit_b16 --data IMAGENET/train --out DIR
    cost      published setting; not run here
    expected  published: linear 76.7, fine-tuned 83.0, 1 % labels 63.4 (top-1 in %)
    """
    return RunConfig(
        recipe="moco_v3_vit_b16",
        epochs=300,
        encoder=EncoderSettings(final_norm=True, start="moco_v3"),
        method=MoCoV3Settings(),
        views=ViewSettings(mask=NO_MASK),
        training=TrainingSettings(
            lr_per_256=1.5e-4, betas=(0.9, 0.999), weight_decay=0.1, warmup=40 / 300, clip_norm=None
        ),
    )


def supervised_vit_b16() -> RunConfig:
    """Supervised pre-training of ViT-B/16: rate, decay and warm-up of the fine-tuning recipe, 300 epochs, no layer decay.

    The views are the pre-training crops and colours; there is no mixing of images (specification 4).

    command   torchrun --nproc-per-node 8 -m otherview pretrain --recipe supervised_vit_b16 --data IMAGENET/train --out DIR
    cost      not run here
    expected  no score known to us
    """
    return RunConfig(
        recipe="supervised_vit_b16",
        batch=1024,
        epochs=300,
        encoder=EncoderSettings(train_patch_embedding=True),
        method=SupervisedSettings(),
        views=ViewSettings(mask=NO_MASK),
        training=TrainingSettings(lr_per_256=2.5e-4, betas=(0.9, 0.999), warmup=5 / 300, clip_norm=None),
    )


def mae_cpu(size: int = 32) -> RunConfig:
    """MAE with the encoder and the images of siamese_im_cpu_adamw, for a CPU.

    The decoder is half as wide as the encoder, which costs half and lets it learn as much in a step (docs/log.md).

    command   otherview pretrain --recipe mae_cpu --data cifar10/train.parquet --out DIR
    cost      32 minutes on one CPU thread with the other core busy (360 images/s)
    expected  CIFAR-10 kNN .462 (bank 50,000, test 10,000; untrained .333, raw pixels .454; two seeds)
    """
    ours = siamese_im_cpu_adamw(size)
    encoder = ours.encoder.model_copy(update={"final_norm": True, "train_patch_embedding": True, "column_first": True})
    views = ours.views.model_copy(update={"online_colour": PLAIN, "mask": MaskSettings(kind="random", ratio=0.75)})
    method = MAESettings(decoder_width=64, decoder_depth=2, decoder_heads=2)
    changed = {"recipe": "mae_cpu", "steps": 11200, "encoder": encoder, "views": views, "method": method}
    return ours.model_copy(update=changed | {"training": ours.training.model_copy(update=CALM)})


def moco_v3_cpu(size: int = 32) -> RunConfig:
    """MoCo-v3 with the encoder and the images of siamese_im_cpu_adamw, for a CPU.

    A long warm-up and a target that never freezes, which it gains from as SiameseIM does in short runs (docs/log.md).

    command   otherview pretrain --recipe moco_v3_cpu --data cifar10/train.parquet --out DIR
    cost      28 minutes on one CPU thread with the other core busy (60 images/s)
    expected  CIFAR-10 kNN of the cls token .463 (bank 50,000, test 10,000; untrained .355; two seeds)
    """
    ours = siamese_im_cpu_adamw(size)
    encoder = ours.encoder.model_copy(update={"final_norm": True, "start": "moco_v3"})
    views = ours.views.model_copy(update={"mask": NO_MASK})
    method = MoCoV3Settings(hidden_width=512, output_width=128, momentum_schedule="constant")
    changed = {"recipe": "moco_v3_cpu", "steps": 1650, "encoder": encoder, "views": views, "method": method}
    return ours.model_copy(update=changed | {"training": ours.training.model_copy(update={"warmup": 0.15})})


def supervised_cpu(size: int = 32) -> RunConfig:
    """Supervised pre-training with the encoder, the crops, colours and schedule of siamese_im_cpu_adamw, for a CPU.

    command   otherview pretrain --recipe supervised_cpu --data cifar10/train.parquet --out DIR
    cost      56 minutes at the 172 images/s of its first 4,371 steps (one CPU thread, the other core busy)
    expected  CIFAR-10 kNN .595 after 4,371 of its 9,000 steps (untrained .323; one seed)
    """
    ours = siamese_im_cpu_adamw(size)
    encoder = ours.encoder.model_copy(update={"train_patch_embedding": True})
    views = ours.views.model_copy(update={"mask": NO_MASK})
    changed = {"recipe": "supervised_cpu", "encoder": encoder, "views": views, "method": SupervisedSettings()}
    return ours.model_copy(update=changed | {"training": ours.training.model_copy(update=CALM)})


RECIPES = (mae_vit_b16, moco_v3_vit_b16, supervised_vit_b16, mae_cpu, moco_v3_cpu, supervised_cpu)
