"""What the benches of the step measure: a learner and an optimiser step on a batch, and how much it computes.

    flops_per_image(config)      # of pre-training: target, forward, backward and optimiser, by torch's counter

Beside ours stand the naive twin on a CPU, and on a GPU a masked autoencoder of timm's own parts.
The counter sees nothing of fused attention on a CPU, so it is shown a learner whose attention is plain products.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from timm.layers import Attention  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from otherview.bench.reference import naive_twin
from otherview.bench.timm_mae import TimmMAE
from otherview.config import RunConfig
from otherview.data.picture import Picture
from otherview.launch import keep_pages
from otherview.methods.build import build
from otherview.methods.learner import Learner
from otherview.methods.settings import SiameseIMSettings, SupervisedSettings
from otherview.methods.siamese_im import SiameseIM
from otherview.nn.settings import EncoderSettings
from otherview.training.device import compile_and_checkpoint
from otherview.training.loop import to_device
from otherview.training.optim import make_optimiser, set_rate, step_where_finite
from otherview.training.settings import TrainingSettings

CPU = torch.device("cpu")

COUNTED = 2, 4
"""FLOPs are counted on batches of so many images."""


def random_batch(learner: Learner, count: int, *, channels: int = 3) -> Any:
    """Samples of noise, as the learner's views make them."""
    picture = Picture("noise", np.random.default_rng(0).integers(0, 256, (300, 400, channels), np.uint8))
    picture.label = lambda: 0
    return default_collate([learner.views(picture, Random(index)) for index in range(count)])


def flops_per_image(config: RunConfig, make: Callable[[RunConfig], Learner] | None = None) -> float:
    """What pre-training with this config computes for every image it sees; `make` builds another learner than its method's.

    Counted on two small batches: where every image meets the keys of the whole batch, its cost grows with the batch. What
    the optimiser multiplies is a step's, whatever its batch.
    """
    learner = (make or _of_two_classes)(config)
    for module in learner.modules():
        if isinstance(module, Attention):
            module.fused_attn = False  # pyright: ignore[reportAttributeAccessIssue]
    few, more = (_counted(learner, count, channels=config.encoder.channels) / count for count in COUNTED)
    growth = (more - few) / (COUNTED[1] - COUNTED[0])
    with FlopCounterMode(display=False) as counter:
        make_optimiser(learner, config.training).step()
    return few + growth * (config.batch - COUNTED[0]) + counter.get_total_flops() / config.batch


def _of_two_classes(config: RunConfig) -> Learner:
    method = config.method
    if isinstance(method, SupervisedSettings) and method.classes is None:
        method = method.model_copy(update={"classes": 2})
    return build(method, encoder=config.encoder, views=config.views, seed=0)


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
"""On a CPU."""


def contenders(device: torch.device) -> tuple[str, ...]:
    """Who is measured on a device: the naive twin's square matrices do not fit into a GPU at a GPU's batch."""
    return WHO if device.type == "cpu" else ("ours", "timm_mae")


def contender(who: str, config: RunConfig) -> Learner:
    """Ours in a process set up as `pretrain` does it, or another one in a process as torch starts it."""
    if who == "ours":
        keep_pages()
    if who == "timm_mae":
        return TimmMAE(config)
    learner = _of_two_classes(config)
    if who == "ours":
        return learner
    assert isinstance(learner, SiameseIM), config.method.name
    return naive_twin(learner)


def stepper(learner: Learner, config: RunConfig, batch: Any, device: torch.device = CPU) -> Callable[[], None]:
    """One optimiser step on the same batch, again and again, as the loop does it."""
    learner, batch = learner.to(device).train(), to_device(batch, device)
    compile_and_checkpoint(learner, config.training)
    optimiser = make_optimiser(learner, config.training)
    set_rate(optimiser, 1e-4)
    trained = [value for value in learner.parameters() if value.requires_grad]
    bf16 = config.training.precision == "bf16"

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            loss = learner(batch, learner.prepare([batch], 0.5), 0).total
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        step_where_finite(optimiser, norm.isfinite() & loss.detach().isfinite())
        optimiser.zero_grad(set_to_none=True)

    return step


def repeated(batch: Any, count: int) -> Any:
    """A batch of so many samples out of fewer: on a GPU it is larger than a bench wants to draw."""
    if isinstance(batch, Tensor):
        return batch.repeat(-(-count // len(batch)), *[1] * (batch.ndim - 1))[:count]
    return type(batch)(*(repeated(part, count) for part in batch))


def status_mb(field: str) -> float:
    """VmRSS, what is held now, or VmHWM, the most that was, in MiB; raises RuntimeError where the kernel does not say."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def forget_peak(device: torch.device = CPU) -> float:
    """The peak starts again from what is held now, which is given back in MiB."""
    if device.type == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
        return status_mb("VmRSS")
    torch.accelerator.reset_peak_memory_stats(device)
    return torch.accelerator.memory_allocated(device) / 2**20


def peak_mb(device: torch.device = CPU) -> float:
    """The most that was held since `forget_peak`, in MiB."""
    return status_mb("VmHWM") if device.type == "cpu" else torch.accelerator.max_memory_allocated(device) / 2**20
