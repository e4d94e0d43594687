"""The optimiser: AdamW over the groups that the learner hands in (specification 1.9)."""

import torch

from otherview.learner import Learner
from otherview.training.settings import TrainingSettings


def make_optimiser(learner: Learner, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW with eps 1e-8; the rate is set at each step."""
    return torch.optim.AdamW(
        learner.parameter_groups(settings.weight_decay), lr=0.0, betas=settings.betas, eps=1e-8, fused=_fused(learner)
    )


def _fused(learner: Learner) -> bool:
    return next(learner.parameters()).device.type in ("cpu", "cuda")


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of every group."""
    for group in optimiser.param_groups:
        group["lr"] = rate
