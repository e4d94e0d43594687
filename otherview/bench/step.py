"""Images per second of an optimiser step, its share of the matrix-multiply peak and its memory, beside the naive twin.

The peak is the best of five fp32 2048³ products with the same threads, taken in turns with the timed steps. FLOPs come from
torch's counter over target, forward and backward; fused attention counts nothing on a CPU, so its 4·N²·D a layer (and twice
that backward) are added.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from otherview.bench.memory import status_mb
from otherview.bench.reference import naive_twin
from otherview.config import RunConfig
from otherview.methods.build import build_siamese_im
from otherview.methods.settings import SiameseIMSettings
from otherview.methods.siamese_im import SiameseIM
from otherview.nn.settings import EncoderSettings
from otherview.training.memory import keep_pages
from otherview.training.optim import make_optimiser, set_rate
from otherview.views.view import ViewPair

ROUNDS = 3
PEAK_SIDE, PEAK_TRIES = 2048, 5


def vit_s16() -> RunConfig:
    """ViT-S/16 at 224 px with heads of the same width, fp32: what the figures are given for."""
    config = RunConfig(
        batch=32,
        encoder=EncoderSettings(width=384, depth=12, heads=6),
        method=SiameseIMSettings(head_width=384, negative_weight=0.04),
    )
    return config.model_copy(update={"training": config.training.model_copy(update={"precision": "fp32"})})


def learner_of(config: RunConfig) -> SiameseIM:
    """Siamese Image Modeling, freshly initialised."""
    assert isinstance(config.method, SiameseIMSettings), config.method.name
    return build_siamese_im(config.method, encoder=config.encoder, views=config.views, seed=0)


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
    return default_collate([views(picture, np.random.default_rng(index)) for index in range(count)])


def bench_step(config: RunConfig, *, batch: int, advance: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Medians over rounds in which peak, our step and the twin's take turns."""
    keep_pages()
    learner = learner_of(config)
    twin = naive_twin(learner)
    samples = random_batch(config, batch)
    steps = {"ours": stepper(learner, config, samples), "reference": stepper(twin, config, samples)}
    flops = _flops(learner, samples)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    peaks: list[float] = []
    for turn in range(ROUNDS + 1):
        peaks.append(max(_product_flops() for _ in range(PEAK_TRIES)))
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if turn:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - began)
        advance()
    ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["reference"], strict=True)]
    ours, theirs = (statistics.median(seconds[name]) for name in ("ours", "reference"))
    return {
        "ours_images_per_second": round(batch / ours, 3),
        "reference_images_per_second": round(batch / theirs, 3),
        "ratio_to_reference": round(statistics.median(ratios), 3),
        "share_of_matmul_peak": round(flops / ours / max(peaks), 3),
        "gflops_per_image": round(flops / batch / 1e9, 3),
        "matmul_peak_gflops_per_second": round(max(peaks) / 1e9, 1),
        "threads": torch.get_num_threads(),
    }


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


def _product_flops() -> float:
    """FLOPs per second of one large product."""
    a, b = torch.randn(2, PEAK_SIDE, PEAK_SIDE).unbind()
    began = time.perf_counter()
    a @ b
    return 2 * PEAK_SIDE**3 / (time.perf_counter() - began)


def _flops(learner: SiameseIM, batch: ViewPair) -> float:
    """Of one step: counted products, and attention by its formula."""
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


def peak_memory_mb(config: RunConfig, batch: int) -> float:
    """Peak resident memory of a few steps in a fresh process."""
    command = [sys.executable, "-m", "otherview.bench.step", config.model_dump_json(), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["peak_memory_mb"]


def _measure(config: RunConfig, batch: int) -> dict[str, float]:
    keep_pages()
    learner = learner_of(config)
    step = stepper(learner, config, random_batch(config, batch))
    for _ in range(2):
        step()
    return {"peak_memory_mb": round(status_mb("VmHWM"))}


if __name__ == "__main__":
    print(json.dumps(_measure(RunConfig.model_validate_json(sys.argv[1]), int(sys.argv[2]))))
