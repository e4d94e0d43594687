"""Projector and predictor, the transformers that exist only while pre-training, and their token batch norm.

Token batch norm: channel statistics over batch × tokens × ranks (specification 1.4). torch's SyncBatchNorm refuses CPUs and
keeps running statistics that the heads never read; this one runs anywhere, keeps nothing, and normalises with the batch in
training and in evaluation alike.

Source: specification 1.4 and 1.5.
Axes: B images, N tokens, V visible patches of the online view, L patches of the target view that are predicted, D encoder
width, P width of the heads, K values of a prediction.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules._functions import SyncBatchNorm

from otherview.distributed import gather, ranks
from otherview.nn.encoder import Encoder
from otherview.nn.initialise import initialise_linears
from otherview.nn.positions import Conditioning, Position


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
            elif flat.is_cuda:  # torch's fused kernels, one gather forward and one reduction backward
                world = torch.distributed.group.WORLD
                out = SyncBatchNorm.apply(flat, self.weight, self.bias, None, None, self.eps, 0.0, world, ranks())
            else:
                mean, variance = token_statistics(flat)
                out = (flat - mean) * (variance + self.eps).rsqrt()
                if self.weight is not None and self.bias is not None:
                    out = out * self.weight + self.bias
        return out.view(tokens.shape)


NORMS: dict[str, Callable[..., nn.Module]] = {"batch": TokenBatchNorm, "layer": partial(nn.LayerNorm, eps=1e-6)}


def transformer_blocks(width: int, *, depth: int, heads: int, norm: str) -> nn.ModuleList:
    """Pre-norm blocks, MLP ratio 4, with batch or layer norm."""
    return nn.ModuleList(
        Block(width, heads, mlp_ratio=4.0, qkv_bias=True, norm_layer=NORMS[norm])  # pyright: ignore[reportArgumentType]
        for _ in range(depth)
    )


class Projector(nn.Module):
    """Linear D → P on every token, then pre-norm blocks without a final norm; depth 0 leaves the Linear alone."""

    def __init__(self, width_in: int, width: int, *, depth: int, heads: int, norm: str = "batch") -> None:
        super().__init__()
        self.embed = nn.Linear(width_in, width)
        self.blocks = transformer_blocks(width, depth=depth, heads=heads, norm=norm)
        initialise_linears(self)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N P"]:
        tokens = self.embed(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class Predictor(nn.Module):
    """From the visible tokens of one view to the predicted patches of the target view.

    One shared mask token plus psi(relative code) stands for each of them; all tokens attend to all. Their outputs go
    through a Linear and are the predictions.
    """

    def __init__(
        self,
        width: int,
        *,
        depth: int,
        heads: int,
        norm: str = "batch",
        position: Position | None = None,
        values: int | None = None,
    ) -> None:
        """`position` (default psi) encodes where a predicted patch lies; a prediction has `values` numbers (default: width)."""
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.position = position or Position(width)
        self.blocks = transformer_blocks(width, depth=depth, heads=heads, norm=norm)
        self.head = nn.Linear(width, values or width)
        initialise_linears(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self,
        cls: Float[Tensor, "B P"],
        visible: Float[Tensor, "B V P"],
        visible_positions: Float[Tensor, "B V P"],
        conditioning: Conditioning,
    ) -> Float[Tensor, "B L K"]:
        predicted = self.mask_token + self.position(conditioning)
        tokens = torch.cat([cls[:, None], visible + visible_positions, predicted], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[:, -predicted.shape[1] :])


class Branch(nn.Module):
    """Encoder and projector as one module: what the online and the target side share, and what the moving average moves."""

    def __init__(self, encoder: Encoder, projector: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector


class ClassHead(nn.Sequential):
    """Mean token in, scores of the classes out: layer norm and a Linear that begins at nearly nothing (specification 2)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(nn.LayerNorm(width, eps=1e-6), last := nn.Linear(width, classes))
        self.classes = classes
        nn.init.trunc_normal_(last.weight, std=2e-5)
        nn.init.zeros_(last.bias)
