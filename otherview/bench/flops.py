"""How much a step computes: FLOPs over target, forward and backward, by torch's counter.

    flops_per_image(config)      # of pre-training, whatever the method

The counter sees nothing of fused attention on a CPU, so it is shown a copy whose attention is plain products.
"""

import copy
from random import Random
from typing import Any

import numpy as np
from timm.layers import Attention  # pyright: ignore[reportPrivateImportUsage]
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from otherview.config import RunConfig
from otherview.data.picture import Picture
from otherview.learner import Learner
from otherview.methods.build import build
from otherview.methods.settings import SupervisedSettings

COUNTED = 2
"""FLOPs are counted on so many images: every one of them costs the same."""


def random_batch(learner: Learner, count: int, *, channels: int = 3) -> Any:
    """Samples of noise, as the learner's views make them."""
    picture = Picture("noise", np.random.default_rng(0).integers(0, 256, (300, 400, channels), np.uint8))
    picture.label = lambda: 0
    return default_collate([learner.views(picture, Random(index)) for index in range(count)])


def step_flops(learner: Learner, batch: Any) -> float:
    """Of one step on a batch; the learner stays as it is."""
    plain = copy.deepcopy(learner)
    for module in plain.modules():
        if isinstance(module, Attention):
            module.fused_attn = False  # pyright: ignore[reportAttributeAccessIssue]
    with FlopCounterMode(display=False) as counter:
        plain(batch, plain.prepare([batch], 0.5), 0).total.backward()
    return float(counter.get_total_flops())


def flops_per_image(config: RunConfig) -> float:
    """What pre-training with this config computes for every image it sees."""
    method = config.method
    if isinstance(method, SupervisedSettings) and method.classes is None:
        method = method.model_copy(update={"classes": 2})
    learner = build(method, encoder=config.encoder, views=config.views, seed=0)
    return step_flops(learner, random_batch(learner, COUNTED, channels=config.encoder.channels)) / COUNTED
