"""The optimisers, over the groups that the learner hands in: AdamW (specification 1.9) or Muon, and LARS for probes (2).

Their rates are plain functions of progress in [0, 1].
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from timm.optim import Lars  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn

from otherview.methods.learner import Learner
from otherview.training.continued import after_wait, draw_to_start, remember_start, with_own_rate
from otherview.training.settings import TrainingSettings

Rate = Callable[[TrainingSettings, int, float], float]
"""The learning rate by settings, batch and progress."""


def warmup_cosine(progress: float, *, warmup: float) -> float:
    """The share of the peak rate: 0 at the start, linear to 1 at `warmup`, half a cosine to 0 at the end."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def falling(progress: float, *, warmup: float, milestones: Sequence[float], by: float = 0.1) -> float:
    """The share of the peak rate: linear from a thousandth to 1 at `warmup`, times `by` from each of `milestones` on."""
    rising = min(1.0, 1e-3 + (1 - 1e-3) * progress / warmup) if warmup else 1.0
    return rising * by ** sum(progress >= milestone for milestone in milestones)


def polynomial(progress: float, *, warmup: float, power: float) -> float:
    """The share of the peak rate: (1 - progress)^power, and before `warmup` linear towards it from a millionth of it."""
    rising = min(1.0, 1e-6 + (1 - 1e-6) * progress / warmup) if warmup else 1.0
    return rising * (1 - progress) ** power


def peak_rate(settings: TrainingSettings, batch: int) -> float:
    """The largest rate of a run."""
    return settings.lr_per_256 * batch / 256


def rate_at(settings: TrainingSettings, batch: int, progress: float) -> float:
    """Linear from 0 to the peak, then half a cosine down to the least."""
    peak = peak_rate(settings, batch)
    share = warmup_cosine(progress, warmup=settings.warmup)
    return peak * share if progress < settings.warmup else settings.min_lr + (peak - settings.min_lr) * share


