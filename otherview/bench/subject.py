"""What the benches of the step measure: a learner, a batch and an optimiser step on it."""

from collections.abc import Callable
from random import Random

import torch
from torch.utils.flop_counter import FlopCounterMode

from otherview.bench.reference import naive_twin
from otherview.config import RunConfig
from otherview.methods.build import build_siamese_im
from otherview.methods.settings import SiameseIMSettings
from otherview.methods.siamese_im import SiameseIM
from otherview.nn.settings import EncoderSettings
from otherview.training.memory import keep_pages
from otherview.training.optim import make_optimiser, set_rate
from otherview.training.settings import TrainingSettings
from otherview.views.view import ViewPair


def vit_s16() -> RunConfig:
    """ViT-S/16 at 224 px with heads of the same width, fp32: what the figures are given for."""
    return RunConfig(
        batch=32,
        encoder=EncoderSettings(width=384, depth=12, heads=6),
        method=SiameseIMSettings(head_width=384, negative_weight=0.04),
        training=TrainingSettings(precision="fp32"),
    )


def learner_of(config: RunConfig) -> SiameseIM:
    """Siamese Image Modeling, freshly initialised."""
    assert isinstance(config.method, SiameseIMSettings), config.method.name
    return build_siamese_im(config.method, encoder=config.encoder, views=config.views, seed=0)


WHO = ("ours", "reference")


def contender(who: str, config: RunConfig) -> SiameseIM:
    """Ours in a process set up as `pretrain` does it, or the naive twin in one as torch starts it."""
    if who == "ours":
        keep_pages()
        return learner_of(config)
    return naive_twin(learner_of(config))


def random_batch(config: RunConfig, count: int) -> ViewPair:
    """Noise with crops and masks as a run would draw them."""
    import numpy as np
    from torch.utils.data import default_collate

    from otherview.data.picture import Picture
    from otherview.geometry import PatchGrid
    from otherview.views.pair import PairViews

    views = PairViews(config.views, config.encoder.image_size, PatchGrid(*config.encoder.grid))
    rng = np.random.default_rng(0)
    picture = Picture("noise", rng.integers(0, 256, (300, 400, config.encoder.channels), np.uint8))
    return default_collate([views(picture, Random(index)) for index in range(count)])


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


def step_flops(learner: SiameseIM, batch: ViewPair) -> float:
    """Of one step over target, forward and backward: counted products, and fused attention, which a CPU does not count."""
    with FlopCounterMode(display=False) as counter:
        learner(batch, learner.prepare([batch], 0.5), 0).total.backward()
    learner.zero_grad(set_to_none=True)
    return counter.get_total_flops() + attention_flops(learner, len(batch.seen.pixels))


def attention_flops(learner: SiameseIM, images: int) -> float:
    """4·N²·D a layer forward, three times that where there is a backward pass; zero on devices that count it."""
    if next(learner.parameters()).device.type != "cpu":
        return 0.0
    grid, mask = learner.views.grid.patches, learner.views.settings.mask
    seen, whole = 1 + grid - mask.hidden_of(grid), 1 + grid
    encoder, projector, predictor = learner.online.encoder, learner.online.projector, learner.predictor
    depth, width = encoder.settings.depth, encoder.settings.width
    heads = predictor.head.in_features
    forward_only = whole**2 * (depth * width + len(projector.blocks) * heads)
    with_backward = seen**2 * (depth * width + len(projector.blocks) * heads)
    with_backward += (seen + grid) ** 2 * len(predictor.blocks) * heads
    return 4.0 * images * (forward_only + 3 * with_backward)
