"""How much a step computes: FLOPs over target, forward, backward and optimiser, by torch's counter.

    flops_per_image(config)      # of pre-training, whatever the method

The counter sees nothing of fused attention on a CPU, so it is shown a learner whose attention is plain products.
"""

from random import Random
from typing import Any

import numpy as np
from timm.layers import Attention  # pyright: ignore[reportPrivateImportUsage]
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from otherview.config import RunConfig
from otherview.data.picture import Picture
from otherview.methods.build import build
from otherview.methods.learner import Learner
from otherview.methods.settings import SupervisedSettings
from otherview.training.optim import make_optimiser

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
