"""What tokens look at and what they share: the attention of cls, and the principal components of patch tokens.

Axes: B images, C channels, X and Y pixels, L patches, D width, H heads.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from otherview.nn.encoder import Encoder


@torch.no_grad()
def cls_attention(encoder: Encoder, images: Float[Tensor, "B C X Y"]) -> Float[Tensor, "B H L"]:
    """How much cls attends to each patch in the last block, by head; with what goes to other tokens it sums to 1."""
    depth = encoder.settings.depth
    before = encoder(images, block=depth - 1).sequence if depth > 1 else encoder.entering(images)
    block = encoder.vit.blocks[depth - 1]
    attention = block.attn
    batch, count, width = before.shape
    heads = encoder.settings.heads
    joined = attention.qkv(block.norm1(before)).view(batch, count, 3, heads, width // heads)  # pyright: ignore
    queries, keys, _ = joined.permute(2, 0, 3, 1, 4)
    scores = (queries[:, :, :1] @ keys.transpose(-2, -1)) * (width // heads) ** -0.5
    return scores.softmax(dim=-1)[:, :, 0, encoder.prefix :]


def component_colours(tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B L 3"]:
    """The first three principal components of all patches of all images, each stretched to [0, 1]: one basis for all.

    What all images have at a position is taken off first, or the components would tell little else. The sign of a component
    is chosen so that its largest weight is positive; 2 % at both ends are cut off.
    """
    centred = (tokens - tokens.mean(dim=0)).flatten(0, 1).double()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    basis = vectors[:, -3:].flip(1)
    basis = basis * basis.gather(0, basis.abs().argmax(dim=0, keepdim=True)).sign()
    found = centred @ basis
    low, high = torch.quantile(found[:: max(1, len(found) // 100_000)], torch.tensor([0.02, 0.98]).double(), dim=0)
    stretched = ((found - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    return stretched.float().view(*tokens.shape[:2], 3)
