"""What the benches of the step measure: a learner and an optimiser step on a batch."""

from collections.abc import Callable
from pathlib import Path

import torch

from otherview.bench.reference import naive_twin
from otherview.config import RunConfig
from otherview.methods.build import build_siamese_im
from otherview.methods.settings import SiameseIMSettings
from otherview.methods.siamese_im import SiameseIM
from otherview.nn.settings import EncoderSettings
from otherview.training.device import keep_pages
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
