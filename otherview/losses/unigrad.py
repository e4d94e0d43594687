"""UniGrad: pull predictions to targets, push them from the directions that targets fill, with D×D memory.

    C = mean z·zᵀ over all tokens of all ranks
    loss = (mean ‖y − z‖² + w · mean yᵀ·C·y) / D

The gradient per token is 2/(N·D) · (y − z + w·C·y), so neither pass forms the N×N similarities of contrastive losses.
Source: SiameseIM, arXiv 2206.01204 section 3.3; UniGrad, arXiv 2112.05141; our specification 1.8.
Axes: B images, L tokens, N = B·L, D width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from otherview.distributed import mean_over_ranks
from otherview.geometry import WITHOUT_DOUBLES


class UniGrad(NamedTuple):
    """The loss and the two terms it is made of, each divided by the width; only `total` carries a gradient."""

    total: Float[Tensor, ""]
    positive: Float[Tensor, ""]
    negative: Float[Tensor, ""]
    cosine: Float[Tensor, ""]
    """Between prediction and target, the mean over tokens."""


@torch.no_grad()
def correlation(targets: Sequence[Float[Tensor, "*N D"]]) -> Float[Tensor, "D D"]:
    """C of all tokens of a step: the mean of z·zᵀ over the micro-batches handed in and over all ranks, float32."""
    with torch.autocast(targets[0].device.type, enabled=False):  # a step's statistics are asked for under autocast
        moments = [_moment(z.flatten(0, -2).float()) for z in targets]
        return mean_over_ranks(torch.stack(moments).mean(dim=0))


def _moment(z: Float[Tensor, "N D"]) -> Float[Tensor, "D D"]:
    return z.T @ z / len(z)


class _UniGrad(torch.autograd.Function):
    """Value and gradient in one sweep: the gradient has a closed form and costs one buffer of the input's size."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, c: Tensor, weight: float) -> tuple[Tensor, ...]:
        tokens, width = y.shape
        pull = y - z
        positive = pull.flatten().dot(pull.flatten()) / (tokens * width)
        push = y @ c
        negative = push.flatten().dot(y.flatten()) / (tokens * width)
        lengths = torch.linalg.vector_norm(y, dim=1) * torch.linalg.vector_norm(z, dim=1)
        cosine = (torch.einsum("nd,nd->n", y, z) / lengths.clamp(min=torch.finfo(y.dtype).tiny)).mean()
        ctx.save_for_backward(pull.add_(push, alpha=weight))
        ctx.mark_non_differentiable(positive, negative, cosine)
        return positive + weight * negative, positive, negative, cosine

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (direction,) = ctx.saved_tensors
        return direction * (gradients[0] * (2 / direction.numel())), None, None, None


def unigrad(y: Float[Tensor, "*N D"], z: Float[Tensor, "*N D"], c: Float[Tensor, "D D"], *, weight: float) -> UniGrad:
    """The dense loss of predictions `y` against targets `z`; gradient flows to `y` alone. float32 throughout."""
    with torch.autocast(y.device.type, enabled=False):
        flat_y, flat_z = (t.flatten(0, -2).float() for t in (y, z))
        terms: tuple[Tensor, ...] = _UniGrad.apply(flat_y, flat_z.detach(), c.detach().float(), weight)  # pyright: ignore[reportAssignmentType]
        return UniGrad(*terms)


def split_mean(tokens: Float[Tensor, "B L D"]) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B L D"]]:
    """Every image's mean token, and what is left of its tokens without it."""
    mean = tokens.mean(dim=1)
    return mean, tokens - mean[:, None]


DEAD_VARIANCE = 0.01
"""A target channel that varies less than this over a step's tokens is dead; layer norm makes the mean variance nearly 1."""


@torch.no_grad()
def dead_channels(targets: Sequence[Tensor]) -> Tensor:
    """The share of channels [..., D] that hardly vary over all tokens of the step on all ranks."""
    flat = torch.cat([z.flatten(0, -2) for z in targets]).float()
    mean, square = mean_over_ranks(torch.stack([flat.mean(dim=0), flat.square().mean(dim=0)]))
    return (square - mean.square() < DEAD_VARIANCE).float().mean()


SHOWN_DIRECTIONS = 32
"""Of the spectrum, the strongest first."""


def spectrum_metrics(c: Float[Tensor, "D D"], *, weight: float) -> dict[str, Tensor]:
    """How far from collapse: the effective rank of C, the least loss that its spectrum allows (specification 1.8), and the
    shares of its strongest directions."""
    eigenvalues = _spectrum(c)
    floor = (eigenvalues * (weight * eigenvalues) / (1 + weight * eigenvalues)).sum() / len(c)
    strongest = (eigenvalues / eigenvalues.sum()).flip(0)[:SHOWN_DIRECTIONS]
    return {"effective_rank": _rank(eigenvalues), "reachable_loss": floor, "spectrum": strongest}


def effective_rank(c: Float[Tensor, "D D"]) -> Float[Tensor, ""]:
    """exp(entropy of the eigenvalues' shares): how many directions C fills, 1 … D; NaN where C is not finite."""
    return _rank(_spectrum(c))


def _spectrum(c: Float[Tensor, "D D"]) -> Float[Tensor, " D"]:
    c = c.cpu() if c.device.type in WITHOUT_DOUBLES else c
    if not torch.isfinite(c).all():
        return c.new_full((len(c),), float("nan"), dtype=torch.float64)
    return torch.linalg.eigvalsh(c.double()).clamp(min=0)


def _rank(eigenvalues: Float[Tensor, " D"]) -> Float[Tensor, ""]:
    share = eigenvalues / eigenvalues.sum()
    return torch.exp(-torch.xlogy(share, share).sum())
