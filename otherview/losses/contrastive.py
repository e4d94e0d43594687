"""Find the own key among everyone's: InfoNCE, as MoCo-v3 has it.

Source: MoCo-v3, arXiv 2104.02057; our specification 4.
Axes: B or N queries, K keys, D width.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def info_nce(
    queries: Float[Tensor, "B D"], keys: Float[Tensor, "K D"], own: Int[Tensor, " B"], *, temperature: float
) -> Float[Tensor, ""]:
    """Mean cross-entropy of every query's similarities to all keys, `own` holding the place of its key, times 2·temperature.

    Queries and keys are L2-normalised here. float32 throughout.
    """
    with torch.autocast(queries.device.type, enabled=False):
        similarities = F.normalize(queries.float(), dim=1) @ F.normalize(keys.float(), dim=1).T
        return 2 * temperature * F.cross_entropy(similarities / temperature, own)


CHUNK = 1024
"""Queries whose similarities exist at one time."""


def info_nce_in_chunks(
    queries: Float[Tensor, "N D"], own: Float[Tensor, "N D"], keys: Float[Tensor, "K D"], *, temperature: float
) -> Float[Tensor, ""]:
    """The same for many queries, each with its own key at hand, which is among the keys: CHUNK·K similarities at a time.

    Time is still that of all N·K similarities, twice: a chunk's are made again in the backward pass.
    """
    with torch.autocast(queries.device.type, enabled=False):
        keys = F.normalize(keys.float(), dim=1)
        chunks = zip(queries.float().split(CHUNK), own.float().split(CHUNK), strict=True)
        sums = [checkpoint(_cross_entropy, q, k, keys, temperature, use_reentrant=False) for q, k in chunks]
        return 2 * temperature * torch.stack(sums).sum() / len(queries)  # pyright: ignore[reportArgumentType]


def _cross_entropy(queries: Tensor, own: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Summed over queries; own keys come as they are, `keys` normalised."""
    queries = F.normalize(queries, dim=1) / temperature
    return ((queries @ keys.T).logsumexp(dim=1) - (queries * F.normalize(own, dim=1)).sum(dim=1)).sum()
