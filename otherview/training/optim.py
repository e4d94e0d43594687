"""The optimisers, over the groups that the learner hands in: AdamW (specification 1.9), and LARS for probes (2)."""

from typing import Any

import torch
from timm.optim import Lars  # pyright: ignore[reportPrivateImportUsage]

from otherview.learner import Learner
from otherview.training.settings import TrainingSettings


def make_optimiser(learner: Learner, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW with eps 1e-8; the rate is set at each step."""
    return torch.optim.AdamW(
        learner.parameter_groups(settings.weight_decay), lr=0.0, betas=settings.betas, eps=1e-8, fused=_fused(learner)
    )


def make_lars(learner: Learner, settings: TrainingSettings) -> torch.optim.Optimizer:
    """LARS with momentum .9 and trust .001; only groups with `always_adapt` are scaled: tensors of several dimensions.

    The rate multiplies after the momentum. timm's own rule adapts nothing where there is no weight decay, hence the groups.
    """
    options: dict[str, Any] = {"momentum": 0.9, "weight_decay": settings.weight_decay}
    return Lars(learner.parameter_groups(settings.weight_decay), lr=0.0, trust_coeff=0.001, eps=0.0, **options)


def _fused(learner: Learner) -> bool:
    return next(learner.parameters()).device.type in ("cpu", "cuda")


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of every group, times the group's own `lr_scale` where it has one."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
