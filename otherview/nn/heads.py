"""Projector and predictor: the transformers that exist only while pre-training (specification 1.4 and 1.5).

Axes: B images, N tokens, V visible patches of the seen view, L patches of the other view, D encoder width, P width
of the heads.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from otherview.nn.batch_norm import TokenBatchNorm
from otherview.nn.initialise import initialise_linears

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


class RelativePosition(nn.Module):
    """psi: the relative code of a patch (2·P long) through one Linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(2 * width, width)
        initialise_linears(self)

    def forward(self, code: Float[Tensor, "B L twice_P"]) -> Float[Tensor, "B L P"]:
        return self.project(code)


class Predictor(nn.Module):
    """From the visible tokens of one view to every patch of the other.

    One shared mask token plus psi(relative code) stands for each patch of the other view; all tokens attend to all.
    The last L outputs go through a Linear and are the predictions.
    """

    def __init__(self, width: int, *, depth: int, heads: int, norm: str = "batch") -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.position = RelativePosition(width)
        self.blocks = transformer_blocks(width, depth=depth, heads=heads, norm=norm)
        self.head = nn.Linear(width, width)
        initialise_linears(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self,
        cls: Float[Tensor, "B P"],
        visible: Float[Tensor, "B V P"],
        visible_positions: Float[Tensor, "B V P"],
        code: Float[Tensor, "B L twice_P"],
    ) -> Float[Tensor, "B L P"]:
        asked = self.mask_token + self.position(code)
        tokens = torch.cat([cls[:, None], visible + visible_positions, asked], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[:, -code.shape[1] :])
