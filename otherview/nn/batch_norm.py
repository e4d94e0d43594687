"""Batch norm over tokens: channel statistics over batch × tokens × ranks (specification 1.4).

torch's SyncBatchNorm refuses CPUs and keeps running statistics that the heads never read; this one runs anywhere,
keeps nothing, and normalises with the batch in training and in evaluation alike.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from otherview.distributed import gather, ranks


def token_statistics(tokens: Float[Tensor, "N D"]) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
    """Mean and biased variance per channel over the tokens of all ranks, by one differentiable gather.

    Each rank sends count, mean and centred squares; they are joined without ever subtracting large sums, so a mean
    far larger than the spread costs no precision.
    """
    mean = tokens.mean(dim=0)
    squares = (tokens - mean).square().sum(dim=0)
    count = torch.full_like(mean[:1], len(tokens))
    everyone = gather(torch.cat([count, mean, squares]))
    counts, means, all_squares = everyone.split([1, len(mean), len(mean)], dim=1)
    total = counts.sum()
    joint = (counts * means).sum(dim=0) / total
    return joint, (all_squares + counts * (means - joint).square()).sum(dim=0) / total


class TokenBatchNorm(nn.Module):
    """BatchNorm1d over channels for tokens [..., D], eps 1e-5, affine or not, in float32 whatever the autocast."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        width: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width, device=device, dtype=dtype)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width, device=device, dtype=dtype)) if affine else None

    def forward(self, tokens: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        with torch.autocast(tokens.device.type, enabled=False):
            flat = tokens.flatten(0, -2).float()
            if ranks() == 1:
                out = F.batch_norm(flat, None, None, self.weight, self.bias, training=True, eps=self.eps)
            else:
                mean, variance = token_statistics(flat)
                out = (flat - mean) * (variance + self.eps).rsqrt()
                if self.weight is not None and self.bias is not None:
                    out = out * self.weight + self.bias
        return out.view(tokens.shape)
