"""Projector and predictor: the transformers that exist only while pre-training (specification 1.4 and 1.5).

Axes: B images, N tokens, V visible patches of the seen view, L patches of the other view that are asked for, D encoder
width, P width of the heads, K numbers that answer.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from otherview.nn.batch_norm import TokenBatchNorm
from otherview.nn.initialise import initialise_linears
from otherview.nn.relation import Position, Told

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
    """From the visible tokens of one view to the patches of the other that are asked for.

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
        """`position` (default psi) says where a question lies, `values` how many numbers answer it (default: the width)."""
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
        told: Told,
    ) -> Float[Tensor, "B L K"]:
        asked = self.mask_token + self.position(told)
        tokens = torch.cat([cls[:, None], visible + visible_positions, asked], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[:, -asked.shape[1] :])
