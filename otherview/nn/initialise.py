"""The initial weights of the specification (1.3), written over whatever the library chose."""

import math

import torch
from torch import nn


@torch.no_grad()
def initialise_linears(module: nn.Module) -> None:
    """Every Linear below `module`: xavier-uniform weight (qkv as one matrix), zero bias."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


@torch.no_grad()
def initialise_patch_embedding(convolution: nn.Conv2d) -> None:
    """Weight xavier-uniform as the (D, 3·P·P) matrix, bias uniform in ±1/sqrt(3·P²)."""
    nn.init.xavier_uniform_(convolution.weight.view(convolution.weight.shape[0], -1))
    if convolution.bias is not None:
        bound = 1 / math.sqrt(convolution.weight[0].numel())
        nn.init.uniform_(convolution.bias, -bound, bound)
