"""The optimisers, over the groups that the learner hands in: AdamW (specification 1.9) or Muon, and LARS for probes (2)."""

from collections.abc import Callable
from typing import Any

import torch
from timm.optim import Lars  # pyright: ignore[reportPrivateImportUsage]
from torch import nn

from otherview.learner import Learner
from otherview.training.muon import Muon
from otherview.training.settings import TrainingSettings


def make_optimiser(learner: Learner, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW with eps 1e-8, or Muon; the rate is set at each step."""
    made = Muon if settings.optimiser == "muon" else torch.optim.AdamW
    groups = learner.parameter_groups(settings.weight_decay)
    return made(groups, lr=0.0, betas=settings.betas, eps=1e-8, fused=_fused(learner))


def layered_groups(
    model: nn.Module,
    layer_of: Callable[[str], int],
    *,
    spared: Callable[[str, nn.Parameter], bool],
    last: int,
    layer_decay: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """A group of trained parameters for each layer and whether it decays: the rate falls by `layer_decay` from `last` down.

    `layer_of` and `spared` (from weight decay) are asked with the parameters' names.
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            layer, decay = layer_of(name), 0.0 if spared(name, value) else weight_decay
            fresh = {"params": [], "lr_scale": layer_decay ** (last - layer), "weight_decay": decay}
            groups.setdefault((layer, decay > 0), fresh)["params"].append(value)
    return list(groups.values())


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
