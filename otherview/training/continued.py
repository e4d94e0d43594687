"""How a run that starts from weights keeps them: the encoder waits for the heads, learns slower, and stays near its start.

    groups = with_own_rate(groups, encoder, settings)     # for the optimiser
    share = after_wait(progress, waits=0.1)               # of the encoder's rate
    remember_start(optimiser)
    draw_to_start(optimiser, finite)                      # after every step

Predictor and projector know nothing at first; their gradients would undo in a hundred steps what the encoder had learned
(docs/log.md).
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from otherview.training.settings import TrainingSettings


def after_wait(progress: float, *, waits: float) -> float:
    """The share of its rate that the encoder has: none up to `waits`, then linearly to all of it in as long."""
    return 1.0 if waits == 0 else min(1.0, max(0.0, progress / waits - 1))


def with_own_rate(
    groups: Iterable[dict[str, Any]], encoder: nn.Module, settings: TrainingSettings
) -> list[dict[str, Any]]:
    """The groups, each split into the encoder's parameters and the others; as they are where the encoder has no settings.

    The encoder's have its `lr_scale`, `waits` and `to_start`, which a checkpoint keeps.
    """
    own = {"lr_scale": settings.encoder_lr, "waits": settings.encoder_waits or 0.0, "to_start": settings.l2_to_start}
    if own == {"lr_scale": 1.0, "waits": 0.0, "to_start": 0.0}:
        return list(groups)
    inside = {id(parameter) for parameter in encoder.parameters()}
    split: list[dict[str, Any]] = []
    for group in groups:
        for mine in (True, False):
            parameters = [value for value in group["params"] if (id(value) in inside) == mine]
            if parameters:
                split.append({**group, "params": parameters, **(own if mine else {})})
    return split


def remember_start(optimiser: torch.optim.Optimizer) -> None:
    """Keep what the parameters of groups with `to_start` are now; no checkpoint needs it, as --init is read again."""
    optimiser.starts = [  # pyright: ignore[reportAttributeAccessIssue]
        (place, [parameter.detach().clone() for parameter in group["params"]])
        for place, group in enumerate(optimiser.param_groups)
        if group.get("to_start")
    ]


@torch.no_grad()
def draw_to_start(optimiser: torch.optim.Optimizer, finite: Bool[Tensor, ""]) -> None:
    """Draw those parameters towards what they were, by rate × `to_start` of the distance, unless the step is not `finite`.

    L2-SP (X. Li et al. 2018, arXiv 1802.01483), decoupled from the gradient as AdamW's weight decay is. No hook of the optimiser:
    torch calls one twice where a step, as Muon's, ends in AdamW's.
    """
    for place, values in getattr(optimiser, "starts", ()):
        group = optimiser.param_groups[place]
        by = finite.float() * (group["lr"] * group["to_start"])
        for parameter, value in zip(group["params"], values, strict=True):
            parameter.lerp_(value, by)
