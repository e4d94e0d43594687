"""What the benches of the step measure: a learner and an optimiser step on a batch, and how much it computes.

    flops_per_image(config)      # of pre-training: target, forward, backward and optimiser, by torch's counter

The counter sees nothing of fused attention on a CPU, so it is shown a learner whose attention is plain products.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from timm.layers import Attention  # pyright: ignore[reportPrivateImportUsage]
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from otherview.bench.reference import naive_twin
from otherview.config import RunConfig
from otherview.data.picture import Picture
from otherview.methods.build import build, build_siamese_im
from otherview.methods.learner import Learner
from otherview.methods.settings import SiameseIMSettings, SupervisedSettings
from otherview.methods.siamese_im import SiameseIM
from otherview.nn.settings import EncoderSettings
from otherview.training.device import keep_pages
from otherview.training.optim import make_optimiser, set_rate
from otherview.training.settings import TrainingSettings
from otherview.views.view import ViewPair

COUNTED = 2, 4
"""FLOPs are counted on batches of so many images."""


def random_batch(learner: Learner, count: int, *, channels: int = 3) -> Any:
    """Samples of noise, as the learner's views make them."""
    picture = Picture("noise", np.random.default_rng(0).integers(0, 256, (300, 400, channels), np.uint8))
    picture.label = lambda: 0
    return default_collate([learner.views(picture, Random(index)) for index in range(count)])


def flops_per_image(config: RunConfig) -> float:
    """What pre-training with this config computes for every image it sees.

    Counted on two small batches: where every image meets the keys of the whole batch, its cost grows with the batch. What
    the optimiser multiplies is a step's, whatever its batch.
    """
    method = config.method
    if isinstance(method, SupervisedSettings) and method.classes is None:
        method = method.model_copy(update={"classes": 2})
    learner = build(method, encoder=config.encoder, views=config.views, seed=0)
    for module in learner.modules():
        if isinstance(module, Attention):
            module.fused_attn = False  # pyright: ignore[reportAttributeAccessIssue]
    few, more = (_counted(learner, count, channels=config.encoder.channels) / count for count in COUNTED)
    growth = (more - few) / (COUNTED[1] - COUNTED[0])
    with FlopCounterMode(display=False) as counter:
        make_optimiser(learner, config.training).step()
    return few + growth * (config.batch - COUNTED[0]) + counter.get_total_flops() / config.batch


def _counted(learner: Learner, count: int, *, channels: int) -> float:
    batch = random_batch(learner, count, channels=channels)
    with FlopCounterMode(display=False) as counter:
        learner(batch, learner.prepare([batch], 0.5), 0).total.backward()
    return float(counter.get_total_flops())


def vit_s16() -> RunConfig:
    """ViT-S/16 at 224 px with heads of the same width, fp32: what the figures are given for."""
    return RunConfig(
        batch=32,
        encoder=EncoderSettings(width=384, depth=12, heads=6),
        method=SiameseIMSettings(head_width=384, negative_weight=0.04),
        training=TrainingSettings(precision="fp32"),
    )


WHO = ("ours", "reference")


def contender(who: str, config: RunConfig) -> SiameseIM:
    """Ours in a process set up as `pretrain` does it, or the naive twin in one as torch starts it."""
    if who == "ours":
        keep_pages()
    assert isinstance(config.method, SiameseIMSettings), config.method.name
    learner = build_siamese_im(config.method, encoder=config.encoder, views=config.views, seed=0)
    return learner if who == "ours" else naive_twin(learner)


def stepper(learner: SiameseIM, config: RunConfig, batch: ViewPair) -> Callable[[], None]:
    """One optimiser step on the same batch, again and again, as the loop does it."""
    optimiser = make_optimiser(learner, config.training)
    set_rate(optimiser, 1e-4)

    def step() -> None:
        loss = learner(batch, learner.prepare([batch], 0.5), 0).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in learner.parameters() if p.grad is not None], 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        float(loss.detach())

    return step


def status_mb(field: str) -> float:
    """VmRSS, what is held now, or VmHWM, the most that was, in MiB; raises RuntimeError where the kernel does not say."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def forget_peak() -> None:
    """VmHWM starts again from what is held now."""
    Path("/proc/self/clear_refs").write_text("5")
