"""Loss on the overlap only: predictions of patches that the seen view does not show count for nothing.

Every objective whose value is a mean of squares is weighted by scaling predictions and targets with the root of the
weight: |√w·y − √w·z|² = w·|y − z|², and √w·yᵀ·C·√w·y = w·yᵀ·C·y.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from otherview.distributed import mean_over_ranks


@torch.no_grad()
def overlap_roots(
    inside: Sequence[Bool[Tensor, "B L"]], asked: Sequence[Bool[Tensor, "B L"]]
) -> list[Float[Tensor, "B L 1"]]:
    """Roots of weights that are 0 outside and alike inside, with mean 1 over all asked patches of the step on all ranks."""
    counts = torch.stack([
        torch.cat([(i & a).flatten() for i, a in zip(inside, asked, strict=True)]).float().sum(),
        torch.cat([a.flatten() for a in asked]).float().sum(),
    ])  # fmt: skip
    within, whole = mean_over_ranks(counts)
    weight = whole / within.clamp(min=1 / 2)  # nothing overlaps: no loss
    return [(i * weight).sqrt()[..., None] for i in inside]
