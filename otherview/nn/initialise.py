"""The initial weights of the specification (1.3), written over whatever the library chose."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from otherview.seeding import named_seed


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Within, torch draws from a generator of (seed, purpose); outside nothing changes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(named_seed(seed, purpose))
        yield


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


@torch.no_grad()
def initialise_as_moco_v3(vit: nn.Module) -> None:
    """Over the above (specification 4): cls nearly zero, qkv as three matrices, the patch embedding's bias zero."""
    for name, parameter in vit.named_parameters():
        if name == "cls_token":
            nn.init.normal_(parameter, std=1e-6)
        elif name.endswith("qkv.weight"):
            bound = math.sqrt(6 / (parameter.shape[0] // 3 + parameter.shape[1]))
            nn.init.uniform_(parameter, -bound, bound)
        elif name == "patch_embed.proj.bias":
            nn.init.zeros_(parameter)