def make_optimiser(learner: Learner, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW with eps 1e-8, or Muon; the rate is set at each step."""
    made = Muon if settings.optimiser == "muon" else torch.optim.AdamW
    encoder = next(iter(learner.encoders.values()), learner)
    groups = with_own_rate(learner.parameter_groups(settings.weight_decay), encoder, settings)
    optimiser = made(groups, lr=0.0, betas=settings.betas, eps=1e-8, fused=_fused(learner))
    remember_start(optimiser)
    return optimiser


def layered_groups(
    model: nn.Module,
    layer_of: Callable[[str], int],
    *,
    no_weight_decay: Callable[[str, nn.Parameter], bool],
    last: int,
    layer_decay: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """A group of trained parameters for each layer and whether it decays: the rate falls by `layer_decay` from `last` down.

    `layer_of` and `no_weight_decay` (from weight decay) get a parameter's name, the latter its value too.
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            layer, decay = layer_of(name), 0.0 if no_weight_decay(name, value) else weight_decay
            fresh = {"params": [], "lr_scale": layer_decay ** (last - layer), "weight_decay": decay}
            groups.setdefault((layer, decay > 0), fresh)["params"].append(value)
    return list(groups.values())


def make_lars(learner: Learner, settings: TrainingSettings) -> torch.optim.Optimizer:
    """LARS with momentum .9 and trust .001; only groups with `always_adapt` are scaled: tensors of several dimensions.

    The rate multiplies after the momentum. timm's own rule adapts nothing where there is no weight decay, hence the groups.
    """
    options: dict[str, Any] = {"momentum": 0.9, "weight_decay": settings.weight_decay}
    return Lars(learner.parameter_groups(settings.weight_decay), lr=0.0, trust_coeff=0.001, eps=0.0, **options)


FUSED = ["cpu", "cuda", "mps", "xpu"]
"""Where torch has an AdamW in one pass."""
SKIPS = ["cuda", "xpu"]
"""Where that AdamW leaves everything as it is for `found_inf`; on Apple's devices torch has ignored it."""


def _fused(learner: Learner) -> bool:
    return next(learner.parameters()).device.type in FUSED


def step_where_finite(optimiser: torch.optim.Optimizer, finite: Bool[Tensor, ""]) -> None:
    """The optimiser's step, or none at all where the step is not `finite`.

    On a GPU the host is not asked: fused AdamW and Muon take `found_inf`, as torch's gradient scaler hands it over.
    """
    if finite.device.type in SKIPS and isinstance(optimiser, torch.optim.AdamW) and optimiser.defaults["fused"]:
        _step_on_device(optimiser, finite)
    elif finite:
        optimiser.step()
    draw_to_start(optimiser, finite)


def _step_on_device(optimiser: torch.optim.AdamW, finite: Bool[Tensor, ""]) -> None:
    optimiser.grad_scale = None  # pyright: ignore[reportAttributeAccessIssue]
    optimiser.found_inf = 1 - finite.float()  # pyright: ignore[reportAttributeAccessIssue]
    optimiser.step()


def set_rate(optimiser: torch.optim.Optimizer, rate: float, progress: float = 1.0) -> None:
    """The learning rate of every group, times the group's own `lr_scale` where it has one, after the wait that it has."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0) * after_wait(progress, waits=group.get("waits", 0.0))


MOMENTUM = 0.95
ROUNDS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""Coefficients of a·x + b·x³ + c·x⁵ in five rounds, which take singular values in (0, 1] to nearly 1: Franz Louis Cesista,
Jiacheng You and Keller Jordan, 2025, leloykun.github.io/ponder/muon-opt-coeffs."""
ADAMW_RMS = 0.2
"""What the entries of an AdamW step measure in parts of the rate; a matrix's are as large, so that one rate serves both."""


class Muon(torch.optim.AdamW):
    """Weight matrices take orthogonal steps, everything else AdamW's.

    A matrix steps along the orthogonal matrix nearest to its momentum, so that no direction waits for the strongest ones.
    Groups are AdamW's, each split into its matrices and the rest; `lr`, `weight_decay` and `betas` are as there.
    Source: Keller Jordan et al., 2024, kellerjordan.github.io/posts/muon; the length of a step: arXiv 2502.16982 section 2.2.
    Ours, because the libraries' iterate in bfloat16 alone, which takes a CPU without such instructions twenty times as long.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], **options: Any) -> None:
        parts = [
            {**group, "params": [p for p in group["params"] if _is_matrix(p) == matrices], "matrices": matrices}
            for group in groups
            for matrices in (True, False)
        ]
        super().__init__([part for part in parts if part["params"]], **options)

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Matrices first; AdamW then passes over them, because their gradients are gone.

        Takes no closure, which would make the matrices' gradients after their step.
        """
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"] if group["matrices"] else ():
                if parameter.grad is not None:
                    alike.setdefault(parameter.shape, []).append(parameter)
            for parameters in alike.values():  # a CPU takes one after another in less memory, with the same bits
                for part in [[one] for one in parameters] if parameters[0].is_cpu else [parameters]:
                    self._turn(part, rate=group["lr"], decay=group["weight_decay"])
        super().step()

    def _turn(self, parameters: list[Tensor], *, rate: float, decay: float) -> None:
        """Matrices of one shape take their steps together: on a GPU, each alone would be too small to fill it."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        momenta = [self._momentum(parameter) for parameter in parameters]
        shrink, scale = rate * decay, -rate * ADAMW_RMS * max(parameters[0].flatten(1).shape) ** 0.5
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if found_inf is not None:  # 1 where the step must change nothing; the host does not know
            taken = found_inf == 0
            gradients = [one.where(taken, other) for one, other in zip(gradients, momenta, strict=True)]
            shrink = shrink * (1 - found_inf)
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)  # pyright: ignore[reportPrivateImportUsage]
        updates = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # pyright: ignore[reportPrivateImportUsage]  # Nesterov's
        steps = orthogonal(torch.stack(updates).flatten(2)).view(-1, *parameters[0].shape)
        if found_inf is not None:
            steps = steps * (1 - found_inf)
        torch._foreach_mul_(parameters, 1 - shrink)  # pyright: ignore[reportPrivateImportUsage, reportArgumentType]
        torch._foreach_add_(parameters, steps.unbind(), alpha=scale)  # pyright: ignore[reportPrivateImportUsage]
        for parameter in parameters:
            parameter.grad = None

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:  # AdamW's names, which it knows how to load
            state["step"], state["exp_avg"] = torch.zeros(()), torch.zeros_like(parameter)
        state["step"] += 1
        return state["exp_avg"]


def _is_matrix(parameter: Tensor) -> bool:
    """Weights of Linear and convolution, and the dense models' tables of relative positions; tokens [1, N, D] are not."""
    return parameter.ndim > 1 and len(parameter) > 1


def orthogonal(matrices: Float[Tensor, "B M N"]) -> Float[Tensor, "B M N"]:
    """U·Vᵀ of each one's singular value decomposition U·S·Vᵀ, nearly: what is below a thousandth of the norm stays small.

    In bfloat16, on CUDA, its own rounding is lifted as well where a matrix has few directions.
    """
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for a, b, c in ROUNDS:
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)
